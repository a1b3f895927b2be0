//! System calls of VFIO and iommufd, each with its argument's type. The only place here that is not safe.
//!
//! Numbers and structures: linux/vfio.h through the crate `vfio-bindings`; linux/iommufd.h (Linux 6.6), which no light
//! crate binds, written down below.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

use vfio_bindings::bindings::vfio;

use crate::memory::{Region, RegionSlot};

/// `_IO(';', base + number)` of linux/vfio.h.
const fn number(number: u32) -> libc::Ioctl {
    (((vfio::VFIO_TYPE as u32) << 8) | (vfio::VFIO_BASE + number)) as libc::Ioctl
}

const GET_API_VERSION: libc::Ioctl = number(0);
const CHECK_EXTENSION: libc::Ioctl = number(1);
const SET_IOMMU: libc::Ioctl = number(2);
const GROUP_GET_STATUS: libc::Ioctl = number(3);
const GROUP_SET_CONTAINER: libc::Ioctl = number(4);
const GROUP_GET_DEVICE_FD: libc::Ioctl = number(6);
const DEVICE_GET_INFO: libc::Ioctl = number(7);
const DEVICE_GET_REGION_INFO: libc::Ioctl = number(8);
const DEVICE_RESET: libc::Ioctl = number(11);
const IOMMU_GET_INFO: libc::Ioctl = number(12);
const IOMMU_MAP_DMA: libc::Ioctl = number(13);
const IOMMU_UNMAP_DMA: libc::Ioctl = number(14);
const DEVICE_BIND_IOMMUFD: libc::Ioctl = number(18);
const DEVICE_ATTACH_IOMMUFD_PT: libc::Ioctl = number(19);

/// Commands of linux/iommufd.h: `_IO(';', 0x80 + number)`.
const IOAS_ALLOC: libc::Ioctl = 0x3B81;
const IOAS_IOVA_RANGES: libc::Ioctl = 0x3B84;
const IOAS_MAP: libc::Ioctl = 0x3B85;
const IOAS_UNMAP: libc::Ioctl = 0x3B86;

/// `IOMMU_IOAS_MAP_FIXED_IOVA`, `_WRITEABLE`, `_READABLE`.
const MAP_FIXED_IOVA: u32 = 1;
const MAP_WRITEABLE: u32 = 1 << 1;
const MAP_READABLE: u32 = 1 << 2;

/// Bytes that answers with capabilities are read into.
const ANSWER_BYTES: usize = 4096;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A command whose argument is a number.
fn plain(file: &File, command: libc::Ioctl, argument: libc::c_ulong) -> io::Result<libc::c_int> {
    // SAFETY: the commands that are called so take numbers and touch no memory of ours.
    check(unsafe { libc::ioctl(file.as_raw_fd(), command, argument) })
}

/// A command whose argument is a structure.
///
/// # Safety
/// `T` must be what the command takes, and what its fields point to must be there for the call.
unsafe fn with<T>(file: &File, command: libc::Ioctl, argument: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the caller vouches for the argument.
    check(unsafe { libc::ioctl(file.as_raw_fd(), command, std::ptr::from_mut(argument)) })
}

/// An answer of which the first bytes are a structure and the rest capabilities, as words.
struct Answer(Box<[u64; ANSWER_BYTES / 8]>);

impl Answer {
    /// Asks, with `argsz` and the words after it set.
    fn ask(file: &File, command: libc::Ioctl, second: u64) -> io::Result<Self> {
        let mut words = Box::new([0_u64; ANSWER_BYTES / 8]);
        words[0] = ANSWER_BYTES as u64;
        words[1] = second;
        // SAFETY: both commands that are called so take a structure that begins with its size, and write no more than
        // that; any bytes are valid words. Fields are little endian on every machine that this is built for.
        unsafe { with(file, command, words.as_mut()) }?;
        Ok(Self(words))
    }

    fn word32(&self, at: usize) -> Option<u32> {
        let word = *self.0.get(at / 8)?;
        at.is_multiple_of(4).then_some((word >> (8 * (at % 8))) as u32)
    }

    fn word64(&self, at: usize) -> Option<u64> {
        Some(u64::from(self.word32(at)?) | (u64::from(self.word32(at + 4)?) << 32))
    }

    /// Where the capability of a kind begins. Offsets rise, so the walk ends.
    fn capability(&self, first: u32, kind: u32) -> Option<usize> {
        let mut at = first as usize;
        let mut last = 0;
        while at > last {
            last = at;
            if self.word32(at)? & 0xFFFF == kind {
                return Some(at);
            }
            at = self.word32(at + 4)? as usize;
        }
        None
    }
}

/// Checks that a container speaks the version and the second type-1 interface that are expected.
pub(super) fn check_container(container: &File) -> io::Result<bool> {
    let version = plain(container, GET_API_VERSION, 0)?;
    let type1 = plain(container, CHECK_EXTENSION, libc::c_ulong::from(vfio::VFIO_TYPE1v2_IOMMU))?;
    Ok(version == vfio::VFIO_API_VERSION as i32 && type1 == 1)
}

/// Whether every function of a group is bound to a driver of VFIO.
pub(super) fn group_viable(group: &File) -> io::Result<bool> {
    let mut status = vfio::vfio_group_status { argsz: size_of::<vfio::vfio_group_status>() as u32, flags: 0 };
    // SAFETY: the structure of this command.
    unsafe { with(group, GROUP_GET_STATUS, &mut status) }?;
    Ok(status.flags & vfio::VFIO_GROUP_FLAGS_VIABLE != 0)
}

/// Puts a group into a container, and gives the container its interface.
pub(super) fn join(group: &File, container: &File) -> io::Result<()> {
    let mut fd: libc::c_int = container.as_raw_fd();
    // SAFETY: the command takes a pointer to a descriptor.
    unsafe { with(group, GROUP_SET_CONTAINER, &mut fd) }?;
    plain(container, SET_IOMMU, libc::c_ulong::from(vfio::VFIO_TYPE1v2_IOMMU)).map(|_| ())
}

/// The function's own descriptor.
pub(super) fn device_of(group: &File, name: &str) -> io::Result<File> {
    let name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: the command takes a C string and gives a new descriptor.
    let fd = check(unsafe { libc::ioctl(group.as_raw_fd(), GROUP_GET_DEVICE_FD, name.as_ptr()) })?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// What a container says of its address space.
pub(super) struct ContainerInfo {
    /// First and last address of each usable range; none if the kernel does not say.
    pub(super) ranges: Vec<(u64, u64)>,
    /// Page sizes, as a bit mask.
    pub(super) page_sizes: u64,
    /// Mappings that may still be made.
    pub(super) available: Option<u32>,
}

pub(super) fn container_info(container: &File) -> io::Result<ContainerInfo> {
    let answer = Answer::ask(container, IOMMU_GET_INFO, 0)?;
    let cut = || io::Error::other("the kernel's answer is cut short");
    // struct vfio_iommu_type1_info: argsz, flags, iova_pgsizes, cap_offset.
    let flags = answer.word32(4).ok_or_else(cut)?;
    let page_sizes = if flags & vfio::VFIO_IOMMU_INFO_PGSIZES != 0 { answer.word64(8).ok_or_else(cut)? } else { 4096 };
    let first = if flags & vfio::VFIO_IOMMU_INFO_CAPS != 0 { answer.word32(16).ok_or_else(cut)? } else { 0 };
    let mut ranges = Vec::new();
    if let Some(at) = answer.capability(first, vfio::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE) {
        // Header, number of ranges, reserved, ranges.
        for index in 0..answer.word32(at + 8).ok_or_else(cut)? as usize {
            let range = at + 16 + 16 * index;
            ranges.push((answer.word64(range).ok_or_else(cut)?, answer.word64(range + 8).ok_or_else(cut)?));
        }
    }
    let available = answer.capability(first, vfio::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL);
    let available = available.and_then(|at| answer.word32(at + 8));
    Ok(ContainerInfo { ranges, page_sizes, available })
}

/// Maps a region for DMA. The kernel locks its pages.
pub(super) fn container_map(container: &File, region: &Region, iova: u64, bytes: u64) -> io::Result<()> {
    let write = if region.writable() { vfio::VFIO_DMA_MAP_FLAG_WRITE } else { 0 };
    let mut map = vfio::vfio_iommu_type1_dma_map {
        argsz: size_of::<vfio::vfio_iommu_type1_dma_map>() as u32,
        flags: vfio::VFIO_DMA_MAP_FLAG_READ | write,
        vaddr: region.base(),
        iova,
        size: bytes,
    };
    // SAFETY: the structure of this command. A region is a whole mapping, so its last page is its own as well; it is no
    // memory of Rust objects, and whoever maps it keeps it until it is unmapped.
    unsafe { with(container, IOMMU_MAP_DMA, &mut map) }.map(|_| ())
}

pub(super) fn container_unmap(container: &File, iova: u64, bytes: u64) -> io::Result<()> {
    let mut unmap = vfio::vfio_iommu_type1_dma_unmap {
        argsz: size_of::<vfio::vfio_iommu_type1_dma_unmap>() as u32,
        flags: 0,
        iova,
        size: bytes,
        ..Default::default()
    };
    // SAFETY: the structure of this command.
    unsafe { with(container, IOMMU_UNMAP_DMA, &mut unmap) }?;
    if unmap.size == bytes { Ok(()) } else { Err(io::Error::other("fewer bytes were unmapped than were mapped")) }
}

/// What a function says of itself.
pub(super) struct DeviceInfo {
    pub(super) is_pci: bool,
    pub(super) can_reset: bool,
}

pub(super) fn device_info(device: &File) -> io::Result<DeviceInfo> {
    let mut info = vfio::vfio_device_info { argsz: size_of::<vfio::vfio_device_info>() as u32, ..Default::default() };
    // SAFETY: the structure of this command.
    unsafe { with(device, DEVICE_GET_INFO, &mut info) }?;
    Ok(DeviceInfo {
        is_pci: info.flags & vfio::VFIO_DEVICE_FLAGS_PCI != 0,
        can_reset: info.flags & vfio::VFIO_DEVICE_FLAGS_RESET != 0,
    })
}

/// A region of a function: where it lies in the descriptor, and what of it can be mapped.
pub(super) struct RegionInfo {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    /// Offset and length of each area; all of it if the kernel does not say more.
    pub(super) mappable: Vec<(u64, u64)>,
}

pub(super) fn region_info(device: &File, index: u32) -> io::Result<RegionInfo> {
    // struct vfio_region_info: argsz, flags, index, cap_offset, size, offset.
    let answer = Answer::ask(device, DEVICE_GET_REGION_INFO, u64::from(index))?;
    let cut = || io::Error::other("the kernel's answer is cut short");
    let flags = answer.word32(4).ok_or_else(cut)?;
    let (bytes, offset) = (answer.word64(16).ok_or_else(cut)?, answer.word64(24).ok_or_else(cut)?);
    let mut mappable = Vec::new();
    if flags & vfio::VFIO_REGION_INFO_FLAG_MMAP != 0 {
        let first = if flags & vfio::VFIO_REGION_INFO_FLAG_CAPS != 0 { answer.word32(12).ok_or_else(cut)? } else { 0 };
        match answer.capability(first, vfio::VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
            None => mappable.push((0, bytes)),
            Some(at) => {
                for index in 0..answer.word32(at + 8).ok_or_else(cut)? as usize {
                    let area = at + 16 + 16 * index;
                    mappable.push((answer.word64(area).ok_or_else(cut)?, answer.word64(area + 8).ok_or_else(cut)?));
                }
            }
        }
    }
    Ok(RegionInfo { offset, bytes, mappable })
}

/// Maps registers.
pub(super) fn map_registers(device: &File, offset: u64, bytes: u64) -> io::Result<Region> {
    let length = usize::try_from(bytes).map_err(io::Error::other)?;
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
    let base = unsafe { libc::mmap(null_mut(), length, protection, libc::MAP_SHARED, device.as_raw_fd(), offset) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
    // SAFETY: the mapping was just made, is readable and writable, and only the region will unmap it. It is registers:
    // only words of it are accessed, by doorbells.
    Ok(unsafe { Region::from_mapping(base, length, RegionSlot(u16::MAX)) })
}

pub(super) fn reset(device: &File) -> io::Result<()> {
    plain(device, DEVICE_RESET, 0).map(|_| ())
}

/// Makes an address space of iommufd.
pub(super) fn ioas_alloc(iommufd: &File) -> io::Result<u32> {
    // struct iommu_ioas_alloc: size, flags, out_ioas_id.
    let mut alloc = [12_u32, 0, 0];
    // SAFETY: the structure of this command.
    unsafe { with(iommufd, IOAS_ALLOC, &mut alloc) }?;
    Ok(alloc[2])
}

/// Binds a function to iommufd and attaches it to an address space.
pub(super) fn bind(device: &File, iommufd: &File, ioas: u32) -> io::Result<()> {
    // Without the fields that came after Linux 6.6.
    let mut bind = vfio::vfio_device_bind_iommufd {
        argsz: std::mem::offset_of!(vfio::vfio_device_bind_iommufd, token_uuid_ptr) as u32,
        flags: 0,
        iommufd: iommufd.as_raw_fd(),
        ..Default::default()
    };
    // SAFETY: the structure of this command.
    unsafe { with(device, DEVICE_BIND_IOMMUFD, &mut bind) }?;
    let mut attach = vfio::vfio_device_attach_iommufd_pt {
        argsz: std::mem::offset_of!(vfio::vfio_device_attach_iommufd_pt, pasid) as u32,
        flags: 0,
        pt_id: ioas,
        ..Default::default()
    };
    // SAFETY: the structure of this command.
    unsafe { with(device, DEVICE_ATTACH_IOMMUFD_PT, &mut attach) }.map(|_| ())
}

/// First and last address of each usable range, and the alignment of mappings.
pub(super) fn ioas_ranges(iommufd: &File, ioas: u32) -> io::Result<(Vec<(u64, u64)>, u64)> {
    const MOST: usize = 64;
    /// `struct iommu_ioas_iova_ranges`.
    #[repr(C)]
    struct Ranges {
        size: u32,
        ioas: u32,
        count: u32,
        reserved: u32,
        allowed: u64,
        alignment: u64,
    }
    let mut found = [[0_u64; 2]; MOST];
    let mut ranges = Ranges {
        size: size_of::<Ranges>() as u32,
        ioas,
        count: MOST as u32,
        reserved: 0,
        allowed: found.as_mut_ptr() as u64,
        alignment: 0,
    };
    // SAFETY: the structure of this command; it points to room for as many ranges as it says.
    unsafe { with(iommufd, IOAS_IOVA_RANGES, &mut ranges) }?;
    let found = found.iter().take(ranges.count as usize).map(|[first, last]| (*first, *last)).collect();
    Ok((found, ranges.alignment))
}

/// Maps a region for DMA. The kernel locks its pages.
pub(super) fn ioas_map(iommufd: &File, ioas: u32, region: &Region, iova: u64, bytes: u64) -> io::Result<()> {
    /// `struct iommu_ioas_map`.
    #[repr(C)]
    struct Map {
        size: u32,
        flags: u32,
        ioas: u32,
        reserved: u32,
        address: u64,
        length: u64,
        iova: u64,
    }
    let writable = if region.writable() { MAP_WRITEABLE } else { 0 };
    let mut map = Map {
        size: size_of::<Map>() as u32,
        flags: MAP_FIXED_IOVA | MAP_READABLE | writable,
        ioas,
        reserved: 0,
        address: region.base(),
        length: bytes,
        iova,
    };
    // SAFETY: the structure of this command; for the memory see `container_map`.
    unsafe { with(iommufd, IOAS_MAP, &mut map) }.map(|_| ())
}

pub(super) fn ioas_unmap(iommufd: &File, ioas: u32, iova: u64, bytes: u64) -> io::Result<()> {
    /// `struct iommu_ioas_unmap`.
    #[repr(C)]
    struct Unmap {
        size: u32,
        ioas: u32,
        iova: u64,
        length: u64,
    }
    let mut unmap = Unmap { size: size_of::<Unmap>() as u32, ioas, iova, length: bytes };
    // SAFETY: the structure of this command.
    unsafe { with(iommufd, IOAS_UNMAP, &mut unmap) }?;
    if unmap.length == bytes { Ok(()) } else { Err(io::Error::other("fewer bytes were unmapped than were mapped")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        // ';' is 3Bh and VFIO_BASE 100.
        assert_eq!((GET_API_VERSION, DEVICE_RESET, IOMMU_MAP_DMA), (0x3B64, 0x3B6F, 0x3B71));
        assert_eq!((DEVICE_BIND_IOMMUFD, DEVICE_ATTACH_IOMMUFD_PT), (0x3B76, 0x3B77));
    }

    #[test]
    fn answers_are_walked_within_their_bounds() {
        let mut words = Box::new([0_u64; ANSWER_BYTES / 8]);
        // At 32 a capability of kind 5 that goes on at 48; there one of kind 1 that goes back.
        words[4] = 5 | 48 << 32;
        words[6] = 1 | 32 << 32;
        words[7] = 0x1122_3344_5566_7788;
        let answer = Answer(words);
        assert_eq!(answer.capability(32, 1), Some(48));
        assert_eq!(answer.capability(32, 9), None);
        assert_eq!(answer.capability(0, 5), None);
        assert_eq!((answer.word32(60), answer.word64(56)), (Some(0x1122_3344), Some(0x1122_3344_5566_7788)));
        assert_eq!((answer.word32(4096), answer.word32(4094), answer.word64(4092)), (None, None, None));
    }
}
