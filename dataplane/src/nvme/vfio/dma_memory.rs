//! Memory that the driver and the controller share: rings, lists, buffers of admin commands.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use super::dma_space::DmaSpace;
use crate::memory::{Region, RegionSlot, populate};

/// The slot of regions that no command names.
const NO_SLOT: RegionSlot = RegionSlot(u16::MAX);

/// Whole pages of zeros, mapped for one controller.
///
/// It stays mapped when it is dropped: whoever knows that the controller is through with it calls
/// [`unmap`](Self::unmap), and otherwise the controller's address space keeps it until the controller was stopped.
pub(super) struct DmaMemory {
    region: Arc<Region>,
    iova: u64,
}

impl DmaMemory {
    pub(super) fn new(bytes: usize, space: &DmaSpace) -> io::Result<Self> {
        let region = Arc::new(Region::shared(bytes, NO_SLOT)?);
        populate(&region)?;
        let iova = space.hold(&region)?;
        Ok(Self { region, iova })
    }

    /// Its first address, to the controller.
    pub(super) fn iova(&self) -> u64 {
        self.iova
    }

    pub(super) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// A pointer to `bytes` bytes at a multiple of 8; `None` if they do not lie inside.
    pub(super) fn at(&self, offset: usize, bytes: usize) -> Option<NonNull<u8>> {
        let inside = offset.checked_add(bytes)? <= self.region.bytes() && offset.is_multiple_of(8);
        if inside { NonNull::new((self.region.base() as usize + offset) as *mut u8) } else { None }
    }

    /// Sets every byte to zero.
    pub(super) fn clear(&self) {
        let _ = self.region.fill(0, self.region.bytes(), 0);
    }

    /// Unmaps it. The controller must be through with it.
    pub(super) fn unmap(self, space: &DmaSpace) -> io::Result<()> {
        space.release(&self.region)
    }
}
