//! `kvplane`: values by hand and in scripts, calls of kvplaned's control socket, and a look into a store.

mod args;
mod end;
mod key;
mod output;
mod rpc;
mod store;
mod values;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
use end::{End, UsageError};

fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match &args.command {
        Command::Rpc(call) => rpc::run(call),
        Command::Store { command } => store::run(command),
        Command::Values(command) => values::run(command),
    };
    match ended {
        Ok(end) => ExitCode::from(end as u8),
        Err(error) => {
            eprintln!("kvplane: {error:#}");
            let usage = error.is::<UsageError>();
            ExitCode::from(if usage { End::Usage } else { End::Failed } as u8)
        }
    }
}
