//! The daemon.

use std::process::ExitCode;

use clap::Parser;
use pipelines::daemon::{Exit, Options, StartError, run};

fn main() -> ExitCode {
    let options = Options::parse();
    if options.rpc_docs {
        print!("{}", pipelines::control::rpc::markdown());
        return ExitCode::SUCCESS;
    }
    let assemble = |_: &Options, _| Err(StartError::new(Exit::Failure, "this build has no engine yet"));
    run(options, Box::new(assemble))
}
