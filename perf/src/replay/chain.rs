//! The keys of a request's prompt.

use kvplane::{Key, chain};

pub use kvplane::chain::STRIPE_BLOCKS;

/// Makes the keys of a chain from the trace's block ids. The size of blocks goes into the keys as a salt, so that replays
/// with other sizes against the same store do not meet each other's values.
pub fn keys(ids: &[u64], block_bytes: u32) -> Vec<Key> {
    let salt = block_bytes.to_le_bytes();
    chain::keys(ids.iter().map(|&id| chain::block_hash(&salt, id)), STRIPE_BLOCKS).collect()
}
