//! The superblock: what the store is, in one 4096-byte block that stands twice.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic `KVPLANE\0` |
//! | 8..12 | format version, 1 |
//! | 12..16 | CRC-32C of the block, taken with this field zero |
//! | 16..32 | uuid |
//! | 32..36 | bytes of a logical block |
//! | 36..40 | shards |
//! | 40..44 | segments per shard |
//! | 44..48 | metadata bytes at the head of a segment |
//! | 48..56 | bytes of a segment |
//! | 56..64 | first byte of the first segment |
//! | 64..72 | bytes of the device when it was formatted |
//! | 72..76 | bytes of the longest value |
//! | 76..80 | mean value bytes that the metadata area was sized for |
//! | 80..4096 | 0 |

use serde::Serialize;

use super::StoreError;
use super::layout::{FIRST_HOME, UNIT_BYTES};
use super::page::PAGE_BYTES;
use super::record::{long, word};
use super::seal;

const MAGIC: [u8; 8] = *b"KVPLANE\0";
/// The on-disk format that this program reads and writes.
pub(crate) const VERSION: u32 = 1;
/// Where the two copies lie. Half a mebibyte apart, so that one erase block or RAID stripe rarely holds both.
pub(crate) const COPIES: [u64; 2] = [0, 512 << 10];
/// Where segments begin: the first mebibyte is the superblocks', so segments keep the alignment of partitions.
pub(crate) const HEAD_BYTES: u64 = 1 << 20;
/// A shard needs one segment open, one in reserve, one being evicted and one to evict next.
pub(crate) const MIN_SEGMENTS: u32 = 4;
/// The range of segment sizes that is meant for devices; smaller ones, down to 64 KiB, are for tests.
pub(crate) const SEGMENT_RANGE: (u64, u64) = (64 << 10, 256 << 20);
/// The longest value that the index can describe.
pub(crate) const MAX_VALUE: u32 = 16 << 20;

/// What a store is. Constant from formatting on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Superblock {
    /// Names the store.
    pub uuid: [u8; 16],
    /// Bytes of a logical block: 512 to 4096.
    pub lba_bytes: u32,
    /// Number of shards.
    pub shards: u32,
    /// Segments in each shard.
    pub segments_per_shard: u32,
    /// Bytes of metadata at the head of each segment.
    pub meta_bytes: u32,
    /// Bytes of a segment, a power of two.
    pub segment_bytes: u64,
    /// First byte of the first segment.
    pub first_byte: u64,
    /// Bytes of the device when it was formatted.
    pub device_bytes: u64,
    /// The longest value in bytes.
    pub max_value_bytes: u32,
    /// The mean value size that the metadata area was sized for, in bytes.
    pub mean_value_bytes: u32,
}

impl Superblock {
    /// The block as it stands on the device.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; PAGE_BYTES] {
        let mut bytes = [0; PAGE_BYTES];
        bytes[16..32].copy_from_slice(&self.uuid);
        for (at, value) in
            [(32, self.lba_bytes), (36, self.shards), (40, self.segments_per_shard), (44, self.meta_bytes)]
        {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        for (at, value) in [(48, self.segment_bytes), (56, self.first_byte), (64, self.device_bytes)] {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes[72..76].copy_from_slice(&self.max_value_bytes.to_le_bytes());
        bytes[76..80].copy_from_slice(&self.mean_value_bytes.to_le_bytes());
        seal::close(&mut bytes, &MAGIC, VERSION);
        bytes
    }

    /// The superblock held by a block read from the device.
    ///
    /// # Errors
    /// [`StoreError::Blank`], [`Foreign`](StoreError::Foreign), [`Version`](StoreError::Version) or
    /// [`Damaged`](StoreError::Damaged), looked for in this order.
    pub fn from_bytes(bytes: &[u8; PAGE_BYTES]) -> Result<Self, StoreError> {
        if bytes.iter().all(|&byte| byte == 0) {
            return Err(StoreError::Blank);
        }
        if bytes[..8] != MAGIC {
            return Err(StoreError::Foreign);
        }
        seal::check(bytes, VERSION)?;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[16..32]);
        let superblock = Self {
            uuid,
            lba_bytes: word(bytes, 32),
            shards: word(bytes, 36),
            segments_per_shard: word(bytes, 40),
            meta_bytes: word(bytes, 44),
            segment_bytes: long(bytes, 48),
            first_byte: long(bytes, 56),
            device_bytes: long(bytes, 64),
            max_value_bytes: word(bytes, 72),
            mean_value_bytes: word(bytes, 76),
        };
        if superblock.is_sane() { Ok(superblock) } else { Err(StoreError::Damaged) }
    }

    /// The low 64 bits of the uuid, which every page carries.
    #[must_use]
    pub fn store_tag(&self) -> u64 {
        long(&self.uuid, 0)
    }

    /// First byte after the last segment.
    #[must_use]
    pub fn end_byte(&self) -> u64 {
        self.first_byte + u64::from(self.shards) * u64::from(self.segments_per_shard) * self.segment_bytes
    }

    /// Bytes of a segment that hold values.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.segment_bytes - u64::from(self.meta_bytes)
    }

    /// Whether the numbers fit each other, so that no arithmetic on them can go wrong. A checksum proves that they
    /// are what somebody wrote, not that they make sense.
    fn is_sane(&self) -> bool {
        let unit = u64::from(UNIT_BYTES);
        let segments = u64::from(self.shards) * u64::from(self.segments_per_shard);
        let end = u128::from(segments) * u128::from(self.segment_bytes) + u128::from(self.first_byte);
        (512..=UNIT_BYTES).contains(&self.lba_bytes)
            && self.lba_bytes.is_power_of_two()
            && self.segment_bytes.is_power_of_two()
            && (SEGMENT_RANGE.0..=SEGMENT_RANGE.1).contains(&self.segment_bytes)
            && self.shards >= 1
            && self.segments_per_shard >= MIN_SEGMENTS
            && segments <= u64::from(u32::MAX)
            && self.first_byte >= HEAD_BYTES
            && self.first_byte.is_multiple_of(unit)
            && end <= u128::from(self.device_bytes)
            && end <= u128::from(unit << 32)
            && self.meta_bytes.is_multiple_of(UNIT_BYTES)
            && self.meta_bytes / UNIT_BYTES > FIRST_HOME
            && u64::from(self.meta_bytes) <= self.segment_bytes / 2
            && (1..=MAX_VALUE).contains(&self.max_value_bytes)
            && u64::from(self.max_value_bytes) <= self.data_bytes()
            && self.mean_value_bytes >= 1
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Superblock {
        Superblock {
            uuid: *b"0123456789abcdef",
            lba_bytes: 512,
            shards: 2,
            segments_per_shard: 4,
            meta_bytes: 5 * 4096,
            segment_bytes: 1 << 20,
            first_byte: 1 << 20,
            device_bytes: 16 << 20,
            max_value_bytes: 512 << 10,
            mean_value_bytes: 16 << 10,
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_table() {
        let bytes = example().to_bytes();
        assert_eq!(&bytes[..12], b"KVPLANE\0\x01\0\0\0");
        assert_eq!(&bytes[16..32], b"0123456789abcdef");
        assert_eq!(&bytes[32..48], &[0, 2, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 0, 0x50, 0, 0]);
        assert_eq!(&bytes[48..64], &[0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[64..80], &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8, 0, 0, 64, 0, 0]);
        assert!(bytes[80..].iter().all(|&byte| byte == 0));
        assert_eq!(Superblock::from_bytes(&bytes), Ok(example()));
    }

    #[test]
    fn what_is_not_ours_is_told_from_what_is_damaged() {
        assert_eq!(Superblock::from_bytes(&[0; PAGE_BYTES]), Err(StoreError::Blank));
        assert_eq!(Superblock::from_bytes(&[7; PAGE_BYTES]), Err(StoreError::Foreign));
        let mut bytes = example().to_bytes();
        bytes[100] = 1;
        assert_eq!(Superblock::from_bytes(&bytes), Err(StoreError::Damaged));
        let mut bytes = example().to_bytes();
        bytes[8] = 2;
        bytes[12..16].fill(0);
        let crc = super::super::page::crc32c(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Superblock::from_bytes(&bytes), Err(StoreError::Version { found: 2, known: 1 }));
    }

    #[test]
    fn numbers_that_do_not_fit_each_other_are_refused_though_the_checksum_holds() {
        let bad = [
            Superblock { shards: 0, ..example() },
            Superblock { segments_per_shard: u32::MAX, shards: u32::MAX, ..example() },
            Superblock { segment_bytes: 3 << 20, ..example() },
            Superblock { meta_bytes: 4 * 4096, ..example() },
            Superblock { max_value_bytes: 1 << 20, ..example() },
            Superblock { device_bytes: 1 << 20, ..example() },
            Superblock { lba_bytes: 0, ..example() },
        ];
        for superblock in bad {
            assert_eq!(Superblock::from_bytes(&superblock.to_bytes()), Err(StoreError::Damaged), "{superblock:?}");
        }
    }
}
