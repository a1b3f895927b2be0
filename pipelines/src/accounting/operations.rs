//! Outcomes and latencies by operation.

use hdrhistogram::Histogram;

use crate::classify::OperationKind;

/// The longest latency that is told apart, in ticks: about a minute at 5 GHz. Longer ones count as this.
const LONGEST_TICKS: u64 = 1 << 38;

/// What happened to the commands of one kind.
#[derive(Clone, Debug)]
pub struct OperationCounters {
    /// Commands completed.
    pub count: u64,
    /// Of them, with a status other than success. A miss counts here and in `misses`.
    pub errors: u64,
    /// Of the errors, those that say that the key does not exist.
    pub misses: u64,
    /// Bytes of values moved.
    pub bytes: u64,
    /// Time from taking the command to writing its completion, in ticks.
    pub latency: Histogram<u64>,
}

/// The counters of all kinds.
#[derive(Clone, Debug)]
pub struct Operations {
    kinds: [OperationCounters; OperationKind::ALL.len()],
    run: Run,
}

/// Commands of one kind with one latency.
#[derive(Clone, Copy, Debug)]
struct Run {
    kind: OperationKind,
    ticks: u64,
    count: u64,
}

const NO_RUN: Run = Run { kind: OperationKind::Other, ticks: 0, count: 0 };

/// How one command ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub(crate) failed: bool,
    pub(crate) missing: bool,
    pub(crate) bytes: u32,
    pub(crate) ticks: u64,
}

impl Operations {
    /// Everything zero; allocates all it will ever need.
    #[must_use]
    pub fn new() -> Self {
        Self { kinds: std::array::from_fn(|_| OperationCounters::new()), run: NO_RUN }
    }

    /// Counts one completed command.
    ///
    /// Commands of one burst tend to have come and to end together, so equal latencies in a row are kept back and
    /// recorded at once, by [`settle`](Self::settle) at the latest.
    #[inline]
    pub(crate) fn record(&mut self, kind: OperationKind, outcome: Outcome) {
        let counters = &mut self.kinds[kind as usize];
        counters.count += 1;
        counters.errors += u64::from(outcome.failed);
        counters.misses += u64::from(outcome.missing);
        counters.bytes += u64::from(outcome.bytes);
        if (self.run.kind, self.run.ticks) == (kind, outcome.ticks) {
            self.run.count += 1;
        } else {
            self.settle();
            self.run = Run { kind, ticks: outcome.ticks, count: 1 };
        }
    }

    /// Records the latencies that were kept back.
    pub(crate) fn settle(&mut self) {
        if self.run.count > 0 {
            let latency = &mut self.kinds[self.run.kind as usize].latency;
            latency.saturating_record_n(self.run.ticks.max(1), self.run.count);
            self.run.count = 0;
        }
    }

    /// The counters, by kind.
    pub fn iter(&self) -> impl Iterator<Item = (OperationKind, &OperationCounters)> {
        OperationKind::ALL.into_iter().zip(&self.kinds)
    }

    /// Takes over a core's counters without allocating: both sides have the same fixed bounds.
    pub(crate) fn clone_from_core(&mut self, core: &Self) {
        for (mine, theirs) in self.kinds.iter_mut().zip(&core.kinds) {
            (mine.count, mine.errors, mine.misses, mine.bytes) =
                (theirs.count, theirs.errors, theirs.misses, theirs.bytes);
            mine.latency.reset();
            // Equal bounds cannot fail to add.
            let _ = mine.latency.add(&theirs.latency);
        }
    }

    /// Adds another core's counters, for a report over all cores.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.kinds.iter_mut().zip(&other.kinds) {
            mine.count += theirs.count;
            mine.errors += theirs.errors;
            mine.misses += theirs.misses;
            mine.bytes += theirs.bytes;
            let _ = mine.latency.add(&theirs.latency);
        }
    }

    /// Sets every counter to zero, without freeing memory.
    pub fn reset(&mut self) {
        self.run = NO_RUN;
        for counters in &mut self.kinds {
            (counters.count, counters.errors, counters.misses, counters.bytes) = (0, 0, 0, 0);
            counters.latency.reset();
        }
    }
}

impl Default for Operations {
    fn default() -> Self {
        Self::new()
    }
}

impl OperationCounters {
    fn new() -> Self {
        // Two significant digits: 1% is finer than any latency repeats. Fixed bounds, so recording never allocates.
        let latency = Histogram::new_with_bounds(1, LONGEST_TICKS, 2).expect("the bounds are constants in range");
        Self { count: 0, errors: 0, misses: 0, bytes: 0, latency }
    }
}
