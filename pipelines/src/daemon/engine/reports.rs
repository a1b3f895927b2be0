//! From what the cores tell of themselves to what the control plane answers.

use std::collections::BTreeMap;

use dataplane::core::{Clock, ReactorCounters};
use dataplane::fabric::QueuePairInfo;
use serde_json::Value;

use super::device::{QueueSource, StoreKind};
use super::nvme::Controllers;
use super::volume::{Meters, Volume};
use crate::accounting::{OperationCounters, TraceEntry};
use crate::classify::OperationKind;
use crate::control::report::{
    BlockDeviceReport, CoreReport, NvmeControllerReport, OperationReport, PollerReport, QueuePairReport, StageReport,
    StoreReport, TraceEvent,
};
use crate::core_pipeline::Snapshot;
use crate::store::ShardStats;

/// A reactor as the control plane sees it.
pub(super) struct ReactorFacts {
    pub(super) cpu: u32,
    pub(super) tid: i32,
    pub(super) counters: ReactorCounters,
}

pub(super) fn core(snapshot: &Snapshot, reactor: &ReactorFacts, clock: &impl Clock) -> CoreReport {
    let ReactorFacts { cpu, tid, counters } = reactor;
    CoreReport {
        core: *cpu,
        tid: *tid as u32,
        busy: counters.busy_ticks,
        idle: counters.idle_ticks,
        turns: counters.turns,
        asleep: false,
        pollers: vec![PollerReport {
            name: "core_pipeline".into(),
            run_count: counters.turns,
            busy_count: counters.busy_turns,
        }],
        stages: snapshot
            .stages
            .iter()
            .map(|(stage, counters)| StageReport {
                name: stage.name().into(),
                calls: counters.calls,
                items: counters.items,
                ticks: counters.ticks,
            })
            .collect(),
        operations: snapshot.operations.iter().map(|(kind, counters)| operation(kind, counters, clock)).collect(),
        pipeline: pipeline_counters(snapshot),
        store: store_counters(snapshot),
    }
}

fn operation(kind: OperationKind, counters: &OperationCounters, clock: &impl Clock) -> OperationReport {
    let at = |quantile| clock.nanos_of_ticks(counters.latency.value_at_quantile(quantile));
    let some = !counters.latency.is_empty();
    OperationReport {
        name: kind.name().into(),
        count: counters.count,
        errors: counters.errors,
        bytes: counters.bytes,
        p50_ns: if some { at(0.5) } else { 0 },
        p90_ns: if some { at(0.9) } else { 0 },
        p99_ns: if some { at(0.99) } else { 0 },
        p999_ns: if some { at(0.999) } else { 0 },
        max_ns: if some { clock.nanos_of_ticks(counters.latency.max()) } else { 0 },
    }
}

/// What a core counts beside its stages.
fn pipeline_counters(snapshot: &Snapshot) -> BTreeMap<String, u64> {
    let own = [
        ("forwarded_commands", snapshot.forwarded),
        ("hints", snapshot.hinted),
        ("staged_bytes", snapshot.staged_bytes),
        ("copied_bytes", snapshot.copied_bytes),
        ("lost_completions", dataplane::fabric::lost_completions()),
    ];
    own.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The counters of a core's shards, added up.
fn store_counters(snapshot: &Snapshot) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (_, stats) in &snapshot.shards {
        add(&mut sums, stats);
    }
    sums
}

/// Adds a shard's counters to the sums, by the names they have in the structure.
fn add(sums: &mut BTreeMap<String, u64>, stats: &ShardStats) {
    let Ok(Value::Object(fields)) = serde_json::to_value(stats) else { return };
    for (name, value) in fields {
        match value {
            Value::Object(inner) => {
                for (inner_name, value) in inner {
                    *sums.entry(format!("{name}_{inner_name}")).or_default() += count_of(&value);
                }
            }
            value => *sums.entry(name).or_default() += count_of(&value),
        }
    }
}

fn count_of(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| u64::from(value.as_bool().unwrap_or(false)))
}

/// What stays the same of a store.
#[derive(Clone, Debug)]
pub(super) struct StoreFacts {
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) shards: u32,
    pub(super) segment_bytes: u64,
    pub(super) segments: u64,
}

pub(super) fn store(facts: &StoreFacts, snapshots: &[Snapshot]) -> StoreReport {
    let mut counters = BTreeMap::new();
    for (_, stats) in snapshots.iter().flat_map(|snapshot| &snapshot.shards) {
        add(&mut counters, stats);
    }
    let get = |name: &str| counters.get(name).copied().unwrap_or(0);
    StoreReport {
        name: facts.name.clone(),
        uuid: facts.uuid.clone(),
        shards: facts.shards,
        capacity_bytes: get("capacity_bytes"),
        used_bytes: get("live_bytes"),
        blocks: get("blocks"),
        segment_bytes: facts.segment_bytes,
        segments: facts.segments,
        free_segments: get("segments_free"),
        counters,
    }
}

pub(super) fn queue_pair(info: &QueuePairInfo, cpu: u32) -> QueuePairReport {
    QueuePairReport {
        session: info.session.0,
        qid: info.qid,
        core: cpu,
        entries: info.depth,
        outstanding: info.outstanding,
        commands: info.commands,
        completions: info.completions,
        state: "enabled".into(),
    }
}

pub(super) fn trace(entry: &TraceEntry, cpu: u32) -> TraceEvent {
    TraceEvent {
        core: cpu,
        ticks: entry.at.0,
        event: format!("{}: {}", entry.kind.name(), entry.status),
        session: Some(entry.session.0),
        arguments: [u64::from(entry.bytes), u64::from(entry.ticks)],
    }
}

/// What stays the same of a device under a store.
#[derive(Clone, Debug)]
pub(super) struct DeviceFacts {
    name: String,
    product_name: &'static str,
    block_size: u32,
    num_blocks: u64,
    flush: bool,
    unmap: bool,
    /// The controller's name, the namespace's number and its identifier.
    nvme: Option<(String, u32, Option<String>)>,
    meters: Meters,
}

impl DeviceFacts {
    pub(super) fn of<S: QueueSource>(kind: &StoreKind, volume: &Volume<S>, controllers: &Controllers) -> Vec<Self> {
        let namespaces = controllers.namespaces();
        let facts = |(opened, geometry): (&super::volume::Opened<S>, &dataplane::nvme::Geometry)| {
            let used = namespaces.iter().find(|(_, used)| used.meters.is(&opened.meters));
            Self {
                // SPDK's names of namespaces.
                name: used.map_or_else(|| opened.name.clone(), |(name, used)| format!("{name}n{}", used.nsid)),
                product_name: match kind {
                    StoreKind::File { .. } => "URING bdev",
                    StoreKind::Devices(_) => "NVMe disk",
                    StoreKind::Ram { .. } => "Malloc disk",
                    StoreKind::Null { .. } => "Null disk",
                },
                block_size: geometry.lba_bytes,
                num_blocks: geometry.blocks,
                flush: geometry.volatile_cache,
                unmap: geometry.deallocate,
                nvme: used.map(|(name, used)| (name.clone(), used.nsid, used.id.clone())),
                meters: opened.meters.clone(),
            }
        };
        volume.shapes().map(facts).collect()
    }
}

pub(super) fn block_device(facts: &DeviceFacts, controllers: &[NvmeControllerReport]) -> BlockDeviceReport {
    let controller = facts.nvme.as_ref().and_then(|(name, ..)| controllers.iter().find(|it| it.name == *name));
    let figures = facts.meters.figures();
    BlockDeviceReport {
        name: facts.name.clone(),
        product_name: facts.product_name.into(),
        block_size: facts.block_size,
        num_blocks: facts.num_blocks,
        flush: facts.flush,
        unmap: facts.unmap,
        nvme: controller.cloned(),
        nsid: facts.nvme.as_ref().map(|(_, nsid, _)| *nsid),
        id: facts.nvme.as_ref().and_then(|(.., id)| id.clone()),
        num_read_ops: figures.reads,
        bytes_read: figures.bytes_read,
        num_write_ops: figures.writes,
        bytes_written: figures.bytes_written,
        num_unmap_ops: figures.deallocations,
        bytes_unmapped: figures.bytes_deallocated,
        num_flush_ops: figures.flushes,
        errors: figures.errors,
    }
}
