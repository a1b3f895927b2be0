//! The 16-byte completion queue entry (base, figure "Common Completion Queue Entry Layout").

use super::Status;

/// A completion queue entry without its phase tag, which belongs to the queue that carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cqe {
    /// DW0: what the command returns.
    pub dword0: u32,
    /// DW1: reserved by the base specification; the vendor commands and Retrieve return a second word here.
    pub dword1: u32,
    /// Submission queue head pointer: DW2 bits 15:0.
    pub sq_head: u16,
    /// Submission queue identifier: DW2 bits 31:16.
    pub sq_id: u16,
    /// Command identifier: DW3 bits 15:0.
    pub cid: u16,
    /// Status: DW3 bits 31:17.
    pub status: Status,
}

impl Cqe {
    /// Bytes in an entry.
    pub const BYTES: usize = 16;

    /// The entry as two little-endian quadwords. The phase tag (DW3 bit 16) is in the second, so a queue writes
    /// the first, then the second with a release store.
    #[must_use]
    pub const fn to_quadwords(&self, phase: bool) -> [u64; 2] {
        let dword2 = (self.sq_head as u64) | ((self.sq_id as u64) << 16);
        let dword3 = (self.cid as u64) | ((phase as u64) << 16) | ((self.status.bits() as u64) << 17);
        [((self.dword0 as u64) | ((self.dword1 as u64) << 32)).to_le(), (dword2 | (dword3 << 32)).to_le()]
    }

    /// The entry held by two quadwords, and its phase tag.
    #[must_use]
    pub const fn from_quadwords(words: [u64; 2]) -> (Self, bool) {
        let (low, high) = (u64::from_le(words[0]), u64::from_le(words[1]));
        let dword3 = (high >> 32) as u32;
        let entry = Self {
            dword0: low as u32,
            dword1: (low >> 32) as u32,
            sq_head: high as u16,
            sq_id: (high >> 16) as u16,
            cid: dword3 as u16,
            status: Status::from_bits((dword3 >> 17) as u16),
        };
        (entry, dword3 & (1 << 16) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_matches_literal_bytes() {
        let entry = Cqe {
            dword0: 0x0403_0201,
            dword1: 0,
            sq_head: 0x0605,
            sq_id: 0x0807,
            cid: 0x0A09,
            status: Status::KEY_DOES_NOT_EXIST,
        };
        let words = entry.to_quadwords(true);
        let mut bytes = [0u8; 16];
        bytes[..8].copy_from_slice(&u64::from_le(words[0]).to_le_bytes());
        bytes[8..].copy_from_slice(&u64::from_le(words[1]).to_le_bytes());
        // Status 87h in bits 24:17 and the phase tag in bit 16 of DW3; do-not-retry in bit 31.
        assert_eq!(bytes, [1, 2, 3, 4, 0, 0, 0, 0, 5, 6, 7, 8, 9, 10, 0x0F, 0x81]);
        assert_eq!(Cqe::from_quadwords(words), (entry, true));
        assert_eq!(Cqe::from_quadwords(entry.to_quadwords(false)), (entry, false));
    }
}
