//! Memory that a client lends: a file descriptor of its, mapped here.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{NonNull, null_mut};

use super::arena::page_bytes;
use super::guard::{GuardError, guard};
use super::{Region, RegionSlot};

/// The longest region that is mapped in one piece; io_uring registers no longer buffer. Longer ranges are split by
/// whoever maps them.
pub const MAX_REGION_BYTES: u64 = 1 << 30;

/// What may be done with a client's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read from.
    Read,
    /// Written to, and read from.
    ReadWrite,
}

/// Why a client's memory was not mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// No bytes at all.
    #[error("the region has no bytes")]
    Empty,
    /// More than [`MAX_REGION_BYTES`].
    #[error("a region of {0} bytes is too long to map in one piece; split it into pieces of {MAX_REGION_BYTES} bytes")]
    TooLong(u64),
    /// Not on page boundaries.
    #[error("offset {offset:#x} and length {bytes:#x} must be multiples of the page size, {page:#x}, of the file")]
    Unaligned {
        /// Offset in the file.
        offset: u64,
        /// Length.
        bytes: u64,
        /// Page size of the file.
        page: u64,
    },
    /// A socket, device or the like.
    #[error(
        "the descriptor is not of a regular file or a memfd; memory must come from memfd_create, hugetlbfs or a file"
    )]
    NotAFile,
    /// Ends beyond the end of the file.
    #[error("the region ends at {end:#x}, beyond the end of the file at {size:#x}; grow the file (ftruncate) first")]
    BeyondEnd {
        /// Where the region ends.
        end: u64,
        /// Where the file ends.
        size: u64,
    },
    /// The range could not be guarded against truncation.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The system refused.
    #[error("cannot map the client's memory: {0}; was the descriptor opened for the access that was asked for?")]
    System(#[from] io::Error),
}

/// The seals of a memfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seals(i32);

impl Seals {
    /// Whether the owner can no longer truncate it.
    #[must_use]
    pub const fn against_shrinking(self) -> bool {
        self.0 & libc::F_SEAL_SHRINK != 0
    }
}

/// The seals of a descriptor; `None` if its kind of file has none.
#[must_use]
pub fn seals(fd: BorrowedFd<'_>) -> Option<Seals> {
    // SAFETY: asks about a descriptor that is open for as long as it is borrowed.
    let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    (seals >= 0).then_some(Seals(seals))
}

/// Maps `bytes` bytes of a client's file from `file_offset` on, under the guard of [`guard`](super::guard): a client
/// that truncates the file later poisons the region, and harms nobody else. The descriptor may be closed afterwards.
///
/// # Errors
/// See [`MapError`]; nothing is mapped then.
pub fn map_client(
    fd: BorrowedFd<'_>,
    file_offset: u64,
    bytes: u64,
    slot: RegionSlot,
    access: Access,
) -> Result<Region, MapError> {
    if bytes == 0 {
        return Err(MapError::Empty);
    }
    if bytes > MAX_REGION_BYTES {
        return Err(MapError::TooLong(bytes));
    }
    let (page, size) = shape(fd)?;
    if !file_offset.is_multiple_of(page) || !bytes.is_multiple_of(page) {
        return Err(MapError::Unaligned { offset: file_offset, bytes, page });
    }
    let end = file_offset.saturating_add(bytes);
    if end > size {
        return Err(MapError::BeyondEnd { end, size });
    }
    let offset = libc::off_t::try_from(file_offset).map_err(|_| MapError::BeyondEnd { end, size })?;
    let protection = match access {
        Access::Read => libc::PROT_READ,
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
    };
    let bytes = bytes as usize;
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let base = unsafe { libc::mmap(null_mut(), bytes, protection, libc::MAP_SHARED, fd.as_raw_fd(), offset) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error().into());
    }
    let start = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave address zero"))?;
    // SAFETY: the mapping was just made and only the region knows of it. One that is only readable is marked so below,
    // before anybody can write to it.
    let region = unsafe { Region::from_mapping(start, bytes, slot) };
    let region = if access == Access::Read { region.read_only() } else { region };
    let guard = guard(base as usize, bytes, page as usize)?;
    Ok(region.guarded(guard))
}

/// The size of the pages that a file is mapped in: those of the system, or the huge pages of its file system.
///
/// # Errors
/// What the system said; [`MapError::NotAFile`] for a socket, device or the like.
pub fn page_bytes_of(fd: BorrowedFd<'_>) -> Result<u64, MapError> {
    shape(fd).map(|(page, _)| page)
}

/// Makes every page of a region present, so that whoever pins it later finds the pages there and is through quickly.
/// May take long: memory is allocated and zeroed. Kernels before 5.14 cannot, and pages come when they are touched.
///
/// # Errors
/// What the system said: there is no memory left, or the owner has truncated the file.
pub fn populate(region: &Region) -> io::Result<()> {
    let advice = if region.writable() { libc::MADV_POPULATE_WRITE } else { libc::MADV_POPULATE_READ };
    loop {
        // SAFETY: the region is a mapping of exactly this range; populating changes no byte of it.
        let failed = unsafe { libc::madvise(region.base() as *mut libc::c_void, region.bytes(), advice) } != 0;
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            _ if !failed => return Ok(()),
            Some(libc::EINVAL) => return Ok(()),
            Some(libc::EINTR) => {}
            _ => return Err(error),
        }
    }
}

/// Page size and length of a file that can be mapped.
fn shape(fd: BorrowedFd<'_>) -> Result<(u64, u64), MapError> {
    // SAFETY: `stat` and `statfs` are plain data for which all zeros is a valid value.
    let (mut stat, mut system): (libc::stat, libc::statfs) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: the descriptor is open for as long as it is borrowed, the targets are locals of the right types.
    let failed =
        unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) != 0 || libc::fstatfs(fd.as_raw_fd(), &mut system) != 0 };
    if failed {
        return Err(io::Error::last_os_error().into());
    }
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(MapError::NotAFile);
    }
    let huge = i128::from(system.f_type) == i128::from(libc::HUGETLBFS_MAGIC);
    let page = if huge { u64::try_from(system.f_bsize).unwrap_or(0) } else { 0 };
    let page = page.max(page_bytes() as u64);
    Ok((page, u64::try_from(stat.st_size).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::{AsFd, FromRawFd};

    fn memfd(bytes: u64) -> File {
        // SAFETY: the name is a valid C string; the descriptor is new and owned by the file alone.
        let file = unsafe {
            let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
            File::from_raw_fd(libc::memfd_create(c"test".as_ptr(), flags))
        };
        file.set_len(bytes).unwrap();
        file
    }

    fn map(file: &File, offset: u64, bytes: u64) -> Result<Region, MapError> {
        map_client(file.as_fd(), offset, bytes, RegionSlot(1), Access::ReadWrite)
    }

    #[test]
    fn both_ends_see_the_same_bytes() {
        use std::os::unix::fs::FileExt;
        let file = memfd(8192);
        let region = map(&file, 4096, 4096).unwrap();
        region.write(10, b"block").unwrap();
        let mut seen = [0; 5];
        file.read_exact_at(&mut seen, 4106).unwrap();
        assert_eq!(&seen, b"block");
        assert!(!region.poisoned());
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused() {
        let file = memfd(8192);
        assert!(matches!(map(&file, 0, 0), Err(MapError::Empty)));
        assert!(matches!(map(&file, 0, MAX_REGION_BYTES + 4096), Err(MapError::TooLong(_))));
        assert!(matches!(map(&file, 100, 4096), Err(MapError::Unaligned { .. })));
        assert!(matches!(map(&file, 0, 100), Err(MapError::Unaligned { .. })));
        assert!(matches!(map(&file, 4096, 8192), Err(MapError::BeyondEnd { end: 12288, size: 8192 })));
        assert!(matches!(map(&file, u64::MAX - 4095, 4096), Err(MapError::BeyondEnd { .. })));
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let refused = map_client(socket.as_fd(), 0, 4096, RegionSlot(1), Access::Read);
        assert!(matches!(refused, Err(MapError::NotAFile)));
    }

    #[test]
    fn memory_lent_for_reading_is_not_written_to() {
        let file = memfd(4096);
        let region = map_client(file.as_fd(), 0, 4096, RegionSlot(1), Access::Read).unwrap();
        assert!(!region.writable() && region.write(0, &[1]).is_none());
    }

    #[test]
    fn truncation_poisons_the_region_and_reads_as_zeros() {
        let file = memfd(4 * 4096);
        let region = map(&file, 0, 4 * 4096).unwrap();
        region.fill(0, 4 * 4096, 0xAB).unwrap();
        file.set_len(4096).unwrap();
        let mut bytes = vec![1; 3 * 4096];
        region.read(4096, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
        assert!(region.poisoned());
        let mut kept = [0; 1];
        region.read(0, &mut kept).unwrap();
        assert_eq!(kept, [0xAB], "what is still there stays");
        region.fill(0, 4 * 4096, 1).unwrap();
    }

    /// How many mappings this process has that lie, in part at least, in a range.
    fn mappings_in(region: &Region) -> usize {
        let (start, end) = (region.base(), region.base() + region.bytes() as u64);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let parse = |line: &str| {
            let (from, to) = line.split_once(' ')?.0.split_once('-')?;
            Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
        };
        maps.lines().filter_map(parse).filter(|&(from, to)| from < end && start < to).count()
    }

    #[test]
    fn holes_at_every_second_page_cost_one_mapping_at_most() {
        const PAGES: u64 = 4096;
        let file = memfd(PAGES * 4096);
        let region = map(&file, 0, PAGES * 4096).unwrap();
        file.set_len(0).unwrap();
        // Backwards, so that each touch finds a hole that is not filled yet.
        for page in (1..PAGES).rev().step_by(2) {
            // A write: a read whose bytes nobody looks at would be optimised away.
            region.write(page * 4096, &[1]).unwrap();
        }
        assert!(region.poisoned());
        assert!(mappings_in(&region) <= 2, "{} mappings", mappings_in(&region));
    }

    #[test]
    fn a_populated_region_is_all_there() {
        use std::os::unix::fs::MetadataExt;
        let file = memfd(64 * 4096);
        assert_eq!(page_bytes_of(file.as_fd()).unwrap(), page_bytes() as u64);
        let region = map(&file, 0, 64 * 4096).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), 0);
        populate(&region).unwrap();
        assert_eq!(file.metadata().unwrap().blocks() * 512, 64 * 4096);
        file.set_len(0).unwrap();
        assert!(populate(&region).is_err() && !region.poisoned(), "refused, without a signal");
    }

    #[test]
    fn seals_are_reported() {
        let file = memfd(4096);
        assert_eq!(seals(file.as_fd()).map(Seals::against_shrinking), Some(false));
        // SAFETY: seals an open memfd.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) }, 0);
        assert_eq!(seals(file.as_fd()).map(Seals::against_shrinking), Some(true));
        assert_eq!(
            seals(tempfile::tempfile_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap().as_fd()),
            None
        );
    }
}
