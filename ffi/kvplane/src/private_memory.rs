//! Memory of this process alone, for carriers that share none with the target.

use std::io;
use std::sync::Arc;

use dataplane::memory::{Arena, HugePages, PageSize, Region, RegionSlot};

/// The slot of regions that are never made known to a block device.
const NO_SLOT: RegionSlot = RegionSlot(u16::MAX);

/// Zeroed memory of this process alone, rounded up to whole pages; out of hugepages if they are wanted and free.
pub(crate) fn allocate(bytes: usize, hugepages: bool) -> io::Result<Arc<Region>> {
    if hugepages && let Ok(arena) = Arena::new(bytes, HugePages::Require(PageSize::Size2M), NO_SLOT) {
        return Ok(Arc::clone(arena.region()));
    }
    let bytes = bytes.checked_next_multiple_of(4096).ok_or(io::ErrorKind::OutOfMemory)?;
    let region = Region::anonymous(bytes, NO_SLOT)?;
    region.prefer_large_pages();
    Ok(Arc::new(region))
}
