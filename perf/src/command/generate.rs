//! `kvperf generate`.

use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::report::{Table, count};
use crate::trace::{self, GenerateOptions, Summary};

/// Options of `kvperf generate`.
#[derive(Args, Debug)]
pub struct Generate {
    #[command(flatten)]
    options: GenerateOptions,
    /// Write the trace to this file; standard output otherwise
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Generate {
    /// Makes the trace.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn run(&self) -> anyhow::Result<()> {
        let requests = trace::generate(&self.options);
        let Some(file) = &self.out else {
            trace::write(&requests, BufWriter::new(std::io::stdout().lock()))?;
            return Ok(());
        };
        let out = std::fs::File::create(file).with_context(|| format!("cannot create {}", file.display()))?;
        trace::write(&requests, BufWriter::new(out)).with_context(|| format!("cannot write {}", file.display()))?;
        println!("{}\n{}", file.display(), describe(&Summary::of(&requests)));
        Ok(())
    }
}

/// The figures of a trace as a table.
#[must_use]
pub fn describe(summary: &Summary) -> Table {
    let mut table = Table::new(&["trace", ""]);
    table.row(&["requests", &count(summary.requests)]);
    table.row(&["arrivals span", &format!("{:.1} s", summary.duration_ms as f64 / 1000.0)]);
    table.row(&["busiest second", &format!("{} requests", summary.peak_requests_per_s)]);
    table.row(&["blocks of 512 tokens", &count(summary.blocks)]);
    table.row(&["unique blocks", &count(summary.unique_blocks)]);
    table.row(&["ideal block hit rate", &format!("{:.1} %", summary.ideal_block_hit_rate * 100.0)]);
    table
}
