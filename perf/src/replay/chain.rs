//! The keys of a request's prompt.

use kvplane::{Key, chain};

pub use kvplane::chain::STRIPE_BLOCKS;

/// Makes the keys of a chain from the trace's block ids. The size of blocks goes into the keys beside the salt, so that
/// replays with other sizes against the same store do not meet each other's values.
pub fn keys(ids: &[u64], block_bytes: u32, salt: u32) -> Vec<Key> {
    let mut salted = [0; 8];
    salted[..4].copy_from_slice(&block_bytes.to_le_bytes());
    salted[4..].copy_from_slice(&salt.to_le_bytes());
    chain::keys(ids.iter().map(|&id| chain::block_hash(&salted, id)), STRIPE_BLOCKS).collect()
}
