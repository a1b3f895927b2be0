//! The 64-byte submission queue entry (base, figure "Common Command Format").

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A private copy of a submission queue entry.
///
/// It is always a copy: the queue lies in memory that a client may change at any time, so the entry is read once
/// and everything after that looks at the copy.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Sqe {
    dwords: [u32; 16],
}

impl Sqe {
    /// Bytes in an entry.
    pub const BYTES: usize = 64;

    /// An entry with the given opcode and command identifier, everything else zero.
    #[must_use]
    pub const fn new(opcode: u8, cid: u16) -> Self {
        let mut dwords = [0; 16];
        dwords[0] = (opcode as u32) | ((cid as u32) << 16);
        Self { dwords }
    }

    /// The entry held by eight little-endian quadwords, the shape in which queues are read.
    #[must_use]
    pub const fn from_quadwords(words: [u64; 8]) -> Self {
        let mut dwords = [0; 16];
        let mut i = 0;
        while i < 8 {
            let word = u64::from_le(words[i]);
            dwords[2 * i] = (word as u32).to_le();
            dwords[2 * i + 1] = ((word >> 32) as u32).to_le();
            i += 1;
        }
        Self { dwords }
    }

    /// The entry as eight little-endian quadwords, the shape in which queues are written.
    #[must_use]
    pub const fn to_quadwords(&self) -> [u64; 8] {
        let mut words = [0; 8];
        let mut i = 0;
        while i < 8 {
            let low = u32::from_le(self.dwords[2 * i]) as u64;
            let high = u32::from_le(self.dwords[2 * i + 1]) as u64;
            words[i] = (low | (high << 32)).to_le();
            i += 1;
        }
        words
    }

    /// Command dword `n` (0 to 15).
    #[must_use]
    pub const fn dword(&self, n: usize) -> u32 {
        u32::from_le(self.dwords[n])
    }

    /// Sets command dword `n` (0 to 15).
    pub const fn set_dword(&mut self, n: usize, value: u32) {
        self.dwords[n] = value.to_le();
    }

    /// Dwords `n` and `n + 1` as one quadword.
    #[must_use]
    pub const fn quadword(&self, n: usize) -> u64 {
        (self.dword(n) as u64) | ((self.dword(n + 1) as u64) << 32)
    }

    /// Sets dwords `n` and `n + 1`.
    pub const fn set_quadword(&mut self, n: usize, value: u64) {
        self.set_dword(n, value as u32);
        self.set_dword(n + 1, (value >> 32) as u32);
    }

    /// Opcode: CDW0 bits 7:0.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        self.dword(0) as u8
    }

    /// Fused operation: CDW0 bits 9:8. Zero for a normal command.
    #[must_use]
    pub const fn fuse(&self) -> u8 {
        ((self.dword(0) >> 8) & 0b11) as u8
    }

    /// Command identifier: CDW0 bits 31:16.
    #[must_use]
    pub const fn cid(&self) -> u16 {
        (self.dword(0) >> 16) as u16
    }

    /// Sets the command identifier.
    pub const fn set_cid(&mut self, cid: u16) {
        self.set_dword(0, (self.dword(0) & 0xFFFF) | ((cid as u32) << 16));
    }

    /// Namespace identifier: CDW1.
    #[must_use]
    pub const fn nsid(&self) -> u32 {
        self.dword(1)
    }

    /// Sets the namespace identifier.
    pub const fn set_nsid(&mut self, nsid: u32) {
        self.set_dword(1, nsid);
    }

    /// The data pointer (CDW6..9), read as PSDT (CDW0 bits 15:14) says. `None` for the reserved value 11b.
    #[must_use]
    pub const fn data_pointer(&self) -> Option<DataPointer> {
        match (self.dword(0) >> 14) & 0b11 {
            0b00 => Some(DataPointer::Prp { first: self.quadword(6), second: self.quadword(8) }),
            0b01 | 0b10 => Some(DataPointer::Sgl(SglDescriptor::from_quadwords(self.quadword(6), self.quadword(8)))),
            _ => None,
        }
    }

    /// Sets PRP entries and PSDT = 00b.
    pub const fn set_prp(&mut self, first: u64, second: u64) {
        self.set_dword(0, self.dword(0) & !(0b11 << 14));
        self.set_quadword(6, first);
        self.set_quadword(8, second);
    }

    /// Sets an SGL descriptor and PSDT = 01b (metadata, if any, in one contiguous buffer).
    pub const fn set_sgl(&mut self, descriptor: SglDescriptor) {
        self.set_dword(0, (self.dword(0) & !(0b11 << 14)) | (0b01 << 14));
        let (first, second) = descriptor.to_quadwords();
        self.set_quadword(6, first);
        self.set_quadword(8, second);
    }
}

impl std::fmt::Debug for Sqe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqe")
            .field("opcode", &format_args!("{:#04x}", self.opcode()))
            .field("cid", &self.cid())
            .field("nsid", &self.nsid())
            .finish_non_exhaustive()
    }
}

/// Where a command's data lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPointer {
    /// Physical region pages (base, "Physical Region Page Entry and List").
    Prp {
        /// PRP entry 1: the first page, with an offset into it.
        first: u64,
        /// PRP entry 2: the second page, or the list of the pages after the first, or nothing.
        second: u64,
    },
    /// A scatter gather list (base, "Scatter Gather List"): its first descriptor.
    Sgl(SglDescriptor),
}

/// The kinds of SGL descriptors that kvplane understands; the discriminant is the type, byte 15 bits 7:4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SglKind {
    /// 0h: bytes at an address.
    DataBlock = 0x0,
    /// 1h: bytes that a read throws away.
    BitBucket = 0x1,
    /// 2h: more descriptors at an address.
    Segment = 0x2,
    /// 3h: the last descriptors, at an address.
    LastSegment = 0x3,
    /// 4h: bytes at an address, with a remote key (fabrics).
    KeyedDataBlock = 0x4,
}

/// One 16-byte SGL descriptor with a 64-bit address and a 32-bit length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SglDescriptor {
    /// Address: bytes 7:0.
    pub address: u64,
    /// Length: bytes 11:8.
    pub length: u32,
    /// Bytes 14:12: reserved for the unkeyed kinds.
    pub middle: u32,
    /// Byte 15: type in bits 7:4, subtype in bits 3:0.
    pub identifier: u8,
}

impl SglDescriptor {
    /// Bytes in a descriptor.
    pub const BYTES: u32 = 16;

    /// A data block at an address (subtype 0h: the address is an address).
    #[must_use]
    pub const fn data_block(address: u64, length: u32) -> Self {
        Self { address, length, middle: 0, identifier: (SglKind::DataBlock as u8) << 4 }
    }

    /// The descriptor in two quadwords.
    #[must_use]
    pub const fn from_quadwords(low: u64, high: u64) -> Self {
        Self {
            address: low,
            length: high as u32,
            middle: ((high >> 32) as u32) & 0x00FF_FFFF,
            identifier: (high >> 56) as u8,
        }
    }

    /// Two quadwords holding the descriptor.
    #[must_use]
    pub const fn to_quadwords(&self) -> (u64, u64) {
        let high =
            (self.length as u64) | (((self.middle & 0x00FF_FFFF) as u64) << 32) | ((self.identifier as u64) << 56);
        (self.address, high)
    }

    /// The kind, if it is one we know and its subtype is 0h (an address).
    #[must_use]
    pub const fn kind(&self) -> Option<SglKind> {
        if self.identifier & 0x0F != 0 {
            return None;
        }
        match self.identifier >> 4 {
            0x0 => Some(SglKind::DataBlock),
            0x1 => Some(SglKind::BitBucket),
            0x2 => Some(SglKind::Segment),
            0x3 => Some(SglKind::LastSegment),
            0x4 => Some(SglKind::KeyedDataBlock),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        let mut bytes = [0u8; 64];
        bytes[0] = 0x02; // opcode
        bytes[1] = 0x40; // PSDT 01b
        bytes[2..4].copy_from_slice(&[0x34, 0x12]); // command identifier
        bytes[4] = 7; // namespace
        bytes[24..32].copy_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes());
        bytes[32..36].copy_from_slice(&4096u32.to_le_bytes());
        bytes[60] = 0xAB; // CDW15
        let sqe = Sqe::read_from_bytes(&bytes).unwrap();
        assert_eq!((sqe.opcode(), sqe.cid(), sqe.nsid(), sqe.fuse()), (0x02, 0x1234, 7, 0));
        assert_eq!(sqe.data_pointer(), Some(DataPointer::Sgl(SglDescriptor::data_block(0x1122_3344_5566_7788, 4096))));
        assert_eq!(sqe.dword(15), 0xAB);
        assert_eq!(Sqe::from_quadwords(sqe.to_quadwords()), sqe);
    }

    #[test]
    fn reserved_data_pointer_kinds_are_refused() {
        let mut sqe = Sqe::new(1, 0);
        sqe.set_dword(0, sqe.dword(0) | (0b11 << 14));
        assert_eq!(sqe.data_pointer(), None);
        let odd = SglDescriptor { identifier: 0x01, ..SglDescriptor::data_block(0, 0) };
        assert_eq!(odd.kind(), None);
    }
}
