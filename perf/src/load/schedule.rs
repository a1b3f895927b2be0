//! When commands start.

use crate::random::Random;

/// How commands arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// Closed loop: a command starts when one has ended, so that as many as the depth are always in flight.
    Closed,
    /// Open loop: this many a second, evenly spaced, whether or not earlier ones have ended.
    Even(f64),
    /// Open loop: a Poisson process of this many a second, as from many independent users.
    Poisson(f64),
}

impl Arrivals {
    /// Commands a second that are meant to start; `None` in a closed loop.
    #[must_use]
    pub const fn rate(&self) -> Option<f64> {
        match self {
            Self::Closed => None,
            Self::Even(rate) | Self::Poisson(rate) => Some(*rate),
        }
    }
}

/// The intended starts, one after the other.
///
/// A latency is counted from the intended start even if there was no room to send the command then. Else a target that
/// stops for a second would be charged for one slow command instead of for all that should have started in that second
/// (coordinated omission).
#[derive(Clone, Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    random: Random,
    begin: u64,
    next: f64,
}

impl Schedule {
    /// A schedule that begins now.
    #[must_use]
    pub fn new(arrivals: Arrivals, seed: u64, begin: u64) -> Self {
        Self { arrivals, random: Random::new(seed ^ 0x0A11), begin, next: 0.0 }
    }

    /// The intended start of the next command if that is not later than `now`; it counts as started then.
    #[inline]
    pub fn take(&mut self, now: u64) -> Option<u64> {
        let gap = match self.arrivals {
            Arrivals::Closed => return Some(now),
            Arrivals::Even(rate) => 1e9 / rate,
            Arrivals::Poisson(rate) => {
                if self.due() > now {
                    return None;
                }
                self.random.exponential(1e9 / rate)
            }
        };
        let due = self.due();
        (due <= now).then(|| {
            self.next += gap;
            due
        })
    }

    fn due(&self) -> u64 {
        self.begin + self.next as u64
    }
}

/// How the starts of an open loop are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Spacing {
    /// Evenly spaced.
    Even,
    /// A Poisson process.
    Poisson,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_arrivals_keep_their_times_however_late_they_are_taken() {
        let mut schedule = Schedule::new(Arrivals::Even(1000.0), 1, 5);
        assert_eq!(schedule.take(4), None);
        assert_eq!(schedule.take(5), Some(5));
        assert_eq!(schedule.take(1_000_004), None);
        let late: Vec<u64> = std::iter::from_fn(|| schedule.take(4_000_005)).collect();
        assert_eq!(late, [1_000_005, 2_000_005, 3_000_005, 4_000_005]);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_rise() {
        let mut schedule = Schedule::new(Arrivals::Poisson(100_000.0), 1, 0);
        let starts: Vec<u64> = std::iter::from_fn(|| schedule.take(1_000_000_000)).collect();
        assert!((99_000..101_000).contains(&starts.len()), "{}", starts.len());
        assert!(starts.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn a_closed_loop_starts_now() {
        assert_eq!(Schedule::new(Arrivals::Closed, 1, 0).take(7), Some(7));
    }
}
