//! Figures that the engine hands out, as they go into answers.

use std::collections::BTreeMap;

use serde::Serialize;

/// One core's figures since the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CoreReport {
    /// Number of the processor.
    pub core: u32,
    /// Thread id.
    pub tid: u32,
    /// Ticks spent in turns that found work.
    pub busy: u64,
    /// Ticks spent in turns that found none.
    pub idle: u64,
    /// Turns of the reactor.
    pub turns: u64,
    /// Whether it waits in the kernel for events now.
    pub asleep: bool,
    /// Its pollers.
    pub pollers: Vec<PollerReport>,
    /// Its pipeline stages, in order.
    pub stages: Vec<StageReport>,
    /// Its operations.
    pub operations: Vec<OperationReport>,
    /// Counters of its pipeline: commands forwarded, hints, bytes that the CPU copied.
    pub pipeline: BTreeMap<String, u64>,
    /// Counters of its shards of the store.
    pub store: BTreeMap<String, u64>,
}

/// One poller's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PollerReport {
    /// Its name.
    pub name: String,
    /// How often it ran.
    pub run_count: u64,
    /// How often it found work.
    pub busy_count: u64,
}

/// One stage's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StageReport {
    /// Its name.
    pub name: String,
    /// Bursts that it handled.
    pub calls: u64,
    /// Items that it handled.
    pub items: u64,
    /// Ticks that it took.
    pub ticks: u64,
}

/// One kind of command: counts and the time from taking the command to giving its completion, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OperationReport {
    /// Its name, such as `retrieve`.
    pub name: String,
    /// Commands completed.
    pub count: u64,
    /// Commands completed with an error status.
    pub errors: u64,
    /// Bytes of values moved.
    pub bytes: u64,
    /// Median, in ns.
    pub p50_ns: u64,
    /// 90th percentile, in ns.
    pub p90_ns: u64,
    /// 99th percentile, in ns.
    pub p99_ns: u64,
    /// 99.9th percentile, in ns.
    pub p999_ns: u64,
    /// Longest, in ns.
    pub max_ns: u64,
}

/// One queue pair of a controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueuePairReport {
    /// The session it belongs to.
    pub session: u16,
    /// Queue identifier, 0 for the admin queue.
    pub qid: u16,
    /// The core that serves it.
    pub core: u32,
    /// Entries of its submission queue.
    pub entries: u32,
    /// Commands taken and not yet completed.
    pub outstanding: u32,
    /// `active`, `connecting` or `closing`.
    pub state: String,
}

/// One event of the flight recorder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TraceEvent {
    /// The core that recorded it.
    pub core: u32,
    /// When, in ticks.
    pub ticks: u64,
    /// What happened.
    pub event: String,
    /// The session concerned, if any.
    pub session: Option<u16>,
    /// Two words that depend on the event.
    pub arguments: [u64; 2],
}

/// One store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoreReport {
    /// What it was opened as, such as `file:/var/lib/kvplane/store`.
    pub name: String,
    /// Its identifier, as text.
    pub uuid: String,
    /// Shards.
    pub shards: u32,
    /// Bytes that it can hold.
    pub capacity_bytes: u64,
    /// Bytes that live values take.
    pub used_bytes: u64,
    /// Live values.
    pub blocks: u64,
    /// Bytes of one segment.
    pub segment_bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Segments that hold nothing.
    pub free_segments: u64,
    /// Everything else that it counts.
    pub counters: BTreeMap<String, u64>,
}
