//! Commands and completions, byte by byte.

/// Opcodes of the key value command set.
pub mod kv {
    /// Store.
    pub const STORE: u8 = 0x01;
    /// Retrieve.
    pub const RETRIEVE: u8 = 0x02;
    /// List.
    pub const LIST: u8 = 0x06;
    /// Delete.
    pub const DELETE: u8 = 0x10;
    /// Exist.
    pub const EXIST: u8 = 0x14;
}

/// A submission queue entry.
#[derive(Clone, Copy, Debug)]
pub struct Command(pub [u8; 64]);

impl Command {
    /// A command for a namespace, or for the controller with namespace 0.
    #[must_use]
    pub fn new(opcode: u8, namespace: u32) -> Self {
        let mut bytes = [0; 64];
        bytes[0] = opcode;
        Self(bytes).dword(1, namespace)
    }

    /// A command with a key of 1 to 16 bytes.
    #[must_use]
    pub fn of_key(opcode: u8, namespace: u32, key: &[u8]) -> Self {
        let mut padded = [0; 16];
        padded[..key.len()].copy_from_slice(key);
        let mut it = Self::new(opcode, namespace);
        it.0[8..16].copy_from_slice(&padded[..8]);
        it.0[56..64].copy_from_slice(&padded[8..]);
        it.0[44] = u8::try_from(key.len()).unwrap();
        it
    }

    /// Sets a dword.
    #[must_use]
    pub fn dword(mut self, index: usize, value: u32) -> Self {
        self.0[4 * index..4 * index + 4].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// Sets the bits 15:8 of dword 11, where Store has its conditions.
    #[must_use]
    pub fn options(mut self, options: u8) -> Self {
        self.0[45] = options;
        self
    }

    /// Sets both PRP entries.
    #[must_use]
    pub fn prp(mut self, first: u64, second: u64) -> Self {
        self.0[24..32].copy_from_slice(&first.to_le_bytes());
        self.0[32..40].copy_from_slice(&second.to_le_bytes());
        self
    }

    /// Sets an SGL descriptor: address, length, and the byte with type and subtype.
    #[must_use]
    pub fn sgl(mut self, address: u64, bytes: u32, identifier: u8) -> Self {
        self.0[1] |= 0x40;
        self.0[24..32].copy_from_slice(&address.to_le_bytes());
        self.0[32..36].copy_from_slice(&bytes.to_le_bytes());
        self.0[36..39].fill(0);
        self.0[39] = identifier;
        self
    }

    pub(super) fn identified(mut self, cid: u16) -> Self {
        self.0[2..4].copy_from_slice(&cid.to_le_bytes());
        self
    }
}

/// What a completion says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// DW0.
    pub dword0: u32,
    /// DW1.
    pub dword1: u32,
    /// Which command.
    pub cid: u16,
    /// Status code type in the upper byte, status code in the lower.
    pub status: u16,
}

impl Answer {
    pub(super) fn read(bytes: &[u8; 16]) -> Self {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let last = word(12);
        Self {
            dword0: word(0),
            dword1: word(4),
            cid: last as u16,
            status: ((last >> 17) & 0xFF) as u16 | (((last >> 25) & 0x7) << 8) as u16,
        }
    }
}
