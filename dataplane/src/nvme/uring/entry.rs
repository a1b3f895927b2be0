//! A command as a submission queue entry.

use io_uring::{opcode, squeue, types};

use super::device::Deallocation;
use crate::nvme::{BlockIo, BlockOp};

/// The file, under the number it was registered as.
const FILE: types::Fixed = types::Fixed(0);
/// `BLOCK_URING_CMD_DISCARD` of linux/blkdev.h: the start in `addr`, the length in `addr3`, where a command's own
/// sixteen bytes begin.
const BLOCK_URING_CMD_DISCARD: u32 = 0x12 << 8;

/// Builds the entry of what is left of a command of which `moved` bytes are done. `fixed` says whether its memory is
/// registered under its slot.
pub(super) fn build(
    io: &BlockIo,
    moved: u32,
    lba_bytes: u32,
    fixed: bool,
    deallocation: Deallocation,
) -> squeue::Entry {
    let at = io.lba * u64::from(lba_bytes) + u64::from(moved);
    let memory = io.memory.address() + u64::from(moved);
    let bytes = io.memory.bytes() - moved.min(io.memory.bytes());
    let slot = io.memory.slot().0;
    match io.op {
        BlockOp::Read if fixed => opcode::ReadFixed::new(FILE, memory as *mut u8, bytes, slot).offset(at).build(),
        BlockOp::Read => opcode::Read::new(FILE, memory as *mut u8, bytes).offset(at).build(),
        BlockOp::Write { fua, .. } => {
            let flags = if fua { libc::RWF_DSYNC } else { 0 };
            let memory = memory as *const u8;
            if fixed {
                opcode::WriteFixed::new(FILE, memory, bytes, slot).offset(at).rw_flags(flags).build()
            } else {
                opcode::Write::new(FILE, memory, bytes).offset(at).rw_flags(flags).build()
            }
        }
        BlockOp::Flush => opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build(),
        BlockOp::Deallocate => deallocate(at, u64::from(io.blocks) * u64::from(lba_bytes), deallocation),
    }
}

fn deallocate(at: u64, bytes: u64, deallocation: Deallocation) -> squeue::Entry {
    match deallocation {
        Deallocation::None => opcode::Nop::new().build(),
        Deallocation::PunchHole => {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            opcode::Fallocate::new(FILE, bytes).offset(at).mode(mode).build()
        }
        Deallocation::Discard => {
            let mut command = [0; 16];
            command[..8].copy_from_slice(&bytes.to_ne_bytes());
            opcode::UringCmd16::new(FILE, BLOCK_URING_CMD_DISCARD).cmd(command).addr(Some(at)).build()
        }
    }
}
