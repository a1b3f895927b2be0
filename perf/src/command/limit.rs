//! `kvperf limit`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dataplane::core::TscClock;
use serde::Serialize;

use super::connection::{AnyTarget, Connection};
use crate::limit::{Case, CaseReport, Plan, RawFile, measure};
use crate::load::{Keys, populate};
use crate::measure::Spread;
use crate::report::{self, Outputs, Progress, Series, Table, micros};
use crate::{size, with_target};

/// The cases with a goal: values of 1 MiB at depth 16 and of 64 KiB at depth 32.
const CASES: [(u32, u32); 2] = [(1 << 20, 16), (64 << 10, 32)];

/// Options of `kvperf limit`.
#[derive(Args, Debug)]
pub struct Limit {
    #[command(flatten)]
    connection: Connection,
    /// File for plain io_uring, on the file system or device of the store; made and fully written if there is none
    #[arg(long, value_name = "FILE")]
    raw_file: PathBuf,
    /// Let plain reads go to this file or device instead (the store's own; must be fully written, holes read too fast)
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Bytes of values that are held, and of the raw file; must fit into the store
    #[arg(long, default_value = "2G", value_parser = size::parse_bytes)]
    working_set: u64,
    /// Size of values, a multiple of 4K [default: 1M at depth 16 and 64K at depth 32]
    #[arg(long, value_parser = size::parse_value_bytes, requires = "depth")]
    value_bytes: Option<u32>,
    /// Commands in flight
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024), requires = "value_bytes")]
    depth: Option<u32>,
    /// Rounds; each measures both ways once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Time of each measurement
    #[arg(long, default_value = "3s", value_parser = size::parse_duration)]
    duration: Duration,
    /// Time before each measurement that does not count
    #[arg(long, default_value = "500ms", value_parser = size::parse_duration)]
    warm_up: Duration,
    #[command(flatten)]
    outputs: Outputs,
}

#[derive(Serialize)]
struct Report<'a> {
    command: &'static str,
    target: &'a str,
    working_set_bytes: u64,
    cases: &'a [CaseReport],
}

impl Limit {
    /// Measures.
    ///
    /// # Errors
    /// If a file or the target cannot be used, an I/O fails, or a value is not there any more.
    pub fn run(&self) -> anyhow::Result<()> {
        let sizes = match (self.value_bytes, self.depth) {
            (Some(bytes), Some(depth)) => vec![(bytes, depth)],
            _ => CASES.to_vec(),
        };
        if let Some((bytes, _)) = sizes.iter().find(|(bytes, _)| bytes % 4096 != 0) {
            anyhow::bail!("--value-bytes {bytes}: direct I/O asks for a multiple of 4096");
        }
        self.outputs.prepare()?;
        let writes = self.raw_file()?;
        let reads = self.file.as_ref().map(|file| RawFile::open(file, self.working_set)).transpose()?;
        let deepest = sizes.iter().map(|(_, depth)| *depth).max().unwrap_or(1);
        let mut target = self.connection.open(deepest)?;
        let mut reports = Vec::new();
        for (seed, (bytes, depth)) in (1..).zip(sizes) {
            let retrieve = Case { store: false, bytes, depth };
            let mut keys = self.stored(&mut target, retrieve, seed)?;
            for case in [retrieve, Case { store: true, ..retrieve }] {
                let file = reads.as_ref().filter(|_| !case.store).unwrap_or(&writes);
                reports.push(self.case(case, file, &mut target, &mut keys)?);
            }
        }
        println!("{}", table(&reports));
        self.plots(&reports)?;
        let (target, working_set_bytes) = (&self.connection.connect, self.working_set);
        self.outputs.write_json(&Report { command: "limit", target, working_set_bytes, cases: &reports })
    }

    fn plots(&self, reports: &[CaseReport]) -> anyhow::Result<()> {
        for report in reports {
            let name = report.case.name();
            let Some(file) = self.outputs.plot(&format!("limit-{}.svg", name.replace(' ', "-"))) else { continue };
            let lines = [Series::latency("plain io_uring", &report.plain), Series::latency("kvplane", &report.kvplane)];
            report::latency_plot(&file, &format!("Latency of {name}, all rounds"), &lines)?;
        }
        Ok(())
    }

    fn plan(&self) -> Plan {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4);
        Plan {
            rounds: self.rounds,
            warm_up: nanos(self.warm_up),
            duration: nanos(self.duration).max(1),
            working_set: self.working_set,
        }
    }

    fn raw_file(&self) -> anyhow::Result<RawFile> {
        let progress = Progress::new(self.working_set, "bytes", self.outputs.quiet);
        RawFile::create(&self.raw_file, self.working_set, |done| {
            progress.show(done, || format!("writing {}", self.raw_file.display()));
        })
    }

    fn stored(&self, target: &mut AnyTarget, case: Case, seed: u64) -> anyhow::Result<Keys> {
        let settings = case.settings(&self.plan(), seed);
        let mut keys = Keys::new(settings.keys, seed);
        let progress = Progress::new(settings.keys, "values stored", self.outputs.quiet);
        let show = |so_far: &crate::load::Measured| progress.show(so_far.ops(), String::new);
        let clock = TscClock::new();
        with_target!(target, target => populate(target, &clock, &settings, &mut keys, show))?;
        Ok(keys)
    }

    fn case(&self, case: Case, file: &RawFile, target: &mut AnyTarget, keys: &mut Keys) -> anyhow::Result<CaseReport> {
        let progress = Progress::new(u64::from(self.rounds), "rounds", self.outputs.quiet);
        progress.show(0, || case.name());
        let clock = TscClock::new();
        let show = |round| progress.show(u64::from(round), || case.name());
        with_target!(target, target => measure(case, &self.plan(), file, target, keys, &clock, show))
    }
}

fn table(reports: &[CaseReport]) -> Table {
    let titles = [
        "case",
        "plain GB/s",
        "kvplane GB/s",
        "ratio (goal >= 0.97)",
        "plain p99",
        "kvplane p99",
        "ratio (goal <= 1.15)",
    ];
    let mut table = Table::new(&titles);
    for report in reports {
        let rate = |spread: &Spread| format!("{:.3} ±{:.1} %", spread.median, spread.noise_percent());
        let time = |spread: &Spread| format!("{} ±{:.1} %", micros(spread.median), spread.noise_percent());
        table.row(&[
            &report.case.name(),
            &rate(&report.plain_gb_per_s),
            &rate(&report.kvplane_gb_per_s),
            &rate(&report.throughput_ratio),
            &time(&report.plain_p99_us),
            &time(&report.kvplane_p99_us),
            &rate(&report.p99_ratio),
        ]);
    }
    table
}
