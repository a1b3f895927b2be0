//! Places of values, and the duties that come with them.

use dataplane::nvme::spec::vendor::Tier;

use super::index::EntryId;
use super::publish::Class;

/// A segment of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub(super) u32);

impl SegmentId {
    /// Its number within the shard.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0
    }
}

/// A duty that must be given back by value. Dropping it is a bug: it would pin a segment for ever.
#[derive(Debug)]
pub(super) struct Duty(());

impl Duty {
    pub(super) fn new() -> Self {
        Self(())
    }

    pub(super) fn discharge(self) {
        std::mem::forget(self);
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        if cfg!(debug_assertions) && !dataplane::fabric::is_abandoning() {
            panic!("an extent or a hold was dropped instead of being given back to its shard");
        }
    }
}

/// Room for one value, not yet visible. Give it to [`publish`](super::Shard::publish) once the value is written, or
/// to [`abandon`](super::Shard::abandon).
#[must_use = "an extent goes to publish or abandon"]
#[derive(Debug)]
pub struct Extent {
    pub(super) unit: u32,
    pub(super) bytes: u32,
    pub(super) segment: u32,
    pub(super) namespace: u32,
    /// What it was reserved for.
    pub(super) class: Class,
    pub(super) lba_shift: u32,
    pub(super) duty: Duty,
}

impl Extent {
    /// First logical block.
    #[must_use]
    pub const fn lba(&self) -> u64 {
        (self.unit as u64) << self.lba_shift
    }

    /// Logical blocks of the whole extent; the value and its padding.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        super::layout::Layout::units_of(self.bytes) << self.lba_shift
    }

    /// Bytes that were asked for.
    #[must_use]
    pub const fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The segment it lies in.
    #[must_use]
    pub const fn segment(&self) -> SegmentId {
        SegmentId(self.segment)
    }
}

/// What the index knows of a block. A snapshot: it stands until the shard is polled or changed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// First unit on the device.
    pub unit: u32,
    /// Length of the value.
    pub bytes: u32,
    /// CRC-64/NVME that came with the value, 0 if none.
    pub checksum: u64,
    /// How it was stored.
    pub class: Class,
    /// Where it lies.
    pub tier: Tier,
    /// Whether a lease is on it.
    pub leased: bool,
    pub(super) lba_shift: u32,
    pub(super) segment: u32,
    pub(super) entry: EntryId,
}

impl Found {
    /// First logical block.
    #[must_use]
    pub const fn lba(&self) -> u64 {
        (self.unit as u64) << self.lba_shift
    }

    /// Logical blocks of the whole extent; the value and its padding.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        super::layout::Layout::units_of(self.bytes) << self.lba_shift
    }

    /// The segment it lies in.
    #[must_use]
    pub const fn segment(&self) -> SegmentId {
        SegmentId(self.segment)
    }

    /// Where it stands in the order in which [`list`](super::Shard::list) goes through the shard.
    #[must_use]
    pub const fn entry_index(&self) -> u32 {
        self.entry.0
    }
}

/// A hold on the segment of a block while its bytes move: the segment is not reused before
/// [`release`](super::Shard::release).
#[must_use = "a hold goes back to release"]
#[derive(Debug)]
pub struct Hold {
    /// Where the block lay, and its entry.
    pub(super) unit: u32,
    pub(super) entry: EntryId,
    pub(super) duty: Duty,
}
