//! Keys of a prompt's prefix chain.
//!
//! An engine cuts a prompt into blocks of tokens and names each block by a hash that covers it and everything
//! before it. [`keys`] makes of such hashes the keys that kvplane wants: the first four bytes of a key are the
//! placement tag, the other twelve are the block's. All blocks of a stripe (a run of [`STRIPE_BLOCKS`] blocks)
//! carry the tag of the stripe's head, so they belong to one core, lie together, and are found by one lookup; the
//! next stripe may belong to another core or target, so that long prefixes load from many at once.
//!
//! ```
//! use kvplane::chain;
//!
//! let hashes: Vec<u64> = vec![7, 8, 9];
//! let keys: Vec<_> = chain::keys(hashes.iter().map(|hash| chain::block_hash(b"tenant salt", *hash)), 2).collect();
//! assert_eq!(keys[0].tag(), keys[1].tag());
//! assert_ne!(keys[1].tag(), keys[2].tag());
//! ```

use dataplane::nvme::spec::kv::Key;

/// Blocks in a stripe, unless the deployment says otherwise. All clients of a namespace must use the same number.
pub const STRIPE_BLOCKS: usize = 64;

/// Bytes of a block's hash that go into its key.
pub const BLOCK_HASH_BYTES: usize = 12;

/// What names a block: hash of its tokens, of everything before them, and of the tenant's salt. Only the first
/// twelve bytes of an engine's hash are kept (2^-48 is the chance that any two of 2^24 blocks collide).
pub type BlockHash = [u8; BLOCK_HASH_BYTES];

/// The placement tag of the stripe that begins with this block.
#[must_use]
pub fn stripe_tag(head: &BlockHash) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, head) as u32
}

/// The key of a block in a stripe with that tag.
#[must_use]
pub fn key(tag: u32, block: &BlockHash) -> Key {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&tag.to_le_bytes());
    bytes[4..].copy_from_slice(block);
    Key::new(bytes)
}

/// The keys of a chain, given the hashes of its blocks from the head of the prompt on. A stripe of 0 blocks is
/// taken as one of 1.
pub fn keys<H>(hashes: H, stripe_blocks: usize) -> impl Iterator<Item = Key>
where
    H: IntoIterator<Item = BlockHash>,
{
    let stripe = stripe_blocks.max(1);
    let mut tag = 0;
    hashes.into_iter().enumerate().map(move |(place, block)| {
        if place % stripe == 0 {
            tag = stripe_tag(&block);
        }
        key(tag, &block)
    })
}

/// A block hash for engines and traces that name blocks by 64-bit numbers: the number is spread over twelve bytes
/// together with a salt. Not a cryptographic hash: the numbers must already be hard to collide where tenants share
/// a namespace.
#[must_use]
pub fn block_hash(salt: &[u8], number: u64) -> BlockHash {
    let digest = |first: u8| {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        digest.update(&[first]);
        digest.update(salt);
        digest.update(&number.to_le_bytes());
        digest.finalize()
    };
    let mut bytes = [0; BLOCK_HASH_BYTES];
    bytes[..8].copy_from_slice(&digest(0).to_le_bytes());
    // Two CRCs of inputs that differ in their first byte differ by a constant, so the rest comes from a mixer.
    bytes[8..].copy_from_slice(&(mix(digest(1)) as u32).to_le_bytes());
    bytes
}

/// The finaliser of splitmix64 (Steele, Lea, Flood; public domain).
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_stripe_shares_its_heads_tag() {
        let hashes: Vec<BlockHash> = (0..130).map(|n| block_hash(b"", n)).collect();
        let keys: Vec<Key> = keys(hashes.iter().copied(), STRIPE_BLOCKS).collect();
        for (place, key) in keys.iter().enumerate() {
            assert_eq!(key.tag(), stripe_tag(&hashes[place / STRIPE_BLOCKS * STRIPE_BLOCKS]));
            assert_eq!(key.bytes()[4..], hashes[place]);
        }
        assert_eq!(keys.iter().map(Key::tag).collect::<HashSet<_>>().len(), 3);
    }

    #[test]
    fn a_shared_prefix_gives_shared_keys() {
        let chain = |tail: u64| -> Vec<Key> {
            keys([1, 2, tail].map(|number| block_hash(b"salt", number)), STRIPE_BLOCKS).collect()
        };
        let (one, two) = (chain(3), chain(4));
        assert_eq!(one[..2], two[..2]);
        assert_ne!(one[2], two[2]);
    }

    #[test]
    fn numbers_and_salts_are_told_apart() {
        let all: HashSet<BlockHash> = (0..10_000).flat_map(|n| [block_hash(b"a", n), block_hash(b"b", n)]).collect();
        assert_eq!(all.len(), 20_000);
    }
}
