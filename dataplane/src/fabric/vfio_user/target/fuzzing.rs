//! Entry points for fuzzers. Not part of the interface.

use std::sync::Arc;

use crate::fabric::SessionId;
use crate::nvme::spec::Sqe;
use crate::nvme::spec::kv::transfer_bytes;

use super::super::shared_memory::SharedMemory;
use super::cursor::Cursor;
use super::iova::{IovaRange, IovaTable};

const BYTES: usize = 1 << 16;

/// Walks the data pointer of a command (the first 64 bytes of `input`) in a client's memory of 64 KiB at address 0
/// that begins with the rest of `input`. Says how many windows there were.
#[must_use]
pub fn walk_data_pointer(input: &[u8]) -> u32 {
    let Some((command, content)) = input.split_first_chunk::<64>() else { return 0 };
    let Ok(memory) = SharedMemory::create("kvplane-fuzz", BYTES as u64, false) else { return 0 };
    if memory.region().write(0, &content[..content.len().min(BYTES)]).is_none() {
        return 0;
    }
    let mut table = IovaTable::default();
    if table.insert(IovaRange { iova: 0, region: Arc::clone(memory.region()) }).is_err() {
        return 0;
    }
    let sqe: Sqe = zerocopy::transmute!(*command);
    let bytes = transfer_bytes(&sqe);
    let mut cursor = Cursor::new(&sqe, SessionId(0), bytes);
    let (mut windows, mut moved) = (0, 0u64);
    while let Ok(slice) = cursor.window(&mut table, 1 << 20) {
        assert!(slice.bytes() > 0 && memory.region().contains(&slice), "a window lies outside the client's memory");
        windows += 1;
        moved += u64::from(slice.bytes());
        assert!(moved <= u64::from(bytes), "more bytes than the command names");
        if windows == 1 << 16 {
            break;
        }
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_pointers_stay_inside(
            mut command in proptest::collection::vec(any::<u8>(), 64),
            entries in proptest::collection::vec((0u64..0x2_0000, any::<u16>(), 0u8..6), 1..64),
            psdt in 0u8..4,
            aligned in any::<bool>(),
        ) {
            command[0] = 0x01;
            command[1] = psdt << 6;
            command[43] = 0;
            let mut input = command;
            let mask = if aligned { 0xFFF } else { 0 };
            // The pointer in the command leads near the start of the memory, whose entries lead near each other.
            for at in [24, 32] {
                let near = (entries[at % entries.len()].0 % 1024) & !7;
                input[at..at + 8].copy_from_slice(&near.to_le_bytes());
            }
            if psdt > 0 {
                input[39] = entries[0].2 << 4;
            }
            for (address, length, kind) in entries {
                input.extend_from_slice(&(address & !mask).to_le_bytes());
                input.extend_from_slice(&(u64::from(length) | (u64::from(kind) << 60)).to_le_bytes());
            }
            let _ = walk_data_pointer(&input);
        }
    }
}
