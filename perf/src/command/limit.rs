//! `kvperf limit`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use dataplane::core::TscClock;
use serde::Serialize;

use super::connection::{AnyTarget, Connection};
use crate::limit::{Case, CaseReport, Place, Plain, Plan, live_values, measure};
use crate::load::{Keys, Settings, populate};
use crate::measure::Spread;
use crate::report::{self, Outputs, Progress, Series, Table, micros};
use crate::value::Verify;
use crate::{size, with_target};

/// The cases with a goal: values of 1 MiB at depth 16 and of 64 KiB at depth 32.
const CASES: [(u32, u32); 2] = [(1 << 20, 16), (64 << 10, 32)];

/// What `kvperf limit --help` begins with.
pub const ABOUT: &str = "\
Compare kvplane with plain io_uring: the same values, retrieved and stored, both ways in turns.

Reads: plain io_uring reads the very blocks of --file that kvplaned wrote its values to, which the records in the file \
tell. Writes: plain writes to a store's own segments would destroy it, so they go to an area of the same file behind the \
store's end. It is written as a whole first, and cut off again at the end; kvplaned does not look there. Blocks that a \
file system has set aside but that were never written cost the first write more: write the store's file as a whole before \
kvplaned formats it, so that both sides overwrite written blocks.

Memory is of the same kind on both sides, a memfd of ordinary pages or with --hugepages of hugepages, and is registered \
with io_uring before anything is measured. Many short rounds in alternating order (A B, B A, ...) let drift of the disk \
meet both sides alike. Between turns that wrote, the device's cache is flushed, so that neither side pays for what the \
other wrote. Figures are medians over the rounds, ratios medians of each round's ratio; what follows \u{b1} is half \
the 95 % confidence interval of the median.";

/// Options of `kvperf limit`.
#[derive(Args, Debug)]
pub struct Limit {
    #[command(flatten)]
    connection: Connection,
    /// The file or block device in which kvplaned keeps the store that is measured
    #[arg(long, value_name = "FILE", required_unless_present = "raw_file")]
    file: Option<PathBuf>,
    /// Let plain writes go to this file, on the same file system, instead of behind the store's end; and plain reads too,
    /// without --file. Made and fully written if there is none. Needed where --file is a block device
    #[arg(long, value_name = "FILE")]
    raw_file: Option<PathBuf>,
    /// Take 2 MiB hugepages for the memory of both sides; enough of them must be free
    #[arg(long)]
    hugepages: bool,
    /// Bytes of values that are held, and of the area for plain writes; must fit into the store
    #[arg(long, default_value = "2G", value_parser = size::parse_bytes)]
    working_set: u64,
    /// Size of values, a multiple of 4K [default: 1M at depth 16 and 64K at depth 32]
    #[arg(long, value_parser = size::parse_value_bytes, requires = "depth")]
    value_bytes: Option<u32>,
    /// Commands in flight
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024), requires = "value_bytes")]
    depth: Option<u32>,
    /// Rounds; each measures both ways once. An even number has as many rounds of each order
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Time of each measurement
    #[arg(long, default_value = "500ms", value_parser = size::parse_duration)]
    duration: Duration,
    /// Time before each measurement that does not count. What begins in it is not counted either, not even a stall
    #[arg(long, default_value = "0s", value_parser = size::parse_duration)]
    warm_up: Duration,
    #[command(flatten)]
    outputs: Outputs,
}

#[derive(Serialize)]
struct Report<'a> {
    command: &'static str,
    target: &'a str,
    working_set_bytes: u64,
    hugepages: bool,
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
            bail!("--value-bytes {bytes}: direct I/O asks for a multiple of 4096");
        }
        self.outputs.prepare()?;
        let deepest = sizes.iter().map(|(_, depth)| *depth).max().unwrap_or(1);
        let mut target = self.connection.open_with(deepest, self.hugepages)?;
        let area = self.area()?;
        let mut reports = Vec::new();
        for (seed, (bytes, depth)) in (1..).zip(sizes) {
            let retrieve = Case { store: false, bytes, depth };
            self.enough_hugepages(retrieve)?;
            let mut keys = self.stored(&mut target, retrieve, seed)?;
            let values = self.values(&keys, bytes)?;
            reports.push(self.case(retrieve, values.as_ref().unwrap_or(&area), &mut target, &mut keys)?);
            reports.push(self.case(Case { store: true, ..retrieve }, &area, &mut target, &mut keys)?);
        }
        println!("{}", table(&reports));
        self.plots(&reports)?;
        let (target, working_set_bytes, hugepages) = (&self.connection.connect, self.working_set, self.hugepages);
        self.outputs.write_json(&Report { command: "limit", target, working_set_bytes, hugepages, cases: &reports })
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

    /// Where plain writes go.
    fn area(&self) -> anyhow::Result<Place> {
        let progress = Progress::new(self.working_set, "bytes", self.outputs.quiet);
        let show = |file: &Path, done| progress.show(done, || format!("writing {}", file.display()));
        match (&self.raw_file, &self.file) {
            (Some(raw), _) => Place::own_file(raw, self.working_set, |done| show(raw, done)),
            (None, Some(store)) => Place::behind_store(store, self.working_set, |done| show(store, done)),
            (None, None) => bail!("neither --file nor --raw-file says where plain I/O goes"),
        }
    }

    /// Where plain reads go, if the store's file is known.
    fn values(&self, keys: &Keys, bytes: u32) -> anyhow::Result<Option<Place>> {
        let Some(store) = &self.file else { return Ok(None) };
        Place::values(store, live_values(store, keys, bytes)?).map(Some)
    }

    /// Makes sure that neither side falls back to ordinary pages where the other does not.
    fn enough_hugepages(&self, case: Case) -> anyhow::Result<()> {
        let each = (u64::from(case.bytes) * u64::from(case.depth)).div_ceil(HUGEPAGE_BYTES);
        let free = if self.hugepages { free_hugepages()? } else { 0 };
        if self.hugepages && free < 2 * each {
            bail!("--hugepages: {} are needed, {free} are free; see scripts/setup.sh hugepages", 2 * each);
        }
        Ok(())
    }

    fn stored(&self, target: &mut AnyTarget, case: Case, seed: u64) -> anyhow::Result<Keys> {
        // Values that are made from their keys: zeros are something that a disk may not store at all.
        let settings = Settings { verify: Verify::Full, ..case.settings(&self.plan(), seed) };
        let mut keys = Keys::new(settings.keys, seed);
        let progress = Progress::new(settings.keys, "values stored", self.outputs.quiet);
        let show = |so_far: &crate::load::Measured| progress.show(so_far.ops(), String::new);
        let clock = TscClock::new();
        with_target!(target, target => populate(target, &clock, &settings, &mut keys, show))?;
        Ok(keys)
    }

    fn case(&self, case: Case, place: &Place, target: &mut AnyTarget, keys: &mut Keys) -> anyhow::Result<CaseReport> {
        let progress = Progress::new(u64::from(self.rounds), "rounds", self.outputs.quiet);
        progress.show(0, || case.name());
        let clock = TscClock::new();
        let show = |round| progress.show(u64::from(round), || case.name());
        let mut plain = Plain::new(place, case, self.hugepages)?;
        with_target!(target, target => measure(case, &self.plan(), &mut plain, target, keys, &clock, show))
    }
}

const HUGEPAGE_BYTES: u64 = 2 << 20;

/// Hugepages of 2 MiB that nobody has or was promised.
fn free_hugepages() -> anyhow::Result<u64> {
    let read = |name: &str| -> anyhow::Result<u64> {
        let file = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}");
        let text = std::fs::read_to_string(&file).with_context(|| format!("--hugepages: cannot read {file}"))?;
        text.trim().parse().with_context(|| format!("{file} holds no number"))
    };
    Ok(read("free_hugepages")?.saturating_sub(read("resv_hugepages")?))
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
