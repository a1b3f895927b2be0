//! A PCI function of the kernel's.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vfio_bindings::bindings::vfio::{VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX};

use super::abi::{self, RegionInfo};
use super::address::BusAddress;
use super::{AddressSpace, Interface, container, iommufd, unsupported, windows};
use crate::memory::Region;
use crate::nvme::vfio::pci::{DmaLimits, DoorbellArea, PciError, PciFunction};
use crate::nvme::vfio::registers::offset;

/// A PCI function that is bound to vfio-pci. Nobody else can open it meanwhile. When it is dropped, the kernel resets it
/// and takes back its mappings.
pub struct KernelFunction {
    name: String,
    // Before the address space, which the kernel takes down after the function is closed.
    device: File,
    space: Box<dyn AddressSpace>,
    limits: DmaLimits,
    registers: RegionInfo,
    config: RegionInfo,
    doorbells: DoorbellArea,
    can_reset: bool,
}

impl std::fmt::Debug for KernelFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelFunction").field("name", &self.name).finish_non_exhaustive()
    }
}

impl KernelFunction {
    /// Opens a function.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn open(address: BusAddress, interface: Interface) -> Result<Arc<Self>, PciError> {
        let by_iommufd = match interface {
            Interface::Auto => !container::present() && iommufd::present(),
            Interface::Container => false,
            Interface::Iommufd => true,
        };
        let (space, device): (Box<dyn AddressSpace>, File) = if by_iommufd {
            let (space, device) = iommufd::enter(address)?;
            (Box::new(space), device)
        } else {
            let (space, device) = container::enter(address)?;
            (Box::new(space), device)
        };
        Self::new(address, space, device).map(Arc::new)
    }

    fn new(address: BusAddress, space: Box<dyn AddressSpace>, device: File) -> Result<Self, PciError> {
        let system = |what| move |cause| PciError::System { what, cause };
        let info = abi::device_info(&device).map_err(system("asking what the function is"))?;
        if !info.is_pci {
            return Err(unsupported(format!("{address} is no PCI function to VFIO")));
        }
        let region = |index| abi::region_info(&device, index).map_err(system("asking for the function's registers"));
        let registers = region(VFIO_PCI_BAR0_REGION_INDEX)?;
        let config = region(VFIO_PCI_CONFIG_REGION_INDEX)?;
        let first = u64::from(offset::DOORBELLS);
        // Two doorbells of the admin queue, and two of an I/O queue, at the least.
        let holds = |(at, bytes): &&(u64, u64)| *at <= first && at.saturating_add(*bytes) >= first + 16;
        let area = registers.mappable.iter().find(holds).copied();
        let (at, bytes) = area.ok_or_else(|| unsupported("the doorbells in BAR0 cannot be mapped"))?;
        let place = registers.offset.checked_add(at).ok_or_else(|| unsupported("BAR0 lies nowhere"))?;
        let mapping = abi::map_registers(&device, place, bytes).map_err(system("mapping the doorbells"))?;
        let mut limits = space.limits()?;
        limits.addresses = windows::without(limits.addresses, &windows::of_machine());
        Ok(Self {
            name: address.to_string(),
            device,
            space,
            limits,
            registers,
            config,
            doorbells: DoorbellArea { region: Arc::new(mapping), offset: first - at },
            can_reset: info.can_reset,
        })
    }

    /// A place in a region of the function, if `bytes` bytes lie inside.
    fn place(region: &RegionInfo, at: u64, bytes: usize) -> io::Result<u64> {
        let inside = at.checked_add(bytes as u64).is_some_and(|end| end <= region.bytes);
        let place = region.offset.checked_add(at).filter(|_| inside);
        place.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }
}

impl PciFunction for KernelFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn config_read(&self, offset: u16, into: &mut [u8]) -> Result<(), PciError> {
        let place = Self::place(&self.config, u64::from(offset), into.len());
        let read = place.and_then(|place| self.device.read_exact_at(into, place));
        read.map_err(|cause| PciError::System { what: "reading configuration space", cause })
    }

    fn config_write(&self, offset: u16, from: &[u8]) -> Result<(), PciError> {
        let place = Self::place(&self.config, u64::from(offset), from.len());
        let written = place.and_then(|place| self.device.write_all_at(from, place));
        written.map_err(|cause| PciError::System { what: "writing configuration space", cause })
    }

    /// By the kernel, and not by a mapping: a function that is gone, or whose memory is turned off, would end the
    /// process with a signal there.
    fn read32(&self, offset: u32) -> u32 {
        let mut word = [0; 4];
        let place = Self::place(&self.registers, u64::from(offset), word.len());
        match place.and_then(|place| self.device.read_exact_at(&mut word, place)) {
            Ok(()) => u32::from_le_bytes(word),
            Err(_) => u32::MAX,
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        let place = Self::place(&self.registers, u64::from(offset), 4);
        // As on the bus: who wants to know reads a register.
        let _ = place.and_then(|place| self.device.write_all_at(&value.to_le_bytes(), place));
    }

    fn doorbells(&self) -> &DoorbellArea {
        &self.doorbells
    }

    fn dma_limits(&self) -> DmaLimits {
        self.limits.clone()
    }

    fn map(&self, region: &Arc<Region>, iova: u64, bytes: u64) -> Result<(), PciError> {
        self.space.map(region, iova, bytes)
    }

    fn unmap(&self, iova: u64, bytes: u64) -> Result<(), PciError> {
        self.space.unmap(iova, bytes)
    }

    fn reset(&self) -> Result<(), PciError> {
        if !self.can_reset {
            return Err(unsupported("the function cannot be reset by itself"));
        }
        abi::reset(&self.device).map_err(|cause| PciError::System { what: "resetting the function", cause })
    }
}
