//! An address space of iommufd, with a function that was opened by its own device node.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::address::BusAddress;
use super::{AddressSpace, abi, container, unsupported};
use crate::memory::Region;
use crate::nvme::vfio::pci::{DmaLimits, PciError};

/// The kernel's name of the interface.
const NODE: &str = "/dev/iommu";

pub(super) struct Iommufd {
    iommufd: File,
    ioas: u32,
}

/// Whether the kernel has it.
pub(super) fn present() -> bool {
    Path::new(NODE).exists()
}

/// Opens the function and puts it into an address space of its own. Gives the function's descriptor as well.
pub(super) fn enter(address: BusAddress) -> Result<(Iommufd, File), PciError> {
    let open = |path: &Path| File::options().read(true).write(true).open(path);
    let system = |what| move |cause| PciError::System { what, cause };
    let iommufd = open(Path::new(NODE)).map_err(system("opening /dev/iommu"))?;
    let device = open(&device_node(address)?).map_err(|cause| explain(address, "opening the function", cause))?;
    let ioas = abi::ioas_alloc(&iommufd).map_err(system("making an address space"))?;
    let bound = abi::bind(&device, &iommufd, ioas);
    bound.map_err(|cause| explain(address, "putting the function into an address space", cause))?;
    Ok((Iommufd { iommufd, ioas }, device))
}

/// Both the function and its group have one owner.
fn explain(address: BusAddress, what: &'static str, cause: io::Error) -> PciError {
    match (cause.raw_os_error(), container::group_number(address)) {
        (Some(libc::EBUSY | libc::EPERM), Ok(number)) => PciError::InUse(container::group_in_use(address, &number)),
        _ => PciError::System { what, cause },
    }
}

/// The only entry of the folder `vfio-dev` is the node's name.
fn device_node(address: BusAddress) -> Result<PathBuf, PciError> {
    let folder = address.folder().join("vfio-dev");
    let name =
        std::fs::read_dir(folder).ok().and_then(|mut entries| entries.next()?.ok()).map(|entry| entry.file_name());
    let name = name.ok_or_else(|| {
        unsupported(format!("{address} is not bound to vfio-pci; bind it first (scripts/setup.sh bind {address})"))
    })?;
    Ok(Path::new("/dev/vfio/devices").join(name))
}

impl AddressSpace for Iommufd {
    fn limits(&self) -> Result<DmaLimits, PciError> {
        let found = abi::ioas_ranges(&self.iommufd, self.ioas);
        let (ranges, alignment) =
            found.map_err(|cause| PciError::System { what: "asking iommufd for its addresses", cause })?;
        let addresses = ranges.iter().map(|(first, last)| *first..=*last).collect();
        // It has no limit but memory.
        Ok(DmaLimits { addresses, page_bytes: alignment.max(4096), mappings: None })
    }

    fn map(&self, region: &Arc<Region>, iova: u64, bytes: u64) -> Result<(), PciError> {
        let mapped = abi::ioas_map(&self.iommufd, self.ioas, region, iova, bytes);
        mapped.map_err(|cause| PciError::System { what: "mapping memory for the device", cause })
    }

    fn unmap(&self, iova: u64, bytes: u64) -> Result<(), PciError> {
        let unmapped = abi::ioas_unmap(&self.iommufd, self.ioas, iova, bytes);
        unmapped.map_err(|cause| PciError::System { what: "unmapping memory", cause })
    }
}
