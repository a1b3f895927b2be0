//! Eventfds: this process's own, and those that a client hands over to be woken by.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use io_uring::{IoUring, opcode};
use tracing::warn;

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
        add_one(self.fd.as_fd());
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
fn add_one(fd: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the buffer is ours and 8 bytes long.
    unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Whether a descriptor is an eventfd. `false` also if /proc is not there to tell.
pub(super) fn is_eventfd(fd: BorrowedFd<'_>) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.is_ok_and(|target| target.as_os_str() == "anon_inode:[eventfd]")
}

/// Adds to eventfds that another process has too, without ever waiting for it.
///
/// `write(2)` to an eventfd waits while its counter is full, unless O_NONBLOCK is set. That flag belongs to the file
/// that is shared, so the other process can clear it at any time and fill the counter. What never waits is the kernel
/// itself when it signals an eventfd: so the descriptor is tied to a ring of io_uring (io_uring_register(2),
/// IORING_REGISTER_EVENTFD), and a command that does nothing is put through the ring.
#[derive(Default)]
pub(super) struct Signaller {
    ring: Ring,
    /// The descriptor that the ring signals, by the number that its owner gave it.
    tied: Option<usize>,
}

#[derive(Default)]
enum Ring {
    /// Most clients poll and never ask for an interrupt.
    #[default]
    Unmade,
    Made(Box<IoUring>),
    /// The system has none for us.
    Refused,
}

impl Signaller {
    /// Adds one to the eventfd with a number of the caller's choice, which stays that descriptor's until
    /// [`forget`](Self::forget).
    pub(super) fn signal(&mut self, number: usize, fd: BorrowedFd<'_>) {
        if let Ring::Unmade = self.ring {
            self.ring = match IoUring::new(2) {
                Ok(ring) => Ring::Made(Box::new(ring)),
                Err(error) => {
                    warn!(%error, "no io_uring to signal interrupts with: a client can hold up its own connection");
                    Ring::Refused
                }
            };
        }
        if self.by_ring(number, fd).is_err() {
            add_one_if_room(fd);
        }
    }

    fn by_ring(&mut self, number: usize, fd: BorrowedFd<'_>) -> io::Result<()> {
        let Ring::Made(ring) = &mut self.ring else { return Err(io::ErrorKind::Unsupported.into()) };
        if self.tied != Some(number) {
            if self.tied.take().is_some() {
                ring.submitter().unregister_eventfd()?;
            }
            ring.submitter().register_eventfd(fd.as_raw_fd())?;
            self.tied = Some(number);
        }
        // SAFETY: the command names no memory.
        unsafe { ring.submission().push(&opcode::Nop::new().build()) }.map_err(io::Error::other)?;
        ring.submit()?;
        ring.completion().for_each(drop);
        Ok(())
    }

    /// Lets go of the descriptor that was signalled last; numbers may mean others from now on.
    pub(super) fn forget(&mut self) {
        if let (Ring::Made(ring), Some(_)) = (&self.ring, self.tied.take())
            && ring.submitter().unregister_eventfd().is_err()
        {
            // A ring that cannot let go of one descriptor must not be used for another.
            self.ring = Ring::Unmade;
        }
    }
}

/// Adds one to an eventfd unless its counter is full, which is as good as a signal: for a machine without io_uring.
///
/// What remains is that the other process clears O_NONBLOCK *and* fills the counter between the question and the write;
/// then the write waits until somebody reads the counter. It costs the other process its own connection's thread.
fn add_one_if_room(fd: BorrowedFd<'_>) {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid entry for the time of the call, which does not wait.
    let ready = unsafe { libc::poll(&raw mut entry, 1, 0) };
    if ready == 1 && entry.revents & libc::POLLOUT != 0 {
        add_one(fd);
    }
}

/// Makes writes to a descriptor fail rather than wait, for as long as nobody who shares it minds.
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
    use super::super::shared_memory::SharedMemory;
    use super::*;

    /// An eventfd that waits when its counter is full.
    fn waiting() -> OwnedFd {
        // SAFETY: a new descriptor that nobody else owns.
        unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) }
    }

    fn fill(fd: &OwnedFd) {
        let full = (u64::MAX - 1).to_ne_bytes();
        // SAFETY: eight bytes of a local.
        assert_eq!(unsafe { libc::write(fd.as_raw_fd(), full.as_ptr().cast(), full.len()) }, 8);
    }

    /// The counter, which is zero afterwards. Waits if it is zero.
    fn take(fd: &OwnedFd) -> u64 {
        let mut count = [0u8; 8];
        // SAFETY: the buffer is ours and 8 bytes long.
        assert_eq!(unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) }, 8);
        u64::from_ne_bytes(count)
    }

    #[test]
    fn only_an_eventfd_is_one() {
        let memory = SharedMemory::create("not-an-eventfd", 4096, false).unwrap();
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(is_eventfd(WakeUp::new().unwrap().fd()));
        assert!(!is_eventfd(memory.fd()) && !is_eventfd(socket.as_fd()));
    }

    #[test]
    fn without_a_ring_a_full_counter_is_left_alone() {
        let fd = waiting();
        fill(&fd);
        let mut signaller = Signaller { ring: Ring::Refused, tied: None };
        signaller.signal(0, fd.as_fd());
        assert_eq!(take(&fd), u64::MAX - 1);
        signaller.signal(0, fd.as_fd());
        assert_eq!(take(&fd), 1);
    }

    /// What needs an io_uring; a script that runs tests where there is none leaves them out by this name.
    mod by_ring {
        use super::*;

        #[test]
        fn every_signal_counts_at_its_own_descriptor() {
            let (one, two) = (waiting(), waiting());
            let mut signaller = Signaller::default();
            for (number, fd) in [(0, &one), (1, &two), (1, &two), (0, &one), (1, &two)] {
                signaller.signal(number, fd.as_fd());
            }
            assert!(matches!(signaller.ring, Ring::Made(_)), "these tests need io_uring, as the block queues' do");
            assert_eq!((take(&one), take(&two)), (2, 3));
            signaller.forget();
            signaller.signal(1, one.as_fd());
            assert_eq!(take(&one), 1, "after forgetting, a number may be another descriptor's");
        }

        #[test]
        fn a_full_counter_that_would_make_a_write_wait_does_not_hold_up_the_ring() {
            let fd = waiting();
            let mut signaller = Signaller::default();
            signaller.signal(0, fd.as_fd());
            assert_eq!(take(&fd), 1);
            fill(&fd);
            // Any write would wait for ever here; nothing asks whether there is room.
            for _ in 0..3 {
                signaller.by_ring(0, fd.as_fd()).expect("the ring serves, as it did before");
            }
            assert!(take(&fd) >= u64::MAX - 1);
        }
    }
}
