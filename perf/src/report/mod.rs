//! What people, scripts and eyes get: tables, JSON and plots.

mod plot;
mod progress;
mod table;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

pub use plot::{Series, latency_plot, throughput_plot};
pub use progress::Progress;
pub use table::{Table, binary, bytes, count, micros};

/// Where a command's results go besides the table.
#[derive(Args, Clone, Debug, Default)]
pub struct Outputs {
    /// Write the full report as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write SVG plots into this folder
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
    /// Show no progress bar
    #[arg(long)]
    pub quiet: bool,
}

/// The JSON report of a command that measured several times: the last run's figures as they are, and the spread of all.
#[derive(Serialize)]
pub struct Repeated<'a, R, S> {
    /// The command.
    pub command: &'static str,
    /// What was measured.
    pub target: &'a str,
    /// The last run.
    #[serde(flatten)]
    pub last: &'a R,
    /// Figures over all runs.
    pub spread: S,
    /// Every run.
    pub runs: &'a [R],
}

impl Outputs {
    /// Makes sure, before anything is measured, that the results can be written.
    ///
    /// # Errors
    /// If a file or folder cannot be made.
    pub fn prepare(&self) -> anyhow::Result<()> {
        if let Some(file) = &self.json {
            std::fs::File::create(file).with_context(|| format!("--json: cannot create {}", file.display()))?;
        }
        if let Some(folder) = &self.plots {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("--plots: cannot create the folder {}", folder.display()))?;
        }
        Ok(())
    }

    /// Writes the report, if a file was named.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_json(&self, report: &impl Serialize) -> anyhow::Result<()> {
        let Some(file) = &self.json else { return Ok(()) };
        let mut text = serde_json::to_string_pretty(report)?;
        text.push('\n');
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Where a plot of this name goes, if a folder was named.
    #[must_use]
    pub fn plot(&self, name: &str) -> Option<PathBuf> {
        self.plots.as_ref().map(|folder: &PathBuf| Path::new(folder).join(name))
    }
}
