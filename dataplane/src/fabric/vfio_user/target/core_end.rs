//! One core's end: polls the queue pairs assigned to the core and resolves clients' addresses.

use std::sync::Arc;

use crate::Burst;
use crate::fabric::{Capsule, Completion, Fabric, Permit, QueuePairInfo, SessionId};
use crate::memory::{DmaSlice, Region, RegionSlot, SlotId, SlotPool};
use crate::nvme::spec::Status;
use crate::nvme::spec::kv::transfer_bytes;
use crate::nvme::{AttachError, BlockQueue};

use super::super::MAX_IO_QUEUES;
use super::cursor::{Cursor, copy_in, copy_out};
use super::iova::{IovaRange, IovaTable};
use super::orders::{Answer, CoreCommand, CoreError, NewCq, NewSq, Order};
use super::queue_pair::{CompletionQueue, Issuer, SqState, SubmissionQueue};

/// Queues of each kind that one core serves at most: 64 connections with 64 queues each, all on one core.
pub(super) const MAX_QUEUES: u16 = 4096;
/// Sessions to make room for at the start; more only cost an allocation.
const SESSIONS: usize = 256;

/// Something that had to wait.
enum Waiting {
    /// Until no command of the session is in flight.
    Idle { session: SessionId, close: bool, answer: Answer },
    /// Until no command of the queue is in flight.
    Drained { queue: SlotId, answer: Answer },
    /// Until no DMA names the region.
    Dma { slot: RegionSlot, answer: Answer },
}

/// One core's end of the vfio-user carrier.
pub struct VfioUserFabric {
    core: u16,
    /// Where the next round begins.
    turn: usize,
    /// Submission queues that may yield commands.
    active: Vec<SlotId>,
    sqs: SlotPool<SubmissionQueue>,
    cqs: SlotPool<CompletionQueue>,
    /// Completion queues with an interrupt to raise.
    dirty: Vec<SlotId>,
    outstanding: usize,
    copied: u64,
    /// By session number.
    sessions: Vec<Option<Holdings>>,
    waiting: Vec<Waiting>,
}

/// What a session has on this core. Orders look here, never through all queues of the core.
struct Holdings {
    table: IovaTable,
    sqs: Vec<SlotId>,
    cqs: Vec<SlotId>,
}

impl Holdings {
    /// Room for all that a session may have, so that nothing grows under load.
    fn new() -> Self {
        let queues = || Vec::with_capacity(usize::from(MAX_IO_QUEUES));
        Self { table: IovaTable::default(), sqs: queues(), cqs: queues() }
    }
}

impl std::fmt::Debug for VfioUserFabric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (core, queues, outstanding) = (self.core, self.sqs.in_use(), self.outstanding);
        f.debug_struct("VfioUserFabric")
            .field("core", &core)
            .field("queues", &queues)
            .field("outstanding", &outstanding)
            .finish_non_exhaustive()
    }
}

impl VfioUserFabric {
    /// The end of core `core`.
    #[must_use]
    pub fn new(core: u16) -> Self {
        Self {
            core,
            turn: 0,
            active: Vec::with_capacity(MAX_QUEUES as usize),
            sqs: SlotPool::new(MAX_QUEUES),
            cqs: SlotPool::new(MAX_QUEUES),
            dirty: Vec::with_capacity(MAX_QUEUES as usize),
            outstanding: 0,
            copied: 0,
            sessions: Vec::with_capacity(SESSIONS),
            waiting: Vec::with_capacity(SESSIONS),
        }
    }

    /// Sessions that have registered memory or queues here. Zero when every client has left.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.iter().flatten().count()
    }

    #[inline]
    fn table(&mut self, session: SessionId) -> Option<&mut IovaTable> {
        Some(&mut self.sessions.get_mut(session.0 as usize)?.as_mut()?.table)
    }

    fn held(&self, session: SessionId) -> Option<&Holdings> {
        self.sessions.get(session.0 as usize)?.as_ref()
    }

    fn held_or_new(&mut self, session: SessionId) -> &mut Holdings {
        let index = session.0 as usize;
        if self.sessions.len() <= index {
            self.sessions.resize_with(index + 1, || None);
        }
        self.sessions[index].get_or_insert_with(Holdings::new)
    }

    fn attach<B: BlockQueue>(&mut self, session: SessionId, range: IovaRange, blocks: &mut B) -> Result<(), CoreError> {
        blocks.attach(Arc::clone(&range.region)).map_err(|error| CoreError::Attach(error.to_string()))?;
        let slot = range.region.slot();
        if self.held_or_new(session).table.insert(range).is_err() {
            // Nothing can have used it yet, so this cannot be busy.
            let _ = blocks.detach(slot);
            return Err(CoreError::Overlap);
        }
        Ok(())
    }

    fn in_flight(&self, session: SessionId) -> bool {
        let Some(held) = self.held(session) else { return false };
        held.sqs.iter().any(|&id| self.sqs.get(id).is_some_and(|sq| sq.outstanding > 0))
    }

    fn set_state(&mut self, session: SessionId, change: impl Fn(SqState) -> SqState) {
        let Some(held) = self.sessions.get(session.0 as usize).and_then(Option::as_ref) else { return };
        for &id in &held.sqs {
            if let Some(sq) = self.sqs.get_mut(id) {
                sq.state = change(sq.state);
            }
        }
    }

    fn find_sq(&self, session: SessionId, qid: u16) -> Option<SlotId> {
        let queues = &self.held(session)?.sqs;
        queues.iter().copied().find(|&id| self.sqs.get(id).is_some_and(|sq| sq.qid() == qid))
    }

    fn find_cq(&self, session: SessionId, qid: u16) -> Option<SlotId> {
        let queues = &self.held(session)?.cqs;
        queues.iter().copied().find(|&id| self.cqs.get(id).is_some_and(|cq| cq.qid == qid))
    }

    fn create_cq(&mut self, session: SessionId, new: NewCq) -> Result<(), CoreError> {
        let cq = CompletionQueue::new(new.ring, new.head, new.qid, new.vector, new.link);
        let id = self.cqs.insert(cq).map_err(|_| CoreError::NoRoom)?;
        self.held_or_new(session).cqs.push(id);
        Ok(())
    }

    fn create_sq(&mut self, session: SessionId, new: NewSq) -> Result<(), CoreError> {
        let cq = self.find_cq(session, new.cqid).ok_or(CoreError::NoSuchQueue)?;
        let sq = SubmissionQueue::new(new.ring, new.tail, session, new.qid, cq, new.link);
        let id = self.sqs.insert(sq).map_err(|_| CoreError::NoRoom)?;
        self.held_or_new(session).sqs.push(id);
        self.active.push(id);
        Ok(())
    }

    fn delete_cq(&mut self, session: SessionId, qid: u16) -> Result<(), CoreError> {
        let id = self.find_cq(session, qid).ok_or(CoreError::NoSuchQueue)?;
        self.held_or_new(session).cqs.retain(|&other| other != id);
        self.cqs.remove(id);
        Ok(())
    }

    fn remove_sq(&mut self, id: SlotId) {
        let Some(sq) = self.sqs.remove(id) else { return };
        self.active.retain(|&other| other != id);
        self.turn = 0;
        self.held_or_new(sq.session()).sqs.retain(|&other| other != id);
    }

    /// Drops every queue of a session. No command of it is in flight.
    fn remove_queues(&mut self, session: SessionId) {
        let Some(held) = self.sessions.get_mut(session.0 as usize).and_then(Option::as_mut) else { return };
        if held.sqs.is_empty() && held.cqs.is_empty() {
            return;
        }
        for id in held.sqs.drain(..) {
            self.sqs.remove(id);
        }
        for id in held.cqs.drain(..) {
            self.cqs.remove(id);
        }
        self.active.retain(|&id| self.sqs.get(id).is_some());
        self.turn = 0;
    }

    /// Ends the queues that lie in a region. They are drained: the session was quiesced before.
    fn remove_queues_in(&mut self, session: SessionId, region: &Arc<Region>) {
        let Some(held) = self.sessions.get_mut(session.0 as usize).and_then(Option::as_mut) else { return };
        let (sqs, cqs) = (&mut self.sqs, &mut self.cqs);
        let before = held.sqs.len();
        held.sqs.retain(|&id| {
            let Some(sq) = sqs.get(id) else { return false };
            let cq_lost = cqs.get(sq.cq).is_none_or(|cq| cq.lies_in(region));
            let goes = (cq_lost || sq.lies_in(region)) && sq.outstanding == 0;
            if goes {
                sqs.remove(id);
            }
            !goes
        });
        held.cqs.retain(|&id| {
            let goes = cqs.get(id).is_none_or(|cq| cq.lies_in(region));
            if goes {
                cqs.remove(id);
            }
            !goes
        });
        if held.sqs.len() < before {
            self.active.retain(|&id| sqs.get(id).is_some());
            self.turn = 0;
        }
    }

    /// Begins to carry out an order; `None` if the answer must wait.
    fn carry_out<B: BlockQueue>(
        &mut self,
        session: SessionId,
        order: Order,
        answer: &Answer,
        blocks: &mut B,
    ) -> Option<Result<(), CoreError>> {
        let later = |answer: &Answer| answer.clone();
        match order {
            Order::Attach(range) => Some(self.attach(session, range, blocks)),
            Order::CreateCq(new) => Some(self.create_cq(session, new)),
            Order::CreateSq(new) => Some(self.create_sq(session, new)),
            Order::Resume => {
                self.set_state(session, |state| if state == SqState::Paused { SqState::Running } else { state });
                Some(Ok(()))
            }
            Order::Quiesce => {
                self.set_state(session, |state| if state == SqState::Running { SqState::Paused } else { state });
                self.waiting.push(Waiting::Idle { session, close: false, answer: later(answer) });
                None
            }
            Order::CloseQueues => {
                self.set_state(session, |_| SqState::Discarding);
                self.waiting.push(Waiting::Idle { session, close: true, answer: later(answer) });
                None
            }
            Order::DeleteSq(qid) => {
                let Some(queue) = self.find_sq(session, qid) else { return Some(Err(CoreError::NoSuchQueue)) };
                if let Some(sq) = self.sqs.get_mut(queue) {
                    sq.state = SqState::Closed;
                }
                self.waiting.push(Waiting::Drained { queue, answer: later(answer) });
                None
            }
            Order::DeleteCq(qid) => Some(self.delete_cq(session, qid)),
            Order::Detach(iova) => {
                let Some(range) = self.table(session).and_then(|table| table.remove(iova)) else {
                    // It was never attached here, for instance because this core refused it.
                    return Some(Ok(()));
                };
                self.remove_queues_in(session, &range.region);
                // Nothing of ours may hold the region when the answer goes out: the connection counts its holders.
                let slot = range.region.slot();
                drop(range);
                self.waiting.push(Waiting::Dma { slot, answer: later(answer) });
                None
            }
            Order::Forget => {
                self.remove_queues(session);
                if let Some(entry) = self.sessions.get_mut(session.0 as usize) {
                    *entry = None;
                }
                Some(Ok(()))
            }
        }
    }

    /// Whether the wait is over; answers if so.
    fn is_over<B: BlockQueue>(&mut self, waiting: &Waiting, blocks: &mut B) -> bool {
        match waiting {
            Waiting::Idle { session, close, answer } => {
                if self.in_flight(*session) {
                    return false;
                }
                if *close {
                    self.remove_queues(*session);
                }
                // A connection that no longer waits for the answer is no reason to stop.
                let _ = answer.try_send(Ok(()));
            }
            Waiting::Drained { queue, answer } => {
                if self.sqs.get_mut(*queue).is_some_and(|sq| sq.outstanding > 0) {
                    return false;
                }
                self.remove_sq(*queue);
                let _ = answer.try_send(Ok(()));
            }
            Waiting::Dma { slot, answer } => {
                let result = match blocks.detach(*slot) {
                    Err(AttachError::Busy(_)) => return false,
                    Ok(()) | Err(AttachError::NoSuchSlot(_)) => Ok(()),
                    Err(error) => Err(CoreError::Detach(error.to_string())),
                };
                let _ = answer.try_send(result);
            }
        }
        true
    }
}

impl Fabric for VfioUserFabric {
    type Data = Cursor;
    type Command = CoreCommand;

    fn command<B: BlockQueue>(&mut self, command: CoreCommand, blocks: &mut B) {
        let CoreCommand { session, order, answer } = command;
        if let Some(result) = self.carry_out(session, order, &answer, blocks) {
            let _ = answer.try_send(result);
        } else {
            self.settle(blocks);
        }
    }

    fn settle<B: BlockQueue>(&mut self, blocks: &mut B) {
        if self.waiting.is_empty() {
            return;
        }
        // Nothing is added meanwhile; taking it out only satisfies the borrow checker, and allocates nothing.
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|entry| !self.is_over(entry, blocks));
        self.waiting = waiting;
    }

    fn outstanding(&self) -> usize {
        self.outstanding
    }

    #[inline]
    fn poll(&mut self, capsules: &mut Burst<Capsule>) {
        let queues = self.active.len();
        if queues == 0 {
            return;
        }
        let before = capsules.len();
        let first = if self.turn < queues { self.turn } else { 0 };
        let mut at = first;
        for _ in 0..queues {
            let room = capsules.remaining_capacity();
            if room == 0 {
                break;
            }
            let queue = self.active[at];
            at = if at + 1 == queues { 0 } else { at + 1 };
            let Some(sq) = self.sqs.get_mut(queue) else { continue };
            let Some(cq) = self.cqs.get_mut(sq.cq) else { continue };
            sq.take(cq, Issuer { core: self.core, queue }, room, capsules);
        }
        // The next round begins after the queue that this one ended with when the burst was full, and one further
        // otherwise, so that every queue is first in its turn.
        self.turn = if capsules.is_full() { at } else { first + 1 };
        self.outstanding += capsules.len() - before;
    }

    #[inline]
    fn data(&self, capsule: &Capsule) -> Cursor {
        Cursor::new(&capsule.sqe, capsule.session, transfer_bytes(&capsule.sqe))
    }

    #[inline]
    fn complete(&mut self, permit: Permit, completion: Completion) {
        debug_assert_eq!(permit.core(), self.core, "a permit goes back to the core that issued it");
        let (queue, cid) = permit.redeem();
        self.outstanding -= 1;
        // A queue is not removed while a command is in flight, so both are there.
        let Some(sq) = self.sqs.get_mut(queue) else { return };
        let Some(cq) = self.cqs.get_mut(sq.cq) else {
            sq.outstanding -= 1;
            return;
        };
        sq.complete(cq, cid, completion);
        if cq.interrupts() && !cq.dirty {
            cq.dirty = true;
            self.dirty.push(sq.cq);
        }
    }

    fn flush(&mut self) {
        while let Some(id) = self.dirty.pop() {
            if let Some(cq) = self.cqs.get_mut(id) {
                cq.publish();
            }
        }
    }

    #[inline]
    fn window(&mut self, data: &mut Cursor, max: u32) -> Result<DmaSlice, Status> {
        let table = self.table(data.session()).ok_or(Status::DATA_TRANSFER_ERROR)?;
        data.window(table, max)
    }

    fn copy_from_client(&mut self, data: &mut Cursor, into: &mut [u8]) -> Result<(), Status> {
        let table = self.table(data.session()).ok_or(Status::DATA_TRANSFER_ERROR)?;
        copy_out(data, table, into)?;
        self.copied += into.len() as u64;
        Ok(())
    }

    fn copy_to_client(&mut self, data: &mut Cursor, from: &[u8]) -> Result<(), Status> {
        let table = self.table(data.session()).ok_or(Status::DATA_TRANSFER_ERROR)?;
        copy_in(data, table, from)?;
        self.copied += from.len() as u64;
        Ok(())
    }

    fn copied_bytes(&self) -> u64 {
        self.copied
    }

    fn queue_pairs(&self, into: &mut Vec<QueuePairInfo>) {
        into.extend(self.sqs.iter().filter_map(|sq| {
            let (commands, completions) = sq.counts();
            Some(QueuePairInfo {
                session: sq.session(),
                qid: sq.qid(),
                cqid: self.cqs.get(sq.cq)?.qid,
                core: self.core,
                depth: sq.depth(),
                outstanding: sq.outstanding,
                commands,
                completions,
            })
        }));
    }
}
