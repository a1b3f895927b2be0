//! What the system knows about a file or a block device.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

/// Alignments that direct I/O asks for, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirectAlign {
    pub(super) memory: u32,
    pub(super) offset: u32,
}

/// What `statx` says about direct I/O; `None` if the kernel (before 6.1) or the file system does not say.
pub(super) fn direct_align(file: &File) -> Option<DirectAlign> {
    let mut facts = MaybeUninit::<libc::statx>::zeroed();
    let (flags, mask) = (libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN);
    // SAFETY: the descriptor is open, the path a valid C string, and the target has the right type.
    let done = unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, mask, facts.as_mut_ptr()) };
    // SAFETY: all zeros is a valid value, and the kernel writes only valid ones.
    let facts = unsafe { facts.assume_init() };
    let told = done == 0 && facts.stx_mask & mask != 0;
    let align = DirectAlign { memory: facts.stx_dio_mem_align, offset: facts.stx_dio_offset_align };
    (told && align.memory.is_power_of_two() && align.offset.is_power_of_two()).then_some(align)
}

/// `BLKGETSIZE64`; not in libc for every architecture, and the same on x86-64 and aarch64.
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272_u32 as libc::Ioctl;

/// Bytes of a block device.
pub(super) fn device_bytes(file: &File) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: the request writes one u64 to its argument.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &mut bytes) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(bytes)
}

/// Bytes of a block device's logical and physical sectors.
pub(super) fn sector_bytes(file: &File) -> io::Result<(u32, u32)> {
    let (mut logical, mut physical): (libc::c_int, libc::c_uint) = (0, 0);
    // SAFETY: each request writes one int to its argument.
    let failed = unsafe {
        libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET, &mut logical) != 0
            || libc::ioctl(file.as_raw_fd(), libc::BLKPBSZGET, &mut physical) != 0
    };
    if failed {
        return Err(io::Error::last_os_error());
    }
    Ok((u32::try_from(logical).unwrap_or(512), physical))
}

/// Gives the file its blocks, so that writing to it later cannot run out of space; without support for that, only its
/// length.
pub(super) fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let length = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // SAFETY: the descriptor is open for writing.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } == 0 {
        return Ok(());
    }
    let cause = io::Error::last_os_error();
    if cause.raw_os_error() == Some(libc::EOPNOTSUPP) { file.set_len(bytes) } else { Err(cause) }
}

/// A setting in the `queue` folder of a block device, looked up by device number; of the whole disk if the device is
/// a partition.
pub(super) fn queue_setting(device: u64, name: &str) -> Option<String> {
    let folder = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
    let read = |folder: &str| std::fs::read_to_string(format!("{folder}/queue/{name}")).ok();
    read(&folder).or_else(|| read(&format!("{folder}/.."))).map(|text| text.trim().to_owned())
}

/// The number of the block device that a file lies on, or that it is.
pub(super) fn device_number(file: &File, is_device: bool) -> io::Result<u64> {
    let facts = file.metadata()?;
    Ok(if is_device { facts.rdev() } else { facts.dev() })
}

/// Whether the kernel takes a discard of a block device as an io_uring command (Linux 6.12).
pub(super) fn kernel_discards() -> bool {
    let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") else { return false };
    let mut numbers = release.split(['.', '-']).map_while(|part| part.trim().parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 12)
}
