//! What the device needs of a ring.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{opcode, types};

use crate::core::io_ring::set_up;
use crate::memory::{Region, RegionSlot};

/// The most buffers that the kernel's table holds (`IORING_MAX_REG_BUFFERS`).
pub(super) const MAX_BUFFERS: u16 = 1 << 14;

/// Reads the first block with a ring that polls for its completion: fails where the device cannot be polled.
pub(super) fn try_io_poll(file: &File, lba_bytes: u32) -> io::Result<()> {
    let memory = Region::anonymous(lba_bytes as usize, RegionSlot(0))?;
    let mut ring = set_up(1, true)?;
    let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), memory.base() as *mut u8, lba_bytes).build();
    // SAFETY: the memory outlives the ring, the file is open, and the one command is waited for below.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    loop {
        match ring.submit_and_wait(1) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => {
                let Some(entry) = ring.completion().next() else { continue };
                let failed = entry.result() < 0;
                return if failed { Err(io::Error::from_raw_os_error(-entry.result())) } else { Ok(()) };
            }
        }
    }
}
