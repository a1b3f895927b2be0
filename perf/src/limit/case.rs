//! One size of values at one depth, retrieved or stored, both ways.

use anyhow::bail;
use dataplane::core::Clock;
use serde::Serialize;

use super::{Plain, PlainMeasured, Window};
use crate::load::{Arrivals, Choice, Keys, Measured, Mix, Settings, Sizes, run};
use crate::measure::{Latency, Percentiles, Spread};
use crate::target::{Op, Target};
use crate::value::Verify;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// Stores; retrieves otherwise.
    pub store: bool,
    /// Bytes of a value, a multiple of 4,096.
    pub bytes: u32,
    /// Commands in flight.
    pub depth: u32,
}

/// How it is compared.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds; each measures both ways once. Each order comes up as often if the number is even.
    pub rounds: u32,
    /// Nanoseconds of each measurement that do not count.
    pub warm_up: u64,
    /// Nanoseconds of each measurement that count.
    pub duration: u64,
    /// Bytes of values that are held.
    pub working_set: u64,
}

/// One round's figures.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    /// Plain io_uring, gigabytes (10^9) a second.
    pub plain_gb_per_s: f64,
    /// Through the daemon.
    pub kvplane_gb_per_s: f64,
    /// Plain io_uring.
    pub plain: Percentiles,
    /// Through the daemon.
    pub kvplane: Percentiles,
}

/// A case's figures.
#[derive(Clone, Debug, Serialize)]
pub struct CaseReport {
    /// The case.
    pub case: Case,
    /// Throughput of kvplane over that of plain io_uring.
    pub throughput_ratio: Spread,
    /// 99th percentile of kvplane over that of plain io_uring.
    pub p99_ratio: Spread,
    /// Gigabytes a second of plain io_uring.
    pub plain_gb_per_s: Spread,
    /// Gigabytes a second of kvplane.
    pub kvplane_gb_per_s: Spread,
    /// Microseconds, plain io_uring.
    pub plain_p99_us: Spread,
    /// Microseconds, kvplane.
    pub kvplane_p99_us: Spread,
    /// The rounds.
    pub rounds: Vec<Round>,
    /// Latencies of all rounds, plain io_uring.
    #[serde(skip)]
    pub plain: Latency,
    /// Latencies of all rounds, kvplane.
    #[serde(skip)]
    pub kvplane: Latency,
}

impl Case {
    /// What kvplane does.
    #[must_use]
    pub const fn op(&self) -> Op {
        if self.store { Op::Store } else { Op::Retrieve }
    }

    /// Its name in tables and plots.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {} depth {}", self.op().name(), crate::report::binary(u64::from(self.bytes)), self.depth)
    }

    /// The run through the daemon.
    #[must_use]
    pub fn settings(&self, plan: &Plan, seed: u64) -> Settings {
        Settings {
            mix: Mix::only(self.op()),
            sizes: Sizes::fixed(self.bytes),
            depth: self.depth,
            arrivals: Arrivals::Closed,
            choice: if self.store { Choice::Sequential } else { Choice::Uniform },
            keys: (plan.working_set / u64::from(self.bytes)).max(4 * u64::from(self.depth)),
            lookup_keys: 1,
            verify: Verify::Off,
            seed,
            warm_up: plan.warm_up,
            duration: plan.duration,
            ops: 0,
        }
    }
}

/// Measures a case. The keys were all stored before.
///
/// # Errors
/// If an I/O or a command fails, or a value is not there any more.
pub fn measure<T: Target>(
    case: Case,
    plan: &Plan,
    plain: &mut Plain,
    target: &mut T,
    keys: &mut Keys,
    clock: &impl Clock,
    mut progress: impl FnMut(u32),
) -> anyhow::Result<CaseReport> {
    let mut rounds = Vec::new();
    let (mut all_plain, mut all_kvplane) = (Latency::default(), Latency::default());
    for round in 0..plan.rounds {
        let seed = u64::from(round) + 1;
        let settings = case.settings(plan, seed);
        let window = Window { warm_up: plan.warm_up, duration: plan.duration, seed };
        // Whoever comes first may warm or tire the device: take turns.
        let (mut by_plain, mut by_kvplane) = (None, None);
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                by_plain = Some(plain.run(&window, clock)?);
            } else {
                by_kvplane = Some(run(target, clock, &settings, keys, |_| {})?);
            }
            if case.store {
                plain.settle()?;
            }
        }
        let Some((by_plain, by_kvplane)) = by_plain.zip(by_kvplane) else { continue };
        rounds.push(Round::new(case, &by_plain, &by_kvplane)?);
        all_plain.add(&by_plain.latency);
        all_kvplane.add(&by_kvplane.per_op[case.op().index()].latency);
        progress(round + 1);
    }
    Ok(CaseReport { plain: all_plain, kvplane: all_kvplane, ..CaseReport::new(case, rounds) })
}

impl Round {
    fn new(case: Case, plain: &PlainMeasured, kvplane: &Measured) -> anyhow::Result<Self> {
        let op = &kvplane.per_op[case.op().index()];
        if op.errors > 0 {
            bail!("{} of {} commands failed: {}", op.errors, op.ops, kvplane.failure.clone().unwrap_or_default());
        }
        if op.misses > 0 {
            bail!("{} of {} values are gone: give the store more room, or --working-set less", op.misses, op.ops);
        }
        if op.ops == 0 || plain.bytes == 0 {
            bail!("nothing that started after the warm-up has ended: take a longer --duration, or no --warm-up");
        }
        Ok(Self {
            plain_gb_per_s: plain.bytes as f64 / plain.nanos.max(1) as f64,
            kvplane_gb_per_s: op.bytes as f64 / kvplane.nanos.max(1) as f64,
            plain: plain.latency.percentiles(),
            kvplane: op.latency.percentiles(),
        })
    }
}

impl CaseReport {
    fn new(case: Case, rounds: Vec<Round>) -> Self {
        let of = |figure: fn(&Round) -> f64| Spread::of(rounds.iter().map(figure));
        Self {
            case,
            throughput_ratio: of(|round| round.kvplane_gb_per_s / round.plain_gb_per_s),
            p99_ratio: of(|round| round.kvplane.p99_us / round.plain.p99_us),
            plain_gb_per_s: of(|round| round.plain_gb_per_s),
            kvplane_gb_per_s: of(|round| round.kvplane_gb_per_s),
            plain_p99_us: of(|round| round.plain.p99_us),
            kvplane_p99_us: of(|round| round.kvplane.p99_us),
            rounds,
            plain: Latency::default(),
            kvplane: Latency::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Place;
    use crate::load::populate;
    use crate::target::{Fault, MemoryTarget};
    use dataplane::core::TscClock;

    const PLAN: Plan = Plan { rounds: 3, warm_up: 0, duration: 100_000_000, working_set: 4 << 20 };

    fn measured(case: Case, mut target: MemoryTarget) -> Option<anyhow::Result<CaseReport>> {
        let folder = tempfile::tempdir().unwrap();
        // None on a file system without direct I/O.
        let place = Place::own_file(&folder.path().join("raw"), PLAN.working_set, |_| {}).ok()?;
        let mut plain = Plain::new(&place, case, false).unwrap();
        let clock = TscClock::new();
        let settings = case.settings(&PLAN, 1);
        let mut keys = Keys::new(settings.keys, 1);
        populate(&mut target, &clock, &settings, &mut keys, |_| {}).unwrap();
        Some(measure(case, &PLAN, &mut plain, &mut target, &mut keys, &clock, |_| {}))
    }

    #[test]
    fn every_round_gives_a_ratio() {
        for store in [false, true] {
            let case = Case { store, bytes: 65536, depth: 4 };
            let Some(report) = measured(case, MemoryTarget::new()) else { return };
            let report = report.unwrap();
            assert_eq!((report.rounds.len(), report.throughput_ratio.runs), (3, 3));
            assert!(report.throughput_ratio.min > 0.0 && report.p99_ratio.min > 0.0);
        }
    }

    #[test]
    fn misses_and_failures_end_it() {
        let case = Case { store: false, bytes: 65536, depth: 4 };
        let message = |fault| {
            let result = measured(case, MemoryTarget::new().with_fault(fault, 2))?;
            Some(result.unwrap_err().to_string())
        };
        let Some(gone) = message(Fault::Evict) else { return };
        assert!(gone.contains("are gone"), "{gone}");
        assert!(message(Fault::Fail).unwrap().contains("commands failed"));
    }

    #[test]
    fn names_say_what_was_measured() {
        assert_eq!(Case { store: true, bytes: 1 << 20, depth: 16 }.name(), "store 1 MiB depth 16");
    }
}
