//! `kvperf replay`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::checking::Checking;
use super::connection::{AnyTarget, Connection};
use crate::measure::{Latency, Spread};
use crate::replay::{Measured, ReplayReport, Settings, Speed, replay};
use crate::report::{self, Outputs, Progress, Repeated, Series, Table, binary, bytes, count, micros};
use crate::trace::{self, Request, Summary};
use crate::value::Verify;
use crate::{rpc, size, with_target};
use dataplane::core::TscClock;

/// Options of `kvperf replay`.
#[derive(Args, Debug)]
pub struct Replay {
    /// Trace in Mooncake's JSONL format
    trace: PathBuf,
    #[command(flatten)]
    connection: Connection,
    /// How fast requests arrive: real, a factor such as 2x, or max
    #[arg(long, default_value = "max")]
    speed: Speed,
    /// Size of one block's value
    #[arg(long, default_value = "64K", value_parser = size::parse_value_bytes)]
    block_bytes: u32,
    /// Goes into every key: another number begins with none of its blocks present
    #[arg(long, default_value_t = 0, value_name = "N")]
    salt: u32,
    /// Replay only this many requests from the beginning
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Commands in flight at the most
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    depth: u32,
    /// Requests under way at the most; further ones wait, and their waiting counts
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    concurrency: u32,
    #[command(flatten)]
    checking: Checking,
    /// kvplaned's RPC socket, to report the bytes written to flash
    #[arg(long, value_name = "SOCKET")]
    rpc_socket: Option<PathBuf>,
    /// Replay so many times, each with a salt of its own, and report the median and the spread
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    #[command(flatten)]
    outputs: Outputs,
}

#[derive(Serialize)]
struct Spreads {
    block_hit_rate: Spread,
    retrieve_gb_per_s: Spread,
    store_gb_per_s: Spread,
    load_p50_us: Spread,
    load_p99_us: Spread,
    load_p999_us: Spread,
}

impl Replay {
    /// Replays the trace. The exit code is 1 if a byte was wrong.
    ///
    /// # Errors
    /// If the trace or the target cannot be used, or a result cannot be written.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        self.outputs.prepare()?;
        let requests = trace::read(&self.trace, self.limit.map_or(usize::MAX, |limit| limit as usize))?;
        let summary = Summary::of(&requests);
        let settings = Settings {
            speed: self.speed,
            block_bytes: self.block_bytes,
            salt: self.salt,
            depth: self.depth,
            concurrency: self.concurrency,
            verify: self.checking.verify(),
        };
        let mut target = self.connection.open(self.depth)?;
        let mut runs = Vec::new();
        let mut last = Measured::default();
        for round in 0..self.repeat {
            let settings = Settings { salt: self.salt + round, ..settings };
            let (report, measured) = self.once(&mut target, &requests, summary, settings)?;
            runs.push(report);
            last = measured;
        }
        let spread = Spreads::of(&runs);
        let report = &runs[runs.len() - 1];
        println!("{}", self.table(report, &spread));
        if let Some(failure) = &report.last_failure {
            eprintln!("{} commands failed; the last one: {failure}", report.counts.errors);
        }
        self.plots(&last, report)?;
        let target = &self.connection.connect;
        self.outputs.write_json(&Repeated { command: "replay", target, last: report, spread, runs: &runs })?;
        let wrong: u64 = runs.iter().map(|run| run.wrong_bytes).sum();
        if wrong > 0 {
            eprintln!("error: {wrong} bytes were wrong");
        }
        Ok(ExitCode::from(u8::from(wrong > 0)))
    }

    fn once(
        &self,
        target: &mut AnyTarget,
        requests: &[Request],
        summary: Summary,
        settings: Settings,
    ) -> anyhow::Result<(ReplayReport, Measured)> {
        let written = || self.rpc_socket.as_deref().map(rpc::flash_bytes_written).transpose();
        let before = written()?;
        let progress = Progress::new(requests.len() as u64, "requests", self.outputs.quiet);
        let show = |so_far: &Measured| {
            progress.show(so_far.counts.requests, || {
                let hits = so_far.counts.hit_blocks as f64 / so_far.counts.blocks.max(1) as f64 * 100.0;
                format!("hits {hits:.1} %, wrong bytes {}", so_far.counts.wrong_bytes)
            });
        };
        let clock = TscClock::new();
        let (measured, nanos) = with_target!(target, target => replay(target, &clock, requests, settings, show))?;
        drop(progress);
        let flash = written()?.zip(before).map(|(after, before)| after.saturating_sub(before));
        Ok((ReplayReport::new(&settings, summary, &measured, nanos, flash), measured))
    }

    fn table(&self, last: &ReplayReport, spread: &Spreads) -> Table {
        let mut table = Table::new(&["replay", &self.trace.display().to_string()]);
        let noise = |spread: &Spread| match spread.runs {
            0 | 1 => String::new(),
            _ => format!("  ±{:.1} %", spread.noise_percent()),
        };
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        table.row(&["requests", &count(last.requests)]);
        table.row(&["time", &format!("{:.2} s", last.seconds)]);
        let hits = format!("{} (ideal {})", percent(last.block_hit_rate), percent(last.trace.ideal_block_hit_rate));
        table.row(&["block hit rate", &hits]);
        let rate = |bytes, spread: &Spread| format!("{bytes}, {:.3} GB/s{}", spread.median, noise(spread));
        table.row(&["retrieved", &rate(bytes(last.counts.retrieved_bytes), &spread.retrieve_gb_per_s)]);
        table.row(&["stored", &rate(bytes(last.counts.stored_bytes), &spread.store_gb_per_s)]);
        for (name, spread) in [
            ("time to load a prefix, p50", &spread.load_p50_us),
            ("p99", &spread.load_p99_us),
            ("p99.9", &spread.load_p999_us),
        ] {
            table.row(&[name, &format!("{}{}", micros(spread.median), noise(spread))]);
        }
        let flash = last.flash_bytes_written_per_byte_served;
        table.row(&["flash written per byte served", &flash.map_or("not known".to_owned(), |f| format!("{f:.3}"))]);
        table.row(&["evicted before retrieved", &format!("{} blocks", count(last.counts.gone))]);
        table.row(&["failed commands", &count(last.counts.errors)]);
        let checked = match last.verify {
            Verify::Off => "not checked".to_owned(),
            Verify::Stamps => format!("{} (both ends of every 4 KiB checked)", count(last.wrong_bytes)),
            Verify::Full => format!("{} (every byte checked)", count(last.wrong_bytes)),
        };
        table.row(&["wrong bytes", &checked]);
        table
    }

    fn plots(&self, measured: &Measured, last: &ReplayReport) -> anyhow::Result<()> {
        if let Some(file) = self.outputs.plot("replay-latency.svg") {
            let lines: [(&str, &Latency); 4] = [
                ("load a prefix", &measured.load),
                ("look up a prefix", &measured.lookup),
                ("retrieve a block", &measured.retrieve),
                ("store a block", &measured.store),
            ];
            let lines = lines.map(|(name, latency)| Series::latency(name, latency));
            let size = binary(u64::from(last.block_bytes));
            let title = format!("Replay: latency, blocks of {size}, speed {}", last.speed);
            report::latency_plot(&file, &title, &lines)?;
        }
        if let Some(file) = self.outputs.plot("replay-throughput.svg") {
            let lines = [
                Series::over_time("retrieved", &last.timeline, |point| point.read_gb_per_s),
                Series::over_time("stored", &last.timeline, |point| point.written_gb_per_s),
            ];
            report::throughput_plot(&file, "Replay: throughput over time", "GB/s", &lines)?;
        }
        Ok(())
    }
}

impl Spreads {
    fn of(runs: &[ReplayReport]) -> Self {
        let of = |figure: fn(&ReplayReport) -> f64| Spread::of(runs.iter().map(figure));
        Self {
            block_hit_rate: of(|run| run.block_hit_rate),
            retrieve_gb_per_s: of(|run| run.retrieve_gb_per_s),
            store_gb_per_s: of(|run| run.store_gb_per_s),
            load_p50_us: of(|run| run.load_p50_us),
            load_p99_us: of(|run| run.load_p99_us),
            load_p999_us: of(|run| run.load_p999_us),
        }
    }
}
