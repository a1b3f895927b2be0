//! Runs the simulator over many seeds.

use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

/// Simulates kvplane under faults, one run a seed, and stops at the first violation.
///
/// A violation names its seed; `--first SEED --seeds 1` repeats it exactly.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Commands in each run.
    #[arg(long, default_value_t = 3000)]
    commands: u64,
    /// Succeed only if a violation is found: for a build with a known bug (feature `canary`).
    #[arg(long)]
    expect_failure: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {eta} left").expect("a constant template");
    let bar = ProgressBar::new(options.seeds).with_style(style);
    let mut total = simulator::Summary::default();
    let mut violation = None;
    for seed in options.first..options.first + options.seeds {
        match simulator::run(seed, options.commands) {
            Ok(summary) => {
                total.answers += summary.answers;
                total.turns += summary.turns;
                total.power_cuts += summary.power_cuts;
                total.crashes += summary.crashes;
                total.corrupt += summary.corrupt;
                total.evicted += summary.evicted;
                total.by_tcp += summary.by_tcp;
                total.cuts += summary.cuts;
                total.lent += summary.lent;
                total.recalled += summary.recalled;
                total.refused += summary.refused;
                total.purged += summary.purged;
            }
            Err(found) => {
                violation = Some(found);
                break;
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    println!(
        "{} answers checked in {} turns, {} of them over TCP, {} values out of the disk's own memory ({} copied after all); {} power cuts, {} client \
         crashes, {} streams cut, {} commands refused after a namespace was taken away, {} namespaces purged, {} segments evicted, \
         {} damaged values told of",
        total.answers,
        total.turns,
        total.by_tcp,
        total.lent,
        total.recalled,
        total.power_cuts,
        total.crashes,
        total.cuts,
        total.refused,
        total.purged,
        total.evicted,
        total.corrupt
    );
    match (violation, options.expect_failure) {
        (None, false) => {
            println!("no violation in {} seeds", options.seeds);
            ExitCode::SUCCESS
        }
        (Some(found), true) => {
            println!("the known bug was caught: {}", found.0.lines().next().unwrap_or_default());
            ExitCode::SUCCESS
        }
        (None, true) => {
            eprintln!("the known bug was not caught in {} seeds: the simulator is not to be trusted", options.seeds);
            ExitCode::FAILURE
        }
        (Some(found), false) => {
            eprintln!("{}", found.0);
            ExitCode::FAILURE
        }
    }
}
