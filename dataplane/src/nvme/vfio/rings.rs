//! Where a queue pair lies in memory.

use super::doorbell::Doorbell;
use super::prp::list_bytes;
use crate::nvme::spec::{Cqe, Sqe};

const PAGE: usize = 4096;

/// Entries and addresses of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RingShape {
    pub(super) sq_entries: u32,
    pub(super) cq_entries: u32,
    pub(super) sq_iova: u64,
    pub(super) cq_iova: u64,
}

/// The doorbells of a queue pair.
pub(super) struct Doorbells {
    pub(super) sq_tail: Doorbell,
    pub(super) cq_head: Doorbell,
}

/// How a queue's memory is divided: submission ring, completion ring, lists of the commands, and a page for what the
/// controller answers to the queue's own question ([`placement`](super::placement)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) sq_entries: u32,
    pub(super) cq_entries: u32,
    pub(super) cq_offset: usize,
    pub(super) lists_offset: usize,
    pub(super) list_bytes: usize,
    pub(super) answer_offset: usize,
    pub(super) bytes: usize,
}

impl Layout {
    /// For `depth` outstanding commands at a controller whose queues have `max_entries` entries at most.
    pub(super) const fn new(depth: u32, max_entries: u32, max_transfer: u32) -> Self {
        // A ring of n entries holds n - 1. The completion ring holds twice as many as there can be commands, so that
        // its doorbell need not be rung for every burst.
        let sq_entries = depth + 1;
        let cq_entries = if 2 * depth + 1 < max_entries { 2 * depth + 1 } else { max_entries };
        let cq_offset = (sq_entries as usize * Sqe::BYTES).next_multiple_of(PAGE);
        let lists_offset = (cq_offset + cq_entries as usize * Cqe::BYTES).next_multiple_of(PAGE);
        let list_bytes = list_bytes(max_transfer);
        let answer_offset = (lists_offset + depth as usize * list_bytes).next_multiple_of(PAGE);
        let bytes = answer_offset + PAGE;
        Self { sq_entries, cq_entries, cq_offset, lists_offset, list_bytes, answer_offset, bytes }
    }

    pub(super) const fn shape(&self, iova: u64) -> RingShape {
        RingShape {
            sq_entries: self.sq_entries,
            cq_entries: self.cq_entries,
            sq_iova: iova,
            cq_iova: iova + self.cq_offset as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_apart_on_pages() {
        let layout = Layout::new(64, 2048, 1 << 20);
        assert_eq!((layout.sq_entries, layout.cq_entries), (65, 129));
        assert_eq!((layout.cq_offset, layout.lists_offset, layout.list_bytes), (8192, 12288, 2048));
        assert_eq!((layout.answer_offset, layout.bytes), (12288 + 64 * 2048, 16384 + 64 * 2048));
        let short = Layout::new(1, 2, 4096);
        assert_eq!((short.sq_entries, short.cq_entries), (2, 2));
    }
}
