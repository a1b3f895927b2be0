//! Ways in for fuzzing: what bytes from a host go through before anything is done for them.

use zerocopy::FromBytes;

use super::exchange::Route;
use crate::nvme::spec::Sqe;

/// Reads the data pointer of a command that came with `capsule_bytes` of data, of which `max_bytes` may move: which way
/// its data goes and how many bytes, where it lies in the host's memory, and which key is to be invalidated.
///
/// # Panics
/// If what is found is not within what was agreed.
pub fn route(command: &[u8; Sqe::BYTES], capsule_bytes: u32, max_bytes: u32) {
    let Ok(sqe) = Sqe::read_from_bytes(command) else { return };
    let Ok(route) = Route::of(&sqe, capsule_bytes, max_bytes) else { return };
    assert!(route.bytes <= max_bytes);
    assert!(route.bytes == 0 || route.to_host || route.from_host);
    let along = !route.to_host && route.bytes <= capsule_bytes;
    assert!(route.bytes == 0 || route.place.is_some() || along);
}
