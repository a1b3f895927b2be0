//! An entry: what the index keeps of one block, in 40 bytes.

use dataplane::nvme::spec::kv::Key;

use crate::store::publish::Class;
use crate::store::space::{BlockId, Space};

/// One block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Entry {
    key: [u64; 2],
    pub checksum: u64,
    space: u32,
    /// First unit on the device; in a free entry the next free one.
    pub unit: u32,
    bits: u32,
    /// Fingerprint of the chain's parent, 0 for none.
    pub parent: u32,
}

const _: () = assert!(size_of::<Entry>() == 40);

/// Value bytes: 25 bits, since 16 MiB inclusive must fit. All ones marks a free entry.
const LENGTH: u32 = (1 << 25) - 1;
const FREQUENCY_SHIFT: u32 = 25;
const FREQUENCY: u32 = 0b11 << FREQUENCY_SHIFT;
const DURABLE: u32 = 1 << 27;
const LEASED: u32 = 1 << 28;
const PINNED: u32 = 1 << 29;
/// Its record lies in an older segment than something it supersedes may: when it goes, a tombstone must follow.
const LATE: u32 = 1 << 30;
const DEMOTED: u32 = 1 << 31;

impl Entry {
    pub const FREE: Self = Self { key: [0; 2], checksum: 0, space: 0, unit: 0, bits: LENGTH, parent: 0 };

    pub fn new(id: &BlockId, unit: u32, bytes: u32, checksum: u64, parent: u64, class: Class) -> Self {
        debug_assert!(bytes < LENGTH);
        let durable = if class == Class::Durable { DURABLE } else { 0 };
        Self {
            key: key_words(&id.key),
            checksum,
            space: id.space.bits(),
            unit,
            bits: (bytes & LENGTH) | durable,
            parent: (parent ^ (parent >> 32)) as u32,
        }
    }

    pub fn free_before(next: u32) -> Self {
        Self { unit: next, ..Self::FREE }
    }

    pub fn is_free(&self) -> bool {
        self.bits & LENGTH == LENGTH
    }

    pub fn next_free(&self) -> u32 {
        self.unit
    }

    #[inline]
    pub fn is(&self, id: &BlockId) -> bool {
        // A free entry is never in a bucket, so it need not be looked out for.
        self.key == key_words(&id.key) && self.space == id.space.bits()
    }

    pub fn id(&self) -> BlockId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.key[0].to_le_bytes());
        bytes[8..].copy_from_slice(&self.key[1].to_le_bytes());
        BlockId { space: Space::from_bits(self.space), key: Key::new(bytes) }
    }

    pub fn space(&self) -> Space {
        Space::from_bits(self.space)
    }

    pub fn bytes(&self) -> u32 {
        self.bits & LENGTH
    }

    pub fn class(&self) -> Class {
        if self.bits & DURABLE != 0 { Class::Durable } else { Class::Cache }
    }

    pub fn frequency(&self) -> u8 {
        ((self.bits & FREQUENCY) >> FREQUENCY_SHIFT) as u8
    }

    pub fn touch(&mut self) {
        if self.bits & FREQUENCY != FREQUENCY {
            self.bits += 1 << FREQUENCY_SHIFT;
        }
    }

    pub fn cool(&mut self) {
        if self.bits & FREQUENCY != 0 {
            self.bits -= 1 << FREQUENCY_SHIFT;
        }
    }

    pub fn leased(&self) -> bool {
        self.bits & LEASED != 0
    }

    pub fn set_leased(&mut self, on: bool) {
        self.set(LEASED, on);
    }

    pub fn pinned(&self) -> bool {
        self.bits & PINNED != 0
    }

    pub fn set_pinned(&mut self, on: bool) {
        self.set(PINNED, on);
    }

    pub fn late(&self) -> bool {
        self.bits & LATE != 0
    }

    pub fn set_late(&mut self, on: bool) {
        self.set(LATE, on);
    }

    pub fn demoted(&self) -> bool {
        self.bits & DEMOTED != 0
    }

    pub fn set_demoted(&mut self, on: bool) {
        self.set(DEMOTED, on);
    }

    fn set(&mut self, bit: u32, on: bool) {
        self.bits = if on { self.bits | bit } else { self.bits & !bit };
    }
}

fn key_words(key: &Key) -> [u64; 2] {
    let both = u128::from_le_bytes(*key.bytes());
    [both as u64, (both >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_length_do_not_touch_each_other() {
        let id = BlockId::new(7, Key::new([9; 16]), 16);
        let mut entry = Entry::new(&id, 3, 16 << 20, 1, 2, Class::Durable);
        for _ in 0..5 {
            entry.touch();
        }
        entry.set_leased(true);
        entry.set_late(true);
        entry.set_pinned(true);
        entry.set_demoted(true);
        assert_eq!((entry.bytes(), entry.frequency(), entry.class()), (16 << 20, 3, Class::Durable));
        assert!(entry.leased() && entry.late() && entry.pinned() && entry.demoted() && !entry.is_free());
        entry.set_leased(false);
        (0..5).for_each(|_| entry.cool());
        assert_eq!((entry.leased(), entry.frequency(), entry.bytes()), (false, 0, 16 << 20));
        assert!(entry.is(&id) && entry.id() == id);
        assert!(Entry::free_before(4).is_free());
    }
}
