//! The host's memory as the model reaches it: by I/O virtual addresses, inside what was mapped.

use std::sync::Arc;

use crate::memory::Region;

struct Window {
    iova: u64,
    bytes: u64,
    region: Arc<Region>,
}

#[derive(Default)]
pub(super) struct HostMemory {
    windows: Vec<Window>,
}

impl HostMemory {
    /// `false` if it overlaps what is there.
    pub(super) fn map(&mut self, region: &Arc<Region>, iova: u64, bytes: u64) -> bool {
        let apart = |window: &Window| iova + bytes <= window.iova || window.iova + window.bytes <= iova;
        if !self.windows.iter().all(apart) {
            return false;
        }
        self.windows.push(Window { iova, bytes, region: Arc::clone(region) });
        true
    }

    /// `false` if there is no such window.
    pub(super) fn unmap(&mut self, iova: u64, bytes: u64) -> bool {
        let before = self.windows.len();
        self.windows.retain(|window| (window.iova, window.bytes) != (iova, bytes));
        self.windows.len() < before
    }

    pub(super) fn windows(&self) -> Vec<(u64, u64)> {
        self.windows.iter().map(|window| (window.iova, window.bytes)).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.windows.len()
    }

    /// The region that a range lies in, and where.
    pub(super) fn find(&self, address: u64, bytes: u64) -> Option<(&Arc<Region>, u64)> {
        let inside = |window: &&Window| {
            address >= window.iova && address.checked_add(bytes).is_some_and(|end| end <= window.iova + window.bytes)
        };
        self.windows.iter().find(inside).map(|window| (&window.region, address - window.iova))
    }

    pub(super) fn read(&self, address: u64, into: &mut [u8]) -> Option<()> {
        let (region, offset) = self.find(address, into.len() as u64)?;
        region.read(offset, into)
    }

    pub(super) fn write(&self, address: u64, from: &[u8]) -> Option<()> {
        let (region, offset) = self.find(address, from.len() as u64)?;
        region.write(offset, from)
    }
}
