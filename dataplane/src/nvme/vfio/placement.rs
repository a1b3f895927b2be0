//! Write placement hints: which placement identifier a write of each kind carries (base, "Flexible Data Placement").
//!
//! A namespace's identifiers stand in the status of its reclaim unit handles, which is an I/O command, so the queue asks
//! for it itself: before it goes to its core, and again after every reset, for the controller may come back with other
//! handles, or without. Until it is answered it writes without hints. They are hints: nothing that was promised to
//! anybody hangs on them, so unlike with its other terms a queue does not end for them.

use std::time::{Duration, Instant};

use super::OpenError;
use super::queue::VfioQueue;
use super::registers::PAGE_BYTES;
use crate::Burst;
use crate::memory::DmaSlice;
use crate::nvme::spec::nvm;
use crate::nvme::{BlockIo, BlockOp, BlockQueue, WriteHint};

const KINDS: usize = WriteHint::KINDS as usize;
const NAP: Duration = Duration::from_micros(50);

/// The question for the placements, which is a command among the queue's others.
pub(super) struct Placing {
    /// Whether there is anything to ask for.
    useful: bool,
    /// It is to be asked as soon as a slot is free.
    wanted: bool,
    /// Its slot while it is outstanding.
    slot: Option<u16>,
    /// Where in the queue's memory the answer goes: a page.
    offset: usize,
}

impl Placing {
    pub(super) const fn new(useful: bool, offset: usize) -> Self {
        Self { useful, wanted: useful, slot: None, offset }
    }

    /// Whether the command in a slot is the question.
    pub(super) fn is_question(&self, index: u16) -> bool {
        self.slot == Some(index)
    }

    /// How many commands of the queue are the question.
    pub(super) fn outstanding(&self) -> usize {
        usize::from(self.slot.is_some())
    }
}

impl VfioQueue {
    /// Asks which placements there are, and waits for the answer; the queue must be fresh. A namespace that has none, or
    /// only one, is written to without.
    pub(super) fn learn_placements(&mut self, limit: Duration) -> Result<(), OpenError> {
        self.ask_placements();
        self.ring();
        let deadline = Instant::now() + limit;
        while self.placing.slot.is_some() {
            // Nothing else is outstanding.
            self.poll(&mut Burst::new());
            if Instant::now() > deadline {
                // The queue is deleted with it.
                return Err(OpenError::TimedOut { what: "tell its placement handles", waited: limit, csts: 0 });
            }
            std::thread::sleep(NAP);
        }
        Ok(())
    }

    /// After a reset nothing is known of the placements.
    pub(super) fn doubt_placements(&mut self) {
        self.placements = [0; KINDS + 1];
        // One that is outstanding is sent again.
        self.placing.wanted = self.placing.useful && self.placing.slot.is_none();
    }

    /// Asks, if that is to be done and a slot is free.
    pub(super) fn ask_placements(&mut self) {
        if !self.placing.wanted {
            return;
        }
        let Some(index) = self.free.pop() else { return };
        (self.placing.wanted, self.placing.slot) = (false, Some(index));
        let slot = &mut self.slots[usize::from(index)];
        // A flush to the rest of the queue: it names no memory of anybody's.
        slot.io = BlockIo { op: BlockOp::Flush, lba: 0, blocks: 0, memory: DmaSlice::EMPTY, token: 0 };
        (slot.moved, slot.tries, slot.expired) = (0, 0, false);
        self.put_question(index);
    }

    /// Writes the question into the submission ring.
    pub(super) fn put_question(&mut self, index: u16) {
        let Some(memory) = &self.memory else { return };
        let _ = memory.region().fill(self.placing.offset as u64, PAGE_BYTES as usize, 0);
        let mut sqe = nvm::handle_status(self.nsid, memory.iova() + self.placing.offset as u64, PAGE_BYTES as u32);
        // With a rest, so that its completion is not taken for that of a whole command.
        sqe.set_cid(self.rename(index, 1));
        self.put(sqe.to_quadwords());
    }

    /// The question was answered, or refused. Its slot is free again.
    pub(super) fn hear_placements(&mut self, answered: bool) {
        self.placing.slot = None;
        if !answered {
            return;
        }
        let mut status = [0; nvm::HANDLE_STATUS_HEAD_BYTES + KINDS * nvm::HANDLE_STATUS_BYTES];
        let memory = self.memory.as_ref();
        let _ = memory.and_then(|memory| memory.region().read(self.placing.offset as u64, &mut status));
        let told = || nvm::placement_identifiers(&status).take(KINDS);
        let Some(last) = told().last().filter(|_| told().count() > 1) else { return };
        // What it does not tell apart goes to the last.
        let identifiers = told().chain(std::iter::repeat(last));
        for (placement, identifier) in self.placements.iter_mut().skip(1).zip(identifiers) {
            *placement = nvm::placement(identifier);
        }
    }

    /// The question was sent too often in vain. It may be what the controller was reset for, so it is not asked again.
    pub(super) fn give_up_placements(&mut self) {
        (self.placing.useful, self.placing.wanted, self.placing.slot) = (false, false, None);
    }
}
