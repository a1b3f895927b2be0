//! A command's place in its queue, and what the controller calls it.

use crate::nvme::{BlockIo, BlockOp};

/// How a command identifier is divided: the slot below, and above it a generation, so that a completion that comes late
/// or twice names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Naming {
    pub(super) index_mask: u16,
    /// One generation, in [`Slot::expected`].
    generation: u32,
}

impl Naming {
    /// For a queue of `depth` slots. No slot has the highest index, so no command is called FFFFh, which the error log
    /// uses for none (base, "Common Command Format").
    pub(super) const fn new(depth: u32) -> Self {
        let bits = u32::BITS - depth.leading_zeros();
        Self { index_mask: ((1_u32 << bits) - 1) as u16, generation: 1 << (16 + bits) }
    }
}

/// What a command in a slot is about.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Slot {
    pub(super) io: BlockIo,
    /// What bits 47:16 of a completion's second quadword must be: the command identifier above the queue's. A free slot
    /// has 0 for the queue, and keeps the generation.
    pub(super) expected: u32,
    /// Blocks before the part that is under way: they are done.
    pub(super) moved: u32,
    /// Blocks after it.
    pub(super) rest: u32,
    /// When it was sent, in the queue's time.
    pub(super) sent_at: u32,
    /// How often it was sent again.
    pub(super) tries: u8,
    /// It took too long, and an abort was asked for.
    pub(super) expired: bool,
}

impl Slot {
    /// Gives the command a fresh identifier: the generation goes up, the index stays.
    #[inline(always)]
    pub(super) fn rename(&mut self, naming: Naming, qid: u16, rest: u32, now: u32) -> u16 {
        self.expected = self.expected.wrapping_add(naming.generation) | u32::from(qid);
        self.rest = rest;
        self.sent_at = now;
        (self.expected >> 16) as u16
    }

    /// Keeps the command, under an identifier that the controller does not know.
    pub(super) fn hide(&mut self, naming: Naming, now: u32) {
        self.expected = self.expected.wrapping_add(naming.generation);
        self.sent_at = now;
    }
}

#[cfg(test)]
impl Slot {
    pub(super) fn for_test(io: BlockIo, tries: u8) -> Self {
        Self { io, expected: 0, moved: 0, rest: 0, sent_at: 0, tries, expired: false }
    }
}

pub(super) const EMPTY: BlockIo =
    BlockIo { op: BlockOp::Flush, lba: 0, blocks: 0, memory: crate::memory::DmaSlice::EMPTY, token: 0 };

// One cache line a command.
const _: () = assert!(size_of::<Slot>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_comes_back_late_and_none_is_the_one_for_none() {
        for (depth, generations) in [(1, 1 << 15), (8, 1 << 12), (63, 1 << 10), (64, 1 << 9), (4095, 16)] {
            let naming = Naming::new(depth);
            let mut slot = Slot::for_test(EMPTY, 0);
            slot.expected = (depth - 1) << 16;
            let first = slot.rename(naming, 7, 0, 0);
            for generation in 1..=generations {
                let cid = slot.rename(naming, 7, 0, 0);
                assert_eq!(u32::from(cid & naming.index_mask), depth - 1);
                assert_ne!(cid, 0xFFFF);
                assert_eq!(cid == first, generation == generations, "depth {depth}, generation {generation}");
                assert_eq!(slot.expected as u16, 7);
            }
        }
    }
}
