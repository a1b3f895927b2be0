//! The Key Value command set (command set identifier 01h).

use super::Sqe;

/// Command set identifier of the Key Value command set (base, "I/O Command Set Identifier").
pub const CSI: u8 = 0x01;

/// The longest key, in bytes (KV, "KV Key").
pub const MAX_KEY_BYTES: usize = 16;

/// Opcodes of the I/O commands (KV, "Opcodes for Key Value Commands").
pub mod opcode {
    /// Store: writes a value under a key.
    pub const STORE: u8 = 0x01;
    /// Retrieve: reads the value of a key.
    pub const RETRIEVE: u8 = 0x02;
    /// List: the keys of a namespace from a key on.
    pub const LIST: u8 = 0x06;
    /// Delete: removes a key and its value.
    pub const DELETE: u8 = 0x10;
    /// Exist: whether a key has a value.
    pub const EXIST: u8 = 0x14;
}

/// How many bytes a command moves: CDW10 for those that move any, which bits 1:0 of the opcode tell (base, "Opcode").
/// That holds for the Key Value command set and for kvplane's vendor commands.
#[inline]
#[must_use]
pub const fn transfer_bytes(sqe: &Sqe) -> u32 {
    if sqe.opcode() & 0b11 == 0 { 0 } else { sqe.dword(10) }
}

/// A key of 1 to 16 bytes, padded with zeros.
///
/// Engines use 16-byte keys: a 4-byte placement tag followed by 12 bytes of the block's hash. Keys of different
/// lengths are different keys even if their padded bytes are equal; whoever files them keeps the length beside them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    bytes: [u8; MAX_KEY_BYTES],
}

impl Key {
    /// A key of exactly 16 bytes.
    #[must_use]
    pub const fn new(bytes: [u8; MAX_KEY_BYTES]) -> Self {
        Self { bytes }
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; MAX_KEY_BYTES] {
        &self.bytes
    }

    /// The placement tag: the first four bytes, little endian.
    #[must_use]
    pub const fn tag(&self) -> u32 {
        u32::from_le_bytes([self.bytes[0], self.bytes[1], self.bytes[2], self.bytes[3]])
    }

    /// The first `length` bytes, padded with zeros. `None` for a length of 0 or more than 16.
    #[inline]
    #[must_use]
    pub const fn from_wire(bytes: [u8; MAX_KEY_BYTES], length: u8) -> Option<Self> {
        if length as usize == MAX_KEY_BYTES {
            return Some(Self { bytes });
        }
        if length == 0 || length as usize > MAX_KEY_BYTES {
            return None;
        }
        // A mask instead of a copy of so many bytes: this runs on the hot path.
        let kept = u128::MAX >> (8 * (MAX_KEY_BYTES as u32 - length as u32));
        Some(Self { bytes: (u128::from_le_bytes(bytes) & kept).to_le_bytes() })
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Store options: CDW11 bits 15:8 (KV, "Store command – Command Dword 11").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// Bit 8: refuse unless the key exists already.
    pub must_exist: bool,
    /// Bit 9: refuse if the key exists already.
    pub must_not_exist: bool,
}

/// The fields that all key commands share, as they stand in a command.
pub trait KeyFields {
    /// The key's bytes: CDW2, 3 and CDW14, 15.
    fn key_bytes(&self) -> [u8; MAX_KEY_BYTES];
    /// The key's length in bytes: CDW11 bits 7:0.
    fn key_length(&self) -> u8;
    /// Value size (Store) or host buffer size (Retrieve, List, vendor lists) in bytes: CDW10.
    fn buffer_bytes(&self) -> u32;
    /// Option bits: CDW11 bits 15:8.
    fn options(&self) -> u8;
    /// Sets key bytes and length.
    fn set_key(&mut self, key: &[u8]);
}

impl KeyFields for Sqe {
    #[inline]
    fn key_bytes(&self) -> [u8; MAX_KEY_BYTES] {
        (u128::from(self.quadword(2)) | u128::from(self.quadword(14)) << 64).to_le_bytes()
    }

    fn key_length(&self) -> u8 {
        self.dword(11) as u8
    }

    fn buffer_bytes(&self) -> u32 {
        self.dword(10)
    }

    fn options(&self) -> u8 {
        (self.dword(11) >> 8) as u8
    }

    /// # Panics
    /// If `key` is longer than 16 bytes: the caller is this process, never the wire.
    fn set_key(&mut self, key: &[u8]) {
        let mut bytes = [0u8; MAX_KEY_BYTES];
        bytes[..key.len()].copy_from_slice(key);
        let (mut low, mut high) = ([0; 8], [0; 8]);
        low.copy_from_slice(&bytes[..8]);
        high.copy_from_slice(&bytes[8..]);
        self.set_quadword(2, u64::from_le_bytes(low));
        self.set_quadword(14, u64::from_le_bytes(high));
        self.set_dword(11, (self.dword(11) & !0xFF) | key.len() as u32);
    }
}

/// Decodes the Store options. `None` if both existence conditions are set or a reserved bit is.
#[must_use]
pub fn store_options(bits: u8) -> Option<StoreOptions> {
    // Bit 2 (do not compress) asks for what kvplane does anyway.
    if bits & !0b111 != 0 || bits & 0b11 == 0b11 {
        return None;
    }
    Some(StoreOptions { must_exist: bits & 0b01 != 0, must_not_exist: bits & 0b10 != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes;

    #[test]
    fn key_fields_lie_where_the_specification_puts_them() {
        let mut bytes = [0u8; 64];
        bytes[0] = opcode::STORE;
        bytes[8..16].copy_from_slice(b"abcdefgh");
        bytes[40..44].copy_from_slice(&65536u32.to_le_bytes());
        bytes[44] = 16;
        bytes[45] = 0b10;
        bytes[56..64].copy_from_slice(b"ijklmnop");
        let sqe = Sqe::read_from_bytes(&bytes).unwrap();
        assert_eq!(&sqe.key_bytes(), b"abcdefghijklmnop");
        assert_eq!((sqe.key_length(), sqe.buffer_bytes()), (16, 65536));
        assert_eq!(store_options(sqe.options()), Some(StoreOptions { must_exist: false, must_not_exist: true }));
        let mut made = Sqe::new(opcode::STORE, 0);
        made.set_dword(10, 65536);
        made.set_dword(11, 0b10 << 8);
        made.set_key(b"abcdefghijklmnop");
        assert_eq!(made, sqe);
    }

    #[test]
    fn bytes_beyond_the_length_do_not_count() {
        let key = Key::from_wire(*b"abXXXXXXXXXXXXXX", 2).unwrap();
        assert_eq!(key.bytes(), b"ab\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(Key::from_wire([0; 16], 0), None);
        assert_eq!(Key::from_wire([0; 16], 17), None);
    }

    #[test]
    fn contradictory_or_reserved_store_options_are_refused() {
        assert_eq!(store_options(0b11), None);
        assert_eq!(store_options(0b1000), None);
        assert_eq!(store_options(0b100), Some(StoreOptions::default()));
    }
}
