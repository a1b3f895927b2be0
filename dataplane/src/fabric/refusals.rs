//! Which refusals are logged: anybody may knock, and as often as they like, but the log is not theirs to fill.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines in one [`PERIOD`].
const MOST: u32 = 10;
const PERIOD: Duration = Duration::from_secs(1);

/// Counts refusals, and lets some through in each period.
pub(crate) struct Refusals {
    since: Instant,
    logged: u32,
    silent: u64,
}

impl Refusals {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, logged: 0, silent: 0 }
    }

    /// Whether the refusal at `now` is to be logged; if so, how many before it were not.
    pub(crate) fn log(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= PERIOD {
            (self.since, self.logged) = (now, 0);
        }
        if self.logged == MOST {
            self.silent += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.silent))
    }
}

/// Whether a refusal is to be logged now; if so, how many before it were not. For those who share the count.
pub(crate) fn may_log(refusals: &Mutex<Refusals>) -> Option<u64> {
    refusals.lock().unwrap_or_else(PoisonError::into_inner).log(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_some_lines_and_a_number() {
        let start = Instant::now();
        let mut refusals = Refusals::new(start);
        let first = (0..1000).filter(|_| refusals.log(start) == Some(0)).count();
        assert_eq!(first, MOST as usize);
        assert_eq!(refusals.log(start + PERIOD / 2), None);
        assert_eq!(refusals.log(start + PERIOD), Some(1000 - u64::from(MOST) + 1));
        assert_eq!(refusals.log(start + PERIOD), Some(0));
    }
}
