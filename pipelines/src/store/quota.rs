//! Bytes that each namespace holds in a shard.

const SLOTS: usize = 1024;
const PROBES: usize = 64;

#[derive(Clone, Copy)]
struct Row {
    /// Namespace plus one; 0 in a slot that was never used.
    name: u32,
    used: u64,
}

/// A fixed table. Namespaces beyond what it can hold (more than the 256 that a store is made for) share one row.
pub(super) struct Namespaces {
    rows: Box<[Row]>,
    others: u64,
    /// The row that was looked for last: most often it is the next as well.
    last: usize,
}

impl Namespaces {
    pub fn new() -> Self {
        Self { rows: vec![Row { name: 0, used: 0 }; SLOTS].into_boxed_slice(), others: 0, last: 0 }
    }

    pub fn used(&self, namespace: u32) -> u64 {
        self.find(namespace).map_or(self.others, |at| self.rows[at].used)
    }

    pub fn add(&mut self, namespace: u32, bytes: u64) {
        let last = &mut self.rows[self.last];
        if last.name == namespace + 1 {
            last.used += bytes;
            return;
        }
        match self.find(namespace).or_else(|| self.make(namespace)) {
            Some(at) => {
                self.rows[at].used += bytes;
                self.last = at;
            }
            None => self.others += bytes,
        }
    }

    pub fn sub(&mut self, namespace: u32, bytes: u64) {
        // A namespace counted among the others stays there until its row is made, when it has nothing to subtract.
        match self.find(namespace) {
            Some(at) if self.rows[at].used >= bytes => self.rows[at].used -= bytes,
            _ => self.others = self.others.saturating_sub(bytes),
        }
    }

    fn probe(namespace: u32) -> impl Iterator<Item = usize> {
        let home = (namespace.wrapping_mul(0x9E37_79B1) >> 22) as usize;
        (0..PROBES).map(move |step| (home + step) % SLOTS)
    }

    fn find(&self, namespace: u32) -> Option<usize> {
        for at in Self::probe(namespace) {
            match self.rows[at].name {
                0 => return None,
                name if name == namespace + 1 => return Some(at),
                _ => {}
            }
        }
        None
    }

    /// A row that is unused, or whose namespace holds nothing.
    fn make(&mut self, namespace: u32) -> Option<usize> {
        let at = Self::probe(namespace).find(|&at| self.rows[at].used == 0)?;
        self.rows[at] = Row { name: namespace + 1, used: 0 };
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_counted_apart_and_their_rows_reused() {
        let mut namespaces = Namespaces::new();
        for round in 0..20u32 {
            for namespace in round * 256..(round + 1) * 256 {
                namespaces.add(namespace, u64::from(namespace) + 1);
            }
            for namespace in round * 256..(round + 1) * 256 {
                assert_eq!(namespaces.used(namespace), u64::from(namespace) + 1);
                namespaces.sub(namespace, u64::from(namespace) + 1);
                assert_eq!(namespaces.used(namespace), 0);
            }
        }
        assert_eq!(namespaces.others, 0);
    }
}
