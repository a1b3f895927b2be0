//! The flash store: values in segments, records of them in metadata pages, an index in memory.
//!
//! A device is cut into shards, a shard into segments. A segment is the unit of allocation, eviction and TRIM: a few
//! metadata pages, then data. A value is written to its extent first and gets its record only after that write
//! completed; a value without a record does not exist, so a torn write can never be served. Restart reads metadata
//! only, and is warm.
//!
//! The order of things is carried by two numbers. The *generation* counts openings of segments over a whole shard,
//! so it orders segments by age and voids pages of a segment's earlier life. The *sequence* counts records, so of
//! two records of one key the later one holds. Segments are evicted oldest first, and a record that supersedes
//! another never goes before it: see [`Shard`] and the architecture page.

pub mod inspect;
pub mod policy;

mod commit;
mod evict;
mod extent;
mod format;
mod fuzz;
pub(crate) mod hint;
mod index;
mod layout;
mod lease;
mod moves;
mod operation;
mod page;
mod publish;
mod purge;
mod quota;
mod record;
mod recover;
mod replay;
mod seal;
mod segment;
mod set;
mod shard;
mod space;
mod staging;
mod stats;
mod superblock;
mod tail;
mod undo;

#[cfg(test)]
mod tests;

pub use extent::{Extent, Found, Hold, SegmentId};
pub use format::{FormatOptions, format, load};
pub use layout::{Layout, UNIT_BYTES};
pub use policy::{BlockView, EvictionPolicy, KeepHot, Verdict};
pub use publish::{Class, Deleted, NewBlock, Published, Refusal};
pub use set::{Found as FoundLabel, MAX_DEVICES, SetLabel, find_label, write_label};
pub use shard::{Shard, ShardConfig};
pub use space::{BlockId, Space};
pub use stats::{RecoveryStats, ShardStats};
pub use superblock::Superblock;

/// Why a store could not be opened or formatted. Nothing was changed on the device unless it says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The first blocks are all zero.
    #[error("the device holds no store (it is blank); format it first")]
    Blank,
    /// The first blocks belong to something else.
    #[error("the device holds something that is not a kvplane store; format it only if its contents may go")]
    Foreign,
    /// A store of another format.
    #[error("the store has on-disk format {found}, this program reads format {known}; use the matching release")]
    Version {
        /// The version that stands on the device.
        found: u32,
        /// The version that this program knows.
        known: u32,
    },
    /// Both copies of the superblock are damaged.
    #[error("both copies of the superblock are damaged; restore one of them or format the device anew")]
    Damaged,
    /// The device is smaller than what was asked for, or than it was at formatting.
    #[error("the device has {have} bytes, but at least {need} are needed")]
    TooSmall {
        /// Bytes of the device.
        have: u64,
        /// The least that would do.
        need: u64,
    },
    /// The device's logical blocks differ from those it was formatted with, or are not supported.
    #[error("the device has logical blocks of {found} bytes; this store needs {need}")]
    LbaSize {
        /// What the device has.
        found: u32,
        /// What is needed.
        need: u32,
    },
    /// A setting is out of its range.
    #[error("{0}")]
    Setting(String),
    /// The device refused a command.
    #[error("the device failed while {doing}: {error}")]
    Device {
        /// What was being done.
        doing: &'static str,
        /// What the device said.
        error: dataplane::nvme::BlockError,
    },
}

/// Feeds arbitrary bytes to recovery and to inspection as if they stood on a device. For fuzzers; neither may panic.
#[doc(hidden)]
pub fn fuzz_recover(bytes: &[u8]) {
    fuzz::run(bytes);
}
