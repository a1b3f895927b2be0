//! The index: every block of a shard in at most 48 bytes.
//!
//! A dense array of 40-byte entries, and buckets of one cache line that point into it: 12 slots of an 8-bit tag and
//! a 32-bit entry number. A key lives in one of two buckets, and where both are full one of theirs gives way to its
//! own other one, so the table can be filled to 0.85 and beyond without a rehash; a lookup that misses touches two cache lines. Nothing is allocated or moved after it was made.

mod bucket;
mod entry;
mod hash;

pub(super) use entry::Entry;
pub(super) use hash::HashKey;

use dataplane::memory::prefetch;

use bucket::{Bucket, SLOTS};

use super::space::BlockId;

/// Names an entry. Stays the same while its block moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct EntryId(pub u32);

/// Both buckets of a key are full, or all entries are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexFull;

const NONE: u32 = u32::MAX;

pub(super) struct Index {
    buckets: Box<[Bucket]>,
    entries: Box<[Entry]>,
    key: HashKey,
    /// Entries from here on were never used.
    fresh: u32,
    /// Head of the list of entries that were given back.
    free: u32,
    len: u32,
}

impl Index {
    /// An index for up to `capacity` blocks, hashed under a secret seed.
    pub fn new(capacity: u32, seed: u64) -> Self {
        // Twelve slots filled to 0.85 are 10.2 entries a bucket.
        let buckets = (u64::from(capacity) * 10).div_ceil(102).max(2) as usize;
        Self {
            buckets: vec![Bucket::EMPTY; buckets].into_boxed_slice(),
            entries: vec![Entry::FREE; capacity as usize].into_boxed_slice(),
            key: HashKey::new(seed),
            fresh: 0,
            free: NONE,
            len: 0,
        }
    }

    pub fn bytes(&self) -> usize {
        std::mem::size_of_val(&*self.buckets) + std::mem::size_of_val(&*self.entries)
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn capacity(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Entries that may be in use are below this.
    pub fn high_water(&self) -> u32 {
        self.fresh
    }

    #[inline]
    pub fn hash(&self, id: &BlockId) -> u64 {
        self.key.hash(id)
    }

    /// The two buckets of a hash: its halves, scaled to the table.
    #[inline]
    fn homes(&self, hash: u64) -> (usize, usize) {
        let buckets = self.buckets.len() as u64;
        let scale = |half: u64| ((half * buckets) >> 32) as usize;
        (scale(hash >> 32), scale(hash & 0xFFFF_FFFF))
    }

    /// Asks for the cache lines of both buckets.
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        let (first, second) = self.homes(hash);
        prefetch::line(&self.buckets[first]);
        prefetch::line(&self.buckets[second]);
    }

    /// Asks for the cache lines of the entry that the hash most likely means; its buckets should have arrived.
    pub fn prefetch_entry(&self, hash: u64) {
        let (first, second) = self.homes(hash);
        let tag = bucket::tag(hash);
        for home in [first, second] {
            if let Some(slot) = self.buckets[home].candidates(tag).next()
                && let Some(entry) = self.entries.get(self.buckets[home].entry(slot) as usize)
            {
                prefetch::span(entry);
                return;
            }
        }
    }

    #[inline]
    pub fn find(&self, hash: u64, id: &BlockId) -> Option<EntryId> {
        let (first, second) = self.homes(hash);
        let tag = bucket::tag(hash);
        self.find_in(first, tag, id).or_else(|| self.find_in(second, tag, id))
    }

    #[inline]
    fn find_in(&self, home: usize, tag: u8, id: &BlockId) -> Option<EntryId> {
        let bucket = &self.buckets[home];
        bucket.candidates(tag).map(|slot| bucket.entry(slot)).find(|&at| self.entries[at as usize].is(id)).map(EntryId)
    }

    /// Adds an entry whose key is not in the index yet.
    pub fn insert(&mut self, hash: u64, entry: Entry) -> Result<EntryId, IndexFull> {
        let (first, second) = self.homes(hash);
        let (less, more) =
            if self.buckets[second].len() < self.buckets[first].len() { (second, first) } else { (first, second) };
        if self.len == self.capacity() {
            return Err(IndexFull);
        }
        let room = [less, more].into_iter().find_map(|home| Some((home, self.buckets[home].vacant()?)));
        let (home, slot) = room.or_else(|| self.make_room([less, more])).ok_or(IndexFull)?;
        let at = self.take_entry().ok_or(IndexFull)?;
        self.entries[at as usize] = entry;
        self.buckets[home].set(slot, bucket::tag(hash), at);
        self.len += 1;
        Ok(EntryId(at))
    }

    /// Sends one entry of two full buckets to its other bucket, and says which slot that left.
    fn make_room(&mut self, full: [usize; 2]) -> Option<(usize, usize)> {
        for home in full {
            for slot in 0..SLOTS {
                let at = self.buckets[home].entry(slot);
                let hash = self.hash(&self.entries[at as usize].id());
                let (first, second) = self.homes(hash);
                let other = if first == home { second } else { first };
                if other != home
                    && let Some(vacant) = self.buckets[other].vacant()
                {
                    self.buckets[other].set(vacant, bucket::tag(hash), at);
                    self.buckets[home].clear(slot);
                    return Some((home, slot));
                }
            }
        }
        None
    }

    /// Removes an entry and says what it was.
    pub fn remove(&mut self, id: EntryId) -> Option<Entry> {
        let entry = *self.get(id)?;
        let hash = self.hash(&entry.id());
        let (first, second) = self.homes(hash);
        for home in [first, second] {
            let bucket = &mut self.buckets[home];
            if let Some(slot) = (0..SLOTS).find(|&slot| bucket.is_used(slot) && bucket.entry(slot) == id.0) {
                bucket.clear(slot);
                self.entries[id.0 as usize] = Entry::free_before(self.free);
                self.free = id.0;
                self.len -= 1;
                return Some(entry);
            }
        }
        None
    }

    /// The entry, if that number is in use.
    #[inline]
    pub fn get(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(id.0 as usize).filter(|entry| !entry.is_free())
    }

    pub fn get_mut(&mut self, id: EntryId) -> Option<&mut Entry> {
        self.entries.get_mut(id.0 as usize).filter(|entry| !entry.is_free())
    }

    fn take_entry(&mut self) -> Option<u32> {
        if self.free != NONE {
            let at = self.free;
            self.free = self.entries[at as usize].next_free();
            return Some(at);
        }
        let at = self.fresh;
        (at < self.capacity()).then(|| {
            self.fresh += 1;
            at
        })
    }
}

#[cfg(test)]
mod tests;
