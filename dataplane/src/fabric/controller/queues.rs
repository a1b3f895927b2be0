//! Creation and deletion of I/O queues: who may be made and ended when.

use std::collections::BTreeMap;

use crate::nvme::spec::{Sqe, Status};

use super::ControllerLimits;

/// A completion queue that a host asks for, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewCompletionQueue {
    /// Queue identifier.
    pub qid: u16,
    /// Entries.
    pub entries: u32,
    /// Address, page aligned.
    pub address: u64,
    /// Interrupt vector, if interrupts are enabled.
    pub vector: Option<u16>,
}

/// A submission queue that a host asks for, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSubmissionQueue {
    /// Queue identifier.
    pub qid: u16,
    /// Entries.
    pub entries: u32,
    /// Address, page aligned.
    pub address: u64,
    /// Its completion queue, which exists and is served by the same core.
    pub cqid: u16,
}

#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Completion queues and how many submission queues use each.
    completion: BTreeMap<u16, u16>,
    /// Submission queues and their completion queues. Connected queue pairs are here alone.
    submission: BTreeMap<u16, u16>,
}

fn size_and_address(sqe: &Sqe, limits: &ControllerLimits) -> Result<(u32, u64), Status> {
    let entries = (sqe.dword(10) >> 16) + 1;
    if entries < 2 || entries > limits.max_queue_entries {
        return Err(Status::INVALID_QUEUE_SIZE);
    }
    // CAP.CQR: PC must be set.
    let contiguous = sqe.dword(11) & 1 != 0;
    let address = sqe.quadword(6);
    if !contiguous || address == 0 {
        return Err(Status::INVALID_FIELD);
    }
    if !address.is_multiple_of(4096) {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    Ok((entries, address))
}

fn qid(sqe: &Sqe) -> u16 {
    sqe.dword(10) as u16
}

impl Queues {
    /// Checks Create I/O Completion Queue.
    pub(super) fn new_completion(&self, sqe: &Sqe, limits: &ControllerLimits) -> Result<NewCompletionQueue, Status> {
        let qid = qid(sqe);
        if qid == 0 || qid > limits.io_queues || self.completion.contains_key(&qid) {
            return Err(Status::INVALID_QUEUE_ID);
        }
        let (entries, address) = size_and_address(sqe, limits)?;
        let vector = (sqe.dword(11) >> 16) as u16;
        let interrupts = sqe.dword(11) & 0b10 != 0;
        if interrupts && vector >= limits.vectors {
            return Err(Status::INVALID_INTERRUPT_VECTOR);
        }
        Ok(NewCompletionQueue { qid, entries, address, vector: interrupts.then_some(vector) })
    }

    /// Checks Create I/O Submission Queue.
    pub(super) fn new_submission(&self, sqe: &Sqe, limits: &ControllerLimits) -> Result<NewSubmissionQueue, Status> {
        let qid = qid(sqe);
        if qid == 0 || qid > limits.io_queues || self.submission.contains_key(&qid) {
            return Err(Status::INVALID_QUEUE_ID);
        }
        let cqid = (sqe.dword(11) >> 16) as u16;
        if cqid == 0 || cqid > limits.io_queues {
            return Err(Status::INVALID_QUEUE_ID);
        }
        if !self.completion.contains_key(&cqid) {
            return Err(Status::COMPLETION_QUEUE_INVALID);
        }
        let (entries, address) = size_and_address(sqe, limits)?;
        let core = |queue: u16| (queue - 1) % limits.cores.max(1);
        if core(qid) != core(cqid) {
            // A queue pair is served by one core.
            return Err(Status::INVALID_FIELD);
        }
        Ok(NewSubmissionQueue { qid, entries, address, cqid })
    }

    /// Checks Delete I/O Submission Queue.
    pub(super) fn submission_to_delete(&self, sqe: &Sqe) -> Result<u16, Status> {
        let qid = qid(sqe);
        if self.submission.contains_key(&qid) { Ok(qid) } else { Err(Status::INVALID_QUEUE_ID) }
    }

    /// Checks Delete I/O Completion Queue.
    pub(super) fn completion_to_delete(&self, sqe: &Sqe) -> Result<u16, Status> {
        let qid = qid(sqe);
        match self.completion.get(&qid) {
            None => Err(Status::INVALID_QUEUE_ID),
            Some(0) => Ok(qid),
            Some(_) => Err(Status::INVALID_QUEUE_DELETION),
        }
    }

    pub(super) fn add_completion(&mut self, queue: &NewCompletionQueue) {
        self.completion.insert(queue.qid, 0);
    }

    pub(super) fn add_submission(&mut self, queue: &NewSubmissionQueue) {
        self.submission.insert(queue.qid, queue.cqid);
        if let Some(users) = self.completion.get_mut(&queue.cqid) {
            *users += 1;
        }
    }

    pub(super) fn remove_submission(&mut self, qid: u16) {
        let users = self.submission.remove(&qid).and_then(|cqid| self.completion.get_mut(&cqid));
        if let Some(users) = users {
            *users -= 1;
        }
    }

    pub(super) fn remove_completion(&mut self, qid: u16) {
        self.completion.remove(&qid);
    }

    /// A queue pair of a message carrier.
    pub(super) fn connect(&mut self, qid: u16) {
        self.submission.insert(qid, qid);
    }

    pub(super) fn disconnect(&mut self, qid: u16) {
        self.submission.remove(&qid);
    }

    pub(super) fn any(&self) -> bool {
        !self.completion.is_empty() || !self.submission.is_empty()
    }

    pub(super) fn has_submission(&self, qid: u16) -> bool {
        self.submission.contains_key(&qid)
    }
}
