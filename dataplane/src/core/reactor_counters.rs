//! What a reactor counts, where others can read it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::WakeLatency;

/// What a reactor did so far. Ticks are of its clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReactorCounters {
    /// Ticks of turns that found work.
    pub busy_ticks: u64,
    /// Ticks of turns that found none, of pauses and of sleeps.
    pub idle_ticks: u64,
    /// Turns.
    pub turns: u64,
    /// Turns that found work.
    pub busy_turns: u64,
    /// Items that they handled.
    pub items: u64,
    /// Sleeps.
    pub sleeps: u64,
    /// How long it took to get to work after being woken.
    pub wake: WakeLatency,
}

impl ReactorCounters {
    pub(super) fn woken(&mut self, nanos: u64) {
        self.wake.count += 1;
        self.wake.sum_nanos += nanos;
        self.wake.max_nanos = self.wake.max_nanos.max(nanos);
    }

    fn words(&self) -> [u64; WORDS] {
        let wake = self.wake;
        let (busy, idle) = (self.busy_ticks, self.idle_ticks);
        [busy, idle, self.turns, self.busy_turns, self.items, self.sleeps, wake.count, wake.max_nanos, wake.sum_nanos]
    }
}

const WORDS: usize = 9;

/// Copies of the counters that the reactor publishes now and then. Alone on its cache lines (128 bytes, for
/// processors fetch them in pairs), so that readers do not slow the reactor's other data down. Each number is right,
/// but they need not be of one moment.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Published {
    words: [AtomicU64; WORDS],
}

impl Published {
    pub(super) fn publish(&self, counters: &ReactorCounters) {
        for (word, value) in self.words.iter().zip(counters.words()) {
            word.store(value, Ordering::Relaxed);
        }
    }

    pub(super) fn snapshot(&self) -> ReactorCounters {
        let [busy_ticks, idle_ticks, turns, busy_turns, items, sleeps, count, max_nanos, sum_nanos] =
            std::array::from_fn(|index| self.words[index].load(Ordering::Relaxed));
        let wake = WakeLatency { count, max_nanos, sum_nanos };
        ReactorCounters { busy_ticks, idle_ticks, turns, busy_turns, items, sleeps, wake }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read() {
        let wake = WakeLatency { count: 7, max_nanos: 8, sum_nanos: 9 };
        let mut counters =
            ReactorCounters { busy_ticks: 1, idle_ticks: 2, turns: 3, busy_turns: 4, items: 5, sleeps: 6, wake };
        let published = Published::default();
        published.publish(&counters);
        assert_eq!(published.snapshot(), counters);
        counters.woken(20);
        assert_eq!(counters.wake, WakeLatency { count: 8, max_nanos: 20, sum_nanos: 29 });
    }
}
