//! A keyed hash of block names.
//!
//! Folded multiplication (the product's halves xored, as in wyhash and aHash): a few cycles for 20 bytes. The seed
//! is secret and fresh for each start, so nobody can choose keys that fall into one bucket.

use crate::store::space::BlockId;

/// The secret.
#[derive(Clone, Copy)]
pub struct HashKey([u64; 4]);

impl HashKey {
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        Self(std::array::from_fn(|_| split_mix(&mut state)))
    }

    #[inline]
    pub fn hash(&self, id: &BlockId) -> u64 {
        let both = u128::from_le_bytes(*id.key.bytes());
        let [a, b, c, d] = self.0;
        let key = fold(both as u64 ^ a, (both >> 64) as u64 ^ b);
        fold(key ^ c, u64::from(id.space.bits()) ^ d ^ key.rotate_left(32))
    }
}

#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    (product as u64) ^ ((product >> 64) as u64)
}

/// SplitMix64 (Steele, Lea, Flood 2014): spreads a seed over several words.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
