//! How much of what comes back is checked.

use clap::Args;

use crate::value::Verify;

/// Options of every command that retrieves values and knows what they must be.
#[derive(Args, Clone, Copy, Debug)]
pub struct Checking {
    /// How much of each value is checked
    #[arg(long, value_enum, default_value_t = Verify::Stamps)]
    verify: Verify,
    /// Check nothing (the same as --verify off)
    #[arg(long)]
    no_verify: bool,
}

impl Checking {
    /// What was asked for.
    #[must_use]
    pub fn verify(&self) -> Verify {
        if self.no_verify { Verify::Off } else { self.verify }
    }
}
