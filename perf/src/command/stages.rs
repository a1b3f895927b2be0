//! `kvperf stages`.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::measure::Spread;
use crate::report::{Outputs, Table};
use crate::stages::{Load, NvmeRig, Rig};

/// Commands in a burst.
const BURST: u64 = dataplane::BURST as u64;

/// Options of `kvperf stages`.
#[derive(Args, Debug)]
pub struct Stages {
    /// What to measure
    #[arg(long, value_enum, default_values_t = [Op::Exist, Op::Retrieve, Op::Store])]
    op: Vec<Op>,
    /// Bursts of 32 commands in each round
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    bursts: u64,
    /// Rounds, interleaved over the kinds of commands
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Keys that are there
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    keys: u64,
    /// Count instructions under valgrind's callgrind instead of measuring time
    #[arg(long)]
    callgrind: bool,
    /// Run one measured round and print nothing: what --callgrind runs under valgrind
    #[arg(long, hide = true)]
    bare: bool,
    #[command(flatten)]
    outputs: Outputs,
}

/// The kinds of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Op {
    /// Exist, of keys that are there
    Exist,
    /// Retrieve of 4 KiB, of keys that are there
    Retrieve,
    /// Store of 4 KiB
    Store,
    /// No command of a client's: a read of 4 KiB through the NVMe driver alone, on a controller in software that is not
    /// counted. Only with --callgrind
    NvmeRead,
}

impl Op {
    /// What a client sends; `None` for what is measured without the pipeline.
    fn load(self) -> Option<Load> {
        match self {
            Self::Exist => Some(Load::Exist),
            Self::Retrieve => Some(Load::Retrieve),
            Self::Store => Some(Load::Store),
            Self::NvmeRead => None,
        }
    }
}

/// What one kind of command costs.
#[derive(Serialize)]
struct Cost {
    op: Op,
    /// Nanoseconds on the core, both ways; absent under callgrind.
    #[serde(skip_serializing_if = "Option::is_none")]
    nanos: Option<Spread>,
    /// Nanoseconds a command and stage.
    stages: Vec<StageCost>,
    /// Instructions on the core, both ways; only under callgrind.
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<f64>,
}

#[derive(Serialize)]
struct StageCost {
    stage: &'static str,
    nanos: f64,
}

#[derive(Serialize)]
struct Report {
    command: &'static str,
    costs: Vec<Cost>,
}

impl Stages {
    /// Measures.
    ///
    /// # Errors
    /// If the pipeline cannot be set up, or valgrind is not there.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        if self.bare {
            self.run_bare()?;
            return Ok(ExitCode::SUCCESS);
        }
        self.outputs.prepare()?;
        let costs = if self.callgrind { self.instructions()? } else { self.times()? };
        println!("{}", table(&costs));
        self.outputs.write_json(&Report { command: "stages", costs })?;
        Ok(ExitCode::SUCCESS)
    }

    fn run_bare(&self) -> anyhow::Result<()> {
        for op in &self.op {
            match op.load() {
                Some(load) => _ = self.rig()?.measure(load, self.bursts).map_err(|error| anyhow!(error))?,
                None => NvmeRig::new().and_then(|mut rig| rig.run(self.bursts)).map_err(|error| anyhow!(error))?,
            }
        }
        Ok(())
    }

    fn rig(&self) -> anyhow::Result<Rig> {
        Rig::new(self.keys as usize).map_err(|error| anyhow!(error)).context("cannot set up the pipeline")
    }

    fn times(&self) -> anyhow::Result<Vec<Cost>> {
        let loads: Vec<Load> = self.op.iter().filter_map(|op| op.load()).collect();
        if loads.len() < self.op.len() {
            bail!("nvme-read is counted and not timed: give --callgrind");
        }
        let mut rig = self.rig()?;
        let nanos_a_tick = 1e9 / rig.ticks_per_second() as f64;
        let commands = (self.bursts * BURST) as f64;
        let mut rounds: Vec<(Vec<f64>, Vec<StageCost>)> = self.op.iter().map(|_| (Vec::new(), Vec::new())).collect();
        for _ in 0..self.repeat {
            for (load, (nanos, stages)) in loads.iter().zip(&mut rounds) {
                rig.take_stages();
                let ticks = rig.measure(*load, self.bursts).map_err(|error| anyhow!(error))?;
                nanos.push(ticks as f64 * nanos_a_tick / commands);
                *stages = rig
                    .take_stages()
                    .into_iter()
                    .filter(|(_, counters)| counters.items > 0)
                    .map(|(stage, counters)| StageCost {
                        stage: stage.name(),
                        nanos: counters.ticks as f64 * nanos_a_tick / commands,
                    })
                    .collect();
            }
        }
        let cost = |(op, (nanos, stages)): (&Op, (Vec<f64>, Vec<StageCost>))| Cost {
            op: *op,
            nanos: Some(Spread::of(nanos)),
            stages,
            instructions: None,
        };
        Ok(self.op.iter().zip(rounds).map(cost).collect())
    }

    fn instructions(&self) -> anyhow::Result<Vec<Cost>> {
        let mut costs = Vec::new();
        for op in &self.op {
            // Two lengths, so that what a round costs once cancels out.
            let (short, long) = (200, 600);
            let folder = tempdir()?;
            let few = self.collect(*op, short, folder.path())?;
            let many = self.collect(*op, long, folder.path())?;
            let each = many.saturating_sub(few) as f64 / ((long - short) * BURST) as f64;
            costs.push(Cost { op: *op, nanos: None, stages: Vec::new(), instructions: Some(each) });
        }
        Ok(costs)
    }

    /// Instructions that callgrind counts in the core's turns.
    fn collect(&self, op: Op, bursts: u64, folder: &Path) -> anyhow::Result<u64> {
        let out = folder.join("callgrind.out");
        let name = op.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let status = Command::new("valgrind")
            .args([
                "--tool=callgrind",
                "--collect-atstart=no",
                "--toggle-collect=*measured_turn*",
                // Counting stops while the device works.
                "--toggle-collect=*uncounted_device*",
                "--fair-sched=yes",
                "-q",
            ])
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(std::env::current_exe()?)
            .args(["stages", "--bare", "--keys", "4096", "--op", &name, "--bursts", &bursts.to_string()])
            .output()
            .context("cannot run valgrind; install it (apt-get install valgrind)")?;
        if !status.status.success() {
            bail!("valgrind failed: {}", String::from_utf8_lossy(&status.stderr));
        }
        let text = std::fs::read_to_string(&out).with_context(|| format!("cannot read {}", out.display()))?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
        let total = total.and_then(|figure| figure.split_whitespace().next()).and_then(|figure| figure.parse().ok());
        total.context("callgrind wrote no total: was the measured function inlined?")
    }
}

fn tempdir() -> anyhow::Result<tempfile::TempDir> {
    tempfile::tempdir().context("cannot make a temporary folder")
}

fn table(costs: &[Cost]) -> Table {
    let mut table = Table::new(&["command", "stage", "ns", "noise", "instructions"]);
    for cost in costs {
        let name = cost.op.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let (nanos, noise) = cost.nanos.map_or(("-".into(), "-".into()), |spread| {
            (format!("{:.1}", spread.median), format!("{:.0}%", spread.noise_percent()))
        });
        let instructions = cost.instructions.map_or("-".into(), |count| format!("{count:.0}"));
        table.row(&[&name, "all", &nanos, &noise, &instructions]);
        for stage in &cost.stages {
            table.row(&["", stage.stage, &format!("{:.1}", stage.nanos), "", ""]);
        }
    }
    table
}
