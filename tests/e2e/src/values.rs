//! Keys and values whose bytes say what they are.
//!
//! A value begins with its key and version (16 and 8 bytes, as far as it is long enough) and goes on with bytes that
//! follow from both and from the length. So a value read back tells which Store it came from, and one byte of
//! another value, of an older version or of a torn write is noticed.

use kvplane::Key;

/// The bytes of key and version at the front.
pub const STAMP: usize = 24;

/// A key made from a number. The placement tag is spread so that neighbours belong to different owners.
#[must_use]
pub fn key(number: u64) -> Key {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mix(number ^ 0x6B65_7973).to_le_bytes());
    bytes[8..].copy_from_slice(&number.to_le_bytes());
    Key::new(bytes)
}

/// The value of a key in a version.
#[must_use]
pub fn value(key: &Key, version: u64, bytes: usize) -> Vec<u8> {
    let mut value = vec![0; bytes];
    fill(key, version, &mut value);
    value
}

/// Writes the value of a key in a version.
pub fn fill(key: &Key, version: u64, value: &mut [u8]) {
    let mut state = mix(version) ^ mix(u64::from(key.tag()) + 1) ^ mix(value.len() as u64 + 3);
    state ^= u64::from_le_bytes(key.bytes()[8..].try_into().unwrap());
    for piece in value.chunks_mut(8) {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        piece.copy_from_slice(&mix(state).to_le_bytes()[..piece.len()]);
    }
    let mut stamp = [0; STAMP];
    stamp[..16].copy_from_slice(key.bytes());
    stamp[16..].copy_from_slice(&version.to_le_bytes());
    let stamped = value.len().min(STAMP);
    value[..stamped].copy_from_slice(&stamp[..stamped]);
}

/// The version of a key's value, after every byte was checked.
///
/// # Errors
/// What is wrong: another key's bytes, or bytes that no single Store wrote.
pub fn version_of(key: &Key, found: &[u8]) -> Result<u64, String> {
    if found.len() < STAMP {
        return Err(format!("{} bytes are too few to hold a stamp", found.len()));
    }
    if found[..16] != key.bytes()[..] {
        return Err(format!("asked for key {key}, got bytes of key {:02x?}", &found[..16]));
    }
    let version = u64::from_le_bytes(found[16..STAMP].try_into().unwrap());
    match first_difference(found, &value(key, version, found.len())) {
        None => Ok(version),
        Some(at) => Err(format!("key {key} version {version}: torn at byte {at} of {}", found.len())),
    }
}

/// Where two values differ first, if they do.
#[must_use]
pub fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    let common = left.iter().zip(right).position(|(left, right)| left != right);
    common.or_else(|| (left.len() != right.len()).then(|| left.len().min(right.len())))
}

/// A generator of test data with a seed (splitmix64: Steele, Lea, Flood; public domain).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that roll the same for the same seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0) % bound
    }

    /// Fills bytes with noise.
    pub fn noise(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.below(256) as u8);
    }
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_its_version_and_any_wrong_byte_is_noticed() {
        let key = key(7);
        let mut bytes = value(&key, 42, 1000);
        assert_eq!(version_of(&key, &bytes), Ok(42));
        bytes[999] ^= 1;
        assert!(version_of(&key, &bytes).unwrap_err().contains("byte 999"));
        assert!(version_of(&super::key(8), &value(&key, 42, 1000)).unwrap_err().contains("asked for key"));
        let mut halves = value(&key, 1, 4096);
        halves[2048..].copy_from_slice(&value(&key, 2, 4096)[2048..]);
        assert!(version_of(&key, &halves).unwrap_err().contains("torn"));
    }
}
