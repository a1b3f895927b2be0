//! One record: what became of one key, in 64 bytes.
//!
//! | bytes | field |
//! |---|---|
//! | 0..16 | key |
//! | 16..20 | space: namespace and key length |
//! | 20..24 | value bytes |
//! | 24..28 | first unit of the value, counted from the segment's start |
//! | 28 | kind: 1 put, 2 tombstone, 3 purge of a namespace, 4 clean shutdown |
//! | 29 | class: 0 cache, 1 durable |
//! | 30..32 | 0 |
//! | 32..40 | checksum of the value (CRC-64/NVME), 0 if none |
//! | 40..48 | link to the chain's parent, 0 if none |
//! | 48..56 | sequence |
//! | 56..64 | 0 |

use dataplane::nvme::spec::kv::Key;

use super::index::Entry;
use super::publish::Class;
use super::space::{BlockId, Space};

/// Length of a record.
pub(crate) const RECORD_BYTES: usize = 64;
/// Records in a page, whose first 64 bytes are its header.
pub(crate) const RECORDS_PER_PAGE: u32 = 63;

/// Generations and sequences stay below this, so that counting on from a damaged one cannot overflow. A shard that
/// writes a record every nanosecond gets there in 146 years.
pub(crate) const LIMIT: u64 = 1 << 62;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The key has this value.
    Put,
    /// The key has no value.
    Tombstone,
    /// No key of the namespace has a value.
    Purge,
    /// The shard was shut down with everything committed.
    Clean,
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub id: BlockId,
    pub bytes: u32,
    /// First unit of the value, counted from the segment's start.
    pub offset: u32,
    pub kind: Kind,
    pub class: Class,
    pub checksum: u64,
    pub parent: u64,
    pub sequence: u64,
}

impl Record {
    /// A record without a value.
    pub fn bare(kind: Kind, id: BlockId, class: Class, sequence: u64) -> Self {
        Self { id, bytes: 0, offset: 0, kind, class, checksum: 0, parent: 0, sequence }
    }

    /// The record of a block that the index knows, but for its sequence. Of the link to the parent it has the fingerprint,
    /// which stands for itself.
    pub fn of_entry(entry: &Entry, offset: u32) -> Self {
        Self {
            id: entry.id(),
            bytes: entry.bytes(),
            offset,
            kind: Kind::Put,
            class: entry.class(),
            checksum: entry.checksum,
            parent: u64::from(entry.parent),
            sequence: 0,
        }
    }

    /// A purge or clean mark, which names no key.
    pub fn keyless(kind: Kind, namespace: u32, sequence: u64) -> Self {
        let id = BlockId { space: Space::new(namespace, 0), key: Key::new([0; 16]) };
        Self::bare(kind, id, Class::Durable, sequence)
    }

    pub fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..16].copy_from_slice(self.id.key.bytes());
        bytes[16..20].copy_from_slice(&self.id.space.bits().to_le_bytes());
        bytes[20..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.offset.to_le_bytes());
        bytes[28] = match self.kind {
            Kind::Put => 1,
            Kind::Tombstone => 2,
            Kind::Purge => 3,
            Kind::Clean => 4,
        };
        bytes[29] = u8::from(self.class == Class::Durable);
        bytes[32..40].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.parent.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }

    /// The name in a record.
    #[inline]
    pub fn name_in(bytes: &[u8; RECORD_BYTES]) -> BlockId {
        let mut key = [0; 16];
        key.copy_from_slice(&bytes[..16]);
        BlockId { space: Space::from_bits(word(bytes, 16)), key: Key::new(key) }
    }

    /// `None` if a field has a value that this version never writes.
    #[inline]
    pub fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let kind = match bytes[28] {
            1 => Kind::Put,
            2 => Kind::Tombstone,
            3 => Kind::Purge,
            4 => Kind::Clean,
            _ => return None,
        };
        let class = match bytes[29] {
            0 => Class::Cache,
            1 => Class::Durable,
            _ => return None,
        };
        if long(bytes, 48) >= LIMIT {
            return None;
        }
        Some(Self {
            id: Self::name_in(bytes),
            bytes: word(bytes, 20),
            offset: word(bytes, 24),
            kind,
            class,
            checksum: long(bytes, 32),
            parent: long(bytes, 40),
            sequence: long(bytes, 48),
        })
    }
}

/// The little-endian 32-bit word at `at`.
///
/// # Panics
/// If it does not lie inside; all callers pass constants.
pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The little-endian 64-bit word at `at`.
pub(crate) fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_its_fields_where_the_table_says() {
        let record = Record {
            id: BlockId::new(0x0ABC_DEF1, Key::new(*b"0123456789abcdef"), 16),
            bytes: 0x0102_0304,
            offset: 0x0506_0708,
            kind: Kind::Put,
            class: Class::Durable,
            checksum: 0x1112_1314_1516_1718,
            parent: 0x2122_2324_2526_2728,
            sequence: 0x3132_3334_3536_3738,
        };
        let mut literal = [0; RECORD_BYTES];
        literal[..16].copy_from_slice(b"0123456789abcdef");
        literal[16..32].copy_from_slice(&[0x10, 0xEF, 0xCD, 0xAB, 4, 3, 2, 1, 8, 7, 6, 5, 1, 1, 0, 0]);
        literal[32..40].copy_from_slice(&[0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11]);
        literal[40..48].copy_from_slice(&[0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21]);
        literal[48..56].copy_from_slice(&[0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31]);
        assert_eq!(record.to_bytes(), literal);
        assert_eq!(Record::from_bytes(&literal), Some(record));
    }

    #[test]
    fn kinds_and_classes_that_do_not_exist_are_refused() {
        let good = Record::keyless(Kind::Purge, 5, 9).to_bytes();
        assert!(Record::from_bytes(&good).is_some());
        for (at, value) in [(28, 0), (28, 5), (29, 2)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Record::from_bytes(&bad), None);
        }
    }
}
