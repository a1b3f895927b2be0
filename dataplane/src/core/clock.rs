//! Time as the data plane sees it: ticks of a counter that only rises.

/// Ticks of a [`Clock`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticks(pub u64);

impl Ticks {
    /// Ticks since an earlier reading; zero if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A counter that a core can read without a system call.
pub trait Clock {
    /// The counter now.
    fn now(&self) -> Ticks;
    /// Ticks in a second.
    fn ticks_per_second(&self) -> u64;

    /// Ticks in `micros` microseconds.
    fn ticks_of_micros(&self, micros: u64) -> u64 {
        (u128::from(micros) * u128::from(self.ticks_per_second()) / 1_000_000) as u64
    }

    /// Nanoseconds in `ticks`.
    fn nanos_of_ticks(&self, ticks: u64) -> u64 {
        (u128::from(ticks) * 1_000_000_000 / u128::from(self.ticks_per_second().max(1))) as u64
    }
}
