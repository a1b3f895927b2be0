//! The NVM command set: opcodes and fields of I/O commands ("NVM", chapter 3).

use super::Sqe;

/// Opcodes.
pub mod opcode {
    /// Makes completed writes durable.
    pub const FLUSH: u8 = 0x00;
    /// Memory to medium.
    pub const WRITE: u8 = 0x01;
    /// Medium to memory.
    pub const READ: u8 = 0x02;
    /// Hints about ranges.
    pub const DATASET_MANAGEMENT: u8 = 0x09;
}

/// CDW12 bit 30 of Read and Write: force unit access.
pub const FORCE_UNIT_ACCESS: u32 = 1 << 30;
/// CDW11 bit 2 of Dataset Management: deallocate.
pub const DSM_DEALLOCATE: u32 = 1 << 2;
/// Bytes in one range of Dataset Management.
pub const DSM_RANGE_BYTES: u32 = 16;

/// A Read or Write of `blocks` (1 to 65,536) logical blocks from `lba` on, without a data pointer yet.
#[must_use]
#[inline]
pub const fn transfer(opcode: u8, cid: u16, nsid: u32, lba: u64, blocks: u32, flags: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode, cid);
    sqe.set_nsid(nsid);
    sqe.set_quadword(10, lba);
    sqe.set_dword(12, (blocks.wrapping_sub(1) & 0xFFFF) | flags);
    sqe
}

/// One range of Dataset Management as two little-endian quadwords: attributes and length, then the first block.
#[must_use]
pub const fn dsm_range(lba: u64, blocks: u32) -> [u64; 2] {
    [((blocks as u64) << 32).to_le(), lba.to_le()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_matches_literal_dwords() {
        let sqe = transfer(opcode::WRITE, 7, 3, 0x1_0000_0002, 8, FORCE_UNIT_ACCESS);
        assert_eq!((sqe.opcode(), sqe.cid(), sqe.nsid()), (1, 7, 3));
        assert_eq!((sqe.dword(10), sqe.dword(11), sqe.dword(12)), (2, 1, 0x4000_0007));
        assert_eq!(transfer(opcode::READ, 0, 1, 0, 65_536, 0).dword(12), 0xFFFF);
    }

    #[test]
    fn a_range_matches_literal_bytes() {
        let [first, second] = dsm_range(0x0807_0605_0403_0201, 0x0D0C_0B0A);
        assert_eq!(first.to_ne_bytes(), [0, 0, 0, 0, 0x0A, 0x0B, 0x0C, 0x0D]);
        assert_eq!(second.to_ne_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
