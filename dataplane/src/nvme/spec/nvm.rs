//! The NVM command set: opcodes and fields of I/O commands ("NVM", chapter 3).

use super::DataPointer;

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

/// A Read or Write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// [`opcode::READ`] or [`opcode::WRITE`].
    pub opcode: u8,
    /// Command identifier.
    pub cid: u16,
    /// Namespace.
    pub nsid: u32,
    /// First logical block.
    pub lba: u64,
    /// Logical blocks, 1 to 65,536.
    pub blocks: u32,
    /// [`FORCE_UNIT_ACCESS`] or 0.
    pub flags: u32,
    /// Where the data lies.
    pub data: DataPointer,
}

impl Transfer {
    /// The submission queue entry as eight little-endian quadwords.
    #[must_use]
    #[inline(always)]
    pub const fn to_quadwords(&self) -> [u64; 8] {
        let (kind, first, second) = match self.data {
            DataPointer::Prp { first, second } => (0, first, second),
            DataPointer::Sgl(descriptor) => {
                let (first, second) = descriptor.to_quadwords();
                (0b01 << 14, first, second)
            }
        };
        let dword0 = (self.opcode as u64) | kind | ((self.cid as u64) << 16);
        let dword12 = (self.blocks.wrapping_sub(1) & 0xFFFF) | self.flags;
        [
            (dword0 | ((self.nsid as u64) << 32)).to_le(),
            0,
            0,
            first.to_le(),
            second.to_le(),
            self.lba.to_le(),
            (dword12 as u64).to_le(),
            0,
        ]
    }
}

/// One range of Dataset Management as two little-endian quadwords: attributes and length, then the first block.
#[must_use]
pub const fn dsm_range(lba: u64, blocks: u32) -> [u64; 2] {
    [((blocks as u64) << 32).to_le(), lba.to_le()]
}

#[cfg(test)]
mod tests {
    use super::super::{SglDescriptor, Sqe};
    use super::*;

    #[test]
    fn a_transfer_lies_where_the_specification_puts_it() {
        let data = DataPointer::Prp { first: 0x1000, second: 0x2000 };
        let lba = 0x1_0000_0002;
        let write = Transfer { opcode: opcode::WRITE, cid: 7, nsid: 3, lba, blocks: 8, flags: FORCE_UNIT_ACCESS, data };
        let sqe = Sqe::from_quadwords(write.to_quadwords());
        assert_eq!((sqe.opcode(), sqe.cid(), sqe.nsid(), sqe.data_pointer()), (1, 7, 3, Some(data)));
        assert_eq!((sqe.dword(10), sqe.dword(11), sqe.dword(12)), (2, 1, 0x4000_0007));
        let data = DataPointer::Sgl(SglDescriptor::data_block(0x3000, 65_536 * 512));
        let read = Transfer { opcode: opcode::READ, cid: 0, nsid: 1, lba: 0, blocks: 65_536, flags: 0, data };
        let sqe = Sqe::from_quadwords(read.to_quadwords());
        assert_eq!((sqe.opcode(), sqe.dword(12), sqe.data_pointer()), (2, 0xFFFF, Some(data)));
    }

    #[test]
    fn a_range_matches_literal_bytes() {
        let [first, second] = dsm_range(0x0807_0605_0403_0201, 0x0D0C_0B0A);
        assert_eq!(first.to_ne_bytes(), [0, 0, 0, 0, 0x0A, 0x0B, 0x0C, 0x0D]);
        assert_eq!(second.to_ne_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
