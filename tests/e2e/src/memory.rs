//! Memory shared with the daemon, without any care: a test may cut it short under the daemon's feet.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// A mapping of a file that others map too.
#[derive(Debug)]
pub struct Shared {
    file: File,
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to the value, and its bytes are only accessed by copies and atomics.
unsafe impl Send for Shared {}

impl Shared {
    /// Anonymous memory with a file descriptor, without seals.
    ///
    /// # Panics
    /// If the system has none.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        // SAFETY: the name is a C string; the call has no other preconditions.
        let fd = unsafe { libc::memfd_create(c"e2e".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(bytes as u64).unwrap();
        Self::map(file, 0, bytes)
    }

    /// Maps a part of a file.
    ///
    /// # Panics
    /// If the system refuses.
    #[must_use]
    pub fn map(file: File, offset: u64, bytes: usize) -> Self {
        // SAFETY: a new mapping at an address that the system chooses; no memory of this process is replaced.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                libc::off_t::try_from(offset).unwrap(),
            )
        };
        assert!(base != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Self { file, base: NonNull::new(base.cast()).expect("a mapping is not at address 0"), bytes }
    }

    /// Its file descriptor.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes. It always has some.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Cuts the file short. Whoever touches the mapping beyond, this process included, gets SIGBUS.
    pub fn truncate(&self, bytes: u64) {
        self.file.set_len(bytes).unwrap();
    }

    /// Copies bytes out.
    ///
    /// # Panics
    /// If the range does not lie inside.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        assert!(offset.checked_add(into.len()).is_some_and(|end| end <= self.bytes));
        // SAFETY: the source lies inside the mapping as just checked, the destination is a slice of this process.
        unsafe { std::ptr::copy_nonoverlapping(self.base.as_ptr().add(offset), into.as_mut_ptr(), into.len()) }
    }

    /// Copies bytes in.
    ///
    /// # Panics
    /// If the range does not lie inside.
    pub fn write(&self, offset: usize, from: &[u8]) {
        assert!(offset.checked_add(from.len()).is_some_and(|end| end <= self.bytes));
        // SAFETY: the destination lies inside the mapping as just checked, the source is a slice of this process.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.base.as_ptr().add(offset), from.len()) }
    }

    /// Reads a word with acquire order.
    #[must_use]
    pub fn load(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }

    /// Writes a word with release order.
    pub fn store(&self, offset: usize, word: u32) {
        self.word(offset).store(word, Ordering::Release);
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.bytes);
        // SAFETY: aligned and inside the mapping as just checked, which lives as long as `self`.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// An eventfd that does not block.
///
/// # Panics
/// If the system has none.
#[must_use]
pub fn eventfd() -> File {
    // SAFETY: the call has no preconditions.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    assert!(fd >= 0, "eventfd: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just made and belongs to nobody else.
    unsafe { File::from_raw_fd(fd) }
}

/// Sends a signal to a child process that was not waited for yet, so that its number cannot be another's.
pub fn send_signal(pid: u32, signal: i32) {
    // SAFETY: the call has no memory effects.
    let sent = unsafe { libc::kill(libc::pid_t::try_from(pid).unwrap(), signal) };
    assert_eq!(sent, 0, "kill: {}", std::io::Error::last_os_error());
}

/// Sends bytes with file descriptors over a unix socket.
///
/// # Errors
/// What the system says.
pub fn send_with_fds(socket: RawFd, bytes: &[u8], fds: &[RawFd]) -> std::io::Result<()> {
    let mut control = [0u64; 64];
    let payload = u32::try_from(size_of_val(fds)).unwrap();
    let mut piece = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: zeroes are a valid msghdr; every pointer put into it lives until sendmsg returns, and `control` is
    // aligned and large enough for the descriptors (CMSG_SPACE is checked).
    let sent = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut piece;
        header.msg_iovlen = 1;
        if !fds.is_empty() {
            let space = libc::CMSG_SPACE(payload) as usize;
            assert!(space <= size_of_val(&control), "too many descriptors");
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = space;
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(payload) as usize;
            std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(first), payload as usize);
        }
        libc::sendmsg(socket, &raw const header, libc::MSG_NOSIGNAL)
    };
    match usize::try_from(sent) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(sent) => Err(std::io::Error::other(format!("sent {sent} of {} bytes", bytes.len()))),
        Err(_) => Err(std::io::Error::last_os_error()),
    }
}
