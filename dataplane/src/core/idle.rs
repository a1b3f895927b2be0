//! What a core does when it finds no work.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Clock, Ticks, Wake};

/// What a core does when it finds no work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IdlePolicy {
    /// Polls on without a break: the least latency, for a whole core.
    Spin,
    /// Polls on for a while, then with pauses that leave the core's sibling room, then sleeps.
    #[default]
    Adaptive,
    /// Sleeps at once.
    Sleep,
}

/// A name that is no idle policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no idle policy; choose spin, adaptive or sleep")]
pub struct ParseIdlePolicyError(String);

impl FromStr for IdlePolicy {
    type Err = ParseIdlePolicyError;

    fn from_str(text: &str) -> Result<Self, ParseIdlePolicyError> {
        match text {
            "spin" => Ok(Self::Spin),
            "adaptive" => Ok(Self::Adaptive),
            "sleep" => Ok(Self::Sleep),
            other => Err(ParseIdlePolicyError(other.to_owned())),
        }
    }
}

impl fmt::Display for IdlePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spin => "spin",
            Self::Adaptive => "adaptive",
            Self::Sleep => "sleep",
        })
    }
}

/// How long the adaptive policy polls without a break after the last work: as long as a slow device may take for a
/// command, so that nobody sleeps between a command and its completion.
const SPIN_MICROS: u64 = 200;
/// How long after the last work it goes to sleep.
const SLEEP_MICROS: u64 = 5_000;
/// The shortest nap where shared memory must be looked at: the wake-up alone takes some of that.
const SHORTEST_NAP: Duration = Duration::from_micros(50);
/// The longest such nap, which bounds the latency of the first command after a long break.
const LONGEST_NAP: Duration = Duration::from_millis(1);
/// The longest sleep on an event. It ends by itself only so that counters stay fresh.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// What to do after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The next turn.
    Turn,
    /// A pause of the processor, then the next turn.
    Pause,
    /// A sleep that long at most.
    Sleep(Duration),
}

/// Decides what to do after each turn.
pub(super) struct Idle {
    policy: IdlePolicy,
    spin_ticks: u64,
    sleep_ticks: u64,
    last_work: Ticks,
    nap: Duration,
}

impl Idle {
    pub(super) fn new(policy: IdlePolicy, clock: &impl Clock) -> Self {
        Self {
            policy,
            spin_ticks: clock.ticks_of_micros(SPIN_MICROS),
            sleep_ticks: clock.ticks_of_micros(SLEEP_MICROS),
            last_work: clock.now(),
            nap: SHORTEST_NAP,
        }
    }

    /// There was work.
    pub(super) fn worked(&mut self, now: Ticks) {
        self.last_work = now;
        self.nap = SHORTEST_NAP;
    }

    /// There was none. `wake` tells what can end a sleep, and is asked only before one.
    pub(super) fn rested(&mut self, now: Ticks, wake: impl FnOnce() -> Wake) -> Step {
        let rest = now.since(self.last_work);
        match self.policy {
            IdlePolicy::Spin => Step::Turn,
            IdlePolicy::Adaptive if rest < self.spin_ticks => Step::Turn,
            IdlePolicy::Adaptive if rest < self.sleep_ticks => Step::Pause,
            IdlePolicy::Adaptive | IdlePolicy::Sleep => Step::Sleep(self.length(wake())),
        }
    }

    fn length(&mut self, wake: Wake) -> Duration {
        match wake {
            Wake::Event => LONGEST_SLEEP,
            Wake::Timed => {
                let nap = self.nap;
                self.nap = (nap * 2).min(LONGEST_NAP);
                nap
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ManualClock;

    #[test]
    fn names_are_read_and_shown() {
        for name in ["spin", "adaptive", "sleep"] {
            assert_eq!(name.parse::<IdlePolicy>().unwrap().to_string(), name);
        }
        assert!("Spin".parse::<IdlePolicy>().unwrap_err().to_string().contains("'Spin'"));
    }

    #[test]
    fn adaptive_spins_then_pauses_then_naps_longer_and_longer() {
        let clock = ManualClock::new();
        let mut idle = Idle::new(IdlePolicy::Adaptive, &clock);
        let mut after = |micros| {
            clock.advance_micros(micros);
            idle.rested(clock.now(), || Wake::Timed)
        };
        assert_eq!(after(SPIN_MICROS - 1), Step::Turn);
        assert_eq!(after(1), Step::Pause);
        assert_eq!(after(SLEEP_MICROS), Step::Sleep(SHORTEST_NAP));
        assert_eq!(after(1), Step::Sleep(SHORTEST_NAP * 2));
        for _ in 0..10 {
            after(1);
        }
        assert_eq!(after(1), Step::Sleep(LONGEST_NAP));
        idle.worked(clock.now());
        assert_eq!(idle.rested(clock.now(), || Wake::Timed), Step::Turn);
        clock.advance_micros(SLEEP_MICROS);
        assert_eq!(idle.rested(clock.now(), || Wake::Timed), Step::Sleep(SHORTEST_NAP));
        assert_eq!(idle.rested(clock.now(), || Wake::Event), Step::Sleep(LONGEST_SLEEP));
    }

    #[test]
    fn the_others_do_one_thing_only() {
        let clock = ManualClock::new();
        let mut spin = Idle::new(IdlePolicy::Spin, &clock);
        let mut sleep = Idle::new(IdlePolicy::Sleep, &clock);
        assert_eq!(sleep.rested(clock.now(), || Wake::Event), Step::Sleep(LONGEST_SLEEP));
        clock.advance_micros(10 * SLEEP_MICROS);
        assert_eq!(spin.rested(clock.now(), || Wake::Event), Step::Turn);
    }
}
