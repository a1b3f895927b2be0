//! Clocks of the load generator.

use std::cell::Cell;
use std::time::Instant;

use dataplane::core::{Clock, Ticks};

/// Nanoseconds of the system's monotonic clock since the clock was made.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    begin: Instant,
}

impl MonotonicClock {
    /// A clock that begins now.
    #[must_use]
    pub fn start() -> Self {
        Self { begin: Instant::now() }
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Ticks {
        Ticks(self.begin.elapsed().as_nanos() as u64)
    }

    fn ticks_per_second(&self) -> u64 {
        1_000_000_000
    }
}

/// A clock that stands still until it is told to move: for tests of schedules. Ticks are nanoseconds.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: Cell<u64>,
}

impl ManualClock {
    /// Moves on.
    pub fn advance(&self, nanos: u64) {
        self.now.set(self.now.get() + nanos);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Ticks {
        Ticks(self.now.get())
    }

    fn ticks_per_second(&self) -> u64 {
        1_000_000_000
    }
}
