//! A span of memory that a device may address, and slices of it.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The number under which a region is known to every queue of the process. Slot 0 is each core's own arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionSlot(pub u16);

/// Bytes inside a region, by address. Plain data: a queue checks it against the region before a device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaSlice {
    address: u64,
    bytes: u32,
    slot: RegionSlot,
}

impl DmaSlice {
    /// No bytes at all, for commands that move none.
    pub const EMPTY: Self = Self { address: 0, bytes: 0, slot: RegionSlot(0) };

    /// Address in this process.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Length in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The slot of the region it lies in.
    #[must_use]
    pub const fn slot(&self) -> RegionSlot {
        self.slot
    }

    /// The first `bytes` of the slice and the rest.
    ///
    /// # Panics
    /// If the slice is shorter than that.
    #[must_use]
    pub const fn split_at(self, bytes: u32) -> (Self, Self) {
        assert!(bytes <= self.bytes);
        (
            Self { bytes, ..self },
            Self { address: self.address + bytes as u64, bytes: self.bytes - bytes, slot: self.slot },
        )
    }

    /// The slice that follows on directly, joined to this one; `None` if it does not follow on.
    #[must_use]
    pub fn join(self, next: Self) -> Option<Self> {
        let follows = self.slot == next.slot && self.address + u64::from(self.bytes) == next.address;
        let bytes = self.bytes.checked_add(next.bytes)?;
        follows.then_some(Self { bytes, ..self })
    }
}

/// A span of mapped memory: a core's arena, or what a client registered.
///
/// Others (a device, a client process) may write to it at any time, so it is never behind a reference: bytes are
/// copied in and out, and words are loaded and stored atomically. Unmapped when the last holder lets go.
pub struct Region {
    base: NonNull<u8>,
    bytes: usize,
    slot: RegionSlot,
}

// SAFETY: a region is only an address range; every access goes through raw copies or atomics, which are sound from
// any thread, and the range stays mapped for as long as the value lives.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Takes over a mapping.
    ///
    /// # Safety
    /// `base..base + bytes` must be a readable and writable mapping that nobody else unmaps, and that is not backed
    /// by Rust objects.
    #[must_use]
    pub unsafe fn from_mapping(base: NonNull<u8>, bytes: usize, slot: RegionSlot) -> Self {
        Self { base, bytes, slot }
    }

    /// The slot it is known under.
    #[must_use]
    pub fn slot(&self) -> RegionSlot {
        self.slot
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// First address.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// A slice of the region; `None` if it does not lie inside.
    #[must_use]
    pub fn slice(&self, offset: u64, bytes: u32) -> Option<DmaSlice> {
        let end = offset.checked_add(u64::from(bytes))?;
        (end <= self.bytes as u64).then(|| DmaSlice { address: self.base() + offset, bytes, slot: self.slot })
    }

    /// Whether a slice lies inside this region.
    #[must_use]
    pub fn contains(&self, slice: &DmaSlice) -> bool {
        slice.slot == self.slot
            && slice.address >= self.base()
            && u64::from(slice.bytes) <= self.bytes as u64
            && slice.address - self.base() <= self.bytes as u64 - u64::from(slice.bytes)
    }

    fn at(&self, offset: u64, bytes: usize) -> Option<*mut u8> {
        let end = offset.checked_add(bytes as u64)?;
        // SAFETY: the offset was just checked to lie inside the mapping.
        (end <= self.bytes as u64).then(|| unsafe { self.base.as_ptr().add(offset as usize) })
    }

    /// Copies bytes out. `None`, and nothing copied, if the range does not lie inside.
    #[must_use]
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Option<()> {
        let from = self.at(offset, into.len())?;
        // SAFETY: the source lies inside the mapping, the target is exclusively ours and cannot overlap it. Another
        // party may change the source meanwhile; the bytes are plain and checked by whoever asked for them.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        Some(())
    }

    /// Copies bytes in. `None`, and nothing copied, if the range does not lie inside.
    #[must_use]
    pub fn write(&self, offset: u64, from: &[u8]) -> Option<()> {
        let into = self.at(offset, from.len())?;
        // SAFETY: as in `read`, the other way round.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into, from.len()) };
        Some(())
    }

    /// The 64-bit word at an offset that is a multiple of 8.
    #[must_use]
    pub fn word64(&self, offset: u64) -> Option<&AtomicU64> {
        let at = self.at(offset, 8)?;
        // SAFETY: inside the mapping, aligned (checked), and every bit pattern is a valid atomic.
        (at as usize).is_multiple_of(8).then(|| unsafe { AtomicU64::from_ptr(at.cast()) })
    }

    /// The 32-bit word at an offset that is a multiple of 4.
    #[must_use]
    pub fn word32(&self, offset: u64) -> Option<&AtomicU32> {
        let at = self.at(offset, 4)?;
        // SAFETY: as above.
        (at as usize).is_multiple_of(4).then(|| unsafe { AtomicU32::from_ptr(at.cast()) })
    }

    /// Loads the 64-bit word at an aligned offset.
    #[must_use]
    pub fn load64(&self, offset: u64, order: Ordering) -> Option<u64> {
        Some(self.word64(offset)?.load(order))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `from_mapping` took over the mapping and nobody else unmaps it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("slot", &self.slot).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
