//! An I/O queue pair of an initiator.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::Burst;
use crate::fabric::host::AdminPort;
use crate::nvme::spec::{Cqe, Sqe};

use super::super::VECTORS;
use super::super::eventfd::WakeUp;
use super::super::ring::{CommandRing, CompletionRing, Doorbell};
use super::super::shared_memory::SharedMemory;
use super::{AdminData, ConnectError, Initiator, Iova};

/// A submission queue and a completion queue of its own. Belongs to one thread at a time.
///
/// Commands are pushed, then sent together with [`ring`](Self::ring), and complete in any order through
/// [`poll`](Self::poll).
pub struct InitiatorQueue {
    sq: CommandRing,
    tail_doorbell: Doorbell,
    cq: CompletionRing,
    head_doorbell: Doorbell,
    tail: u32,
    head: u32,
    /// Completions read and not yet told to the controller.
    untold: u32,
    /// Tell the controller after this many: it has room for twice as many completions as there can be commands, so
    /// the doorbell need not be written for each.
    tell_at: u32,
    phase: bool,
    rung: u32,
    /// Command identifiers that are free. Never one that is outstanding: the queue head only says "fetched".
    free: Vec<u16>,
    /// Whether a command identifier is outstanding.
    outstanding: Vec<bool>,
    qid: u16,
    core: u16,
    iova: Iova,
    eventfd: Option<OwnedFd>,
    /// Completions that named no command of ours.
    strays: u64,
    _memory: SharedMemory,
}

impl std::fmt::Debug for InitiatorQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InitiatorQueue")
            .field("qid", &self.qid)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl InitiatorQueue {
    /// Commands that may be pushed now.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Commands pushed and not yet completed.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.outstanding.len() - self.free.len()
    }

    /// Queue identifier.
    #[must_use]
    pub fn qid(&self) -> u16 {
        self.qid
    }

    /// The core of the target that serves this queue; 0 if the target does not say.
    #[must_use]
    pub fn core(&self) -> u16 {
        self.core
    }

    /// Puts a command into the queue under a command identifier that is not outstanding, and says which. It reaches
    /// the controller with the next [`ring`](Self::ring).
    ///
    /// # Errors
    /// The command, if the queue is full.
    #[inline]
    pub fn push(&mut self, mut sqe: Sqe) -> Result<u16, Sqe> {
        let Some(cid) = self.free.pop() else { return Err(sqe) };
        self.outstanding[usize::from(cid)] = true;
        sqe.set_cid(cid);
        self.sq.store_entry(self.tail, &zerocopy::transmute!(sqe));
        self.tail = if self.tail + 1 == self.sq.entries() { 0 } else { self.tail + 1 };
        Ok(cid)
    }

    /// Sends what was pushed: one store to shared memory.
    #[inline]
    pub fn ring(&mut self) {
        if self.rung != self.tail {
            self.rung = self.tail;
            self.tail_doorbell.store(self.tail);
        }
    }

    /// Takes completions until `done` is full or there are none. Never waits.
    #[inline]
    pub fn poll(&mut self, done: &mut Burst<Cqe>) {
        while !done.is_full() {
            let high = self.cq.load(self.head, 1, Ordering::Acquire);
            let low = self.cq.load(self.head, 0, Ordering::Relaxed);
            let (cqe, phase) = Cqe::from_quadwords([low, high]);
            if phase != self.phase {
                break;
            }
            self.head += 1;
            if self.head == self.cq.entries() {
                self.head = 0;
                self.phase = !self.phase;
            }
            self.untold += 1;
            match self.outstanding.get_mut(usize::from(cqe.cid)) {
                Some(outstanding) if *outstanding => {
                    *outstanding = false;
                    self.free.push(cqe.cid);
                    done.push(cqe);
                }
                // A controller that completes twice must not make us use an identifier twice.
                _ => self.strays += 1,
            }
        }
        if self.untold >= self.tell_at {
            self.untold = 0;
            self.head_doorbell.store(self.head);
        }
    }

    /// The eventfd that counts interrupts, if the queue was made with one. Poll the queue once more after arming a
    /// wait: completions that came before raise no further interrupt.
    #[must_use]
    pub fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        self.eventfd.as_ref().map(OwnedFd::as_fd)
    }

    /// Completions that named no outstanding command. Zero with a correct controller.
    #[must_use]
    pub fn stray_completions(&self) -> u64 {
        self.strays
    }
}

/// Offsets in a queue's memory: the submission queue first, then the completion queue on its own page.
fn completion_offset(sq_entries: u32) -> u64 {
    (u64::from(sq_entries) * 64).next_multiple_of(4096)
}

impl Initiator {
    /// Makes an I/O queue for `depth` outstanding commands, with an interrupt eventfd if asked. The lowest free queue
    /// identifier is taken, so the first `n` queues are served by the first `n` cores.
    ///
    /// # Errors
    /// [`ConnectError::Invalid`] for a depth of 0 or beyond the controller's queues, or if every identifier is in
    /// use; otherwise what the target said.
    pub fn create_queue(&mut self, depth: u32, interrupt: bool) -> Result<InitiatorQueue, ConnectError> {
        if depth == 0 || depth >= self.max_queue_entries.min(1 << 15) {
            return Err(ConnectError::Invalid("the queue depth is 0 or more than the controller's queues hold"));
        }
        let free = self.queues.iter().position(|used| !used);
        let index = free.ok_or(ConnectError::Invalid("every queue of the controller is in use"))?;
        let qid = index as u16 + 1;
        // A ring of n entries holds n - 1.
        let sq_entries = depth + 1;
        let cq_entries = (2 * depth + 1).min(self.max_queue_entries);
        if interrupt && qid >= VECTORS {
            return Err(ConnectError::Invalid("only the first 63 queues can have an interrupt of their own"));
        }
        let cq_offset = completion_offset(sq_entries);
        let memory = SharedMemory::create("kvplane-queue", cq_offset + u64::from(cq_entries) * 16, false)?;
        let eventfd = if interrupt { Some(WakeUp::new()?.into_fd()) } else { None };
        let (iova, _) = self.map(&memory)?;
        let made = self.make_pair(qid, (sq_entries, iova.0), (cq_entries, iova.0 + cq_offset), eventfd.as_ref());
        if let Err(error) = made {
            // The first error counts; the memory must not stay registered.
            let _ = self.unregister(iova);
            return Err(error);
        }
        let region = memory.region();
        let lost = ConnectError::Invalid("the queue's doorbells are beyond those that can be mapped");
        let (Some(sq), Some(cq), Some(tail_doorbell), Some(head_doorbell)) = (
            CommandRing::new(Arc::clone(region), 0, sq_entries),
            CompletionRing::new(Arc::clone(region), cq_offset, cq_entries),
            Doorbell::new(&self.doorbells, 2 * u64::from(qid) * self.stride),
            Doorbell::new(&self.doorbells, (2 * u64::from(qid) + 1) * self.stride),
        ) else {
            return Err(lost);
        };
        self.queues[index] = true;
        let spare = cq_entries - 1 - depth;
        Ok(InitiatorQueue {
            sq,
            tail_doorbell,
            cq,
            head_doorbell,
            tail: 0,
            head: 0,
            untold: 0,
            tell_at: (spare / 2).max(1),
            phase: true,
            rung: 0,
            free: (0..depth as u16).rev().collect(),
            outstanding: vec![false; depth as usize],
            qid,
            core: self.identity.owners.map_or(0, |owners| ((u32::from(qid) - 1) % owners.cores) as u16),
            iova,
            eventfd,
            strays: 0,
            _memory: memory,
        })
    }

    /// Makes both queues at the controller: entries and address of each.
    fn make_pair(
        &mut self,
        qid: u16,
        sq: (u32, u64),
        cq: (u32, u64),
        eventfd: Option<&OwnedFd>,
    ) -> Result<(), ConnectError> {
        // Vector 0 belongs to the admin queue.
        if let Some(fd) = eventfd {
            self.channel.set_vector(qid, Some(fd.as_fd()))?;
        }
        self.create_cq(qid, cq.0, cq.1, eventfd.is_some())?;
        self.create_sq(qid, sq.0, sq.1)
    }

    /// Writes a submission queue's tail doorbell by message rather than through shared memory, as a client without a
    /// mapping of the doorbells would, and with any value: for tests of targets.
    ///
    /// # Errors
    /// What the target said.
    #[doc(hidden)]
    pub fn write_doorbell(&mut self, qid: u16, tail: u32) -> Result<(), ConnectError> {
        let offset = super::super::DOORBELL_OFFSET + 2 * u64::from(qid) * self.stride;
        Ok(self.channel.write32(super::super::wire::region::BAR0, offset, tail)?)
    }

    fn create_cq(&mut self, qid: u16, entries: u32, iova: u64, interrupt: bool) -> Result<(), ConnectError> {
        let mut sqe = Sqe::new(0x05, 0);
        sqe.set_prp(iova, 0);
        sqe.set_dword(10, u32::from(qid) | ((entries - 1) << 16));
        sqe.set_dword(11, 1 | (u32::from(interrupt) << 1) | (u32::from(qid) << 16));
        self.admin_checked("Create I/O Completion Queue", sqe, AdminData::None).map(|_| ())
    }

    fn create_sq(&mut self, qid: u16, entries: u32, iova: u64) -> Result<(), ConnectError> {
        let mut sqe = Sqe::new(0x01, 0);
        sqe.set_prp(iova, 0);
        sqe.set_dword(10, u32::from(qid) | ((entries - 1) << 16));
        sqe.set_dword(11, 1 | (u32::from(qid) << 16));
        self.admin_checked("Create I/O Submission Queue", sqe, AdminData::None).map(|_| ())
    }

    /// Ends a queue. Commands that are outstanding complete first, at the controller; their completions are lost.
    ///
    /// # Errors
    /// What the target said.
    pub fn delete_queue(&mut self, queue: InitiatorQueue) -> Result<(), ConnectError> {
        for (opcode, what) in [(0x00, "Delete I/O Submission Queue"), (0x04, "Delete I/O Completion Queue")] {
            let mut sqe = Sqe::new(opcode, 0);
            sqe.set_dword(10, u32::from(queue.qid));
            self.admin_checked(what, sqe, AdminData::None)?;
        }
        if queue.eventfd.is_some() {
            self.channel.set_vector(queue.qid, None)?;
        }
        if let Some(used) = self.queues.get_mut(usize::from(queue.qid) - 1) {
            *used = false;
        }
        self.unregister(queue.iova)
    }
}
