//! The store's own commands to the device: a fixed set, each at most once outstanding.
//!
//! A machine starts a command, goes on with something else, and later takes its result. Commands that the queue had
//! no room for wait here.

use dataplane::memory::DmaSlice;
use dataplane::nvme::{BlockError, BlockIo, BlockOp, BlockQueue};

/// Names one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Op(u8);

/// Pages that one group commit writes at most.
pub(super) const COMMIT_PAGES: usize = 16;
/// Blocks that eviction moves at once.
pub(super) const MOVES: usize = 8;
/// Reads that recovery keeps going.
pub(super) const READS: usize = 8;

impl Op {
    pub const COMMIT_FLUSH: Self = Self(0);
    pub const COMMIT_HEADER: Self = Self(1);
    pub const EVICT_META: Self = Self(2);
    pub const EVICT_FLUSH: Self = Self(3);
    pub const EVICT_HEADER: Self = Self(4);
    pub const EVICT_TRIM: Self = Self(5);

    pub const fn commit_page(index: usize) -> Self {
        Self(8 + index as u8)
    }

    pub const fn moving(index: usize) -> Self {
        Self(8 + COMMIT_PAGES as u8 + index as u8)
    }

    pub const fn reading(index: usize) -> Self {
        Self((8 + COMMIT_PAGES + MOVES) as u8 + index as u8)
    }

    const fn bit(self) -> u64 {
        1 << self.0
    }
}

const COUNT: usize = 8 + COMMIT_PAGES + MOVES + READS;
const _: () = assert!(COUNT <= 64, "the sets below are 64-bit words");

/// The set of commands.
pub(super) struct Operations {
    base: u64,
    ready: u64,
    sent: u64,
    ended: u64,
    ios: [BlockIo; COUNT],
    results: [Result<(), BlockError>; COUNT],
    /// Commands that failed.
    pub errors: u64,
}

impl Operations {
    pub fn new(base: u64) -> Self {
        let blank = BlockIo { op: BlockOp::Flush, lba: 0, blocks: 0, memory: DmaSlice::EMPTY, token: 0 };
        Self { base, ready: 0, sent: 0, ended: 0, ios: [blank; COUNT], results: [Ok(()); COUNT], errors: 0 }
    }

    /// Starts a command. Its name must be free.
    pub fn start(&mut self, op: Op, what: BlockOp, lba: u64, blocks: u32, memory: DmaSlice) {
        debug_assert!(self.is_free(op), "{op:?} is in use");
        self.ios[op.0 as usize] = BlockIo { op: what, lba, blocks, memory, token: self.base | u64::from(op.0) };
        self.ready |= op.bit();
    }

    pub fn is_free(&self, op: Op) -> bool {
        (self.ready | self.sent | self.ended) & op.bit() == 0
    }

    /// The result of a command that ended, which frees its name.
    pub fn take(&mut self, op: Op) -> Option<Result<(), BlockError>> {
        if self.ended & op.bit() == 0 {
            return None;
        }
        self.ended &= !op.bit();
        Some(self.results[op.0 as usize])
    }

    /// Hands waiting commands to the queue, and says how many it took.
    pub fn push<B: BlockQueue>(&mut self, blocks: &mut B) -> usize {
        let mut pushed = 0;
        while self.ready != 0 {
            let at = self.ready.trailing_zeros();
            if blocks.push(self.ios[at as usize]).is_err() {
                break;
            }
            self.ready &= !(1 << at);
            self.sent |= 1 << at;
            pushed += 1;
        }
        pushed
    }

    /// Notes a completion. A token that is not outstanding is ignored.
    pub fn end(&mut self, token: u64, result: Result<(), BlockError>) {
        let at = token & 0x00FF_FFFF_FFFF_FFFF;
        if at < COUNT as u64 && self.sent & (1 << at) != 0 {
            self.sent &= !(1 << at);
            self.ended |= 1 << at;
            self.results[at as usize] = result;
            self.errors += u64::from(result.is_err());
        }
    }

    /// Drops commands that were not sent and results that nobody wants. `true` once none is outstanding.
    pub fn settle(&mut self) -> bool {
        (self.ready, self.ended) = (0, 0);
        self.sent == 0
    }

    /// Commands that wait, run, or ended without having been looked at.
    pub fn is_idle(&self) -> bool {
        self.ready | self.sent | self.ended == 0
    }
}
