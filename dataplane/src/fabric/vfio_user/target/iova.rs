//! From I/O virtual addresses to the regions that a client registered.

use std::sync::Arc;

use crate::memory::{DmaSlice, Region};

/// One registered range.
#[derive(Clone, Debug)]
pub(super) struct IovaRange {
    pub iova: u64,
    pub region: Arc<Region>,
}

impl IovaRange {
    fn bytes(&self) -> u64 {
        self.region.bytes() as u64
    }
}

/// The ranges of one client in rising order, none overlapping.
#[derive(Debug, Default)]
pub(super) struct IovaTable {
    ranges: Vec<IovaRange>,
    /// The range that was found last: commands of one client tend to stay in one.
    last: usize,
}

impl IovaTable {
    /// Adds a range; hands it back if it would overlap another or run past the end of the address space.
    pub(super) fn insert(&mut self, range: IovaRange) -> Result<(), IovaRange> {
        let Some(end) = range.iova.checked_add(range.bytes()) else { return Err(range) };
        if self.overlaps(range.iova, end) {
            return Err(range);
        }
        let at = self.ranges.partition_point(|other| other.iova < range.iova);
        self.ranges.insert(at, range);
        Ok(())
    }

    /// Whether any range shares a byte with `from..to`.
    pub(super) fn overlaps(&self, from: u64, to: u64) -> bool {
        // Ends are computed without overflow: `insert` refused ranges that wrap.
        self.ranges.iter().any(|other| other.iova < to && from < other.iova + other.bytes())
    }

    /// Takes out the range that begins at `iova`.
    pub(super) fn remove(&mut self, iova: u64) -> Option<IovaRange> {
        let at = self.ranges.binary_search_by_key(&iova, |range| range.iova).ok()?;
        self.last = 0;
        Some(self.ranges.remove(at))
    }

    /// The ranges, in rising order.
    pub(super) fn ranges(&self) -> &[IovaRange] {
        &self.ranges
    }

    /// The region that holds the byte at `iova`, and where in it.
    #[inline]
    pub(super) fn find(&mut self, iova: u64) -> Option<(&Arc<Region>, u64)> {
        let hit = self.ranges.get(self.last).is_some_and(|range| iova.wrapping_sub(range.iova) < range.bytes());
        if !hit {
            let after = self.ranges.partition_point(|range| range.iova <= iova);
            let at = after.checked_sub(1)?;
            let range = &self.ranges[at];
            if iova - range.iova >= range.bytes() {
                return None;
            }
            self.last = at;
        }
        let range = &self.ranges[self.last];
        Some((&range.region, iova - range.iova))
    }

    /// The bytes from `iova` on, `max` at most, as far as they lie in one region.
    #[inline]
    pub(super) fn translate(&mut self, iova: u64, max: u32) -> Option<DmaSlice> {
        let (region, offset) = self.find(iova)?;
        let left = region.bytes() as u64 - offset;
        region.slice(offset, u64::from(max).min(left) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::shared_memory::SharedMemory;
    use super::*;

    fn range(iova: u64, pages: u64) -> IovaRange {
        let memory = SharedMemory::create("iova-test", pages * 4096, false).unwrap();
        IovaRange { iova, region: Arc::clone(memory.region()) }
    }

    #[test]
    fn lookups_stay_inside_their_range() {
        let mut table = IovaTable::default();
        table.insert(range(0x10_0000, 2)).unwrap();
        table.insert(range(0x10_4000, 1)).unwrap();
        table.insert(range(0x0, 1)).unwrap();
        assert!(table.insert(range(0x10_1000, 1)).is_err());
        assert!(table.insert(range(0xF_F000, 2)).is_err());
        assert!(table.insert(range(u64::MAX - 4095, 1)).is_err());
        assert_eq!(table.translate(0x10_1FF0, 4096).map(|slice| slice.bytes()), Some(16));
        assert_eq!(table.translate(0x10_2000, 1), None);
        assert_eq!(table.translate(0x10_4FFF, 8).map(|slice| slice.bytes()), Some(1));
        assert_eq!(table.translate(0x1000, 1), None);
        assert_eq!(table.translate(0, 4096).map(|slice| slice.bytes()), Some(4096));
        assert!(table.remove(0x10_1000).is_none());
        assert!(table.remove(0x10_0000).is_some());
        assert_eq!(table.translate(0x10_0000, 1), None);
    }
}
