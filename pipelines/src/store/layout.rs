//! Where things lie on the device, computed from the superblock.

use super::record::RECORDS_PER_PAGE;
use super::superblock::Superblock;

/// Bytes in a unit, the granule of extents and the size of a metadata page.
///
/// 4096 is the atomic or at least the natural write size of every flash device, and makes a 32-bit unit number
/// reach 16 TiB.
pub const UNIT_BYTES: u32 = 4096;

/// Pages before the first page of records in a segment: two headers and two drafts of the newest page.
pub(super) const HEADER_OPEN: u32 = 0;
pub(super) const HEADER_FREE: u32 = 1;
pub(super) const FIRST_DRAFT: u32 = 2;
pub(super) const FIRST_HOME: u32 = 4;

/// Places of one shard on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of the shard.
    pub shard: u32,
    /// Segments of the shard.
    pub segments: u32,
    /// Low bits of the store's uuid, which every page carries.
    pub store: u64,
    /// The longest value in bytes.
    pub max_value_bytes: u32,
    first_unit: u32,
    unit_shift: u32,
    meta_units: u32,
    lba_shift: u32,
}

impl Layout {
    /// The layout of one shard.
    ///
    /// # Panics
    /// If `shard` is not below `superblock.shards`.
    #[must_use]
    pub fn new(superblock: &Superblock, shard: u32) -> Self {
        assert!(shard < superblock.shards, "shard {shard} of {}", superblock.shards);
        let units = (superblock.segment_bytes / u64::from(UNIT_BYTES)) as u32;
        let before = superblock.first_byte / u64::from(UNIT_BYTES);
        Self {
            shard,
            segments: superblock.segments_per_shard,
            store: superblock.store_tag(),
            max_value_bytes: superblock.max_value_bytes,
            first_unit: (before + u64::from(shard) * u64::from(superblock.segments_per_shard) * u64::from(units))
                as u32,
            unit_shift: units.trailing_zeros(),
            meta_units: superblock.meta_bytes / UNIT_BYTES,
            lba_shift: (UNIT_BYTES / superblock.lba_bytes).trailing_zeros(),
        }
    }

    /// Units in a segment.
    #[must_use]
    pub const fn units(&self) -> u32 {
        1 << self.unit_shift
    }

    /// Metadata pages of a segment, headers and drafts included.
    #[must_use]
    pub const fn pages(&self) -> u32 {
        self.meta_units
    }

    /// The most records that a segment can hold.
    #[must_use]
    pub const fn max_records(&self) -> u32 {
        (self.meta_units - FIRST_HOME) * RECORDS_PER_PAGE
    }

    /// Units of a segment that hold values.
    #[must_use]
    pub const fn data_units(&self) -> u32 {
        self.units() - self.meta_units
    }

    /// First unit of a segment on the device.
    #[must_use]
    pub const fn segment_unit(&self, segment: u32) -> u32 {
        self.first_unit + (segment << self.unit_shift)
    }

    /// The segment that a unit of this shard lies in.
    #[must_use]
    pub const fn segment_of(&self, unit: u32) -> u32 {
        (unit - self.first_unit) >> self.unit_shift
    }

    /// The number of a segment over all shards, as pages carry it.
    #[must_use]
    pub const fn global(&self, segment: u32) -> u32 {
        self.shard * self.segments + segment
    }

    /// First logical block of a unit.
    #[must_use]
    pub const fn lba(&self, unit: u32) -> u64 {
        (unit as u64) << self.lba_shift
    }

    /// Logical blocks in `units`.
    #[must_use]
    pub const fn blocks(&self, units: u32) -> u32 {
        units << self.lba_shift
    }

    /// Logical blocks in a unit, as a power of two.
    #[must_use]
    pub const fn lba_shift(&self) -> u32 {
        self.lba_shift
    }

    /// First logical block of a metadata page.
    #[must_use]
    pub const fn page_lba(&self, segment: u32, slot: u32) -> u64 {
        self.lba(self.segment_unit(segment) + slot)
    }

    /// Units that a value takes; an empty value takes one, so that every block has a place of its own.
    #[must_use]
    pub const fn units_of(bytes: u32) -> u32 {
        let units = bytes.div_ceil(UNIT_BYTES);
        if units == 0 { 1 } else { units }
    }

    /// Whether an extent of `bytes` at unit `offset` of a segment lies in the data area.
    #[must_use]
    pub const fn holds(&self, offset: u32, bytes: u32) -> bool {
        bytes <= self.max_value_bytes
            && offset >= self.meta_units
            && offset <= self.units()
            && Self::units_of(bytes) <= self.units() - offset
    }
}
