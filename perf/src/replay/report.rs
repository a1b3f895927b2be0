//! The replay's report.

use serde::Serialize;

use super::{Counts, Measured, Settings};
use crate::measure::{Percentiles, Point};
use crate::trace::Summary;
use crate::value::Verify;

/// Everything about one replay. The first fields are the ones that people and scripts look for.
#[derive(Clone, Debug, Serialize)]
pub struct ReplayReport {
    /// Requests replayed.
    pub requests: u64,
    /// Share of the prompts' blocks that were retrieved.
    pub block_hit_rate: f64,
    /// Bytes that were not as they must be: must be 0.
    pub wrong_bytes: u64,
    /// Gigabytes (10^9) retrieved a second, over the whole replay.
    pub retrieve_gb_per_s: f64,
    /// Gigabytes stored a second, over the whole replay.
    pub store_gb_per_s: f64,
    /// Time to load a prefix, from the arrival to the last hit retrieved: half were quicker. Requests without a hit
    /// do not count.
    pub load_p50_us: f64,
    /// 99 %.
    pub load_p99_us: f64,
    /// 99.9 %.
    pub load_p999_us: f64,
    /// Bytes written to flash for each byte retrieved, as the daemon counts them; null without `--rpc-socket`.
    pub flash_bytes_written_per_byte_served: Option<f64>,
    /// Seconds that the replay took.
    pub seconds: f64,
    /// Requests a second.
    pub requests_per_s: f64,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// How requests arrived.
    pub speed: String,
    /// Commands in flight at the most.
    pub depth: u32,
    /// Requests under way at the most.
    pub concurrency: u32,
    /// How much of each value was checked.
    pub verify: Verify,
    /// Requests with at least one hit.
    pub requests_with_hit: u64,
    /// All counts.
    pub counts: Counts,
    /// The last failure, if any command failed.
    pub last_failure: Option<String>,
    /// Time to load a prefix.
    pub load: Percentiles,
    /// Time to look up a prefix.
    pub lookup: Percentiles,
    /// Of single retrieves.
    pub retrieve: Percentiles,
    /// Of single stores.
    pub store: Percentiles,
    /// The trace.
    pub trace: Summary,
    /// Throughput over time.
    pub timeline: Vec<Point>,
}

impl ReplayReport {
    /// The report of one replay. `flash_written` are the bytes written to flash meanwhile, if known.
    #[must_use]
    pub fn new(settings: &Settings, trace: Summary, of: &Measured, nanos: u64, flash_written: Option<u64>) -> Self {
        let seconds = (nanos as f64 / 1e9).max(1e-9);
        let counts = of.counts;
        let load = of.load.percentiles();
        let served = counts.retrieved_bytes;
        Self {
            requests: counts.requests,
            block_hit_rate: counts.hit_blocks as f64 / (counts.blocks as f64).max(1.0),
            wrong_bytes: counts.wrong_bytes,
            retrieve_gb_per_s: served as f64 / 1e9 / seconds,
            store_gb_per_s: counts.stored_bytes as f64 / 1e9 / seconds,
            load_p50_us: load.p50_us,
            load_p99_us: load.p99_us,
            load_p999_us: load.p999_us,
            flash_bytes_written_per_byte_served: flash_written
                .filter(|_| served > 0)
                .map(|written| written as f64 / served as f64),
            seconds,
            requests_per_s: counts.requests as f64 / seconds,
            block_bytes: settings.block_bytes,
            speed: settings.speed.to_string(),
            depth: settings.depth,
            concurrency: settings.concurrency,
            verify: settings.verify,
            requests_with_hit: of.load.count(),
            counts,
            last_failure: of.failure.clone(),
            load,
            lookup: of.lookup.percentiles(),
            retrieve: of.retrieve.percentiles(),
            store: of.store.percentiles(),
            trace,
            timeline: of.timeline.points(),
        }
    }
}
