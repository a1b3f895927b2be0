//! Leases: promises that blocks stay for a while. One lease may cover many blocks, one block have many leases.

use dataplane::core::Ticks;

use super::index::EntryId;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Row {
    lease: u32,
    entry: EntryId,
    /// Hash of the block's name: the entry may have been given to another block since.
    hash: u64,
    expires: Ticks,
    used: bool,
    next_of_lease: u32,
    next_of_entry: u32,
}

/// A block that a lease no longer covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub entry: EntryId,
    pub hash: u64,
    /// Whether no other lease covers it.
    pub last: bool,
}

/// A fixed table of pairs (lease, block), chained both by lease and by block.
pub(super) struct Leases {
    rows: Box<[Row]>,
    by_lease: Box<[u32]>,
    by_entry: Box<[u32]>,
    free: u32,
    used: u32,
    cursor: u32,
}

impl Leases {
    pub fn new(capacity: u32) -> Self {
        let row = |at: u32| Row {
            lease: 0,
            entry: EntryId(0),
            hash: 0,
            expires: Ticks(0),
            used: false,
            next_of_lease: if at + 1 < capacity { at + 1 } else { NONE },
            next_of_entry: NONE,
        };
        let heads = capacity.max(1).next_power_of_two() as usize;
        Self {
            rows: (0..capacity).map(row).collect(),
            by_lease: vec![NONE; heads].into_boxed_slice(),
            by_entry: vec![NONE; heads].into_boxed_slice(),
            free: if capacity == 0 { NONE } else { 0 },
            used: 0,
            cursor: 0,
        }
    }

    pub fn len(&self) -> u32 {
        self.used
    }

    /// Adds a block to a lease, or prolongs it. `false` if the table is full.
    pub fn add(&mut self, lease: u32, entry: EntryId, hash: u64, expires: Ticks) -> bool {
        let (lease_head, entry_head) = (self.head(lease), self.head(entry.0));
        let mut at = self.by_entry[entry_head];
        while at != NONE {
            let row = &mut self.rows[at as usize];
            if row.lease == lease && row.entry == entry && row.hash == hash {
                row.expires = row.expires.max(expires);
                return true;
            }
            at = row.next_of_entry;
        }
        if self.free == NONE {
            return false;
        }
        let at = self.free;
        self.free = self.rows[at as usize].next_of_lease;
        let (next_of_lease, next_of_entry) = (self.by_lease[lease_head], self.by_entry[entry_head]);
        self.rows[at as usize] = Row { lease, entry, hash, expires, used: true, next_of_lease, next_of_entry };
        self.by_lease[lease_head] = at;
        self.by_entry[entry_head] = at;
        self.used += 1;
        true
    }

    /// Takes one block out of a lease; `None` once it covers none.
    pub fn pop(&mut self, lease: u32) -> Option<Ended> {
        let mut at = self.by_lease[self.head(lease)];
        while at != NONE && self.rows[at as usize].lease != lease {
            at = self.rows[at as usize].next_of_lease;
        }
        (at != NONE).then(|| self.remove(at))
    }

    /// Looks at a few rows and takes out one whose time is over. Over some calls every row is looked at.
    pub fn pop_expired(&mut self, now: Ticks) -> Option<Ended> {
        if self.used == 0 {
            return None;
        }
        for _ in 0..16.min(self.rows.len()) {
            let at = self.cursor;
            self.cursor = if at as usize + 1 == self.rows.len() { 0 } else { at + 1 };
            let row = &self.rows[at as usize];
            if row.used && row.expires <= now {
                return Some(self.remove(at));
            }
        }
        None
    }

    fn head(&self, name: u32) -> usize {
        (name.wrapping_mul(0x9E37_79B1) >> 7) as usize & (self.by_lease.len() - 1)
    }

    fn remove(&mut self, at: u32) -> Ended {
        let row = self.rows[at as usize];
        let (lease_head, entry_head) = (self.head(row.lease), self.head(row.entry.0));
        if self.by_lease[lease_head] == at {
            self.by_lease[lease_head] = row.next_of_lease;
        } else {
            let mut before = self.by_lease[lease_head];
            while self.rows[before as usize].next_of_lease != at {
                before = self.rows[before as usize].next_of_lease;
            }
            self.rows[before as usize].next_of_lease = row.next_of_lease;
        }
        let mut last = true;
        let mut before = NONE;
        let mut here = self.by_entry[entry_head];
        while here != NONE {
            let next = self.rows[here as usize].next_of_entry;
            if here == at {
                match before {
                    NONE => self.by_entry[entry_head] = next,
                    before => self.rows[before as usize].next_of_entry = next,
                }
            } else {
                last &= self.rows[here as usize].entry != row.entry || self.rows[here as usize].hash != row.hash;
                before = here;
            }
            here = next;
        }
        self.rows[at as usize].used = false;
        self.rows[at as usize].next_of_lease = self.free;
        self.free = at;
        self.used -= 1;
        Ended { entry: row.entry, hash: row.hash, last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lease_of_a_block_is_told() {
        let mut leases = Leases::new(3);
        assert!(leases.add(1, EntryId(7), 70, Ticks(10)));
        assert!(leases.add(2, EntryId(7), 70, Ticks(20)));
        assert!(leases.add(2, EntryId(8), 80, Ticks(20)));
        assert!(leases.add(2, EntryId(8), 80, Ticks(30)), "prolonging takes no row");
        assert!(!leases.add(3, EntryId(9), 90, Ticks(20)), "full");
        assert_eq!(leases.pop_expired(Ticks(9)), None);
        assert_eq!(leases.pop_expired(Ticks(10)), Some(Ended { entry: EntryId(7), hash: 70, last: false }));
        let mut ended = [leases.pop(2).unwrap(), leases.pop(2).unwrap()];
        ended.sort_by_key(|ended| ended.hash);
        assert_eq!(ended.map(|ended| (ended.entry, ended.last)), [(EntryId(7), true), (EntryId(8), true)]);
        assert_eq!((leases.pop(2), leases.len()), (None, 0));
    }
}
