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

/// By rising address.
#[derive(Default)]
struct Table(Vec<Mapping>);

impl DmaSpace {
    pub(super) fn new(function: Arc<dyn PciFunction>) -> Self {
        let limits = function.dma_limits();
        Self { function, limits, table: Mutex::default(), settled: Condvar::new() }
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
            (table.reserve(&self.limits, region, bytes)?, table.0.len() - 1)
        };
        let mapped = self.function.map(region, iova, bytes).map_err(|error| explain(error, others));
        let mut table = lock(&self.table);
        match &mapped {
            Ok(()) => table.of(region).into_iter().for_each(|mapping| mapping.busy = false),
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

    /// Unmaps everything and lets go of it. Only for a device that was stopped.
    pub(super) fn unmap_all(&mut self) {
        for mapping in lock(&self.table).0.drain(..) {
            if let Err(error) = self.function.unmap(mapping.iova, mapping.bytes) {
                tracing::error!(function = self.function.name(), %error, "memory stays mapped and is not freed");
                std::mem::forget(mapping.region);
            }
        }
    }

    /// Regions that are mapped.
    pub(super) fn len(&self) -> usize {
        lock(&self.table).0.len()
    }
}

impl Table {
    fn of(&mut self, region: &Arc<Region>) -> Option<&mut Mapping> {
        self.0.iter_mut().find(|mapping| Arc::ptr_eq(&mapping.region, region))
    }

    fn forget(&mut self, region: &Arc<Region>) {
        self.0.retain(|mapping| !Arc::ptr_eq(&mapping.region, region));
    }

    /// Sets addresses aside for a region that somebody is about to map.
    fn reserve(&mut self, limits: &DmaLimits, region: &Arc<Region>, bytes: u64) -> io::Result<u64> {
        if limits.mappings.is_some_and(|most| self.0.len() >= most as usize) {
            return Err(too_many(self.0.len()));
        }
        let full = || io::Error::new(io::ErrorKind::OutOfMemory, "the device's address space is used up");
        let (at, iova) = self.find(limits, bytes).ok_or_else(full)?;
        self.0.insert(at, Mapping { iova, bytes, region: Arc::clone(region), holders: 1, busy: true });
        Ok(iova)
    }

    /// A free range, and the place in the list that its mapping would take.
    fn find(&self, limits: &DmaLimits, bytes: u64) -> Option<(usize, u64)> {
        let page = limits.page_bytes;
        let align = if bytes >= LARGE_PAGE { LARGE_PAGE } else { page };
        limits.addresses.iter().find_map(|range| self.find_in(range, bytes, align, page))
    }

    fn find_in(&self, range: &RangeInclusive<u64>, bytes: u64, align: u64, page: u64) -> Option<(usize, u64)> {
        let mut start = (*range.start()).max(FIRST_ADDRESS).checked_next_multiple_of(align)?;
        for (at, mapping) in self.0.iter().enumerate() {
            // A page stays free between two, so that running over the end of one is an error.
            let end = start.checked_add(bytes)?.checked_add(page)?;
            if end <= mapping.iova {
                return (end - 1 <= *range.end()).then_some((at, start));
            }
            let after = mapping.iova.checked_add(mapping.bytes)?.checked_add(page)?;
            start = start.max(after.checked_next_multiple_of(align)?);
        }
        let last = start.checked_add(bytes)?.checked_sub(1)?;
        (last <= *range.end()).then_some((self.0.len(), start))
    }
}

impl Drop for DmaSpace {
    fn drop(&mut self) {
        for mapping in lock(&self.table).0.drain(..) {
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
