//! Time that somebody else moves: for tests and simulation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Clock, Ticks};

/// Stands still until it is moved. A tick is a nanosecond; clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    ticks: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves it on by `ticks` nanoseconds.
    pub fn advance(&self, ticks: u64) {
        self.ticks.fetch_add(ticks, Ordering::Release);
    }

    /// Moves it on by `micros` microseconds.
    pub fn advance_micros(&self, micros: u64) {
        self.advance(self.ticks_of_micros(micros));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Ticks {
        Ticks(self.ticks.load(Ordering::Acquire))
    }

    fn ticks_per_second(&self) -> u64 {
        1_000_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_move_together() {
        let clock = ManualClock::new();
        let other = clock.clone();
        clock.advance_micros(3);
        assert_eq!(other.now(), Ticks(3000));
    }
}
