//! `kvperf limit`: what the machine can do, and how close kvplane comes to it.
//!
//! The same pattern of I/O runs by plain io_uring and through a daemon, turn by turn in many short rounds whose order
//! alternates (A B, B A, A B, ...), so that whatever else the machine does, and whatever the disk drifts, meets both
//! alike; after a turn that wrote, the device's cache is flushed outside the measurement. Each round gives a ratio; the
//! median of the ratios is the figure.
//!
//! Both sides move the same bytes from and to the same place. Plain reads read the values that the daemon wrote, where
//! the store's own records say that they lie. Plain writes to the store would destroy it, so they go to an area behind
//! its end: in the same file, written from its beginning to its end before, so that no write has to take blocks of the
//! file system first. Both use memory of the same kind, made by the same function and registered with their ring
//! beforehand. Plain reads are random, as retrieves of random keys are; plain writes go through their area from its
//! beginning to its end and again, as a log does. Neither side checks contents, both read the clock once for every batch
//! of completions.

mod case;
mod extents;
mod place;
mod plain;

pub use case::{Case, CaseReport, Plan, Round, measure};
pub use extents::{LiveValues, live_values};
pub use place::Place;
pub use plain::{Plain, PlainMeasured, Window};
