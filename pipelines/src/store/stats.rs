//! What a shard counts.

use serde::Serialize;

/// What recovery found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RecoveryStats {
    /// Whether the last shutdown was a clean one.
    pub clean: bool,
    /// Bytes read from the device.
    pub bytes_read: u64,
    /// Pages that were taken.
    pub pages: u64,
    /// Pages that carried our mark in the right place but were damaged, or could not be read.
    pub damaged_pages: u64,
    /// Records that were looked at, pages' drafts included.
    pub records: u64,
    /// Records whose contents made no sense.
    pub damaged_records: u64,
    /// Segments that held records.
    pub segments: u64,
    /// Segments set aside because their headers are unreadable though they hold records.
    pub quarantined: u64,
    /// Records that the index had no room for.
    pub index_full: u64,
}

/// What a shard is and did. Counters start at zero when it is opened; gauges are as of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShardStats {
    /// Blocks in the index.
    pub blocks: u64,
    /// Bytes of live values, padded.
    pub live_bytes: u64,
    /// Bytes of the data areas.
    pub capacity_bytes: u64,
    /// Segments that are free.
    pub segments_free: u64,
    /// Segments that take values or still wait for some to arrive.
    pub segments_open: u64,
    /// Segments that are full.
    pub segments_closed: u64,
    /// Segments that failed and are not used any more.
    pub segments_retired: u64,
    /// Blocks in the index that lie on a device that is gone for good: they are misses.
    pub gone_blocks: u64,
    /// Segments freed by eviction.
    pub evicted_segments: u64,
    /// Times that eviction made a pause because the device refused: to free a segment, or to give back or take a block that
    /// must be moved out of it.
    pub stalled_evictions: u64,
    /// Blocks moved out of a segment before it was freed.
    pub moved_blocks: u64,
    /// Blocks that went with their segment.
    pub dropped_blocks: u64,
    /// Blocks lost because the device could not read or write them.
    pub lost_blocks: u64,
    /// TRIM commands that completed.
    pub trimmed_segments: u64,
    /// Records written down.
    pub records: u64,
    /// Records that could not be written down.
    pub lost_records: u64,
    /// Group commits.
    pub commits: u64,
    /// Flush commands.
    pub flushes: u64,
    /// Metadata pages written.
    pub page_writes: u64,
    /// Bytes of values published, padded: what clients caused to be written.
    pub value_bytes_written: u64,
    /// Bytes of metadata written.
    pub meta_bytes_written: u64,
    /// Bytes of values moved by eviction.
    pub moved_bytes: u64,
    /// Stores that the index had no room for.
    pub index_full: u64,
    /// Device commands of the store's own that failed.
    pub device_errors: u64,
    /// Metadata pages found damaged after recovery.
    pub damaged_pages: u64,
    /// What recovery found.
    pub recovery: RecoveryStats,
}
