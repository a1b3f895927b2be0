//! kvplane's own commands and fields, in the space that the base specification leaves to vendors.
//!
//! Opcodes C0h..FFh are vendor specific; bits 1:0 give the direction of the data as the base specification asks
//! (00b none, 01b host to controller, 10b controller to host, 11b both).
//!
//! | command | opcode | CDW10 | CDW11 | CDW12 | data | completion |
//! |---|---|---|---|---|---|---|
//! | Release | C0h | lease id | 0 | 0 | none | - |
//! | Lookup Prefix | C1h | bytes of the list | b0: take a lease | lease time, ms | in: keys, 16 bytes each | DW0: leading keys present, DW1: lease id or 0 |
//! | Lookup State | C3h | bytes of the list | 0 | 0 | in: keys, 16 bytes each; out: one [`KeyState`] of 16 bytes in the place of each key | DW0: keys present |
//! | Hint | C5h | bytes of the list | 7:0: [`HintKind`] | argument (ms for a time to live) | in: keys, 16 bytes each | DW0: keys taken |
//!
//! Additions to the standard commands, all ignored by initiators that do not know them:
//!
//! | command | field | meaning |
//! |---|---|---|
//! | Store | CDW11 b16 | CDW12, 13 hold the value's checksum (CRC-64/NVME), kept with the value |
//! | Store | CDW11 b17 | MPTR (CDW4, 5) holds the link to the chain's parent: bytes 4..12 of the parent's key |
//! | Retrieve | DW1 of the completion | the low 32 bits of the checksum, 0 if none was given |

use super::kv::Key;

/// Opcodes.
pub mod opcode {
    /// Gives a lease back.
    pub const RELEASE: u8 = 0xC0;
    /// How many leading keys of a list are present, with an optional lease on them.
    pub const LOOKUP_PREFIX: u8 = 0xC1;
    /// State and tier of every key of a list.
    pub const LOOKUP_STATE: u8 = 0xC3;
    /// What the engine expects to do with a list of keys.
    pub const HINT: u8 = 0xC5;
}

/// Store, CDW11: CDW12 and CDW13 hold a checksum.
pub const STORE_HAS_CHECKSUM: u32 = 1 << 16;
/// Store, CDW11: MPTR holds the parent link.
pub const STORE_HAS_PARENT: u32 = 1 << 17;
/// Lookup Prefix, CDW11: take a lease on the keys found.
pub const LOOKUP_TAKE_LEASE: u32 = 1;

/// The most keys in one list command: 64 KiB of keys.
pub const MAX_LIST_KEYS: u32 = 4096;
/// Bytes of a key in a list and of a [`KeyState`] in the answer.
pub const LIST_ENTRY_BYTES: u32 = 16;

/// The link a value keeps to its chain parent: bytes 4 to 11 of the parent's key, little endian. Zero for none.
#[must_use]
pub fn parent_link(parent: &Key) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&parent.bytes()[4..12]);
    u64::from_le_bytes(bytes)
}

/// Hints, CDW11 bits 7:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HintKind {
    /// The keys will be asked for soon.
    Prefetch = 1,
    /// The keys should stay.
    Pin = 2,
    /// The keys are of less worth from now on.
    Demote = 3,
    /// The keys are of no worth after CDW12 milliseconds.
    TimeToLive = 4,
}

impl HintKind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            1 => Some(Self::Prefetch),
            2 => Some(Self::Pin),
            3 => Some(Self::Demote),
            4 => Some(Self::TimeToLive),
            _ => None,
        }
    }
}

/// Where a value lies (byte 1 of a [`KeyState`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tier {
    /// Nowhere.
    None = 0,
    /// DRAM staging.
    Dram = 1,
    /// Flash, tier 3.5.
    Flash = 2,
    /// Object store, tier 4.
    Object = 3,
}

impl Tier {
    /// The tier with this number.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::None),
            1 => Some(Self::Dram),
            2 => Some(Self::Flash),
            3 => Some(Self::Object),
            _ => None,
        }
    }
}

/// One entry of a Lookup State answer, 16 bytes: 0 present (1) or missing (0), 1 tier, 2..3 reserved, 4..7 value
/// bytes, 8..15 checksum (0 if none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// Whether the key has a value.
    pub present: bool,
    /// Where it lies.
    pub tier: Tier,
    /// The value's length.
    pub value_bytes: u32,
    /// The CRC-64/NVME handed over with Store, or 0.
    pub checksum: u64,
}

impl KeyState {
    /// The state of a key that has no value.
    pub const MISSING: Self = Self { present: false, tier: Tier::None, value_bytes: 0, checksum: 0 };

    /// The entry as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; LIST_ENTRY_BYTES as usize] {
        let mut bytes = [0; LIST_ENTRY_BYTES as usize];
        bytes[0] = u8::from(self.present);
        bytes[1] = self.tier as u8;
        bytes[4..8].copy_from_slice(&self.value_bytes.to_le_bytes());
        bytes[8..].copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    /// The entry held by bytes; `None` if the tier is not known.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; LIST_ENTRY_BYTES as usize]) -> Option<Self> {
        let (mut size, mut checksum) = ([0; 4], [0; 8]);
        size.copy_from_slice(&bytes[4..8]);
        checksum.copy_from_slice(&bytes[8..]);
        Some(Self {
            present: bytes[0] != 0,
            tier: Tier::from_bits(bytes[1])?,
            value_bytes: u32::from_le_bytes(size),
            checksum: u64::from_le_bytes(checksum),
        })
    }
}

/// The shard that owns a key: a pure function of its placement tag, so that initiators compute it too.
///
/// The tag is mixed first because a standard initiator's keys may share their first bytes' patterns.
#[must_use]
pub const fn owner_shard(tag: u32, shards: u32) -> u32 {
    // The finaliser of MurmurHash3 (Appleby, public domain): every input bit reaches every output bit.
    let mut mixed = tag;
    mixed ^= mixed >> 16;
    mixed = mixed.wrapping_mul(0x85EB_CA6B);
    mixed ^= mixed >> 13;
    mixed = mixed.wrapping_mul(0xC2B2_AE35);
    mixed ^= mixed >> 16;
    ((mixed as u64 * shards as u64) >> 32) as u32
}

/// What Identify Controller tells an initiator of ours, in the vendor specific bytes from 3072 on:
/// 0..8 the magic, 8..12 shards, 12..16 cores. I/O queue `q` is served by core `(q - 1) % cores`, and shard `s` is
/// owned by core `s % cores`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerMap {
    /// Number of shards the store is cut into.
    pub shards: u32,
    /// Number of cores that serve queues.
    pub cores: u32,
}

impl OwnerMap {
    /// Where the map begins in the Identify Controller data.
    pub const IDENTIFY_OFFSET: usize = 3072;
    /// Its length.
    pub const BYTES: usize = 16;
    const MAGIC: [u8; 8] = *b"kvplane1";

    /// The map as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&Self::MAGIC);
        bytes[8..12].copy_from_slice(&self.shards.to_le_bytes());
        bytes[12..].copy_from_slice(&self.cores.to_le_bytes());
        bytes
    }

    /// The map held by bytes; `None` from a controller that is not kvplane's.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let map = Self { shards: word(8), cores: word(12) };
        (bytes[..8] == Self::MAGIC && map.shards > 0 && map.cores > 0).then_some(map)
    }

    /// The core that owns a key.
    #[must_use]
    pub const fn owner_core(&self, tag: u32) -> u32 {
        owner_shard(tag, self.shards) % self.cores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direction_bits_follow_the_base_specification() {
        assert_eq!(opcode::RELEASE & 0b11, 0b00);
        assert_eq!(opcode::LOOKUP_PREFIX & 0b11, 0b01);
        assert_eq!(opcode::LOOKUP_STATE & 0b11, 0b11);
        assert_eq!(opcode::HINT & 0b11, 0b01);
    }

    #[test]
    fn key_states_survive_the_wire() {
        let state =
            KeyState { present: true, tier: Tier::Flash, value_bytes: 1 << 20, checksum: 0x0102_0304_0506_0708 };
        assert_eq!(state.to_bytes(), [1, 2, 0, 0, 0, 0, 0x10, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(KeyState::from_bytes(&state.to_bytes()), Some(state));
        let mut odd = state.to_bytes();
        odd[1] = 9;
        assert_eq!(KeyState::from_bytes(&odd), None);
    }

    #[test]
    fn owners_are_in_range_and_even() {
        let mut counts = [0u32; 7];
        for tag in 0..70_000 {
            counts[owner_shard(tag, 7) as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (9_500..10_500).contains(&count)), "{counts:?}");
        let map = OwnerMap { shards: 7, cores: 2 };
        assert_eq!(OwnerMap::from_bytes(&map.to_bytes()), Some(map));
        assert_eq!(OwnerMap::from_bytes(&[0; 16]), None);
    }
}
