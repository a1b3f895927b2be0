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
    /// Commands taken so far.
    pub commands: u64,
    /// Completions given so far.
    pub completions: u64,
    /// `enabled`, `connecting` or `deactivating`.
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

/// A device under a store. Counters are since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockDeviceReport {
    /// Its name, such as `Nvme0n1`.
    pub name: String,
    /// What kind it is.
    pub product_name: String,
    /// Bytes in a block.
    pub block_size: u32,
    /// Blocks.
    pub num_blocks: u64,
    /// Whether it has a cache that a flush empties.
    pub flush: bool,
    /// Whether it takes deallocation.
    pub unmap: bool,
    /// Its controller, if the daemon drives it itself.
    pub nvme: Option<NvmeControllerReport>,
    /// Number of the namespace.
    pub nsid: Option<u32>,
    /// Identifier of the namespace (NGUID or EUI-64), in hexadecimal.
    pub id: Option<String>,
    /// Reads.
    pub num_read_ops: u64,
    /// Bytes that they asked for.
    pub bytes_read: u64,
    /// Writes.
    pub num_write_ops: u64,
    /// Bytes that they brought.
    pub bytes_written: u64,
    /// Deallocations.
    pub num_unmap_ops: u64,
    /// Bytes that they named.
    pub bytes_unmapped: u64,
    /// Flushes.
    pub num_flush_ops: u64,
    /// Commands that failed.
    pub errors: u64,
}

/// An NVMe controller that the daemon drives itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NvmeControllerReport {
    /// Its name, such as `Nvme0`.
    pub name: String,
    /// `enabled`, `resetting`, `failed` or, once it was pulled, `deleting`.
    pub state: String,
    /// `PCIe` or `VFIOUSER`.
    pub trtype: String,
    /// Address on the bus, or folder of the socket.
    pub traddr: String,
    /// Controller identifier.
    pub cntlid: u16,
    /// PCI vendor identifier.
    pub vendor: u16,
    /// Model number.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Firmware revision.
    pub firmware: String,
    /// NQN of the subsystem; empty if it does not say.
    pub subnqn: String,
    /// Version of the specification.
    pub version: String,
    /// Times that it was reset.
    pub resets: u64,
    /// Commands that were aborted because they took too long.
    pub aborts: u64,
    /// Asynchronous events that it sent.
    pub events: u64,
    /// Completions that named no outstanding command.
    pub stray_completions: u64,
    /// I/O queues in use.
    pub queues: u16,
    /// Regions of memory that it can reach.
    pub mappings: u64,
}

/// SMART / Health Information of a controller (NVMe base specification, log page 02h).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NvmeHealthReport {
    /// Model number.
    pub model_number: String,
    /// Serial number.
    pub serial_number: String,
    /// Firmware revision.
    pub firmware_revision: String,
    /// Address on the bus, or folder of the socket.
    pub traddr: String,
    /// Critical warning bits: 0 spare below threshold, 1 temperature, 2 reliability degraded, 3 read only, 4 volatile
    /// memory backup failed, 5 persistent memory unreliable.
    pub critical_warning: u8,
    /// Composite temperature.
    pub temperature_celsius: i64,
    /// Spare left, in percent.
    pub available_spare_percentage: u8,
    /// The spare below which there is a warning, in percent.
    pub available_spare_threshold_percentage: u8,
    /// Estimate of the endurance used, in percent; may go beyond 100.
    pub percentage_used: u8,
    /// Units of 512,000 bytes read.
    pub data_units_read: u64,
    /// Units of 512,000 bytes written.
    pub data_units_written: u64,
    /// Read commands.
    pub host_read_commands: u64,
    /// Write commands.
    pub host_write_commands: u64,
    /// Minutes busy.
    pub controller_busy_time: u64,
    /// Power cycles.
    pub power_cycles: u64,
    /// Hours powered on.
    pub power_on_hours: u64,
    /// Power losses without a shutdown.
    pub unsafe_shutdowns: u64,
    /// Media and data integrity errors.
    pub media_errors: u64,
    /// Entries ever written to the error log.
    pub num_err_log_entries: u64,
    /// Minutes above the warning temperature.
    pub warning_temperature_time_minutes: u32,
    /// Minutes above the critical temperature.
    pub critical_composite_temperature_time_minutes: u32,
}

/// One entry of a controller's error log (NVMe base specification, log page 01h).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NvmeErrorReport {
    /// Number of the error over the controller's life.
    pub count: u64,
    /// Submission queue of the command.
    pub sqid: u16,
    /// Command identifier.
    pub cid: u16,
    /// How the command ended.
    pub status: String,
    /// First logical block that failed.
    pub lba: u64,
    /// Namespace.
    pub nsid: u32,
}

/// An asynchronous event of a controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NvmeEventReport {
    /// Type: 0 error, 1 health, 2 notice, 6 I/O command set, 7 vendor.
    pub kind: u8,
    /// What exactly, within the type.
    pub information: u8,
    /// The log page that tells more.
    pub log_page: u8,
}
