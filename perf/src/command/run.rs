//! `kvperf run`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use dataplane::core::TscClock;
use serde::Serialize;

use super::checking::Checking;
use super::connection::{AnyTarget, Connection};
use crate::load::{Arrivals, Choice, Keys, Measured, Mix, RunReport, Settings, Sizes, Spacing, populate, run};
use crate::measure::Spread;
use crate::random::Zipf;
use crate::report::{self, Outputs, Progress, Repeated, Series, Table, count, micros};
use crate::value::Verify;
use crate::{size, with_target};

/// Options of `kvperf run`.
#[derive(Args, Debug)]
pub struct Run {
    #[command(flatten)]
    connection: Connection,
    /// What to send: one of retrieve, store, exist, delete, lookup, or shares such as retrieve=70,store=30
    #[arg(long, default_value = "retrieve", value_name = "MIX")]
    op: Mix,
    /// Sizes of values: 64K, a range 4K-64K, or several with weights 64K=8,1M=1
    #[arg(long, default_value = "64K", value_name = "SIZES")]
    value_bytes: Sizes,
    /// Commands in flight at the most
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    depth: u32,
    /// Number of keys
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: u64,
    /// Skew of the keys' popularity (Zipf exponent; 0 = all alike)
    #[arg(long, default_value_t = 0.0)]
    skew: f64,
    /// Keys in the list of a lookup
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    lookup_keys: u32,
    /// Open loop: start this many commands a second, whether or not earlier ones have ended
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// How the starts of an open loop are spaced
    #[arg(long, value_enum, default_value_t = Spacing::Poisson, requires = "rate")]
    spacing: Spacing,
    /// Time to measure
    #[arg(long, default_value = "10s", value_parser = size::parse_duration)]
    duration: Duration,
    /// Measure so many commands instead of a time
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    ops: Option<u64>,
    /// Time to run before anything is counted
    #[arg(long, default_value = "1s", value_parser = size::parse_duration)]
    warm_up: Duration,
    /// Seed of keys, order and sizes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Do not store all keys first: take it that an earlier run with the same seed, sizes and keys did
    #[arg(long)]
    no_populate: bool,
    #[command(flatten)]
    checking: Checking,
    /// Measure so many times, and report the median and the spread
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    #[command(flatten)]
    outputs: Outputs,
}

/// Figures of one kind of command over all runs.
#[derive(Serialize)]
struct OpSpread {
    op: &'static str,
    ops_per_s: Spread,
    gb_per_s: Spread,
    p50_us: Spread,
    p99_us: Spread,
    p999_us: Spread,
}

impl Run {
    /// Measures. The exit code is 1 if a byte was wrong.
    ///
    /// # Errors
    /// If the options contradict each other, the target cannot be used, or a result cannot be written.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let settings = self.settings()?;
        self.outputs.prepare()?;
        let mut target = self.connection.open(self.depth)?;
        let mut keys = Keys::new(self.keys, self.seed);
        let mut wrong = 0;
        if self.no_populate {
            keys.assume_stored();
        } else {
            self.populate(&mut target, &settings, &mut keys)?;
        }
        let (mut runs, mut last) = (Vec::new(), Measured::default());
        for round in 0..self.repeat {
            let settings = Settings { seed: self.seed + u64::from(round), ..settings.clone() };
            last = self.once(&mut target, &settings, &mut keys)?;
            wrong += last.wrong_bytes;
            runs.push(RunReport::new(&settings, &last));
        }
        let report = &runs[runs.len() - 1];
        let spread: Vec<OpSpread> = settings.mix.ops().map(|op| OpSpread::of(op.name(), &runs)).collect();
        println!("{}", table(report, &spread));
        self.tell(report);
        self.plots(&last, report)?;
        let target = &self.connection.connect;
        self.outputs.write_json(&Repeated { command: "run", target, last: report, spread, runs: &runs })?;
        if wrong > 0 {
            eprintln!("error: {wrong} bytes were wrong");
        }
        Ok(ExitCode::from(u8::from(wrong > 0)))
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let arrivals = match (self.rate, self.spacing) {
            (None, _) => Arrivals::Closed,
            (Some(rate), _) if !rate.is_finite() || rate <= 0.0 => bail!("--rate {rate}: must be more than 0"),
            (Some(rate), Spacing::Even) => Arrivals::Even(rate),
            (Some(rate), Spacing::Poisson) => Arrivals::Poisson(rate),
        };
        if self.op.changes_values() && self.keys < 4 * u64::from(self.depth) {
            bail!("--keys {}: a mix that changes values needs four keys for each of --depth {}", self.keys, self.depth);
        }
        let choice =
            if self.skew > 0.0 { Choice::Zipf(Zipf::new(self.keys as usize, self.skew)) } else { Choice::Uniform };
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4);
        Ok(Settings {
            mix: self.op.clone(),
            sizes: self.value_bytes.clone(),
            depth: self.depth,
            arrivals,
            choice,
            keys: self.keys,
            lookup_keys: self.lookup_keys,
            verify: self.checking.verify(),
            seed: self.seed,
            warm_up: nanos(self.warm_up),
            duration: if self.ops.is_some() { 0 } else { nanos(self.duration).max(1) },
            ops: self.ops.unwrap_or(0),
        })
    }

    fn populate(&self, target: &mut AnyTarget, settings: &Settings, keys: &mut Keys) -> anyhow::Result<()> {
        let progress = Progress::new(self.keys, "keys stored", self.outputs.quiet);
        let show = |so_far: &Measured| progress.show(so_far.ops(), String::new);
        let clock = TscClock::new();
        let stored = with_target!(target, target => populate(target, &clock, settings, keys, show))?;
        let failed = stored.per_op.iter().map(|op| op.errors).sum::<u64>();
        if failed > 0 {
            bail!("{failed} of {} keys could not be stored: {}", self.keys, stored.failure.unwrap_or_default());
        }
        Ok(())
    }

    fn once(&self, target: &mut AnyTarget, settings: &Settings, keys: &mut Keys) -> anyhow::Result<Measured> {
        let (total, kind) = self.ops.map_or((settings.duration / 1_000_000, "ms"), |ops| (ops, "commands"));
        let progress = Progress::new(total, kind, self.outputs.quiet);
        let show = |so_far: &Measured| {
            progress.show(self.ops.map_or(so_far.nanos / 1_000_000, |_| so_far.ops()), || {
                format!("{} commands, wrong bytes {}", count(so_far.ops()), so_far.wrong_bytes)
            });
        };
        let clock = TscClock::new();
        Ok(with_target!(target, target => run(target, &clock, settings, keys, show))?)
    }

    fn tell(&self, report: &RunReport) {
        match report.verify {
            Verify::Off => println!("values were not checked"),
            how => println!("wrong bytes: {} (checked: {})", count(report.wrong_bytes), describe(how)),
        }
        if let Some(failure) = &report.last_failure {
            eprintln!("{} commands failed; the first one: {failure}", report.errors);
        }
        if report.not_started > 0 {
            let (late, rate) = (count(report.not_started), self.rate.unwrap_or_default());
            eprintln!("{late} commands could not start: the target does not keep up with {rate} a second");
        }
    }

    fn plots(&self, measured: &Measured, last: &RunReport) -> anyhow::Result<()> {
        let loop_kind = self.rate.map_or("closed loop".to_owned(), |rate| format!("open loop, {rate} a second"));
        if let Some(file) = self.outputs.plot("run-latency.svg") {
            let ops = last.per_op.iter().map(|report| report.op);
            let lines: Vec<Series> =
                ops.map(|op| Series::latency(op.name(), &measured.per_op[op.index()].latency)).collect();
            report::latency_plot(&file, &format!("Latency, depth {}, {loop_kind}", last.depth), &lines)?;
        }
        if let Some(file) = self.outputs.plot("run-throughput.svg") {
            let title = format!("Throughput over time, depth {}, {loop_kind}", last.depth);
            let moved = last.per_op.iter().any(|op| op.gb_per_s > 0.0);
            if moved {
                let lines = [
                    Series::over_time("retrieved", &last.timeline, |point| point.read_gb_per_s),
                    Series::over_time("stored", &last.timeline, |point| point.written_gb_per_s),
                ];
                report::throughput_plot(&file, &title, "GB/s", &lines)?;
            } else {
                let lines = [Series::over_time("all commands", &last.timeline, |point| point.ops_per_s)];
                report::throughput_plot(&file, &title, "commands/s", &lines)?;
            }
        }
        Ok(())
    }
}

fn describe(how: Verify) -> &'static str {
    match how {
        Verify::Full => "every byte",
        Verify::Stamps => "both ends of every 4 KiB",
        Verify::Off => "nothing",
    }
}

impl OpSpread {
    fn of(op: &'static str, runs: &[RunReport]) -> Self {
        let reports = || runs.iter().flat_map(|run| &run.per_op).filter(|report| report.op.name() == op);
        Self {
            op,
            ops_per_s: Spread::of(reports().map(|report| report.ops_per_s)),
            gb_per_s: Spread::of(reports().map(|report| report.gb_per_s)),
            p50_us: Spread::of(reports().map(|report| report.latency.p50_us)),
            p99_us: Spread::of(reports().map(|report| report.latency.p99_us)),
            p999_us: Spread::of(reports().map(|report| report.latency.p999_us)),
        }
    }
}

fn table(last: &RunReport, spread: &[OpSpread]) -> Table {
    let mut table =
        Table::new(&["command", "commands/s", "noise", "GB/s", "hits", "p50", "p99", "p99.9", "max", "failed"]);
    for (op, spread) in last.per_op.iter().zip(spread_of(last, spread)) {
        let noise = if spread.ops_per_s.runs > 1 {
            format!("±{:.1} %", spread.ops_per_s.noise_percent())
        } else {
            "-".to_owned()
        };
        let found = op.hits as f64 / (op.hits + op.misses).max(1) as f64 * 100.0;
        table.row(&[
            op.op.name(),
            &count(spread.ops_per_s.median as u64),
            &noise,
            &format!("{:.3}", spread.gb_per_s.median),
            &format!("{found:.1} %"),
            &micros(spread.p50_us.median),
            &micros(spread.p99_us.median),
            &micros(spread.p999_us.median),
            &micros(op.latency.max_us),
            &count(op.errors),
        ]);
    }
    table
}

/// The spreads in the order of the report's commands.
fn spread_of<'a>(last: &'a RunReport, spread: &'a [OpSpread]) -> impl Iterator<Item = &'a OpSpread> {
    last.per_op.iter().filter_map(|op| spread.iter().find(|spread| spread.op == op.op.name()))
}
