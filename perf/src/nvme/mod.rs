//! Random reads through one block queue, in a closed loop: what the NVMe driver does without a store above it.

mod random_reads;

pub use random_reads::{Pattern, RandomReads, ReadMeasured};
