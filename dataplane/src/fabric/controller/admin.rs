//! Admin commands: what each asks of the carrier.

use crate::fabric::Completion;
use crate::nvme::spec::{Sqe, Status};

use super::queues::{NewCompletionQueue, NewSubmissionQueue};
use super::{Controller, Kind};

pub(super) mod opcode {
    pub(in super::super) const DELETE_SQ: u8 = 0x00;
    pub(in super::super) const CREATE_SQ: u8 = 0x01;
    pub(in super::super) const GET_LOG_PAGE: u8 = 0x02;
    pub(in super::super) const DELETE_CQ: u8 = 0x04;
    pub(in super::super) const CREATE_CQ: u8 = 0x05;
    pub(in super::super) const IDENTIFY: u8 = 0x06;
    pub(in super::super) const ABORT: u8 = 0x08;
    pub(in super::super) const SET_FEATURES: u8 = 0x09;
    pub(in super::super) const GET_FEATURES: u8 = 0x0A;
    pub(in super::super) const ASYNC_EVENT_REQUEST: u8 = 0x0C;
    pub(in super::super) const KEEP_ALIVE: u8 = 0x18;
}

/// Commands of every controller.
const COMMON_OPCODES: [u8; 7] = [
    opcode::GET_LOG_PAGE,
    opcode::IDENTIFY,
    opcode::ABORT,
    opcode::SET_FEATURES,
    opcode::GET_FEATURES,
    opcode::ASYNC_EVENT_REQUEST,
    opcode::KEEP_ALIVE,
];

/// Commands that make and end queues in shared memory; message carriers have Connect for that.
const QUEUE_OPCODES: [u8; 4] = [opcode::DELETE_SQ, opcode::CREATE_SQ, opcode::DELETE_CQ, opcode::CREATE_CQ];

/// The admin commands of a kind of controller.
pub(super) fn supported_opcodes(kind: Kind) -> impl Iterator<Item = u8> {
    let queues: &[u8] = if kind == Kind::Memory { &QUEUE_OPCODES } else { &[] };
    COMMON_OPCODES.iter().chain(queues).copied()
}

/// What an admin command asks of the carrier.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum AdminAction {
    /// Complete the command.
    Complete(Completion),
    /// Move these bytes to the host, then complete with success, or with what went wrong.
    Send(Vec<u8>),
    /// Make a queue, tell the controller, complete.
    CreateCompletionQueue(NewCompletionQueue),
    /// Make a queue, tell the controller, complete.
    CreateSubmissionQueue(NewSubmissionQueue),
    /// End a queue once its commands have completed, tell the controller, complete.
    DeleteSubmissionQueue(u16),
    /// End a queue, tell the controller, complete.
    DeleteCompletionQueue(u16),
    /// The command waits; [`take_event`](Controller::take_event) says when to complete it.
    Wait,
}

impl AdminAction {
    fn failed(status: Status) -> Self {
        Self::Complete(Completion::failed(status))
    }
}

/// Folds a refusal into an action.
fn or_failed(result: Result<AdminAction, Status>) -> AdminAction {
    result.unwrap_or_else(AdminAction::failed)
}

impl Controller {
    /// Whether a command tells what namespaces hold, so that a carrier may bring them up to date first with
    /// [`set_namespaces`](Self::set_namespaces).
    #[must_use]
    pub fn reads_namespaces(sqe: &Sqe) -> bool {
        sqe.opcode() == opcode::IDENTIFY
    }

    pub(super) fn dispatch(&mut self, sqe: &Sqe) -> AdminAction {
        if sqe.fuse() != 0 {
            return AdminAction::failed(Status::INVALID_FIELD);
        }
        if !supported_opcodes(self.kind).any(|opcode| opcode == sqe.opcode()) {
            return AdminAction::failed(Status::INVALID_OPCODE);
        }
        if self.kind != Kind::Memory && !self.is_ready() {
            // Its admin queue is there before it is enabled.
            return AdminAction::failed(Status::COMMAND_SEQUENCE_ERROR);
        }
        let (limits, queues) = (self.limits, &self.queues);
        or_failed(match sqe.opcode() {
            opcode::IDENTIFY => self.identify(sqe).map(AdminAction::Send),
            opcode::GET_LOG_PAGE => self.log_page(sqe).map(AdminAction::Send),
            opcode::CREATE_CQ => queues.new_completion(sqe, &limits).map(AdminAction::CreateCompletionQueue),
            opcode::CREATE_SQ => queues.new_submission(sqe, &limits).map(AdminAction::CreateSubmissionQueue),
            opcode::DELETE_SQ => queues.submission_to_delete(sqe).map(AdminAction::DeleteSubmissionQueue),
            opcode::DELETE_CQ => queues.completion_to_delete(sqe).map(AdminAction::DeleteCompletionQueue),
            opcode::GET_FEATURES => self.features.get(sqe, &limits).map(AdminAction::Complete),
            opcode::SET_FEATURES => self.features.set(sqe, &limits, self.queues.any()).map(AdminAction::Complete),
            opcode::ABORT => self.abort(sqe).map(AdminAction::Complete),
            opcode::KEEP_ALIVE => Ok(AdminAction::Complete(Completion::success(0, 0))),
            opcode::ASYNC_EVENT_REQUEST => {
                if self.events.request(sqe.cid()) {
                    Ok(AdminAction::Wait)
                } else {
                    Err(Status::AER_LIMIT_EXCEEDED)
                }
            }
            _ => Err(Status::INVALID_OPCODE),
        })
    }

    /// Abort is best effort. Commands are on their way to a device as soon as they are taken, so none is aborted:
    /// bit 0 of DW0 says so.
    fn abort(&self, sqe: &Sqe) -> Result<Completion, Status> {
        let sqid = sqe.dword(10) as u16;
        if sqid != 0 && !self.queues.has_submission(sqid) {
            return Err(Status::INVALID_FIELD);
        }
        Ok(Completion::success(1, 0))
    }
}
