//! Waiting for completions: by polling, or asleep on what the queues' carrier makes readable.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::liveness::LOOK_PERIOD;
use crate::transport::Transport;
use crate::{Client, Error};

/// Polls in a row before the thread offers its core to others.
const SPINS: u32 = 2000;

impl Client {
    /// Waits until [`poll`](Self::poll) has something to hand out (true), or until the time is over or nothing is
    /// in flight (false). Sleeps if the client was connected with
    /// [`interrupt`](crate::ConnectOptions::interrupt), polls otherwise.
    ///
    /// # Errors
    /// [`Error::Disconnected`] if there is no connection and there are no events left either.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, Error> {
        self.wait_for(timeout, 0)
    }

    /// Waits for an event beyond those that are ready already; they stay.
    pub(crate) fn wait_for_more(&mut self) -> Result<(), Error> {
        // A command ends within the deadline or the connection is given up, so this needs no bound of its own.
        self.wait_for(Duration::MAX, self.ready.len()).map(|_| ())
    }

    /// Waits until more than `known` events are ready.
    fn wait_for(&mut self, timeout: Duration, known: usize) -> Result<bool, Error> {
        let begun = Instant::now();
        let mut spins = 0u32;
        loop {
            if self.ready.len() <= known {
                self.harvest();
            }
            if self.ready.len() > known {
                return Ok(true);
            }
            if self.link.is_none() {
                return Err(Error::Disconnected);
            }
            spins = spins.saturating_add(1);
            if !self.options.interrupt && spins < SPINS && !spins.is_multiple_of(64) {
                std::hint::spin_loop();
                continue;
            }
            let now = Instant::now();
            let left = timeout.saturating_sub(now - begun);
            if left.is_zero() || self.slots.in_use() == 0 {
                return Ok(false);
            }
            // What a look found in the sockets is no longer there to be waited for.
            if self.look(now) {
                continue;
            }
            if self.options.interrupt {
                self.sleep(left, now);
            } else if spins >= SPINS {
                std::thread::yield_now();
            }
        }
    }

    /// Sleeps until an interrupt, until a command is due to be sent again, or until it is time for a look.
    fn sleep(&self, left: Duration, now: Instant) {
        let Some(link) = &self.link else { return };
        let due = self.waiting.iter().map(|(due, _)| due.saturating_duration_since(now)).min();
        let time = left.min(due.unwrap_or(Duration::MAX)).min(LOOK_PERIOD * 4);
        let busy = || self.lanes.iter().enumerate().filter(|(_, lane)| lane.load > 0).map(|(queue, _)| queue);
        let interrupts: Vec<_> = busy().filter_map(|queue| link.interrupt(queue)).collect();
        // An interrupt that was raised since the queues were polled is still pending, so none is slept through.
        poll_readable(&interrupts, time);
        for queue in busy() {
            link.interrupted(queue);
        }
    }
}

/// Blocks until one of the files can be read, or the time is over, or a signal comes.
fn poll_readable(files: &[BorrowedFd<'_>], time: Duration) {
    let mut entries: Vec<libc::pollfd> =
        files.iter().map(|file| libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    // Rounded up, so that a wait of less than a millisecond does not become a busy loop.
    let millis = i32::try_from(time.as_millis() + 1).unwrap_or(i32::MAX);
    // SAFETY: the pointer and the count describe the vector, and the call writes to nothing else.
    unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, millis) };
}

/// Sets an eventfd back to zero. It must not block, so it is only read if it is readable.
pub(crate) fn drain(eventfd: BorrowedFd<'_>) {
    let mut entry = libc::pollfd { fd: eventfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, on the stack.
    let readable = unsafe { libc::poll(&raw mut entry, 1, 0) } == 1 && entry.revents & libc::POLLIN != 0;
    if readable {
        let mut count = 0u64;
        // SAFETY: an eventfd is read into eight bytes, which `count` has.
        unsafe { libc::read(eventfd.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}
