//! The NVM command set: opcodes and fields of I/O commands ("NVM", chapter 3).

use super::{DataPointer, Sqe};

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
    /// I/O Management Receive.
    pub const IO_MANAGEMENT_RECEIVE: u8 = 0x12;
}

/// CDW12 bit 30 of Read and Write: force unit access.
pub const FORCE_UNIT_ACCESS: u32 = 1 << 30;
/// CDW11 bit 2 of Dataset Management: deallocate.
pub const DSM_DEALLOCATE: u32 = 1 << 2;
/// Bytes in one range of Dataset Management.
pub const DSM_RANGE_BYTES: u32 = 16;

/// CDW10 of I/O Management Receive: the status of reclaim unit handles.
pub const RECLAIM_UNIT_HANDLE_STATUS: u32 = 0x01;
/// Bytes before the descriptors of that status, and in each of them.
pub const HANDLE_STATUS_HEAD_BYTES: usize = 16;
/// Bytes in one descriptor.
pub const HANDLE_STATUS_BYTES: usize = 32;

/// CDW12 and CDW13 of a Write with a Data Placement directive (base, "Flexible Data Placement"): directive type 2, and
/// the placement identifier as its specific value.
#[must_use]
#[inline(always)]
pub const fn placement(identifier: u16) -> u64 {
    (0b10 << 20) | ((identifier as u64) << 48)
}

/// I/O Management Receive of the status of reclaim unit handles: `bytes` bytes, a multiple of 4, to one page at `address`.
#[must_use]
pub const fn handle_status(nsid: u32, address: u64, bytes: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode::IO_MANAGEMENT_RECEIVE, 0);
    sqe.set_nsid(nsid);
    sqe.set_prp(address, 0);
    sqe.set_dword(10, RECLAIM_UNIT_HANDLE_STATUS);
    sqe.set_dword(11, bytes / 4 - 1);
    sqe
}

/// The placement identifiers in a status of reclaim unit handles, as many as `data` has.
pub fn placement_identifiers(data: &[u8]) -> impl Iterator<Item = u16> {
    let word =
        |at: usize| u16::from_le_bytes([data.get(at).copied().unwrap_or(0), data.get(at + 1).copied().unwrap_or(0)]);
    let count = usize::from(word(14));
    let room = data.len().saturating_sub(HANDLE_STATUS_HEAD_BYTES) / HANDLE_STATUS_BYTES;
    (0..count.min(room)).map(move |index| word(HANDLE_STATUS_HEAD_BYTES + index * HANDLE_STATUS_BYTES))
}

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
    /// [`placement`] or 0.
    pub directive: u64,
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
            (dword12 as u64 | self.directive).to_le(),
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
    use super::super::SglDescriptor;
    use super::*;

    #[test]
    fn a_transfer_lies_where_the_specification_puts_it() {
        let data = DataPointer::Prp { first: 0x1000, second: 0x2000 };
        let lba = 0x1_0000_0002;
        let write = Transfer {
            opcode: opcode::WRITE,
            cid: 7,
            nsid: 3,
            lba,
            blocks: 8,
            flags: FORCE_UNIT_ACCESS,
            directive: 0,
            data,
        };
        let sqe = Sqe::from_quadwords(write.to_quadwords());
        assert_eq!((sqe.opcode(), sqe.cid(), sqe.nsid(), sqe.data_pointer()), (1, 7, 3, Some(data)));
        assert_eq!((sqe.dword(10), sqe.dword(11), sqe.dword(12)), (2, 1, 0x4000_0007));
        let data = DataPointer::Sgl(SglDescriptor::data_block(0x3000, 65_536 * 512));
        let read =
            Transfer { opcode: opcode::READ, cid: 0, nsid: 1, lba: 0, blocks: 65_536, flags: 0, directive: 0, data };
        let sqe = Sqe::from_quadwords(read.to_quadwords());
        assert_eq!((sqe.opcode(), sqe.dword(12), sqe.data_pointer()), (2, 0xFFFF, Some(data)));
    }

    #[test]
    fn a_placement_lies_where_the_specification_puts_it() {
        let data = DataPointer::Prp { first: 0x1000, second: 0 };
        let directive = placement(0xABCD);
        let write = Transfer { opcode: opcode::WRITE, cid: 7, nsid: 3, lba: 0, blocks: 8, flags: 0, directive, data };
        let sqe = Sqe::from_quadwords(write.to_quadwords());
        assert_eq!((sqe.dword(12), sqe.dword(13)), (0x0020_0007, 0xABCD_0000));
        let mut status = [0; 16 + 64];
        status[14] = 3;
        status[16..18].copy_from_slice(&[1, 2]);
        status[48..50].copy_from_slice(&[3, 4]);
        assert_eq!(
            placement_identifiers(&status).collect::<Vec<_>>(),
            [0x0201, 0x0403],
            "no more than there is room for"
        );
        assert_eq!(placement_identifiers(&[]).count(), 0);
        let sqe = handle_status(3, 0x1000, 4096);
        assert_eq!((sqe.opcode(), sqe.nsid(), sqe.dword(10), sqe.dword(11)), (0x12, 3, 1, 1023));
    }

    #[test]
    fn a_range_matches_literal_bytes() {
        let [first, second] = dsm_range(0x0807_0605_0403_0201, 0x0D0C_0B0A);
        assert_eq!(first.to_ne_bytes(), [0, 0, 0, 0, 0x0A, 0x0B, 0x0C, 0x0D]);
        assert_eq!(second.to_ne_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
