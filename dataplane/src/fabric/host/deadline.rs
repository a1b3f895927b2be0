//! The time that a host gives a target.

use std::time::{Duration, Instant};

/// The time until a step has to be done. Of any length: [`Duration::MAX`] never ends.
#[derive(Clone, Copy, Debug)]
pub(in crate::fabric) struct Deadline {
    begun: Instant,
    /// The time that was given, all of it.
    pub waited: Duration,
}

impl Deadline {
    /// Begins now.
    pub fn after(waited: Duration) -> Self {
        Self { begun: Instant::now(), waited }
    }

    /// The time that is left; zero once it has passed.
    pub fn left(self) -> Duration {
        self.waited.saturating_sub(self.begun.elapsed())
    }

    /// Whether no time is left.
    pub fn has_passed(self) -> bool {
        self.left().is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_can_be_given() {
        assert!(Deadline::after(Duration::ZERO).has_passed());
        let forever = Deadline::after(Duration::MAX);
        assert!(!forever.has_passed() && forever.left() > Duration::from_secs(u64::MAX / 2));
    }
}
