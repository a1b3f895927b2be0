//! What crosses from core to core, and from the control threads to a core.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use dataplane::fabric::{Fabric, QueuePairInfo};

use super::lists::ListJob;
use crate::accounting::{Operations, Stage, StageCounters, TraceEntry};
use crate::classify::Ended;
use crate::policy::{Admitted, PolicyTable};
use crate::store::ShardStats;

/// A message to a core.
pub enum Mail<F: Fabric> {
    /// A command whose key the receiver owns.
    Forward(Admitted),
    /// A command of the receiver's client that its owner has ended.
    Ended(Ended),
    /// A list on its way.
    List(Box<ListJob<F::Data>>),
    /// A lease ended; the receiver may have blocks under it.
    Unlease(u32),
    /// The carrier's control side wants something.
    Fabric(F::Command),
    /// A new policy.
    Policy(Arc<PolicyTable>),
    /// A namespace was deleted.
    Purge(u32),
    /// Fill the snapshot and send it back.
    Snapshot(Box<Snapshot>, SyncSender<Box<Snapshot>>),
    /// Set the counters to zero.
    ResetCounters,
}

/// What a core tells of itself. The asker allocates it, so that the core need not.
#[derive(Debug)]
pub struct Snapshot {
    /// The core.
    pub core: u16,
    /// Whether all its shards have recovered.
    pub ready: bool,
    /// Counters of the stages.
    pub stages: Vec<(Stage, StageCounters)>,
    /// Outcomes and latencies by operation.
    pub operations: Operations,
    /// The shards it owns: number and counters.
    pub shards: Vec<(u32, ShardStats)>,
    /// Bytes held by the namespace that was asked for, on this core.
    pub namespace_used: u64,
    /// Whether that namespace is still being purged.
    pub purging: bool,
    /// The queue pairs it serves.
    pub queue_pairs: Vec<QueuePairInfo>,
    /// The flight recorder, if it was asked for.
    pub trace: Vec<TraceEntry>,
    /// Commands forwarded to other cores.
    pub forwarded: u64,
    /// Hints accepted.
    pub hinted: u64,
    /// Bytes of values that the CPU copied because they were not aligned.
    pub staged_bytes: u64,
    /// Bytes that the CPU copied between this process and clients, lists of keys included.
    pub copied_bytes: u64,
    pub(super) wants: Wants,
}

/// What to fill in besides the counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wants {
    /// The flight recorder.
    pub trace: bool,
    /// The bytes held by this namespace.
    pub namespace: Option<u32>,
}

impl Snapshot {
    /// A blank with room for everything.
    #[must_use]
    pub fn blank(wants: Wants) -> Box<Self> {
        Box::new(Self {
            core: 0,
            ready: false,
            stages: Vec::with_capacity(Stage::ALL.len()),
            operations: Operations::new(),
            shards: Vec::with_capacity(256),
            namespace_used: 0,
            purging: false,
            queue_pairs: Vec::with_capacity(1024),
            trace: Vec::with_capacity(if wants.trace { crate::accounting::FlightRecorder::ENTRIES } else { 0 }),
            forwarded: 0,
            hinted: 0,
            staged_bytes: 0,
            copied_bytes: 0,
            wants,
        })
    }
}
