//! The run's report.

use serde::Serialize;

use super::{Measured, Settings};
use crate::measure::{Percentiles, Point};
use crate::target::Op;
use crate::value::Verify;

/// Everything about one run.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Seconds that were measured.
    pub seconds: f64,
    /// Commands that ended.
    pub ops: u64,
    /// Commands a second.
    pub ops_per_s: f64,
    /// Bytes that were not as they must be: must be 0.
    pub wrong_bytes: u64,
    /// Commands that failed.
    pub errors: u64,
    /// Commands of an open loop that never started, because the target was too slow.
    pub not_started: u64,
    /// Commands a second that were meant to start; null in a closed loop.
    pub intended_ops_per_s: Option<f64>,
    /// Commands in flight at the most.
    pub depth: u32,
    /// The mix.
    pub mix: String,
    /// Number of keys.
    pub keys: u64,
    /// The largest value, in bytes.
    pub largest_value_bytes: u32,
    /// How much of each value was checked.
    pub verify: Verify,
    /// Seed.
    pub seed: u64,
    /// The last failure, if any command failed.
    pub last_failure: Option<String>,
    /// Each kind of command that occurred.
    pub per_op: Vec<OpReport>,
    /// Throughput over time.
    pub timeline: Vec<Point>,
}

/// One kind of command.
#[derive(Clone, Debug, Serialize)]
pub struct OpReport {
    /// Which.
    pub op: Op,
    /// Commands that ended.
    pub ops: u64,
    /// Commands a second.
    pub ops_per_s: f64,
    /// Gigabytes (10^9) of values a second.
    pub gb_per_s: f64,
    /// Those that found a value, or stored one; for lookups the keys found.
    pub hits: u64,
    /// Those that found none.
    pub misses: u64,
    /// Those that failed.
    pub errors: u64,
    /// From the start (open loop: the intended start) to the end.
    pub latency: Percentiles,
}

impl RunReport {
    /// The report of one run.
    #[must_use]
    pub fn new(settings: &Settings, of: &Measured) -> Self {
        let seconds = (of.nanos as f64 / 1e9).max(1e-9);
        let measured = Op::ALL.into_iter().zip(&of.per_op).filter(|(_, measured)| measured.ops > 0);
        let per_op = measured.map(|(op, measured)| OpReport {
            op,
            ops: measured.ops,
            ops_per_s: measured.ops as f64 / seconds,
            gb_per_s: measured.bytes as f64 / 1e9 / seconds,
            hits: measured.hits,
            misses: measured.misses,
            errors: measured.errors,
            latency: measured.latency.percentiles(),
        });
        Self {
            seconds,
            ops: of.ops(),
            ops_per_s: of.ops() as f64 / seconds,
            wrong_bytes: of.wrong_bytes,
            errors: of.per_op.iter().map(|op| op.errors).sum(),
            not_started: of.not_started,
            intended_ops_per_s: settings.arrivals.rate(),
            depth: settings.depth,
            mix: settings.mix.to_string(),
            keys: settings.keys,
            largest_value_bytes: settings.sizes.largest(),
            verify: settings.verify,
            seed: settings.seed,
            last_failure: of.failure.clone(),
            per_op: per_op.collect(),
            timeline: of.timeline.points(),
        }
    }
}
