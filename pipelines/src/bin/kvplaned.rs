//! The daemon.

use std::process::ExitCode;

use clap::Parser;
use pipelines::daemon::{Options, assemble, run};

fn main() -> ExitCode {
    let options = Options::parse();
    if options.rpc_docs {
        print!("{}", pipelines::control::rpc::markdown());
        return ExitCode::SUCCESS;
    }
    run(options, Box::new(assemble))
}
