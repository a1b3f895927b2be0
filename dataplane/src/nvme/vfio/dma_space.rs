//! A controller's I/O virtual addresses: which regions it can reach, and where.

use std::io;
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::lock;
use super::pci::{DmaLimits, PciError, PciFunction};
use crate::memory::Region;

/// Addresses below are left unused, so that a zero or small address is always an error.
const FIRST_ADDRESS: u64 = 1 << 20;
/// Long regions begin on multiples of this, so that the IOMMU can use its large pages.
const LARGE_PAGE: u64 = 2 << 20;

struct Mapping {
    iova: u64,
    bytes: u64,
    /// Keeps the memory for as long as the device can reach it.
    region: Arc<Region>,
    holders: u32,
    /// Somebody is mapping or unmapping it now.
    busy: bool,
    /// Whether the device can reach it, once nobody is busy with it.
    mapped: bool,
}

/// The mappings of one controller, shared by its queues: a region is mapped once, however many queues know it.
///
/// Mapping takes as long as pinning the memory does. Nobody holds the lock meanwhile, so a core that takes up a region
/// which is mapped already waits for nobody.
///
/// Dropping it without [`unmap_all`](Self::unmap_all) leaks the memory, so that a device which was not stopped cannot
/// write into memory that has become somebody else's.
pub(super) struct DmaSpace {
    function: Arc<dyn PciFunction>,
    limits: DmaLimits,
    table: Mutex<Table>,
    settled: Condvar,
}

struct Table {
    /// By rising address.
    mappings: Vec<Mapping>,
    /// Where to look for a free range.
    next: u64,
    /// The device was given up: it is shown no memory any more.
    revoked: bool,
}

impl DmaSpace {
    pub(super) fn new(function: Arc<dyn PciFunction>) -> Self {
        let limits = function.dma_limits();
        Self {
            function,
            limits,
            table: Mutex::new(Table { mappings: Vec::new(), next: FIRST_ADDRESS, revoked: false }),
            settled: Condvar::new(),
        }
    }

    /// The table, once nobody maps or unmaps the region.
    fn settled(&self, region: &Arc<Region>) -> MutexGuard<'_, Table> {
        let busy = |table: &mut Table| table.of(region).is_some_and(|mapping| mapping.busy);
        self.settled.wait_while(lock(&self.table), busy).unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps a region, or counts one more holder of it. Gives its first address.
    pub(super) fn hold(&self, region: &Arc<Region>) -> io::Result<u64> {
        let page = self.limits.page_bytes;
        if !region.base().is_multiple_of(page) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("memory must begin on a page of {page} bytes"),
            ));
        }
        let bytes = (region.bytes() as u64).next_multiple_of(page);
        let (iova, others) = {
            let mut table = self.settled(region);
            if let Some(mapping) = table.of(region) {
                mapping.holders += 1;
                return Ok(mapping.iova);
            }
            let iova = table.reserve(&self.limits, region, bytes)?;
            if table.revoked {
                return Ok(iova);
            }
            (iova, table.mappings.len() - 1)
        };
        let mapped = self.function.map(region, iova, bytes).map_err(|error| explain(error, others));
        let mut table = lock(&self.table);
        match &mapped {
            Ok(()) => table.of(region).into_iter().for_each(|mapping| (mapping.busy, mapping.mapped) = (false, true)),
            Err(_) => table.forget(region),
        }
        self.settled.notify_all();
        mapped.map(|()| iova)
    }

    /// Takes a holder from a region; unmaps it with the last. The device must be through with it then.
    pub(super) fn release(&self, region: &Arc<Region>) -> io::Result<()> {
        let (iova, bytes) = {
            let mut table = self.settled(region);
            let Some(mapping) = table.of(region) else { return Ok(()) };
            if mapping.holders > 1 {
                mapping.holders -= 1;
                return Ok(());
            }
            if !mapping.mapped {
                table.forget(region);
                return Ok(());
            }
            mapping.busy = true;
            (mapping.iova, mapping.bytes)
        };
        let unmapped = self.function.unmap(iova, bytes);
        let mut table = lock(&self.table);
        match &unmapped {
            Ok(()) => table.forget(region),
            // It has its last holder still.
            Err(_) => table.of(region).into_iter().for_each(|mapping| mapping.busy = false),
        }
        self.settled.notify_all();
        Ok(unmapped?)
    }

    /// Takes all memory away from a device that was given up, now and for good; its holders stay. Whether the device can
    /// reach none any more.
    pub(super) fn revoke(&self) -> bool {
        let mut table = lock(&self.table);
        table.revoked = true;
        // What is being mapped now is mapped in the end.
        let busy = |table: &mut Table| table.mappings.iter().any(|mapping| mapping.busy);
        let mut table = self.settled.wait_while(table, busy).unwrap_or_else(PoisonError::into_inner);
        for mapping in table.mappings.iter_mut().filter(|mapping| mapping.mapped) {
            mapping.mapped = self.function.unmap(mapping.iova, mapping.bytes).is_err();
        }
        !table.mappings.iter().any(|mapping| mapping.mapped)
    }

    /// Unmaps everything and lets go of it; what stays mapped is leaked.
    pub(super) fn unmap_all(&mut self) {
        for mapping in lock(&self.table).mappings.drain(..) {
            if mapping.mapped
                && let Err(error) = self.function.unmap(mapping.iova, mapping.bytes)
            {
                tracing::error!(function = self.function.name(), %error, "memory stays mapped and is not freed");
                std::mem::forget(mapping.region);
            }
        }
    }

    /// Regions that are mapped.
    pub(super) fn len(&self) -> usize {
        lock(&self.table).mappings.iter().filter(|mapping| mapping.mapped || mapping.busy).count()
    }
}

impl Table {
    fn of(&mut self, region: &Arc<Region>) -> Option<&mut Mapping> {
        self.mappings.iter_mut().find(|mapping| Arc::ptr_eq(&mapping.region, region))
    }

    fn forget(&mut self, region: &Arc<Region>) {
        self.mappings.retain(|mapping| !Arc::ptr_eq(&mapping.region, region));
    }

    /// Sets addresses aside for a region that somebody is about to map.
    fn reserve(&mut self, limits: &DmaLimits, region: &Arc<Region>, bytes: u64) -> io::Result<u64> {
        if limits.mappings.is_some_and(|most| self.mappings.len() >= most as usize) {
            return Err(too_many(self.mappings.len()));
        }
        let full = || io::Error::new(io::ErrorKind::OutOfMemory, "the device's address space is used up");
        let (at, iova) = self.find(limits, bytes).ok_or_else(full)?;
        let busy = !self.revoked;
        self.mappings.insert(at, Mapping { iova, bytes, region: Arc::clone(region), holders: 1, busy, mapped: false });
        Ok(iova)
    }

    /// A free range, and the place in the list that its mapping would take. Beyond the one that was given last if there is
    /// room: what was taken back is not given again soon, so that a device that writes there late meets nobody's memory.
    fn find(&mut self, limits: &DmaLimits, bytes: u64) -> Option<(usize, u64)> {
        let page = limits.page_bytes;
        let align = if bytes >= LARGE_PAGE { LARGE_PAGE } else { page };
        let search = |range: &RangeInclusive<u64>, first| {
            let range = (*range.start()).max(first)..=*range.end();
            self.find_in(&range, bytes, align, page)
        };
        let from = |first: u64| limits.addresses.iter().find_map(|range| search(range, first));
        let found = from(self.next).or_else(|| from(FIRST_ADDRESS))?;
        self.next = found.1.saturating_add(bytes).saturating_add(page);
        Some(found)
    }

    fn find_in(&self, range: &RangeInclusive<u64>, bytes: u64, align: u64, page: u64) -> Option<(usize, u64)> {
        let mut start = range.start().checked_next_multiple_of(align)?;
        for (at, mapping) in self.mappings.iter().enumerate() {
            // A page stays free between two, so that running over the end of one is an error.
            let end = start.checked_add(bytes)?.checked_add(page)?;
            if end <= mapping.iova {
                return (end - 1 <= *range.end()).then_some((at, start));
            }
            let after = mapping.iova.checked_add(mapping.bytes)?.checked_add(page)?;
            start = start.max(after.checked_next_multiple_of(align)?);
        }
        let last = start.checked_add(bytes)?.checked_sub(1)?;
        (last <= *range.end()).then_some((self.mappings.len(), start))
    }
}

impl Drop for DmaSpace {
    fn drop(&mut self) {
        for mapping in lock(&self.table).mappings.drain(..) {
            std::mem::forget(mapping.region);
        }
    }
}

fn too_many(mappings: usize) -> io::Error {
    let text = format!(
        "the device has {mappings} mappings of memory already, and may have no more; register fewer and longer regions, or \
         raise dma_entry_limit of the module vfio_iommu_type1"
    );
    io::Error::new(io::ErrorKind::StorageFull, text)
}

fn explain(error: PciError, mappings: usize) -> io::Error {
    match &error {
        PciError::System { cause, .. } if cause.raw_os_error() == Some(libc::ENOSPC) => too_many(mappings),
        PciError::System { cause, .. } if cause.raw_os_error() == Some(libc::ENOMEM) => io::Error::new(
            io::ErrorKind::OutOfMemory,
            "the memory cannot be locked for the device: the memlock limit is reached (ulimit -l, LimitMEMLOCK=)",
        ),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Model, ModelOptions};
    use super::*;
    use crate::memory::RegionSlot;

    const PAGE: u64 = 4096;

    fn space(addresses: Vec<RangeInclusive<u64>>) -> DmaSpace {
        let mut space = DmaSpace::new(Arc::new(Model::new(ModelOptions::default()).unwrap()));
        space.limits.addresses = addresses;
        space
    }

    fn region(pages: u64) -> Arc<Region> {
        Arc::new(Region::anonymous((pages * PAGE) as usize, RegionSlot(0)).unwrap())
    }

    #[test]
    fn what_was_taken_back_is_not_given_again_before_the_rest_was() {
        // Room for eight single pages with one between any two.
        let space = space(vec![FIRST_ADDRESS..=FIRST_ADDRESS + 16 * PAGE - 1]);
        let mut seen = Vec::new();
        for _ in 0..8 {
            let region = region(1);
            seen.push(space.hold(&region).unwrap());
            space.release(&region).unwrap();
        }
        let mut sorted = seen.clone();
        sorted.dedup();
        assert!(sorted.len() == 8 && sorted.is_sorted(), "{seen:x?}");
        let again = region(1);
        assert_eq!(space.hold(&again).unwrap(), FIRST_ADDRESS, "round it goes");
        assert_eq!(space.hold(&again).unwrap(), FIRST_ADDRESS, "the same region has one address");
    }

    #[test]
    fn every_gap_is_found_in_the_end() {
        let space = space(vec![FIRST_ADDRESS..=FIRST_ADDRESS + 6 * PAGE - 1, 1 << 30..=(1 << 30) + 4 * PAGE - 1]);
        let regions = [region(2), region(2), region(3), region(1)];
        let at = |region: &Arc<Region>| space.hold(region).ok();
        assert_eq!(at(&regions[0]), Some(FIRST_ADDRESS));
        assert_eq!(at(&regions[1]), Some(FIRST_ADDRESS + 3 * PAGE));
        assert_eq!(at(&regions[2]), Some(1 << 30));
        assert_eq!(at(&regions[3]), None, "only the pages between are left");
        space.release(&regions[1]).unwrap();
        assert_eq!(space.hold(&regions[3]).unwrap(), FIRST_ADDRESS + 3 * PAGE);
        assert_eq!(space.len(), 3);
    }
}
