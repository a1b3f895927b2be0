//! What the cores tell a connection's thread: interrupts to raise and faults to report.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::super::eventfd::WakeUp;

/// Shared by a connection's thread and every core that serves one of its queues.
///
/// A core never writes to a descriptor that came from the client: the client may make such a write block, and signalling
/// it by other means costs more system calls. It sets a bit here and wakes the connection's own thread.
#[derive(Debug)]
pub(super) struct Link {
    /// Vectors that have an eventfd and are not masked, a bit each.
    armed: AtomicU64,
    /// Vectors to raise, a bit each.
    raised: AtomicU64,
    /// Doorbell writes that were not valid.
    faults: AtomicU32,
    wake: WakeUp,
}

impl Link {
    /// A link with no vector armed.
    pub(super) fn new() -> io::Result<Self> {
        let (armed, raised, faults) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU32::new(0));
        Ok(Self { armed, raised, faults, wake: WakeUp::new()? })
    }

    /// Asks for an interrupt, from a core. A system call only if the vector is armed and no interrupt is waiting.
    pub(super) fn raise(&self, vector: u16) {
        let bit = 1u64 << (vector % 64);
        if self.armed.load(Ordering::Acquire) & bit != 0 && self.raised.fetch_or(bit, Ordering::AcqRel) == 0 {
            self.wake.wake();
        }
    }

    /// Reports a doorbell value that is not valid, from a core.
    pub(super) fn report_fault(&self) {
        self.faults.fetch_add(1, Ordering::AcqRel);
        self.wake.wake();
    }

    /// Says which vectors may be raised.
    pub(super) fn arm(&self, vectors: u64) {
        self.armed.store(vectors, Ordering::Release);
    }

    /// Takes the vectors to raise.
    pub(super) fn take_raised(&self) -> u64 {
        self.wake.clear();
        self.raised.swap(0, Ordering::AcqRel)
    }

    /// Takes the number of faults since the last call.
    pub(super) fn take_faults(&self) -> u32 {
        self.faults.swap(0, Ordering::AcqRel)
    }

    /// The descriptor that wakes the connection's thread.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.wake.fd()
    }
}
