//! Memory that this process makes and shares with another: an anonymous file that can no longer shrink.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::memory::{Region, RegionSlot};

/// The slot of regions that are never made known to a device.
const NO_SLOT: RegionSlot = RegionSlot(u16::MAX);

/// An anonymous file, sealed against resizing, and its mapping.
#[derive(Debug)]
pub(super) struct SharedMemory {
    fd: OwnedFd,
    region: Arc<Region>,
}

impl SharedMemory {
    /// Makes `bytes` of zeros (rounded up to pages), out of 2 MiB hugepages if asked.
    ///
    /// # Errors
    /// As `memfd_create(2)`, `ftruncate(2)`, `mmap(2)`; for hugepages, that none are free.
    pub(super) fn create(name: &str, bytes: u64, huge: bool) -> io::Result<Self> {
        let page = if huge { 2 << 20 } else { 4096 };
        let bytes = bytes.max(1).checked_next_multiple_of(page).ok_or(io::ErrorKind::InvalidInput)?;
        let length = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
        let name = CString::new(name).map_err(io::Error::other)?;
        let huge_flags = if huge { libc::MFD_HUGETLB | libc::MFD_HUGE_2MB } else { 0 };
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | huge_flags;
        // SAFETY: the name is a valid C string; the call has no other requirements.
        let raw = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: plain system calls on a descriptor that is ours.
        let failed = unsafe {
            libc::ftruncate(fd.as_raw_fd(), length) < 0 || libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) < 0
        };
        if failed {
            return Err(io::Error::last_os_error());
        }
        let region = Arc::new(map(fd.as_fd(), 0, bytes, NO_SLOT)?);
        Ok(Self { fd, region })
    }

    /// The mapping.
    pub(super) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// The file.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Maps part of a file that the *other* end keeps from shrinking: for the initiator, which trusts its target no less
/// than it trusts its disk.
pub(super) fn map_trusted(fd: BorrowedFd<'_>, offset: u64, bytes: u64) -> io::Result<Region> {
    map(fd, offset, bytes, NO_SLOT)
}

fn map(fd: BorrowedFd<'_>, offset: u64, bytes: u64, slot: RegionSlot) -> io::Result<Region> {
    let length = usize::try_from(bytes).map_err(io::Error::other)?;
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
    let base =
        unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd.as_raw_fd(), offset) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::InvalidData)?;
    // SAFETY: the mapping was just made, is readable and writable, and only the region will unmap it.
    Ok(unsafe { Region::from_mapping(base, length, slot) })
}
