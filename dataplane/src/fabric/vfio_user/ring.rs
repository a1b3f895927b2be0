//! Rings of queue entries and doorbells in memory that another process shares.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::memory::{Region, prefetch};

/// `entries` entries of `WORDS` 64-bit words each, inside one region.
///
/// Every access is an atomic load or store of a word, because the other end may write at any time.
pub(super) struct Ring<const WORDS: usize> {
    first: NonNull<AtomicU64>,
    entries: u32,
    /// Keeps the memory mapped.
    region: Arc<Region>,
}

/// A ring of 64-byte commands.
pub(super) type CommandRing = Ring<8>;
/// A ring of 16-byte completions.
pub(super) type CompletionRing = Ring<2>;

// SAFETY: the pointer leads into `region`, which stays mapped as long as this value lives, and is only used for
// atomic accesses, which are sound from any thread.
unsafe impl<const WORDS: usize> Send for Ring<WORDS> {}

impl<const WORDS: usize> Ring<WORDS> {
    /// Bytes of an entry.
    const ENTRY_BYTES: u64 = (WORDS * 8) as u64;

    /// The ring at `offset` of a region. `None` if it does not lie inside, or is not aligned to 8 bytes.
    pub(super) fn new(region: Arc<Region>, offset: u64, entries: u32) -> Option<Self> {
        let last = offset.checked_add(Self::ENTRY_BYTES.checked_mul(u64::from(entries))?)?.checked_sub(8)?;
        region.word64(last)?;
        let first = NonNull::from(region.word64(offset)?);
        Some(Self { first, entries, region })
    }

    /// Number of entries.
    pub(super) fn entries(&self) -> u32 {
        self.entries
    }

    /// Whether it lies in this region.
    pub(super) fn lies_in(&self, region: &Arc<Region>) -> bool {
        Arc::ptr_eq(&self.region, region)
    }

    #[inline(always)]
    fn word(&self, index: u32, word: usize) -> &AtomicU64 {
        assert!(index < self.entries && word < WORDS);
        // SAFETY: `new` checked that the first and the last word of the ring lie in the region and are aligned; the
        // assertion keeps the word between them.
        unsafe { self.first.add(index as usize * WORDS + word).as_ref() }
    }

    /// Loads an entry. Orders nothing: whoever calls has loaded the doorbell with acquire.
    #[inline(always)]
    pub(super) fn load_entry(&self, index: u32) -> [u64; WORDS] {
        std::array::from_fn(|word| self.word(index, word).load(Ordering::Relaxed))
    }

    /// Stores an entry. Orders nothing.
    #[inline(always)]
    pub(super) fn store_entry(&self, index: u32, words: &[u64; WORDS]) {
        for (word, value) in words.iter().enumerate() {
            self.word(index, word).store(*value, Ordering::Relaxed);
        }
    }

    /// Loads one word of an entry.
    #[inline(always)]
    pub(super) fn load(&self, index: u32, word: usize, order: Ordering) -> u64 {
        self.word(index, word).load(order)
    }

    /// Stores one word of an entry.
    #[inline(always)]
    pub(super) fn store(&self, index: u32, word: usize, value: u64, order: Ordering) {
        self.word(index, word).store(value, order);
    }

    /// Asks the processor for an entry's cache line ahead of time.
    #[inline(always)]
    pub(super) fn prefetch(&self, index: u32) {
        prefetch::line(self.word(index, 0));
    }
}

/// One doorbell: a 32-bit word that one end stores and the other loads.
pub(super) struct Doorbell {
    word: NonNull<AtomicU32>,
    /// Keeps the memory mapped.
    _region: Arc<Region>,
}

// SAFETY: as for `Ring`.
unsafe impl Send for Doorbell {}

impl Doorbell {
    /// The doorbell at `offset` of a region; `None` if there is none.
    pub(super) fn new(region: &Arc<Region>, offset: u64) -> Option<Self> {
        Some(Self { word: NonNull::from(region.word32(offset)?), _region: Arc::clone(region) })
    }

    #[inline(always)]
    fn word(&self) -> &AtomicU32 {
        // SAFETY: `new` got the pointer from the region, which is kept mapped.
        unsafe { self.word.as_ref() }
    }

    /// Loads the value; entries that it announces may be read afterwards.
    #[inline(always)]
    pub(super) fn load(&self) -> u32 {
        u32::from_le(self.word().load(Ordering::Acquire))
    }

    /// Stores the value; entries stored before are visible to who loads it.
    #[inline(always)]
    pub(super) fn store(&self, value: u32) {
        self.word().store(value.to_le(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::super::shared_memory::SharedMemory;
    use super::*;

    #[test]
    fn a_ring_must_lie_inside_and_be_aligned() {
        let memory = SharedMemory::create("ring-test", 4096, false).unwrap();
        let region = memory.region();
        assert!(CommandRing::new(Arc::clone(region), 0, 64).is_some());
        assert!(CommandRing::new(Arc::clone(region), 0, 65).is_none());
        assert!(CommandRing::new(Arc::clone(region), 64, 64).is_none());
        assert!(CommandRing::new(Arc::clone(region), 4, 1).is_none());
        assert!(CommandRing::new(Arc::clone(region), 0, 0).is_none());
        assert!(CommandRing::new(Arc::clone(region), u64::MAX - 7, 2).is_none());
        assert!(Doorbell::new(region, 4096).is_none());
    }
}
