//! Commands about a store's file, without the daemon.

mod print;
mod read;

use std::path::PathBuf;

use clap::Subcommand;

use crate::end::End;
use crate::output;
use print::{Selection, summary, to_json};

/// What `kvplane store inspect --help` begins with.
const ABOUT: &str = "\
Look at a store's file or block device without the daemon: what it is, its segments and their records, and whether \
all of it is whole. Nothing is changed, and values are not read, only the metadata about them.

The daemon must not run on the file meanwhile; a running one answers kvplane rpc store_get_stats instead.

Exit codes: 0 the store is sound, 1 it has problems (they are listed), 2 the command line is wrong, 3 it cannot be \
read, is not a store of kvplane or is one of another version.";

/// What is explained below the options.
const TERMS: &str = "\
Segments: used (holds records), free (held some and was emptied), blank (never used), damaged (lost both headers: not served).
Dead records are superseded or purged puts; marks are those that name no value.
Records: live (the key has this value), superseded (stored again or deleted later), purged (the namespace was \
emptied later), tombstone (the key was deleted), purge (the namespace was emptied), clean (an orderly shutdown).
Namespaces are numbers here, the low 28 bits of the CRC-32C of the name, for a store does not keep names.

Examples:
  kvplane store inspect /data/kvplane                  summary, and segments in use
  kvplane store inspect /data/kvplane --records        all records, then the summary
  kvplane store inspect /data/kvplane --json | jq .live_bytes";

/// Commands about a store's file.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Show what a store holds, and whether it is sound. Needs no daemon and changes nothing.
    #[command(long_about = ABOUT, after_help = TERMS)]
    Inspect(InspectArgs),
}

/// The line of an inspection.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// The store: the file or block device that kvplaned was given as --store file:FILE.
    pub file: PathBuf,
    /// Print one JSON object, with every segment.
    #[arg(long)]
    pub json: bool,
    /// Show every record too, segment by segment.
    #[arg(long)]
    pub records: bool,
    /// List every segment, not only damaged and recently used ones.
    #[arg(long)]
    pub all: bool,
    /// Look at one shard only, counted from 0.
    #[arg(long, value_name = "N")]
    pub shard: Option<u32>,
}

/// Carries a command out.
pub fn run(command: &StoreCommand) -> anyhow::Result<End> {
    let StoreCommand::Inspect(args) = command;
    let mut records = Vec::new();
    let report = read::report(&args.file, args.shard, |record| {
        if args.records {
            records.push(record);
        }
    })?;
    output::print(|out| {
        if args.json {
            let records = args.records.then_some(&records[..]);
            return writeln!(out, "{:#}", to_json(&args.file, &report, records));
        }
        if args.records {
            print::records(out, &records)?;
        }
        let which = if args.all { Selection::All } else { Selection::Interesting };
        out.write_all(summary(&args.file, &report, which).as_bytes())
    })?;
    Ok(if report.problem_count == 0 { End::Done } else { End::Miss })
}
