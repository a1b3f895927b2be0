//! How blocks are named.

use dataplane::nvme::spec::kv::Key;

/// Who a key belongs to, and how long it is: `(namespace << 4) | (key length & 15)`.
///
/// Padded keys of two lengths or two namespaces therefore never meet, though only 16 key bytes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Space(u32);

impl Space {
    /// The largest namespace number: 28 bits.
    pub const MAX_NAMESPACE: u32 = (1 << 28) - 1;

    /// The space of a namespace (28 bits; higher bits are dropped) and a key length of 1 to 16 bytes.
    #[must_use]
    pub const fn new(namespace: u32, key_bytes: u8) -> Self {
        Self((namespace << 4) | (key_bytes as u32 & 15))
    }

    /// The space held by the 32 bits of a record.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The 32 bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The namespace's number.
    #[must_use]
    pub const fn namespace(self) -> u32 {
        self.0 >> 4
    }

    /// The key's length in bytes, 1 to 16.
    #[must_use]
    pub const fn key_bytes(self) -> u8 {
        match (self.0 & 15) as u8 {
            0 => 16,
            short => short,
        }
    }
}

/// The full name of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId {
    /// Namespace and key length.
    pub space: Space,
    /// The key, padded with zeros.
    pub key: Key,
}

impl BlockId {
    /// The block of `key`, `key_bytes` long, in a namespace.
    #[must_use]
    pub const fn new(namespace: u32, key: Key, key_bytes: u8) -> Self {
        Self { space: Space::new(namespace, key_bytes), key }
    }
}
