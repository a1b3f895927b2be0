//! The keys of a request's prompt.

use dataplane::nvme::spec::kv::Key;

use crate::random::mix;

/// Blocks that share a placement tag, and so a core.
pub const STRIPE_BLOCKS: usize = 64;

/// Makes the keys of a chain from the trace's block ids. The size of blocks goes into the key, so that replays with
/// other sizes against the same store do not meet each other's values.
pub fn keys(ids: &[u64], block_bytes: u32, into: &mut Vec<Key>) {
    into.clear();
    let mut tag = 0;
    into.extend(ids.iter().enumerate().map(|(place, &id)| {
        let (low, high) = (mix(id ^ u64::from(block_bytes) << 32), mix(!id));
        if place % STRIPE_BLOCKS == 0 {
            tag = mix(low) as u32;
        }
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&tag.to_le_bytes());
        bytes[4..12].copy_from_slice(&low.to_le_bytes());
        bytes[12..].copy_from_slice(&(high as u32).to_le_bytes());
        Key::new(bytes)
    }));
}
