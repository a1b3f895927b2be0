//! A VFIO container with one group in it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::address::BusAddress;
use super::{AddressSpace, abi, unsupported};
use crate::memory::Region;
use crate::nvme::vfio::pci::{DmaLimits, PciError};

/// The kernel's default for `dma_entry_limit`, where it does not say how many mappings are left.
const DEFAULT_MAPPINGS: u32 = 65_535;

pub(super) struct Container {
    container: File,
    /// In the container for as long as it is open.
    _group: File,
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).open(path)
}

/// The kernel's name of the interface.
const NODE: &str = "/dev/vfio/vfio";

/// Whether a container can be opened: there may be a node, and no module or no permission.
pub(super) fn present() -> bool {
    open(Path::new(NODE)).is_ok()
}

/// Opens the container and the function's group. Gives the function's own descriptor as well.
pub(super) fn enter(address: BusAddress) -> Result<(Container, File), PciError> {
    let container = open(Path::new(NODE)).map_err(|cause| explain_open(NODE, cause))?;
    let system = |what| move |cause| PciError::System { what, cause };
    if !abi::check_container(&container).map_err(system("asking VFIO for its version"))? {
        return Err(unsupported("the kernel's VFIO has no second type-1 interface; load vfio_iommu_type1"));
    }
    let number = group_number(address)?;
    let path = format!("/dev/vfio/{number}");
    let group = open(Path::new(&path)).map_err(|cause| explain_group(address, &number, cause))?;
    if !abi::group_viable(&group).map_err(system("asking VFIO for its group"))? {
        return Err(unsupported(format!(
            "other functions of the IOMMU group {number} are in use by other drivers; bind all of \
             /sys/kernel/iommu_groups/{number}/devices to vfio-pci"
        )));
    }
    abi::join(&group, &container).map_err(system("putting the group into a container"))?;
    let device = abi::device_of(&group, &address.to_string()).map_err(system("opening the function"))?;
    Ok((Container { container, _group: group }, device))
}

pub(super) fn group_number(address: BusAddress) -> Result<String, PciError> {
    let folder = address.folder();
    if !folder.exists() {
        return Err(unsupported(format!("there is no PCI function {address}; lspci shows what there is")));
    }
    let link = std::fs::read_link(folder.join("iommu_group"));
    let number = link.ok().and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
    number.ok_or_else(|| {
        unsupported(format!(
            "{address} is behind no IOMMU; turn it on in the firmware and the kernel (intel_iommu=on, or \
             amd_iommu=on), for without one the device could reach all memory"
        ))
    })
}

fn explain_open(path: &str, cause: io::Error) -> PciError {
    match cause.kind() {
        io::ErrorKind::NotFound => unsupported(format!("there is no {path}; load the module vfio-pci")),
        io::ErrorKind::PermissionDenied => {
            unsupported(format!("no permission for {path}; run as root or as its owner"))
        }
        _ => PciError::System { what: "opening VFIO", cause },
    }
}

/// A group is opened once: its functions cannot be kept from each other.
pub(super) fn group_in_use(address: BusAddress, number: &str) -> String {
    let folder = format!("/sys/kernel/iommu_groups/{number}/devices");
    let names = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    explain_use(address, number, names.filter(|name| *name != address.to_string()).collect())
}

fn explain_use(address: BusAddress, number: &str, mut others: Vec<String>) -> String {
    if others.is_empty() {
        return format!("another process has {address}, or this one has it already; stop that one");
    }
    others.sort();
    format!(
        "the IOMMU group {number} of {address} is in use: another process, or this one, has {address} or a function \
         that the IOMMU cannot tell from it ({}); of such functions one can be driven, the others need a slot in another \
         group",
        others.join(", ")
    )
}

fn explain_group(address: BusAddress, number: &str, cause: io::Error) -> PciError {
    let unsafe_mode = Path::new(&format!("/dev/vfio/noiommu-{number}")).exists();
    match cause.kind() {
        io::ErrorKind::NotFound if unsafe_mode => unsupported(format!(
            "{address} is bound to VFIO without an IOMMU, where it could write to any memory, and is not driven so; turn \
                 the IOMMU on (intel_iommu=on, or amd_iommu=on) and bind it again"
        )),
        io::ErrorKind::NotFound => {
            unsupported(format!("{address} is not bound to vfio-pci; bind it first (scripts/setup.sh bind {address})"))
        }
        io::ErrorKind::ResourceBusy => PciError::InUse(group_in_use(address, number)),
        _ => explain_open(&format!("/dev/vfio/{number}"), cause),
    }
}

impl AddressSpace for Container {
    fn limits(&self) -> Result<DmaLimits, PciError> {
        let info = abi::container_info(&self.container);
        let info = info.map_err(|cause| PciError::System { what: "asking VFIO for its addresses", cause })?;
        let mut addresses: Vec<_> = info.ranges.iter().map(|(first, last)| *first..=*last).collect();
        if addresses.is_empty() {
            // Kernels before 5.4 do not say. What every IOMMU has, without the window of interrupts.
            addresses = vec![0..=0xFEDF_FFFF, 0xFEF0_0000..=(1 << 39) - 1];
        }
        let smallest = if info.page_sizes == 0 { 4096 } else { 1 << info.page_sizes.trailing_zeros() };
        Ok(DmaLimits {
            addresses,
            page_bytes: u64::max(smallest, 4096),
            mappings: Some(info.available.unwrap_or(DEFAULT_MAPPINGS)),
        })
    }

    fn map(&self, region: &Arc<Region>, iova: u64, bytes: u64) -> Result<(), PciError> {
        let mapped = abi::container_map(&self.container, region, iova, bytes);
        mapped.map_err(|cause| PciError::System { what: "mapping memory for the device", cause })
    }

    fn unmap(&self, iova: u64, bytes: u64) -> Result<(), PciError> {
        let unmapped = abi::container_unmap(&self.container, iova, bytes);
        unmapped.map_err(|cause| PciError::System { what: "unmapping memory", cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shares_a_group_is_told() {
        let address = "0000:01:00.0".parse().unwrap();
        assert!(explain_use(address, "7", Vec::new()).contains("another process has 0000:01:00.0"));
        let text = explain_use(address, "7", vec!["0000:02:00.0".into(), "0000:00:1c.0".into()]);
        assert!(text.contains("group 7") && text.contains("(0000:00:1c.0, 0000:02:00.0)"), "{text}");
        assert!(text.contains("another process"), "{text}");
    }
}
