//! A bucket: one cache line of tags and entry numbers.

/// Slots in a bucket: what fits 64 bytes.
pub const SLOTS: usize = 12;

/// One cache line. A tag of 0 marks an empty slot.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Bucket {
    /// Twelve tags, then four bytes that stay zero, so that tags are compared as two words.
    tags: [u8; 16],
    entries: [u32; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// The tag of a hash. Its low bits: buckets are chosen by the high bits of both halves.
#[inline]
pub const fn tag(hash: u64) -> u8 {
    let tag = hash as u8;
    if tag == 0 { 1 } else { tag }
}

impl Bucket {
    pub const EMPTY: Self = Self { tags: [0; 16], entries: [0; SLOTS] };

    /// Slots whose tag is, or in rare cases merely looks like, this one.
    #[inline]
    pub fn candidates(&self, tag: u8) -> Candidates {
        let tags = u128::from_le_bytes(self.tags);
        let pattern = ONES * u64::from(tag);
        let first = zero_bytes(tags as u64 ^ pattern);
        let rest = zero_bytes((tags >> 64) as u64 ^ pattern) & REST_MASK;
        // The marks of the first eight slots in bits 0 of their bytes, those of the rest in bits 1.
        Candidates(first >> 7 | rest >> 6)
    }

    #[inline]
    pub fn entry(&self, slot: usize) -> u32 {
        self.entries[slot]
    }

    pub fn is_used(&self, slot: usize) -> bool {
        self.tags[slot] != 0
    }

    pub fn len(&self) -> usize {
        self.tags[..SLOTS].iter().filter(|&&tag| tag != 0).count()
    }

    pub fn vacant(&self) -> Option<usize> {
        self.tags[..SLOTS].iter().position(|&tag| tag == 0)
    }

    pub fn set(&mut self, slot: usize, tag: u8, entry: u32) {
        self.tags[slot] = tag;
        self.entries[slot] = entry;
    }

    pub fn clear(&mut self, slot: usize) {
        self.tags[slot] = 0;
    }
}

const ONES: u64 = u64::from_le_bytes([1; 8]);
const HIGHS: u64 = ONES << 7;
/// The bytes of the second word that are tags.
const REST_MASK: u64 = (1 << (8 * (SLOTS - 8))) - 1;

/// The high bit of each byte that is zero; a byte of 1 above a zero byte may be marked too, which the comparison of
/// keys sorts out.
#[inline]
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// The slots that are marked, in no particular order.
pub struct Candidates(u64);

impl Iterator for Candidates {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros();
        let slot = (bit / 8 + bit % 8 * 8) as usize;
        self.0 &= self.0 - 1;
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_found_by_its_tag_and_empty_ones_never() {
        for tag in 1..=255u8 {
            let mut bucket = Bucket::EMPTY;
            assert_eq!(bucket.candidates(tag).count(), 0, "{tag}");
            for slot in 0..SLOTS {
                bucket.set(slot, tag, slot as u32 + 100);
                assert!(bucket.candidates(tag).any(|at| at == slot && bucket.entry(at) == slot as u32 + 100));
            }
            assert_eq!((bucket.len(), bucket.vacant()), (SLOTS, None));
            bucket.clear(5);
            assert!(bucket.candidates(tag).all(|at| at != 5 || tag == 1));
            assert_eq!(bucket.vacant(), Some(5));
        }
    }
}
