//! The admin queue, polled by the connection's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::debug;

use crate::fabric::Completion;
use crate::fabric::controller::{AdminAction, AdminQueues, Controller, NewCompletionQueue, NewSubmissionQueue};
use crate::memory::Region;
use crate::nvme::spec::{Cqe, Sqe, Status};

use super::super::super::DOORBELL_OFFSET;
use super::super::super::ring::{CommandRing, CompletionRing, Doorbell, Ring};
use super::super::super::shared_memory::SharedMemory;
use super::super::cursor::{Cursor, copy_in};
use super::super::dma::AskError;
use super::super::iova::IovaTable;
use super::super::orders::{CoreError, NewCq, NewSq, Order};
use super::Connection;

/// The admin submission and completion queue.
pub(super) struct AdminQueue {
    sq: CommandRing,
    cq: CompletionRing,
    tail: Doorbell,
    head: Doorbell,
    sq_head: u32,
    cq_tail: u32,
    phase: bool,
}

/// The ring at an address, if it lies in one region.
fn ring<const WORDS: usize>(table: &mut IovaTable, address: u64, entries: u32) -> Option<Ring<WORDS>> {
    let (region, offset) = table.find(address)?;
    Ring::new(Arc::clone(region), offset, entries)
}

/// Offset of the tail doorbell of a submission queue; the head doorbell of its completion queue follows.
fn tail_offset(qid: u16) -> u64 {
    DOORBELL_OFFSET + u64::from(qid) * 8
}

impl AdminQueue {
    /// The queues where the host put them; `None` if that is not in memory it registered.
    pub(super) fn new(table: &mut IovaTable, doorbells: &SharedMemory, queues: &AdminQueues) -> Option<Self> {
        Some(Self {
            sq: ring(table, queues.sq_address, queues.sq_entries)?,
            cq: ring(table, queues.cq_address, queues.cq_entries)?,
            tail: Doorbell::new(doorbells.region(), tail_offset(0))?,
            head: Doorbell::new(doorbells.region(), tail_offset(0) + 4)?,
            sq_head: 0,
            cq_tail: 0,
            phase: true,
        })
    }

    pub(super) fn lies_in(&self, region: &Arc<Region>) -> bool {
        self.sq.lies_in(region) || self.cq.lies_in(region)
    }

    /// The next command; an error for a doorbell value that is not valid.
    fn next(&mut self) -> Result<Option<Sqe>, ()> {
        let tail = self.tail.load();
        if tail == self.sq_head {
            return Ok(None);
        }
        if tail >= self.sq.entries() {
            return Err(());
        }
        let words = self.sq.load_entry(self.sq_head);
        self.sq_head = (self.sq_head + 1) % self.sq.entries();
        Ok(Some(zerocopy::transmute!(words)))
    }

    fn has_room(&self) -> bool {
        (self.cq_tail + 1) % self.cq.entries() != self.head.load()
    }

    fn post(&mut self, cid: u16, completion: Completion) {
        let cqe = Cqe {
            dword0: completion.dword0,
            dword1: completion.dword1,
            sq_head: self.sq_head as u16,
            sq_id: 0,
            cid,
            status: completion.status,
        };
        let words = cqe.to_quadwords(self.phase);
        self.cq.store(self.cq_tail, 0, words[0], Ordering::Relaxed);
        self.cq.store(self.cq_tail, 1, words[1], Ordering::Release);
        self.cq_tail = (self.cq_tail + 1) % self.cq.entries();
        self.phase ^= self.cq_tail == 0;
    }
}

/// The status for a host whose core could not do what it was asked to.
fn status_of(error: &AskError) -> Status {
    match error {
        AskError::Refused(CoreError::NoSuchQueue) => Status::INVALID_QUEUE_ID,
        AskError::Refused(_) | AskError::Stopped => Status::INTERNAL_ERROR,
    }
}

impl Connection {
    /// Carries out admin commands that are waiting and reports events. Says whether there was anything.
    pub(super) fn poll_admin(&mut self) -> bool {
        let mut active = false;
        // Bounded, so that messages get their turn.
        for _ in 0..64 {
            if !self.config.bus_master() || !self.controller.is_ready() {
                break;
            }
            let Some(queue) = self.admin.as_mut().filter(|queue| queue.has_room()) else { break };
            if let Some((cid, dword0)) = self.controller.take_event() {
                self.finish(cid, Completion::success(dword0, 0));
                active = true;
                continue;
            }
            match queue.next() {
                Ok(Some(sqe)) => {
                    // What namespaces hold changes without a new generation; Identify should tell what is so now.
                    if Controller::reads_namespaces(&sqe) {
                        self.controller.set_namespaces(self.session.namespaces());
                    }
                    let action = self.controller.admin(&sqe);
                    self.act(&sqe, action);
                    active = true;
                }
                Ok(None) => break,
                Err(()) => {
                    debug!(session = self.session.id().0, "invalid admin doorbell value");
                    self.controller.fail();
                }
            }
        }
        active
    }

    fn finish(&mut self, cid: u16, completion: Completion) {
        if let Some(queue) = &mut self.admin {
            queue.post(cid, completion);
            self.interrupts.raise(0);
        }
    }

    fn act(&mut self, sqe: &Sqe, action: AdminAction) {
        let result = match action {
            AdminAction::Complete(completion) => return self.finish(sqe.cid(), completion),
            AdminAction::Wait => return,
            AdminAction::Send(data) => {
                let mut cursor = Cursor::new(sqe, self.session.id(), data.len() as u32);
                copy_in(&mut cursor, self.memory.table(), &data)
            }
            AdminAction::CreateCompletionQueue(queue) => self.create_cq(&queue),
            AdminAction::CreateSubmissionQueue(queue) => self.create_sq(&queue),
            AdminAction::DeleteSubmissionQueue(qid) => {
                let ended = self.cores.ask(self.cores.of_queue(qid), Order::DeleteSq(qid));
                self.controller.submission_queue_ended(qid);
                ended.map_err(|error| status_of(&error))
            }
            AdminAction::DeleteCompletionQueue(qid) => {
                let ended = self.cores.ask(self.cores.of_queue(qid), Order::DeleteCq(qid));
                self.controller.completion_queue_ended(qid);
                ended.map_err(|error| status_of(&error))
            }
        };
        let completion = result.map_or_else(Completion::failed, |()| Completion::success(0, 0));
        self.finish(sqe.cid(), completion);
    }

    fn create_cq(&mut self, queue: &NewCompletionQueue) -> Result<(), Status> {
        let ring = ring(self.memory.table(), queue.address, queue.entries).ok_or(Status::INVALID_FIELD)?;
        let head = self.doorbell(tail_offset(queue.qid) + 4)?;
        let link = Arc::clone(&self.link);
        let order = Order::CreateCq(NewCq { qid: queue.qid, ring, head, vector: queue.vector, link });
        self.cores.ask(self.cores.of_queue(queue.qid), order).map_err(|error| status_of(&error))?;
        self.controller.completion_queue_made(queue);
        Ok(())
    }

    fn create_sq(&mut self, queue: &NewSubmissionQueue) -> Result<(), Status> {
        let ring = ring(self.memory.table(), queue.address, queue.entries).ok_or(Status::INVALID_FIELD)?;
        let tail = self.doorbell(tail_offset(queue.qid))?;
        let link = Arc::clone(&self.link);
        let order = Order::CreateSq(NewSq { qid: queue.qid, cqid: queue.cqid, ring, tail, link });
        self.cores.ask(self.cores.of_queue(queue.qid), order).map_err(|error| status_of(&error))?;
        self.controller.submission_queue_made(queue);
        Ok(())
    }

    /// A doorbell for a new queue; it begins at zero.
    fn doorbell(&self, offset: u64) -> Result<Doorbell, Status> {
        let doorbell = Doorbell::new(self.doorbells.region(), offset).ok_or(Status::INVALID_QUEUE_ID)?;
        doorbell.store(0);
        Ok(doorbell)
    }
}
