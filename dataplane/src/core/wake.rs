//! What an idle core sleeps on.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

/// How long it took woken cores to get to work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WakeLatency {
    /// Wake-ups by the event.
    pub count: u64,
    /// The longest, in nanoseconds from the post to the first turn.
    pub max_nanos: u64,
    /// All together, in nanoseconds.
    pub sum_nanos: u64,
}

/// An event that one core sleeps on and that others set. While the core is awake, setting it costs one load.
///
/// No wake-up is lost: the sleeper says that it sleeps, then looks for work once more, and only then waits; whoever
/// brings work puts it down first and then looks whether the core sleeps. With sequential consistency one sees the
/// other.
#[derive(Debug)]
pub struct WakeEvent {
    asleep: AtomicBool,
    event: OwnedFd,
    /// For measuring alone: when it was last set, in nanoseconds since `origin`, zero once measured.
    set_at: AtomicU64,
    origin: Instant,
}

impl WakeEvent {
    /// A new event.
    ///
    /// # Errors
    /// What `eventfd` says.
    pub fn new() -> io::Result<Self> {
        // SAFETY: makes a new descriptor.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { asleep: AtomicBool::new(false), event, set_at: AtomicU64::new(0), origin: Instant::now() })
    }

    /// Wakes the core if it sleeps. Call it after the work was put where the core will find it.
    pub fn wake(&self) {
        // A mailbox relies on this fence too.
        fence(Ordering::SeqCst);
        // The first one to come wakes it; the others need not.
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.set_at.store(self.nanos(), Ordering::Relaxed);
            let one = 1_u64.to_ne_bytes();
            // SAFETY: eight bytes of a local to an open eventfd. It cannot fail but by an overflow of its counter,
            // which then is not zero and wakes as well.
            unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }

    /// Says that the core is about to sleep. Look for work once more afterwards, then [`wait`](Self::wait) or
    /// [`stay_awake`](Self::stay_awake).
    pub fn announce_sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Takes the announcement back.
    pub fn stay_awake(&self) {
        if !self.asleep.swap(false, Ordering::SeqCst) {
            // Somebody set the event meanwhile: it must not cut the next sleep short.
            self.clear();
        }
    }

    /// Sleeps until it is woken, for `limit` at most. Says how long ago it was woken, in nanoseconds; `None` if it
    /// was not.
    pub fn wait(&self, limit: Duration) -> Option<u64> {
        let mut waited = libc::pollfd { fd: self.event.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let limit = libc::timespec {
            tv_sec: limit.as_secs().min(3600) as libc::time_t,
            tv_nsec: limit.subsec_nanos() as libc::c_long,
        };
        // SAFETY: one pollfd and one timespec, both locals. A signal only ends the sleep early.
        unsafe { libc::ppoll(&mut waited, 1, &limit, std::ptr::null()) };
        if self.asleep.swap(false, Ordering::SeqCst) {
            return None;
        }
        let set_at = self.clear();
        Some(self.nanos().saturating_sub(set_at))
    }

    /// Takes the event back to not set; gives the time at which it was set. Whoever took `asleep` away is about to
    /// set it, so the wait for that is short.
    fn clear(&self) -> u64 {
        let mut count = [0_u8; 8];
        // SAFETY: eight bytes of a local from an open eventfd.
        while unsafe { libc::read(self.event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) } < 0 {
            std::hint::spin_loop();
        }
        self.set_at.load(Ordering::Relaxed)
    }

    fn nanos(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn a_core_that_is_awake_is_left_alone() {
        let event = WakeEvent::new().unwrap();
        event.wake();
        event.announce_sleep();
        assert_eq!(event.wait(Duration::from_micros(1)), None);
    }

    #[test]
    fn what_comes_between_announcing_and_waiting_is_not_lost() {
        let event = WakeEvent::new().unwrap();
        event.announce_sleep();
        event.wake();
        assert!(event.wait(LONG).is_some());
        event.announce_sleep();
        event.wake();
        event.stay_awake();
        event.announce_sleep();
        assert_eq!(event.wait(Duration::from_micros(1)), None, "an old event does not cut a later sleep short");
    }

    #[test]
    fn another_thread_ends_the_sleep() {
        let event = Arc::new(WakeEvent::new().unwrap());
        for _ in 0..100 {
            event.announce_sleep();
            let waker = Arc::clone(&event);
            let thread = std::thread::spawn(move || waker.wake());
            assert!(event.wait(LONG).is_some());
            thread.join().unwrap();
        }
    }
}
