//! Cuts a span of memory into buffers of a power of two of bytes, and joins them again (a buddy allocator: Knuth, The
//! Art of Computer Programming, volume 1, section 2.5). Allocates nothing after it was made.

/// Bytes of the smallest buffer.
pub const UNIT_BYTES: u32 = 4096;

const NOT_FREE: u8 = u8::MAX;
const NONE: u32 = u32::MAX;

/// A buffer that was taken. To be given back; dropping it leaks the memory until the allocator goes.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a buffer that is not given back is lost"]
pub struct Block {
    unit: u32,
    order: u8,
}

impl Block {
    /// The unit in which it begins.
    #[must_use]
    pub const fn unit(&self) -> u32 {
        self.unit
    }

    /// Length in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u32 {
        UNIT_BYTES << self.order
    }
}

impl Block {
    /// Cuts it into blocks of at least `bytes` bytes, each of which may be given back alone.
    pub fn cut(self, bytes: u32) -> impl Iterator<Item = Block> {
        let order = order_of(bytes).min(self.order);
        (0..1 << (self.order - order)).map(move |index: u32| Block { unit: self.unit + (index << order), order })
    }
}

/// Links of a free block to others of its order.
#[derive(Clone, Copy)]
struct Links {
    next: u32,
    previous: u32,
}

/// The book of a span of units.
pub struct Buddy {
    /// By unit: the order of the free block that begins there.
    free_order: Box<[u8]>,
    links: Box<[Links]>,
    /// By order: the first free block.
    first: [u32; 32],
    free_units: u32,
}

impl Buddy {
    /// A span of `units` units, all free. Blocks are aligned to their size from the beginning of the span.
    #[must_use]
    pub fn new(units: u32) -> Self {
        let mut buddy = Self {
            free_order: vec![NOT_FREE; units as usize].into(),
            links: vec![Links { next: NONE, previous: NONE }; units as usize].into(),
            first: [NONE; 32],
            free_units: units,
        };
        let mut unit = 0;
        while unit < units {
            let largest = (units - unit).ilog2();
            let order = if unit == 0 { largest } else { largest.min(unit.trailing_zeros()) };
            buddy.link(unit, order as u8);
            unit += 1 << order;
        }
        buddy
    }

    /// Units that are free, in blocks of whatever size.
    #[must_use]
    pub fn free_units(&self) -> u32 {
        self.free_units
    }

    /// Takes a block of at least `bytes` bytes; `None` if no block that large is free.
    pub fn take(&mut self, bytes: u32) -> Option<Block> {
        let order = order_of(bytes);
        let found = (order..self.first.len() as u8).find(|&order| self.first[usize::from(order)] != NONE)?;
        let unit = self.first[usize::from(found)];
        self.unlink(unit, found);
        for half in (order..found).rev() {
            self.link(unit + (1 << half), half);
        }
        self.free_units -= 1 << order;
        Some(Block { unit, order })
    }

    /// Gives a block back.
    pub fn give_back(&mut self, block: Block) {
        let Block { mut unit, mut order } = block;
        self.free_units += 1 << order;
        // A buddy beyond the end is not free.
        while self.free_order.get((unit ^ (1 << order)) as usize) == Some(&order) {
            self.unlink(unit ^ (1 << order), order);
            unit &= !(1 << order);
            order += 1;
        }
        self.link(unit, order);
    }

    fn link(&mut self, unit: u32, order: u8) {
        let next = std::mem::replace(&mut self.first[usize::from(order)], unit);
        self.links[unit as usize] = Links { next, previous: NONE };
        if next != NONE {
            self.links[next as usize].previous = unit;
        }
        self.free_order[unit as usize] = order;
    }

    fn unlink(&mut self, unit: u32, order: u8) {
        let Links { next, previous } = self.links[unit as usize];
        if previous == NONE {
            self.first[usize::from(order)] = next;
        } else {
            self.links[previous as usize].next = next;
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        self.free_order[unit as usize] = NOT_FREE;
    }
}

/// The order of the smallest block that holds `bytes`.
fn order_of(bytes: u32) -> u8 {
    bytes.max(1).div_ceil(UNIT_BYTES).next_power_of_two().trailing_zeros() as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_given_back_is_whole_again() {
        let mut buddy = Buddy::new(256);
        let small: Vec<_> = (0..256).map(|_| buddy.take(1).unwrap()).collect();
        assert_eq!((buddy.take(1), buddy.free_units()), (None, 0));
        small.into_iter().for_each(|block| buddy.give_back(block));
        let whole = buddy.take(256 * UNIT_BYTES).unwrap();
        assert_eq!((whole.unit(), whole.bytes()), (0, 256 * UNIT_BYTES));
        assert_eq!(buddy.take(u32::MAX), None);
    }

    #[test]
    fn what_was_cut_is_whole_again() {
        let mut buddy = Buddy::new(256);
        let (first, block) = (buddy.take(1).unwrap(), buddy.take(64 * UNIT_BYTES).unwrap());
        let begin = block.unit();
        let pieces: Vec<_> = block.cut(2 * UNIT_BYTES).collect();
        let units: Vec<_> = pieces.iter().map(|piece| (piece.unit(), piece.bytes())).collect();
        assert!(units.iter().copied().eq((0..32).map(|at| (begin + 2 * at, 2 * UNIT_BYTES))));
        pieces.into_iter().chain([first]).for_each(|piece| buddy.give_back(piece));
        assert_eq!(buddy.take(256 * UNIT_BYTES).unwrap().cut(u32::MAX).count(), 1);
    }

    proptest! {
        /// Whatever is taken and given back in whatever order: blocks lie inside, are aligned, never overlap, and in
        /// the end everything is free in the largest blocks.
        #[test]
        fn blocks_never_overlap(units in 1u32..300, steps in prop::collection::vec((any::<bool>(), 1u32..200_000, any::<usize>()), 0..200)) {
            let mut buddy = Buddy::new(units);
            let mut held: Vec<Block> = Vec::new();
            for (take, bytes, which) in steps {
                if take {
                    if let Some(block) = buddy.take(bytes) {
                        prop_assert!(block.bytes() >= bytes && block.unit() + block.bytes() / UNIT_BYTES <= units);
                        prop_assert_eq!(block.unit() % (block.bytes() / UNIT_BYTES), 0);
                        let end = |block: &Block| block.unit() + block.bytes() / UNIT_BYTES;
                        prop_assert!(held.iter().all(|other| end(other) <= block.unit() || end(&block) <= other.unit()));
                        held.push(block);
                    }
                } else if !held.is_empty() {
                    let block = held.swap_remove(which % held.len());
                    buddy.give_back(block);
                }
                let used: u32 = held.iter().map(|block| block.bytes() / UNIT_BYTES).sum();
                prop_assert_eq!(buddy.free_units() + used, units);
            }
            held.into_iter().for_each(|block| buddy.give_back(block));
            let largest = UNIT_BYTES << units.ilog2();
            prop_assert!(buddy.take(largest).is_some());
        }
    }
}
