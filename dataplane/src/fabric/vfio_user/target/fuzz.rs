//! A way in for fuzzers: any command over any client memory.

use std::sync::Arc;

use super::super::shared_memory::SharedMemory;
use super::cursor::{Cursor, copy_in, copy_out, transfer_bytes};
use super::iova::{IovaRange, IovaTable};
use crate::fabric::SessionId;
use crate::nvme::spec::Sqe;

/// Client memory: where it begins, and how many pages it has. Two stand side by side, one apart, none at zero.
const RANGES: [(u64, u64); 3] = [(0x1_0000, 4), (0x1_4000, 2), (0x10_0000, 3)];

/// Walks the data pointer of the command in the first 64 bytes, over client memory that is filled with the rest again
/// and again. For fuzzers.
///
/// # Panics
/// If a window lies outside of the client's memory, or the cursor yields more than the command moves.
#[doc(hidden)]
pub fn fuzz_cursor(bytes: &[u8]) {
    let Some((command, content)) = bytes.split_first_chunk::<{ Sqe::BYTES }>() else { return };
    let mut words = [0; 8];
    for (word, piece) in words.iter_mut().zip(command.chunks_exact(8)) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(piece);
        *word = u64::from_le_bytes(bytes).to_le();
    }
    let sqe = Sqe::from_quadwords(words);
    let Some(mut table) = filled(content) else { return };
    let moves = transfer_bytes(&sqe).min(1 << 22);
    let fresh = Cursor::new(&sqe, SessionId(0), moves);

    let mut cursor = fresh.clone();
    let mut left = moves;
    while let Ok(window) = cursor.window(&mut table, left.clamp(1, 10_000)) {
        assert!(window.bytes() >= 1 && window.bytes() <= left, "{window:?} of {left} bytes");
        let inside = table.ranges().iter().any(|range| {
            let (slot, first) = (range.region.slot(), range.region.slice(0, 1));
            let begins = first.is_some_and(|first| window.address() >= first.address());
            let end = first.map(|first| first.address() + range.region.bytes() as u64);
            window.slot() == slot
                && begins
                && end.is_some_and(|end| window.address() + u64::from(window.bytes()) <= end)
        });
        assert!(inside, "{window:?} is not the client's");
        left -= window.bytes();
        assert_eq!(cursor.remaining(), left);
        if left == 0 {
            break;
        }
    }
    let mut buffer = vec![0; moves.min(1 << 16) as usize];
    let _ = copy_out(&mut fresh.clone(), &mut table, &mut buffer);
    let _ = copy_in(&mut fresh.clone(), &mut table, &buffer);
}

fn filled(content: &[u8]) -> Option<IovaTable> {
    let mut table = IovaTable::default();
    for (iova, pages) in RANGES {
        let memory = SharedMemory::create("fuzz", pages * 4096, false).ok()?;
        let region = Arc::clone(memory.region());
        if !content.is_empty() {
            for at in (0..region.bytes() as u64).step_by(content.len()) {
                let fits = content.len().min(region.bytes() - at as usize);
                region.write(at, &content[..fits])?;
            }
        }
        table.insert(IovaRange { iova, region }).ok()?;
    }
    Some(table)
}
