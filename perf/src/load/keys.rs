//! The keys, and what is known of their values.

use kvplane::Key;

use crate::random::{Random, Zipf, mix};

/// Which key a command takes.
#[derive(Clone, Debug)]
pub enum Choice {
    /// One after the other.
    Sequential,
    /// All alike.
    Uniform,
    /// Some more than others.
    Zipf(Zipf),
}

const WRITING: u32 = 1 << 31;
const READER: u32 = 1 << 20;
const READERS: u32 = 0x7FF << 20;
const VERSION: u32 = READER - 1;
/// The version of a key after a change that failed: it may or may not have been made.
pub(super) const UNKNOWN: u32 = VERSION;

/// Keys by number, and the version of each key's value. A key is not written and read at the same time, so that it is
/// always known which bytes must come back.
#[derive(Debug)]
pub struct Keys {
    seed: u64,
    count: u64,
    /// Per key: bit 31 a change is in flight, 30:20 reads in flight, 19:0 version (0 for no value).
    states: Vec<u32>,
}

impl Keys {
    /// Keys without values.
    #[must_use]
    pub fn new(count: u64, seed: u64) -> Self {
        Self { seed: mix(seed), count: count.max(1), states: vec![0; count.max(1) as usize] }
    }

    /// Takes it that every key has its first value, from an earlier run with the same seed.
    pub fn assume_stored(&mut self) {
        self.states.fill(1);
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// A key.
    #[inline]
    #[must_use]
    pub fn key(&self, number: u64) -> Key {
        let low = mix(self.seed ^ number);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..].copy_from_slice(&mix(low ^ 0x6B65_7973).to_le_bytes());
        Key::new(bytes)
    }

    /// Draws a key's number.
    #[inline]
    pub fn draw(&self, choice: &Choice, random: &mut Random, turn: u64) -> u64 {
        match choice {
            Choice::Sequential => turn % self.count,
            Choice::Uniform => random.below(self.count),
            // Popular keys are spread, as if hashed.
            Choice::Zipf(zipf) => (zipf.draw(random) as u64).wrapping_mul(0x9E37_79B1) % self.count,
        }
    }

    /// The number that a value's size is drawn from.
    #[must_use]
    pub const fn size_number(number: u64, version: u32) -> u64 {
        number << 20 | version as u64
    }

    /// Begins a read of a key, or of a key behind it if that one is being changed. Its number and version.
    #[inline]
    pub fn begin_read(&mut self, from: u64) -> (u64, u32) {
        let number = self.first(from, |state| state & WRITING == 0 && state & READERS != READERS);
        self.states[number as usize] += READER;
        (number, self.states[number as usize] & VERSION)
    }

    /// Ends a read.
    #[inline]
    pub fn end_read(&mut self, number: u64) {
        self.states[number as usize] -= READER;
    }

    /// Begins a change of a key that nobody uses. Its number, and the version that a store would have.
    pub fn begin_change(&mut self, from: u64) -> (u64, u32) {
        let number = self.first(from, |state| state & (WRITING | READERS) == 0);
        let state = &mut self.states[number as usize];
        *state |= WRITING;
        (number, (*state & VERSION) % (UNKNOWN - 1) + 1)
    }

    /// Ends a change: the key has that version now, 0 for no value.
    pub fn end_change(&mut self, number: u64, version: u32) {
        self.states[number as usize] = version;
    }

    /// The first key from `from` on that is fit; `from` itself if none is.
    fn first(&self, from: u64, fit: impl Fn(u32) -> bool) -> u64 {
        let count = self.count;
        (0..count).map(|step| (from + step) % count).find(|number| fit(self.states[*number as usize])).unwrap_or(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_use_are_passed_over() {
        let mut keys = Keys::new(3, 1);
        assert_eq!(keys.begin_change(0), (0, 1));
        assert_eq!(keys.begin_read(0), (1, 0));
        assert_eq!(keys.begin_read(1), (1, 0));
        assert_eq!(keys.begin_change(0), (2, 1));
        keys.end_change(0, 1);
        assert_eq!(keys.begin_change(0), (0, 2));
        keys.end_read(1);
        keys.end_read(1);
        assert_eq!(keys.begin_change(1), (1, 1));
    }

    #[test]
    fn versions_wrap_past_none() {
        let mut keys = Keys::new(1, 1);
        keys.end_change(0, UNKNOWN - 1);
        assert_eq!(keys.begin_change(0).1, 1);
    }

    #[test]
    fn keys_differ() {
        let keys = Keys::new(10, 1);
        let other = Keys::new(10, 2);
        let all: std::collections::HashSet<Key> =
            (0..10_000).flat_map(|number| [keys.key(number), other.key(number)]).collect();
        assert_eq!(all.len(), 20_000);
    }
}
