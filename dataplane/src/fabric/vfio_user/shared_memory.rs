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

/// A counter that wakes a thread out of `poll(2)`. Made by this process and never handed out, so that a write to it
/// cannot be made to block.
#[derive(Debug)]
pub(super) struct WakeUp {
    fd: OwnedFd,
}

impl WakeUp {
    /// A new counter.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no requirements.
        let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(raw) } })
    }

    /// Wakes whoever waits on it.
    pub(super) fn wake(&self) {
        signal(self.fd.as_fd());
    }

    /// Forgets the wakes so far.
    pub(super) fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the buffer is ours and 8 bytes long.
        unsafe { libc::read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    /// The descriptor to wait on.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The descriptor itself.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

/// Adds one to an eventfd. A full counter is as good as a signal, so failures do not matter.
pub(super) fn signal(fd: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the buffer is ours and 8 bytes long.
    unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Whether a descriptor is an eventfd. `false` also if /proc is not there to tell.
pub(super) fn is_eventfd(fd: BorrowedFd<'_>) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.is_ok_and(|target| target.as_os_str() == "anon_inode:[eventfd]")
}

/// Adds one to an eventfd that another process has too, unless its counter is full: that is as good as a signal.
///
/// The other process can clear O_NONBLOCK, which belongs to the shared file, so the counter is asked for room first.
/// What remains is that it does so *and* fills the counter between the question and the write; then the write waits
/// until somebody reads the counter. No system call adds to an eventfd without that window. It costs the other process
/// its own connection's thread, which is why no other thread may call this.
pub(super) fn signal_if_ready(fd: BorrowedFd<'_>) {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid entry for the time of the call, which does not wait.
    let ready = unsafe { libc::poll(&raw mut entry, 1, 0) };
    if ready == 1 && entry.revents & libc::POLLOUT != 0 {
        signal(fd);
    }
}

/// Makes writes to a descriptor fail rather than wait.
pub(super) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain system calls on a descriptor that the caller holds.
    let failed = unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        flags < 0 || libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) < 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_eventfd_is_one() {
        let memory = SharedMemory::create("not-an-eventfd", 4096, false).unwrap();
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(is_eventfd(WakeUp::new().unwrap().fd()));
        assert!(!is_eventfd(memory.fd()) && !is_eventfd(socket.as_fd()));
    }

    #[test]
    fn a_full_counter_that_blocks_is_left_alone() {
        // SAFETY: a new descriptor, which waits when its counter is full.
        let fd = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
        let full = (u64::MAX - 1).to_ne_bytes();
        // SAFETY: eight bytes of a local.
        assert_eq!(unsafe { libc::write(fd.as_raw_fd(), full.as_ptr().cast(), full.len()) }, 8);
        // Would wait for ever.
        signal_if_ready(fd.as_fd());
    }
}
