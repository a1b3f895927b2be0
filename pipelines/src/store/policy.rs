//! Which blocks of a segment outlive it.

/// What eviction knows of a block of the segment that goes.
///
/// Its chain is not part of that: the index keeps but a fingerprint of the parent, by which no block is found. A policy
/// that lets blocks go whose prefix is gone comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockView {
    /// Retrieve hits since it was stored or last moved, 0 to 3.
    pub frequency: u8,
    /// Whether the initiator said it is of less worth.
    pub demoted: bool,
    /// Length of the value.
    pub bytes: u32,
    /// Bytes that may still be moved out of this segment.
    pub budget: u64,
}

/// What becomes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is moved to the open segment.
    Keep,
    /// It goes with its segment.
    Drop,
}

/// Decides over blocks that may go. Leased, pinned and durable blocks are not asked about: they are always moved.
pub trait EvictionPolicy {
    /// Keep or drop.
    fn verdict(&self, view: BlockView) -> Verdict;
}

/// Keeps what was retrieved since it last moved, as CLOCK does, as far as the budget goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepHot;

impl EvictionPolicy for KeepHot {
    fn verdict(&self, view: BlockView) -> Verdict {
        let hot = view.frequency >= 1 && !view.demoted;
        if hot && u64::from(view.bytes) <= view.budget { Verdict::Keep } else { Verdict::Drop }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_blocks_stay_while_the_budget_lasts() {
        let view = BlockView { frequency: 1, demoted: false, bytes: 100, budget: 100 };
        assert_eq!(KeepHot.verdict(view), Verdict::Keep);
        assert_eq!(KeepHot.verdict(BlockView { frequency: 0, ..view }), Verdict::Drop);
        assert_eq!(KeepHot.verdict(BlockView { budget: 99, ..view }), Verdict::Drop);
        assert_eq!(KeepHot.verdict(BlockView { demoted: true, ..view }), Verdict::Drop);
    }
}
