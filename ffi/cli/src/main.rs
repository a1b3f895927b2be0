//! `kvplane`: values by hand and in scripts, and calls of kvplaned's control socket.

mod args;
mod key;
mod rpc;
mod values;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};

/// What the process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Done.
    Done = 0,
    /// A key has no value.
    Miss = 1,
    /// The command line is wrong. clap ends with this code too.
    Usage = 2,
    /// Anything else went wrong.
    Failed = 3,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match &args.command {
        Command::Rpc(call) => rpc::run(call),
        Command::Values(command) => values::run(command),
    };
    match ended {
        Ok(end) => ExitCode::from(end as u8),
        Err(error) => {
            eprintln!("kvplane: {error:#}");
            let usage = error.is::<rpc::BadParameters>();
            ExitCode::from(if usage { End::Usage } else { End::Failed } as u8)
        }
    }
}
