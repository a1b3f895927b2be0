//! One core's queue pair: the hot path.
#![allow(unsafe_code)]

mod parts;

pub(super) use parts::QueueParts;

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::Arc;

use super::barrier;
use super::controller::Shared;
use super::dma_memory::DmaMemory;
use super::link::{Link, LinkState};
use super::placement::Placing;
use super::prp::{self, List, Pages};
use super::recovery::{Sentence, judge};
use super::rings::Doorbells;
use super::slot::{Naming, Slot};
use crate::Burst;
use crate::memory::{Region, RegionSlot};
use crate::nvme::attached::AttachedRegions;
use crate::nvme::spec::{DataPointer, SglDescriptor, Sqe, Status, nvm};
use crate::nvme::{AttachError, BlockDone, BlockError, BlockIo, BlockOp, BlockQueue, Geometry, QueueFull, WriteHint};

/// What a queue did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VfioStats {
    /// Doorbells rung for commands; shadow doorbells count as well.
    pub rings: u64,
    /// Completions that named no outstanding command.
    pub strays: u64,
    /// Commands sent again because their status said that it may help.
    pub retried: u64,
    /// Commands sent again after a reset.
    pub resent: u64,
    /// Resets that the queue came through.
    pub resets: u64,
    /// Commands that were sent in parts, to keep off a boundary.
    pub split: u64,
}

// Every hint masked with the highest is one.
const _: () = assert!(WriteHint::KINDS == 0b111);

/// A queue pair of a [`VfioDevice`](super::VfioDevice).
pub struct VfioQueue {
    sq: NonNull<[u64; 8]>,
    cq: NonNull<[u64; 2]>,
    /// The lists of the commands, by slot.
    lists: List,
    list_bytes: usize,
    sq_entries: u32,
    cq_entries: u32,
    tail: u32,
    rung: u32,
    head: u32,
    /// Completions read and not yet told to the controller, and how many may be.
    untold: u32,
    tell_at: u32,
    phase: bool,
    /// Whether the controller knows the queue; otherwise commands wait in their slots.
    pub(super) live: bool,
    /// The queue is live and there are no boundaries: a Read or Write is sent in one part.
    plain: bool,
    sgl: bool,
    qid: u16,
    pub(super) nsid: u32,
    /// What a write with a hint of this number carries in its last words.
    pub(super) placements: [u64; WriteHint::KINDS as usize + 1],
    /// Blocks between boundaries that no part crosses; zero for none.
    boundary: u64,
    pub(super) naming: Naming,
    /// The link's tick that was seen last.
    pub(super) tick: u32,
    /// The queue's own time in milliseconds. It goes with the ticks, but is not made to jump by whoever stalled.
    pub(super) now: u32,
    pub(super) slots: Box<[Slot]>,
    pub(super) free: Vec<u16>,
    pub(super) geometry: Geometry,
    pub(super) regions: AttachedRegions,
    doorbells: Doorbells,
    pub(super) link: Arc<Link>,
    /// Commands that ended without, or after, the controller.
    pub(super) ended: VecDeque<BlockDone>,
    pub(super) stats: VfioStats,
    // Cold from here on.
    /// Slots of commands that are sent again at the next tick.
    pub(super) later: Vec<u16>,
    pub(super) dead: bool,
    pub(super) placing: Placing,
    pub(super) timeout: u32,
    pub(super) watched_at: u32,
    pub(super) memory: Option<DmaMemory>,
    memory_slots: u16,
    pub(super) shared: Arc<Shared>,
}

// SAFETY: the pointers lead into the queue's own memory, which it keeps mapped and only it uses, one thread at a time.
unsafe impl Send for VfioQueue {}

impl std::fmt::Debug for VfioQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VfioQueue")
            .field("qid", &self.qid)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl VfioQueue {
    /// What the queue did so far.
    #[must_use]
    pub fn stats(&self) -> VfioStats {
        VfioStats { strays: self.link.strays(), ..self.stats }
    }

    /// Queue identifier at the controller.
    #[must_use]
    pub fn qid(&self) -> u16 {
        self.qid
    }

    /// Gives the command in a slot a fresh identifier.
    pub(super) fn rename(&mut self, index: u16, rest: u32) -> u16 {
        let (naming, qid, now) = (self.naming, self.qid, self.now);
        self.slots.get_mut(usize::from(index)).map_or(index, |slot| slot.rename(naming, qid, rest, now))
    }

    /// Writes a Read or Write, or the part of it that begins `moved` blocks into it, into the submission ring. `offset` is
    /// what to add to an address to get the controller's.
    #[inline(always)]
    fn send_transfer(&mut self, cid: u16, io: &BlockIo, offset: u64, moved: u32, blocks: u32) {
        let (opcode, flags, hint) = match io.op {
            BlockOp::Write { fua: true, hint } => (nvm::opcode::WRITE, nvm::FORCE_UNIT_ACCESS, hint.number()),
            BlockOp::Write { fua: false, hint } => (nvm::opcode::WRITE, 0, hint.number()),
            _ => (nvm::opcode::READ, 0, 0),
        };
        let directive = self.placements[usize::from(hint & WriteHint::KINDS)];
        let lba_bytes = self.geometry.lba_bytes;
        let iova = io.memory.address().wrapping_add(offset) + u64::from(moved) * u64::from(lba_bytes);
        let bytes = blocks * lba_bytes;
        let data = match prp::pair(iova, bytes) {
            Pages::Pair(first, second) => DataPointer::Prp { first, second },
            Pages::Many if self.sgl => DataPointer::Sgl(SglDescriptor::data_block(iova, bytes)),
            Pages::Many => {
                // SAFETY: the lists were made for `max_transfer` bytes, and no command that was found valid moves more.
                let (first, second) = unsafe { prp::write_list(self.list(cid & self.naming.index_mask), iova, bytes) };
                DataPointer::Prp { first, second }
            }
        };
        let lba = io.lba + u64::from(moved);
        self.put(nvm::Transfer { opcode, cid, nsid: self.nsid, lba, blocks, flags, directive, data }.to_quadwords());
    }

    /// Writes the next part of the command in a slot into the submission ring.
    #[inline(never)]
    pub(super) fn send(&mut self, index: u16) {
        let Some(slot) = self.slots.get(usize::from(index)) else { return };
        let (io, moved) = (slot.io, slot.moved);
        match io.op {
            BlockOp::Read | BlockOp::Write { .. } => {
                let mut blocks = io.blocks - moved;
                if self.boundary != 0 {
                    let room = self.boundary - (io.lba + u64::from(moved)) % self.boundary;
                    blocks = u64::from(blocks).min(room) as u32;
                }
                let cid = self.rename(index, io.blocks - moved - blocks);
                self.send_transfer(cid, &io, self.regions.tag(io.memory.slot()), moved, blocks);
            }
            BlockOp::Flush if self.placing.is_question(index) => self.put_question(index),
            BlockOp::Flush => {
                let mut sqe = Sqe::new(nvm::opcode::FLUSH, self.rename(index, 0));
                sqe.set_nsid(self.nsid);
                self.put(sqe.to_quadwords());
            }
            BlockOp::Deallocate => {
                let list = self.list(index);
                let [attributes, lba] = nvm::dsm_range(io.lba, io.blocks);
                // SAFETY: a list has 64 bytes at least, aligned to 8. Only the controller reads it.
                unsafe {
                    list.first.write(attributes);
                    list.first.add(1).write(lba);
                }
                let mut sqe = Sqe::new(nvm::opcode::DATASET_MANAGEMENT, self.rename(index, 0));
                sqe.set_nsid(self.nsid);
                sqe.set_prp(list.iova, 0);
                sqe.set_dword(11, nvm::DSM_DEALLOCATE);
                self.put(sqe.to_quadwords());
            }
        }
    }

    /// The list of the command in a slot.
    #[inline(always)]
    fn list(&self, index: u16) -> List {
        let offset = usize::from(index) * self.list_bytes;
        // SAFETY: there is a list for every slot, and the index is one's.
        let first = unsafe { self.lists.first.byte_add(offset) };
        List { first, iova: self.lists.iova + offset as u64 }
    }

    /// Writes an entry at the tail of the submission ring.
    #[inline(always)]
    pub(super) fn put(&mut self, entry: [u64; 8]) {
        // SAFETY: the tail is less than the ring's entries, which lie in the queue's memory. The controller reads the
        // entry after the doorbell; it is free, for the ring has one more than there can be commands.
        unsafe { self.sq.add(self.tail as usize).write(entry) };
        self.tail += 1;
        if self.tail == self.sq_entries {
            self.tail = 0;
        }
    }

    /// Takes completions off the ring, as many as fit into `done`. Whatever the controller writes, it ends.
    #[inline(always)]
    fn reap(&mut self, done: &mut Burst<BlockDone>) {
        let mut budget = done.remaining_capacity();
        let mut taken = 0;
        while budget > 0 {
            // SAFETY: the head is less than the ring's entries, which lie in the queue's memory. The half with phase,
            // status and identifiers is read once and whole; the rest of the entry says nothing here.
            let word = unsafe { self.cq.cast::<u64>().add(2 * self.head as usize + 1).read_volatile() };
            let word = u64::from_le(word);
            if (word >> 48) & 1 != u64::from(self.phase) {
                break;
            }
            budget -= 1;
            taken += 1;
            self.head += 1;
            if self.head == self.cq_entries {
                self.head = 0;
                self.phase = !self.phase;
            }
            self.complete(word, done);
        }
        if taken == 0 {
            return;
        }
        barrier::after_phase();
        self.untold += taken;
        if self.untold >= self.tell_at {
            self.untold = 0;
            self.doorbells.cq_head.ring(self.head);
        }
        // Parts that follow, and commands sent again.
        if self.rung != self.tail {
            self.ring_tail();
        }
    }

    /// What a completion's second quadword means for its command.
    #[inline(always)]
    fn complete(&mut self, word: u64, done: &mut Burst<BlockDone>) {
        let index = (word >> 32) as u16 & self.naming.index_mask;
        let named = (word >> 16) as u32;
        let slot = match self.slots.get_mut(usize::from(index)) {
            // A free slot expects queue 0, which is none of ours.
            Some(slot) if slot.expected == named && named as u16 != 0 => slot,
            _ => return self.link.count_stray(),
        };
        let status = Status::from_bits((word >> 49) as u16);
        if !status.is_success() || slot.rest != 0 {
            return self.complete_oddly(index, status, done);
        }
        slot.expected = named & 0xFFFF_0000;
        let token = slot.io.token;
        self.regions.end(&slot.io);
        self.free.push(index);
        done.push(BlockDone { token, result: Ok(()) });
    }

    /// A command that is not over, or not well.
    #[cold]
    #[inline(never)]
    fn complete_oddly(&mut self, index: u16, status: Status, done: &mut Burst<BlockDone>) {
        let Some(slot) = self.slots.get_mut(usize::from(index)) else { return };
        let question = self.placing.is_question(index);
        let sentence = match status.is_success() {
            true if question => Sentence::Ended(Ok(())),
            true => Sentence::GoesOn,
            false => judge(slot, status),
        };
        match sentence {
            Sentence::GoesOn => {
                slot.moved = slot.io.blocks - slot.rest;
                slot.expired = false;
                self.stats.split += 1;
                self.send(index);
            }
            Sentence::Again => {
                slot.tries += 1;
                slot.expired = false;
                self.stats.retried += 1;
                self.send(index);
            }
            Sentence::Later => {
                slot.tries += 1;
                slot.expired = false;
                slot.hide(self.naming, self.now);
                self.stats.retried += 1;
                self.later.push(index);
            }
            Sentence::Ended(result) => {
                let io = slot.io;
                self.finish(index, &io);
                if question {
                    self.hear_placements(result.is_ok());
                } else {
                    done.push(BlockDone { token: io.token, result });
                }
            }
        }
    }

    /// Frees a slot. The generation of its identifier stays.
    #[inline(always)]
    pub(super) fn finish(&mut self, index: u16, io: &BlockIo) {
        self.regions.end(io);
        if let Some(slot) = self.slots.get_mut(usize::from(index)) {
            slot.expected &= 0xFFFF_0000;
        }
        self.free.push(index);
    }

    /// A free slot has no queue identifier, and none is zero.
    #[inline(always)]
    pub(super) fn is_free(&self, index: u16) -> bool {
        self.slots.get(usize::from(index)).is_none_or(|slot| slot.expected as u16 == 0)
    }

    #[inline(always)]
    fn ring_tail(&mut self) {
        self.rung = self.tail;
        self.stats.rings += 1;
        self.doorbells.sq_tail.ring(self.tail);
    }

    /// The rings begin anew: the controller does not know them any more.
    pub(super) fn empty_rings(&mut self) {
        (self.tail, self.rung, self.head, self.untold, self.phase) = (0, 0, 0, 0, true);
        for entry in 0..self.cq_entries as usize {
            // SAFETY: inside the ring; the controller does not write to it now.
            unsafe { self.cq.add(entry).write_volatile([0; 2]) };
        }
        self.doorbells.sq_tail.restart();
        self.doorbells.cq_head.restart();
    }

    /// Ends a command that is not valid, without the controller.
    #[cold]
    #[inline(never)]
    fn refuse(&mut self, io: &BlockIo) -> Result<(), QueueFull> {
        self.ended.push_back(BlockDone { token: io.token, result: Err(BlockError::Invalid) });
        Ok(())
    }

    pub(super) fn set_live(&mut self, live: bool) {
        self.live = live;
        self.plain = live && self.boundary == 0;
    }

    fn iova_of(&self, region: &Arc<Region>) -> std::io::Result<u64> {
        self.shared.space.hold(region)
    }
}

impl BlockQueue for VfioQueue {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    #[inline]
    fn room(&self) -> usize {
        self.free.len() - self.ended.len().min(self.free.len())
    }

    #[inline]
    fn push(&mut self, io: BlockIo) -> Result<(), QueueFull> {
        if self.room() == 0 {
            return Err(QueueFull(io));
        }
        let moves = matches!(io.op, BlockOp::Read | BlockOp::Write { .. });
        let checked = if moves {
            self.regions.admit(&self.geometry, &io)
        } else {
            self.regions.check(&self.geometry, &io).map(|()| 0)
        };
        let taken = checked.ok().and_then(|offset| Some((offset, self.free.pop()?)));
        let Some((offset, index)) = taken else { return self.refuse(&io) };
        let Some(slot) = self.slots.get_mut(usize::from(index)) else { return self.refuse(&io) };
        slot.io = io;
        slot.moved = 0;
        slot.tries = 0;
        slot.expired = false;
        if moves && self.plain {
            let cid = slot.rename(self.naming, self.qid, 0, self.now);
            self.send_transfer(cid, &io, offset, 0, io.blocks);
        } else if self.live {
            self.send(index);
        } else {
            self.wait_for_controller(index);
        }
        Ok(())
    }

    #[inline]
    fn ring(&mut self) {
        if self.live && self.rung != self.tail && self.link.state() == LinkState::Live {
            self.ring_tail();
        }
    }

    #[inline]
    fn poll(&mut self, done: &mut Burst<BlockDone>) {
        let state = self.link.state();
        let ticks = self.link.tick() != self.tick;
        if ticks {
            self.advance();
        }
        if state != LinkState::Live || !self.live {
            self.follow(state);
        }
        while !done.is_full()
            && let Some(ended) = self.ended.pop_front()
        {
            done.push(ended);
        }
        if self.live {
            self.reap(done);
        }
        if ticks {
            // After what came meanwhile was seen.
            self.watch();
        }
    }

    #[inline]
    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() + self.ended.len() - self.placing.outstanding()
    }

    fn attach(&mut self, region: Arc<Region>) -> Result<(), AttachError> {
        let slot = region.slot();
        self.regions.check_free(slot)?;
        let iova = self.iova_of(&region)?;
        let offset = iova.wrapping_sub(region.base());
        self.regions.attach_tagged(region, offset)
    }

    fn detach(&mut self, slot: RegionSlot) -> Result<(), AttachError> {
        if let Some(region) = self.regions.check_idle(slot)? {
            self.shared.space.release(region)?;
        }
        self.regions.detach(slot)
    }
}

impl Drop for VfioQueue {
    /// Deletes the queue, which ends what is outstanding, before memory is given back.
    fn drop(&mut self) {
        let slots = (0..self.memory_slots).map(RegionSlot);
        let regions = slots.filter_map(|slot| self.regions.get(slot).map(Arc::clone)).collect();
        if let Some(memory) = self.memory.take() {
            self.shared.retire(self.qid, memory, regions);
        }
    }
}
