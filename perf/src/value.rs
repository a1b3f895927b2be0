//! Values whose every byte follows from their key, their version and their position.
//!
//! A value is a row of 4 KiB sectors. Word `w` of sector `s` is `TEMPLATE[w] ^ stamp(key, version, s)`. So bytes of
//! another key, of an older version, of another place in the value, or of a write that was torn between two sectors
//! never match, and making a value costs one XOR of 8 bytes from a first-level cache line per word written.
//!
//! [`Verify::Stamps`] reads the first and the last eight bytes of every sector, which finds anything that goes wrong by
//! whole logical blocks for 1/256 of the reading; [`Verify::Full`] compares every byte.

use dataplane::nvme::spec::kv::Key;

use crate::random::mix;

/// Bytes in a sector.
pub const SECTOR_BYTES: usize = 4096;
const WORDS: usize = SECTOR_BYTES / 8;

const TEMPLATE: [u64; WORDS] = {
    let mut words = [0; WORDS];
    let mut at = 0;
    while at < WORDS {
        words[at] = mix(at as u64 ^ 0x6B76_7065_7266);
        at += 1;
    }
    words
};

/// How much of a value is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Every byte.
    Full,
    /// The first and the last eight bytes of every 4 KiB sector, and the length.
    Stamps,
    /// Nothing; stores then send whatever the buffer holds.
    Off,
}

/// A value's identity: which bytes it must have.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    seed: u64,
}

impl Identity {
    /// The identity of one version of a key's value.
    #[must_use]
    pub fn new(key: &Key, version: u32) -> Self {
        let bytes = key.bytes();
        let (mut low, mut high) = ([0; 8], [0; 8]);
        low.copy_from_slice(&bytes[..8]);
        high.copy_from_slice(&bytes[8..]);
        let seed = mix(u64::from_le_bytes(low) ^ mix(u64::from_le_bytes(high)) ^ (u64::from(version) << 32));
        Self { seed }
    }

    fn stamp(self, sector: usize) -> u64 {
        mix(self.seed ^ sector as u64)
    }

    /// Makes the bytes of one sector, or of the beginning of it if `into` is shorter than 4 KiB.
    pub fn fill_sector(self, sector: usize, into: &mut [u8]) {
        let stamp = self.stamp(sector);
        let (words, rest) = into.as_chunks_mut::<8>();
        for (word, template) in words.iter_mut().zip(&TEMPLATE) {
            *word = (template ^ stamp).to_le_bytes();
        }
        let full = words.len();
        if full < WORDS {
            let last = (TEMPLATE[full] ^ stamp).to_le_bytes();
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }

    /// Makes the `length` bytes of the value, handing each sector to `write` with its offset.
    pub fn fill(self, length: usize, mut write: impl FnMut(usize, &[u8])) {
        let mut sector = [0; SECTOR_BYTES];
        for (number, at) in (0..length).step_by(SECTOR_BYTES).enumerate() {
            let bytes = (length - at).min(SECTOR_BYTES);
            self.fill_sector(number, &mut sector[..bytes]);
            write(at, &sector[..bytes]);
        }
    }

    /// Counts the bytes that are not as they must be, among those that `how` looks at. `read` fetches bytes at an offset.
    pub fn wrong_bytes(self, length: usize, how: Verify, mut read: impl FnMut(usize, &mut [u8])) -> u64 {
        let mut wrong = 0;
        for (sector, at) in (0..length).step_by(SECTOR_BYTES).enumerate() {
            let bytes = (length - at).min(SECTOR_BYTES);
            wrong += match how {
                Verify::Off => 0,
                Verify::Full => self.wrong_in_sector(sector, at, bytes, &mut read),
                Verify::Stamps => self.wrong_in_stamps(sector, at, bytes, &mut read),
            };
        }
        wrong
    }

    fn wrong_in_sector(self, sector: usize, at: usize, bytes: usize, read: &mut impl FnMut(usize, &mut [u8])) -> u64 {
        let (mut found, mut expected) = ([0; SECTOR_BYTES], [0; SECTOR_BYTES]);
        read(at, &mut found[..bytes]);
        self.fill_sector(sector, &mut expected[..bytes]);
        if found[..bytes] == expected[..bytes] { 0 } else { differing(&found[..bytes], &expected[..bytes]) }
    }

    fn wrong_in_stamps(self, sector: usize, at: usize, bytes: usize, read: &mut impl FnMut(usize, &mut [u8])) -> u64 {
        let stamp = self.stamp(sector);
        let mut wrong = 0;
        let mut check = |offset: usize, length: usize| {
            let mut found = [0; 8];
            read(at + offset, &mut found[..length]);
            // `offset` need not be a multiple of eight in a sector that ends early: take the bytes of two words.
            let mut expected = [0; 16];
            expected[..8].copy_from_slice(&(TEMPLATE[offset / 8] ^ stamp).to_le_bytes());
            expected[8..].copy_from_slice(&(TEMPLATE[(offset / 8 + 1) % WORDS] ^ stamp).to_le_bytes());
            wrong += differing(&found[..length], &expected[offset % 8..][..length]);
        };
        check(0, bytes.min(8));
        if bytes > 8 {
            let last = (bytes - 8).max(8);
            check(last, bytes - last);
        }
        wrong
    }
}

fn differing(found: &[u8], expected: &[u8]) -> u64 {
    found.iter().zip(expected).filter(|(found, expected)| found != expected).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key::new(*b"0123456789abcdef");

    fn made(identity: Identity, length: usize) -> Vec<u8> {
        let mut value = vec![0; length];
        identity.fill(length, |at, bytes| value[at..at + bytes.len()].copy_from_slice(bytes));
        value
    }

    fn wrong(identity: Identity, how: Verify, value: &[u8]) -> u64 {
        identity.wrong_bytes(value.len(), how, |at, into| into.copy_from_slice(&value[at..at + into.len()]))
    }

    #[test]
    fn a_value_matches_itself_at_every_length() {
        let identity = Identity::new(&KEY, 3);
        for length in (0..40).chain(4080..4120).chain([8192, 65536, 65537]) {
            let value = made(identity, length);
            assert_eq!(wrong(identity, Verify::Full, &value), 0, "{length}");
            assert_eq!(wrong(identity, Verify::Stamps, &value), 0, "{length}");
        }
    }

    #[test]
    fn full_finds_every_single_byte() {
        let identity = Identity::new(&KEY, 1);
        let mut value = made(identity, 5000);
        for at in 0..value.len() {
            value[at] ^= 0x10;
            assert_eq!(wrong(identity, Verify::Full, &value), 1, "byte {at}");
            value[at] ^= 0x10;
        }
    }

    #[test]
    fn stamps_find_every_foreign_sector() {
        let identity = Identity::new(&KEY, 1);
        let length = 3 * SECTOR_BYTES + 100;
        let foreign = [made(Identity::new(&KEY, 2), length), made(Identity::new(&Key::new([9; 16]), 1), length)];
        for other in &foreign {
            for at in (0..length).step_by(SECTOR_BYTES) {
                let mut value = made(identity, length);
                let end = (at + SECTOR_BYTES).min(length);
                value[at..end].copy_from_slice(&other[at..end]);
                assert!(wrong(identity, Verify::Stamps, &value) > 0, "sector at {at}");
            }
        }
        let mut swapped = made(identity, length);
        swapped.copy_within(0..SECTOR_BYTES, SECTOR_BYTES);
        assert!(wrong(identity, Verify::Stamps, &swapped) > 0);
    }

    #[test]
    fn stamps_look_at_both_ends_of_a_sector() {
        let identity = Identity::new(&KEY, 1);
        for length in [100, 4096, 4097, 4100, 8192] {
            for at in [0, 7, length - 1, (length - 1) / SECTOR_BYTES * SECTOR_BYTES] {
                let mut value = made(identity, length);
                value[at] ^= 1;
                assert_eq!(wrong(identity, Verify::Stamps, &value), 1, "byte {at} of {length}");
            }
        }
    }
}
