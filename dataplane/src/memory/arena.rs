//! The memory that a core works in: mapped, locked and touched once at start-up, then never grown or freed.
#![allow(unsafe_code)]

use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use super::{DmaSlice, Region, RegionSlot};

/// Which hugepages to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// 2 MiB.
    Size2M,
    /// 1 GiB.
    Size1G,
}

impl PageSize {
    /// Bytes in a page.
    #[must_use]
    pub const fn bytes(self) -> usize {
        1 << self.shift()
    }

    const fn shift(self) -> u32 {
        match self {
            Self::Size2M => 21,
            Self::Size1G => 30,
        }
    }
}

/// Whether an arena lies in hugepages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Ordinary pages.
    Off,
    /// Hugepages if there are enough, else ordinary pages.
    Prefer(PageSize),
    /// Hugepages or an error.
    Require(PageSize),
}

/// What an arena came to lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// 2 MiB pages, which are never swapped.
    Huge2M,
    /// 1 GiB pages, which are never swapped.
    Huge1G,
    /// Ordinary pages, locked.
    Locked,
    /// Ordinary pages that may be swapped out: slow under memory pressure.
    Unlocked,
}

impl std::fmt::Display for Backing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Huge2M => "2 MiB hugepages",
            Self::Huge1G => "1 GiB hugepages",
            Self::Locked => "ordinary pages, locked",
            Self::Unlocked => "ordinary pages, not locked",
        })
    }
}

/// Why there is no arena.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// A size of zero.
    #[error("an arena needs at least one byte")]
    Empty,
    /// Hugepages were required and are not there.
    #[error(
        "cannot map {bytes} bytes of {page_bytes}-byte hugepages: {cause}; reserve more (vm.nr_hugepages) or allow \
         ordinary pages"
    )]
    NoHugePages {
        /// Bytes asked for.
        bytes: usize,
        /// Bytes in a page.
        page_bytes: usize,
        /// What the system said.
        cause: io::Error,
    },
    /// Not even ordinary memory.
    #[error("cannot map {bytes} bytes of memory: {cause}")]
    NoMemory {
        /// Bytes asked for.
        bytes: usize,
        /// What the system said.
        cause: io::Error,
    },
}

/// One core's memory, from which buffers are cut at start-up. Nothing is ever given back.
#[derive(Debug)]
pub struct Arena {
    region: Arc<Region>,
    backing: Backing,
    note: Option<String>,
    used: usize,
    sealed: bool,
}

impl Arena {
    /// Maps, locks and touches at least `bytes` bytes (rounded up to whole pages), known under `slot`.
    ///
    /// # Errors
    /// See [`ArenaError`]. Memory that cannot be locked is no error: [`backing`](Self::backing) tells.
    pub fn new(bytes: usize, huge: HugePages, slot: RegionSlot) -> Result<Self, ArenaError> {
        if bytes == 0 {
            return Err(ArenaError::Empty);
        }
        let page = match huge {
            HugePages::Off => return Self::ordinary(bytes, slot, None),
            HugePages::Prefer(page) | HugePages::Require(page) => page,
        };
        match map_huge(bytes, page, slot) {
            Ok(region) => {
                let backing = if page == PageSize::Size2M { Backing::Huge2M } else { Backing::Huge1G };
                Ok(Self { region: Arc::new(region), backing, note: None, used: 0, sealed: false })
            }
            Err(cause) if matches!(huge, HugePages::Prefer(_)) => {
                let note = format!("{bytes} bytes of {}-byte hugepages are not to be had: {cause}", page.bytes());
                Self::ordinary(bytes, slot, Some(note))
            }
            Err(cause) => Err(ArenaError::NoHugePages { bytes, page_bytes: page.bytes(), cause }),
        }
    }

    /// As [`new`](Self::new) in ordinary pages of a file without a name, for devices that are processes themselves and
    /// must be handed it ([`Region::file`]).
    ///
    /// # Errors
    /// See [`ArenaError`].
    pub fn shared(bytes: usize, slot: RegionSlot) -> Result<Self, ArenaError> {
        if bytes == 0 {
            return Err(ArenaError::Empty);
        }
        let region = Region::shared(bytes, slot).map_err(|cause| ArenaError::NoMemory { bytes, cause })?;
        Self::locked(region, None)
    }

    fn ordinary(bytes: usize, slot: RegionSlot, note: Option<String>) -> Result<Self, ArenaError> {
        let bytes = bytes.next_multiple_of(page_bytes());
        let region = Region::anonymous(bytes, slot).map_err(|cause| ArenaError::NoMemory { bytes, cause })?;
        Self::locked(region, note)
    }

    fn locked(region: Region, mut note: Option<String>) -> Result<Self, ArenaError> {
        let bytes = region.bytes();
        let start = region.base() as *mut libc::c_void;
        region.prefer_large_pages();
        // SAFETY: advice about a mapping that was just made, which keeps its contents: a child process has no business
        // with memory that devices write to.
        unsafe { libc::madvise(start, bytes, libc::MADV_DONTFORK) };
        populate(&region).map_err(|cause| ArenaError::NoMemory { bytes, cause })?;
        // SAFETY: locking changes nothing but whether the pages may be swapped out.
        let locked = unsafe { libc::mlock(start, bytes) } == 0;
        if !locked {
            let cause = io::Error::last_os_error();
            let why = format!("cannot lock {bytes} bytes: {cause}; raise the memlock limit (ulimit -l, LimitMEMLOCK=)");
            note = Some(note.map_or_else(|| why.clone(), |note| format!("{note}; {why}")));
        }
        let backing = if locked { Backing::Locked } else { Backing::Unlocked };
        Ok(Self { region: Arc::new(region), backing, note, used: 0, sealed: false })
    }

    /// What it came to lie in.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Why it did not get what it should (no hugepages, no lock), and what to do; `None` if all is well.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The whole of it, to be attached to queues.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Bytes not yet cut off.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.region.bytes() - self.used
    }

    /// Cuts off a buffer of `bytes` (1 to 4 GiB - 1) whose address is a multiple of `align`, a power of two. `None` if
    /// there is no room, the arguments are out of range or the arena is sealed.
    #[must_use]
    pub fn alloc(&mut self, bytes: usize, align: usize) -> Option<ArenaBuffer> {
        if self.sealed || bytes == 0 || !align.is_power_of_two() {
            return None;
        }
        let base = self.region.base() as usize;
        let offset = (base.checked_add(self.used)?).checked_next_multiple_of(align)? - base;
        let whole = self.region.slice(offset as u64, u32::try_from(bytes).ok()?)?;
        self.used = offset + bytes;
        Some(ArenaBuffer { region: Arc::clone(&self.region), offset: offset as u64, whole })
    }

    /// Ends start-up: from now on [`alloc`](Self::alloc) gives nothing.
    pub fn seal(&mut self) {
        self.sealed = true;
    }
}

/// A part of an arena that its holder alone uses. Bytes are copied in and out; there is no reference to them, for
/// devices write here too.
#[derive(Debug)]
pub struct ArenaBuffer {
    region: Arc<Region>,
    offset: u64,
    whole: DmaSlice,
}

impl ArenaBuffer {
    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.whole.bytes()
    }

    /// All of it.
    #[must_use]
    pub fn slice(&self) -> DmaSlice {
        self.whole
    }

    /// Some of it; `None` if that does not lie inside.
    #[must_use]
    pub fn sub(&self, offset: u32, bytes: u32) -> Option<DmaSlice> {
        self.region.slice(self.inside(offset, bytes as usize)?, bytes)
    }

    /// The arena that it is part of.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Copies bytes out. `None`, and nothing copied, if the range does not lie inside.
    #[must_use]
    pub fn read(&self, offset: u32, into: &mut [u8]) -> Option<()> {
        self.region.read(self.inside(offset, into.len())?, into)
    }

    /// Copies bytes in. `None`, and nothing copied, if the range does not lie inside.
    #[must_use]
    pub fn write(&self, offset: u32, from: &[u8]) -> Option<()> {
        self.region.write(self.inside(offset, from.len())?, from)
    }

    /// Sets bytes to a value. `None`, and nothing written, if the range does not lie inside.
    #[must_use]
    pub fn fill(&self, offset: u32, bytes: u32, value: u8) -> Option<()> {
        self.region.fill(self.inside(offset, bytes as usize)?, bytes as usize, value)
    }

    /// The place in the region of a range of the buffer.
    fn inside(&self, offset: u32, bytes: usize) -> Option<u64> {
        let end = (offset as usize).checked_add(bytes)?;
        (end <= self.whole.bytes() as usize).then_some(self.offset + u64::from(offset))
    }
}

/// Bytes in an ordinary page.
pub(super) fn page_bytes() -> usize {
    // SAFETY: asks for a constant of the system.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

fn map_huge(bytes: usize, page: PageSize, slot: RegionSlot) -> io::Result<Region> {
    let bytes = bytes.checked_next_multiple_of(page.bytes()).ok_or(io::ErrorKind::OutOfMemory)?;
    let size = (page.shift() as libc::c_int) << libc::MAP_HUGE_SHIFT;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | size;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
    let base = unsafe { libc::mmap(null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave address zero"))?;
    // SAFETY: the mapping was just made, is readable and writable, and only the region knows of it.
    let region = unsafe { Region::from_mapping(start, bytes, slot) };
    // SAFETY: advice that keeps the contents: no copies of device memory in child processes.
    unsafe { libc::madvise(base, bytes, libc::MADV_DONTFORK) };
    populate(&region)?;
    Ok(region)
}

/// Takes every page now, so that none is missing or faulted in later. Asking the kernel, and not touching the pages
/// one by one, turns a lack of memory into an error instead of a signal.
fn populate(region: &Region) -> io::Result<()> {
    // SAFETY: writes nothing but faults pages in.
    let done = unsafe { libc::madvise(region.base() as *mut _, region.bytes(), libc::MADV_POPULATE_WRITE) };
    if done == 0 {
        return Ok(());
    }
    let cause = io::Error::last_os_error();
    if cause.raw_os_error() != Some(libc::EINVAL) {
        return Err(cause);
    }
    // Linux before 5.14 does not know the advice.
    region.fill(0, region.bytes(), 0).ok_or(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena(bytes: usize) -> Arena {
        Arena::new(bytes, HugePages::Prefer(PageSize::Size2M), RegionSlot(0)).unwrap()
    }

    #[test]
    fn buffers_are_aligned_and_apart() {
        let mut arena = arena(1 << 20);
        let one = arena.alloc(100, 64).unwrap();
        let two = arena.alloc(4096, 4096).unwrap();
        assert!(two.slice().address().is_multiple_of(4096));
        assert!(one.slice().address() + 100 <= two.slice().address());
        one.fill(0, 100, 7).unwrap();
        two.fill(0, 4096, 9).unwrap();
        let mut seen = [0; 100];
        one.read(0, &mut seen).unwrap();
        assert_eq!(seen, [7; 100]);
    }

    #[test]
    fn a_buffer_ends_where_it_ends() {
        let mut arena = arena(1 << 20);
        let buffer = arena.alloc(64, 1).unwrap();
        assert!(buffer.write(60, &[0; 4]).is_some());
        assert!(buffer.write(60, &[0; 5]).is_none());
        assert!(buffer.read(u32::MAX, &mut [0]).is_none());
        assert!(buffer.sub(1, 64).is_none());
        assert_eq!(buffer.sub(1, 63).unwrap().bytes(), 63);
    }

    #[test]
    fn a_sealed_or_full_arena_gives_nothing() {
        let mut arena = arena(4096);
        assert!(arena.alloc(arena.free_bytes() + 1, 1).is_none());
        assert!(arena.alloc(16, 3).is_none());
        assert!(arena.alloc(0, 1).is_none());
        assert!(arena.alloc(16, 1).is_some());
        arena.seal();
        assert!(arena.alloc(16, 1).is_none());
    }

    #[test]
    fn less_than_asked_for_is_announced() {
        let arena = arena(1 << 20);
        let huge = arena.backing() == Backing::Huge2M;
        assert_eq!(arena.note().is_none(), huge, "{:?} {:?}", arena.backing(), arena.note());
        let plain = Arena::new(4096, HugePages::Off, RegionSlot(0)).unwrap();
        assert_eq!(plain.note().is_some(), plain.backing() == Backing::Unlocked);
    }

    #[test]
    fn required_hugepages_that_are_missing_are_an_error() {
        // No machine has that many.
        let error = Arena::new(1 << 52, HugePages::Require(PageSize::Size1G), RegionSlot(0)).unwrap_err();
        assert!(error.to_string().contains("vm.nr_hugepages"), "{error}");
        assert!(matches!(Arena::new(0, HugePages::Off, RegionSlot(0)), Err(ArenaError::Empty)));
    }
}
