//! A submission queue and a completion queue as the core that serves them sees them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::Burst;
use crate::fabric::{Capsule, Completion, Permit, SessionId};
use crate::memory::{Region, SlotId};
use crate::nvme::spec::{Cqe, Sqe};

use super::super::ring::{CommandRing, CompletionRing, Doorbell};
use super::link::Link;

/// Whether a submission queue yields commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SqState {
    /// It does.
    Running,
    /// Not until the session goes on: a region of its client is on its way out.
    Paused,
    /// Never again: the client deleted it. Commands in flight still complete.
    Closed,
    /// Never again: the controller was reset or the client is gone. Completions are thrown away.
    Discarding,
    /// Never again: the client wrote a doorbell value that is not valid. Commands in flight still complete.
    Failed,
}

/// A submission queue. Hot fields first.
pub(super) struct SubmissionQueue {
    tail: Doorbell,
    ring: CommandRing,
    head: u32,
    pub(super) state: SqState,
    session: SessionId,
    qid: u16,
    /// Commands taken and not yet completed.
    pub(super) outstanding: u32,
    /// Its completion queue.
    pub(super) cq: SlotId,
    commands: u64,
    completions: u64,
    link: Arc<Link>,
}

/// A completion queue. Hot fields first.
pub(super) struct CompletionQueue {
    ring: CompletionRing,
    head_doorbell: Doorbell,
    tail: u32,
    /// The client's head as last read.
    head: u32,
    /// Commands in flight and completions not yet read by the client: never more than fit.
    committed: u32,
    phase: bool,
    /// Completions were written since the last flush.
    pub(super) dirty: bool,
    failed: bool,
    vector: Option<u16>,
    pub(super) qid: u16,
    link: Arc<Link>,
}

/// What [`SubmissionQueue::take`] needs to know of the core.
#[derive(Clone, Copy)]
pub(super) struct Issuer {
    pub core: u16,
    pub queue: SlotId,
}

impl SubmissionQueue {
    pub(super) fn new(
        ring: CommandRing,
        tail: Doorbell,
        session: SessionId,
        qid: u16,
        cq: SlotId,
        link: Arc<Link>,
    ) -> Self {
        let state = SqState::Running;
        Self { tail, ring, head: 0, state, session, qid, outstanding: 0, cq, commands: 0, completions: 0, link }
    }

    /// Takes commands, `max` at most and no more than `cq` will have room to complete. Says how many, and whether
    /// more were waiting.
    #[inline]
    pub(super) fn take(
        &mut self,
        cq: &mut CompletionQueue,
        issuer: Issuer,
        max: usize,
        capsules: &mut Burst<Capsule>,
    ) -> usize {
        let tail = self.tail.load();
        if tail == self.head || self.state != SqState::Running {
            return 0;
        }
        let size = self.ring.entries();
        if tail >= size {
            self.state = SqState::Failed;
            self.link.report_fault();
            return 0;
        }
        let waiting = if tail > self.head { tail - self.head } else { tail + size - self.head };
        let count = cq.commit(waiting.min(max as u32));
        for _ in 0..count {
            let words = self.ring.load_entry(self.head);
            let sqe: Sqe = zerocopy::transmute!(words);
            self.head = if self.head + 1 == size { 0 } else { self.head + 1 };
            self.ring.prefetch(self.head);
            let permit = Permit::issue(issuer.core, issuer.queue, sqe.cid());
            capsules.push(Capsule { sqe, session: self.session, permit });
        }
        self.outstanding += count;
        self.commands += u64::from(count);
        count as usize
    }

    /// Accounts for a completion and writes it, unless nobody is there to read it.
    #[inline]
    pub(super) fn complete(&mut self, cq: &mut CompletionQueue, cid: u16, completion: Completion) {
        self.outstanding -= 1;
        self.completions += 1;
        if self.state == SqState::Discarding {
            cq.committed -= 1;
            return;
        }
        cq.post(&Cqe {
            dword0: completion.dword0,
            dword1: completion.dword1,
            sq_head: self.head as u16,
            sq_id: self.qid,
            cid,
            status: completion.status,
        });
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    pub(super) fn qid(&self) -> u16 {
        self.qid
    }

    pub(super) fn depth(&self) -> u32 {
        self.ring.entries()
    }

    /// Commands taken and commands completed so far.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.commands, self.completions)
    }

    pub(super) fn lies_in(&self, region: &Arc<Region>) -> bool {
        self.ring.lies_in(region)
    }
}

impl CompletionQueue {
    pub(super) fn new(
        ring: CompletionRing,
        head_doorbell: Doorbell,
        qid: u16,
        vector: Option<u16>,
        link: Arc<Link>,
    ) -> Self {
        Self {
            ring,
            head_doorbell,
            tail: 0,
            head: 0,
            committed: 0,
            phase: true,
            dirty: false,
            failed: false,
            vector,
            qid,
            link,
        }
    }

    /// Reserves room for `want` completions, or as many as there is room for.
    #[inline]
    fn commit(&mut self, want: u32) -> u32 {
        // One entry stays empty: a full ring and an empty one would look the same.
        let usable = self.ring.entries() - 1;
        if usable - self.committed < want {
            self.read_head();
        }
        let count = want.min(usable - self.committed);
        self.committed += count;
        count
    }

    /// Learns how far the client has read. A value that is not valid fails the queue: no more is committed.
    fn read_head(&mut self) {
        let head = self.head_doorbell.load();
        if head == self.head || self.failed {
            return;
        }
        let size = self.ring.entries();
        let unread = if self.tail >= self.head { self.tail - self.head } else { self.tail + size - self.head };
        let read = if head >= self.head { head - self.head } else { (head + size).saturating_sub(self.head) };
        if head >= size || read > unread {
            self.failed = true;
            self.link.report_fault();
            return;
        }
        self.head = head;
        self.committed -= read;
    }

    /// Writes a completion. There is room: `commit` saw to it.
    #[inline]
    fn post(&mut self, cqe: &Cqe) {
        let words = cqe.to_quadwords(self.phase);
        self.ring.store(self.tail, 0, words[0], Ordering::Relaxed);
        // Release: whoever sees the phase tag sees the first word, and the data moved before it.
        self.ring.store(self.tail, 1, words[1], Ordering::Release);
        self.tail += 1;
        if self.tail == self.ring.entries() {
            self.tail = 0;
            self.phase = !self.phase;
        }
    }

    /// Raises the interrupt, if there is one.
    pub(super) fn publish(&mut self) {
        self.dirty = false;
        if let Some(vector) = self.vector {
            self.link.raise(vector);
        }
    }

    /// Whether an interrupt is wanted.
    #[inline]
    pub(super) fn interrupts(&self) -> bool {
        self.vector.is_some()
    }

    pub(super) fn lies_in(&self, region: &Arc<Region>) -> bool {
        self.ring.lies_in(region)
    }
}
