//! Access to a PCI function by the kernel's VFIO: a container with the second type-1 interface, or the function's own
//! device node with iommufd.
//!
//! There is no mode without an IOMMU: a device would reach all memory, and physical pages would have to stay where they
//! are, which ordinary pages do not.

mod abi;
mod address;
mod container;
mod function;
mod iommufd;
mod windows;

use std::sync::Arc;

pub use address::BusAddress;
pub use function::KernelFunction;

use super::pci::{DmaLimits, PciError};
use crate::memory::Region;

/// By which of the kernel's interfaces memory is mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interface {
    /// The container, and iommufd where no container can be opened.
    #[default]
    Auto,
    /// The container of VFIO groups (`/dev/vfio/vfio`), in every kernel with VFIO.
    Container,
    /// iommufd (`/dev/iommu`), in kernels from 6.6 on that were built with it.
    Iommufd,
}

/// An address space that the function's DMA goes through.
trait AddressSpace: Send + Sync {
    fn limits(&self) -> Result<DmaLimits, PciError>;
    fn map(&self, region: &Arc<Region>, iova: u64, bytes: u64) -> Result<(), PciError>;
    fn unmap(&self, iova: u64, bytes: u64) -> Result<(), PciError>;
}

fn unsupported(text: impl Into<String>) -> PciError {
    PciError::Unsupported(text.into())
}
