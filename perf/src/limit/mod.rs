//! `kvperf limit`: what the machine can do, and how close kvplane comes to it.
//!
//! The same pattern of I/O runs by plain io_uring on a file and through a daemon, turn by turn in several rounds, so that
//! whatever else the machine does meets both. Each round gives a ratio; the median of the ratios is the figure.
//!
//! Plain reads are random, as retrieves of random keys are; plain writes go through the file from its beginning to its
//! end, as a log does. Neither side checks contents, both read the clock once for every batch of completions.

mod case;
mod raw;

pub use case::{Case, CaseReport, Plan, Round, measure};
pub use raw::{RawFile, RawMeasured, RawPattern};
