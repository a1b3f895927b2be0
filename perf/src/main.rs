//! `kvperf`: load and measurement for kvplane.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kvperf::command::generate::Generate;
use kvperf::command::limit::{self, Limit};
use kvperf::command::nvme::Nvme;
use kvperf::command::replay::Replay;
use kvperf::command::run::Run;
use kvperf::command::stages::Stages;

/// Loads kvplane and measures it
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a synthetic trace of an LLM service
    Generate(Generate),
    /// Compare kvplane with plain io_uring on the store's own file, turn by turn
    #[command(long_about = limit::ABOUT)]
    Limit(Box<Limit>),
    /// Read at random from an NVMe drive through the driver alone, without kvplaned
    Nvme(Nvme),
    /// Send commands of a chosen mix, closed loop or open loop
    Run(Box<Run>),
    /// Replay a trace: look up each prompt's prefix, load what is there, store the rest
    Replay(Box<Replay>),
    /// Measure what each stage of the pipeline costs on one core
    Stages(Box<Stages>),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Generate(generate) => generate.run().map(|()| ExitCode::SUCCESS),
        Command::Limit(limit) => limit.run().map(|()| ExitCode::SUCCESS),
        Command::Nvme(nvme) => nvme.run().map(|()| ExitCode::SUCCESS),
        Command::Run(run) => run.run(),
        Command::Replay(replay) => replay.run(),
        Command::Stages(stages) => stages.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}
