//! A span of memory that a device may address, and slices of it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::guard::Guarded;

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
    #[inline]
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Length in bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The slot of the region it lies in.
    #[inline]
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
///
/// [`read`](Self::read) copies bulk bytes. What decides something (a command, a PRP list) is copied once by
/// [`read_words`](Self::read_words), and only the copy is checked and used.
pub struct Region {
    base: NonNull<u8>,
    bytes: usize,
    slot: RegionSlot,
    writable: bool,
    guard: Option<Guarded>,
    /// The file that it maps, where another process may be handed it, and from which offset on.
    file: Option<(OwnedFd, u64)>,
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
        Self { base, bytes, slot, writable: true, guard: None, file: None }
    }

    /// Fresh zeroed memory of the process itself, of ordinary pages that are not locked: for tests and simulation.
    ///
    /// # Errors
    /// What `mmap` says; zero bytes are `InvalidInput`.
    pub fn anonymous(bytes: usize, slot: RegionSlot) -> io::Result<Self> {
        if bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a region needs at least one byte"));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave address zero"))?;
        // SAFETY: the mapping was just made, is readable and writable, and only the region knows of it.
        Ok(unsafe { Self::from_mapping(base, bytes, slot) })
    }

    /// Asks the kernel for large pages, where it gives them: copies of large values through ordinary pages spend much of
    /// their time in the processor's page tables. Advice only; the contents stay.
    pub fn prefer_large_pages(&self) {
        // SAFETY: advice about a mapping that lives as long as this; it changes nothing that can be read from it.
        unsafe { libc::madvise(self.base.as_ptr().cast(), self.bytes, libc::MADV_HUGEPAGE) };
    }

    /// Fresh zeroed memory in an anonymous file that can no longer change its size, so that another process can be
    /// handed it: for devices that are processes themselves. Rounded up to whole pages.
    ///
    /// # Errors
    /// What the system says; zero bytes are `InvalidInput`.
    pub fn shared(bytes: usize, slot: RegionSlot) -> io::Result<Self> {
        let bytes = bytes.checked_next_multiple_of(4096).filter(|bytes| *bytes > 0);
        let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
        let length = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
        // SAFETY: the name is a valid C string; the call has no other requirements.
        let raw = unsafe { libc::memfd_create(c"kvplane-dma".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        let file = unsafe { OwnedFd::from_raw_fd(raw) };
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: plain system calls on a descriptor that is ours.
        let failed = unsafe { libc::ftruncate(raw, length) < 0 || libc::fcntl(raw, libc::F_ADD_SEALS, seals) < 0 };
        if failed {
            return Err(io::Error::last_os_error());
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave address zero"))?;
        // SAFETY: the mapping was just made, is readable and writable, and only the region knows of it.
        let mut region = unsafe { Self::from_mapping(base, bytes, slot) };
        region.file = Some((file, 0));
        Ok(region)
    }

    /// The file that the region maps, and from which offset on; `None` for memory that is this process's alone, and for
    /// a client's whose descriptor was not kept.
    #[must_use]
    pub fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.file.as_ref().map(|(file, offset)| (file.as_fd(), *offset))
    }

    /// The region with the file that it maps from `offset` on, for [`file`](Self::file).
    #[must_use]
    pub(crate) fn with_file(mut self, file: OwnedFd, offset: u64) -> Self {
        self.file = Some((file, offset));
        self
    }

    /// The region with a guard on its range, which ends just before the range is unmapped.
    #[must_use]
    pub(super) fn guarded(mut self, guard: Guarded) -> Self {
        self.guard = Some(guard);
        self
    }

    /// The region as one that must not be written to, because it is mapped so.
    #[must_use]
    pub(super) fn read_only(mut self) -> Self {
        self.writable = false;
        self
    }

    /// Whether it may be written to, by the processor or by a device.
    #[inline]
    #[must_use]
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// Whether its owner took pages away from under it (truncated the file behind it). Zero pages stand in for what
    /// is gone; nothing read from the region from then on may be trusted, and its owner should be cut off.
    #[must_use]
    pub fn poisoned(&self) -> bool {
        self.guard.as_ref().is_some_and(Guarded::poisoned)
    }

    /// The slot it is known under.
    #[must_use]
    pub fn slot(&self) -> RegionSlot {
        self.slot
    }

    /// Length in bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// First address.
    #[inline]
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// A slice of the region; `None` if it does not lie inside.
    #[inline]
    #[must_use]
    pub fn slice(&self, offset: u64, bytes: u32) -> Option<DmaSlice> {
        let end = offset.checked_add(u64::from(bytes))?;
        (end <= self.bytes as u64).then(|| DmaSlice { address: self.base() + offset, bytes, slot: self.slot })
    }

    /// Whether a slice lies inside this region.
    #[inline]
    #[must_use]
    pub fn contains(&self, slice: &DmaSlice) -> bool {
        slice.slot == self.slot
            && slice.address >= self.base()
            && u64::from(slice.bytes) <= self.bytes as u64
            && slice.address - self.base() <= self.bytes as u64 - u64::from(slice.bytes)
    }

    /// How far into the region a slice begins; `None` if it does not lie inside.
    #[must_use]
    pub fn offset_of(&self, slice: &DmaSlice) -> Option<u64> {
        self.contains(slice).then(|| slice.address - self.base())
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

    fn at_writable(&self, offset: u64, bytes: usize) -> Option<*mut u8> {
        if self.writable { self.at(offset, bytes) } else { None }
    }

    /// Copies bytes in. `None`, and nothing copied, if the range does not lie inside or the region is read-only.
    #[must_use]
    pub fn write(&self, offset: u64, from: &[u8]) -> Option<()> {
        let into = self.at_writable(offset, from.len())?;
        // SAFETY: as in `read`, the other way round.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into, from.len()) };
        Some(())
    }

    /// Sets bytes to a value. `None`, and nothing written, if the range does not lie inside or the region is read-only.
    #[must_use]
    pub fn fill(&self, offset: u64, bytes: usize, value: u8) -> Option<()> {
        let into = self.at_writable(offset, bytes)?;
        // SAFETY: the range lies inside the mapping, which is writable.
        unsafe { std::ptr::write_bytes(into, value, bytes) };
        Some(())
    }

    /// Copies bytes into another region, or another part of this one. `None`, and nothing copied, if a range does not
    /// lie inside its region or the other region is read-only.
    #[must_use]
    pub fn copy_to(&self, offset: u64, into: &Self, into_offset: u64, bytes: usize) -> Option<()> {
        let from = self.at(offset, bytes)?;
        let into = into.at_writable(into_offset, bytes)?;
        // SAFETY: both ranges lie inside live mappings, the target is writable, and `copy` lets them overlap. Others may
        // change either meanwhile; the bytes are plain.
        unsafe { std::ptr::copy(from, into, bytes) };
        Some(())
    }

    /// Copies words out, each with one atomic load: for control data that another party may change at any moment, so
    /// that what was checked is what is used. `None`, and nothing copied, if the range does not lie inside or the
    /// offset is not a multiple of 8. The loads are relaxed: pair them with an acquiring load of the tail or doorbell.
    #[must_use]
    pub fn read_words(&self, offset: u64, into: &mut [u64]) -> Option<()> {
        let from = self.at(offset, std::mem::size_of_val(into))?.cast::<u64>();
        if !(from as usize).is_multiple_of(align_of::<u64>()) {
            return None;
        }
        for (index, word) in into.iter_mut().enumerate() {
            // SAFETY: the whole range lies inside the mapping, is aligned, and any bits are a valid atomic. Only
            // loads go through it, which a read-only mapping permits.
            *word = unsafe { AtomicU64::from_ptr(from.add(index)) }.load(Ordering::Relaxed);
        }
        Some(())
    }

    /// The 64-bit word at an offset that is a multiple of 8, of a region that may be written to.
    #[must_use]
    pub fn word64(&self, offset: u64) -> Option<&AtomicU64> {
        let at = self.at_writable(offset, 8)?;
        // SAFETY: inside the mapping, aligned (checked), and every bit pattern is a valid atomic.
        (at as usize).is_multiple_of(8).then(|| unsafe { AtomicU64::from_ptr(at.cast()) })
    }

    /// The 32-bit word at an offset that is a multiple of 4, of a region that may be written to.
    #[must_use]
    pub fn word32(&self, offset: u64) -> Option<&AtomicU32> {
        let at = self.at_writable(offset, 4)?;
        // SAFETY: as above.
        (at as usize).is_multiple_of(4).then(|| unsafe { AtomicU32::from_ptr(at.cast()) })
    }

    /// Loads the 64-bit word at an aligned offset.
    #[must_use]
    pub fn load64(&self, offset: u64, order: Ordering) -> Option<u64> {
        let at = self.at(offset, 8)?;
        // SAFETY: inside the mapping, aligned (checked), and only loaded from, which a read-only mapping permits.
        (at as usize).is_multiple_of(8).then(|| unsafe { AtomicU64::from_ptr(at.cast()) }.load(order))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // The guard goes first: once unmapped, the addresses may soon be somebody else's.
        self.guard = None;
        // SAFETY: `from_mapping` took over the mapping and nobody else unmaps it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("slot", &self.slot).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_outside_are_refused() {
        let region = Region::anonymous(4096, RegionSlot(3)).unwrap();
        assert!(region.write(4090, &[1; 6]).is_some());
        assert!(region.write(4090, &[1; 7]).is_none());
        assert!(region.read(u64::MAX, &mut [0]).is_none());
        assert!(region.fill(0, 4097, 0).is_none());
        assert!(region.slice(4096, 1).is_none());
        assert!(region.copy_to(0, &region, 4000, 100).is_none());
        let slice = region.slice(100, 50).unwrap();
        assert_eq!(region.offset_of(&slice), Some(100));
        let other = Region::anonymous(4096, RegionSlot(4)).unwrap();
        assert_eq!(other.offset_of(&slice), None);
    }

    #[test]
    fn words_are_read_whole_and_aligned() {
        let region = Region::anonymous(4096, RegionSlot(0)).unwrap();
        region.write(8, &0x0123_4567_89AB_CDEF_u64.to_ne_bytes()).unwrap();
        let mut words = [0; 2];
        assert_eq!(region.read_words(8, &mut words), Some(()));
        assert_eq!(words, [0x0123_4567_89AB_CDEF, 0]);
        assert_eq!(region.read_words(4, &mut words), None);
        assert_eq!(region.read_words(4096 - 8, &mut words), None);
        assert_eq!(region.load64(8, Ordering::Acquire), Some(0x0123_4567_89AB_CDEF));
        assert_eq!(region.load64(12, Ordering::Acquire), None);
    }

    #[test]
    fn a_read_only_region_refuses_writes() {
        let region = Region::anonymous(4096, RegionSlot(0)).unwrap().read_only();
        assert!(region.write(0, &[1]).is_none());
        assert!(region.fill(0, 1, 1).is_none());
        assert!(region.word64(0).is_none() && region.word32(0).is_none());
        assert_eq!(region.load64(0, Ordering::Relaxed), Some(0));
    }
}
