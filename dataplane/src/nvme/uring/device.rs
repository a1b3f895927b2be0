//! Opens a file or a block device, locks it and learns its shape.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{UringQueue, facts};
use crate::nvme::Geometry;

/// How to open a device.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Opens it for reading alone: nothing is created, writes fail, and the lock is shared with other readers.
    pub read_only: bool,
    /// Creates a file of that many bytes where there is none, or an empty one; one that has a length is left as it
    /// is. Without it, or with `read_only`, the file must exist.
    pub create_bytes: Option<u64>,
    /// Bypasses the page cache. Turn it off for file systems that cannot.
    pub direct: bool,
    /// Keeps other processes from opening the same file, as long as they ask for a lock as well.
    pub lock: bool,
    /// Polls for completions instead of taking interrupts, where the device can.
    pub io_poll: bool,
    /// Gives deallocated blocks of a file back to the file system. Off by default: taking them again later costs more
    /// than the space is worth. Block devices deallocate whenever they can.
    pub punch_holes: bool,
    /// The largest transfer of one command in bytes, rounded down to whole blocks.
    pub max_transfer: u32,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            create_bytes: None,
            direct: true,
            lock: true,
            io_poll: false,
            punch_holes: false,
            max_transfer: 4 << 20,
        }
    }
}

/// Why a device was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not there, or no permission.
    #[error("cannot open {path}: {cause}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file system has no direct I/O.
    #[error("{path} lies on a file system without direct I/O; move it to ext4 or xfs, or turn direct I/O off")]
    NotDirect {
        /// The file.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("{path} is locked by another process; stop that one or choose another file")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A folder, a socket or the like.
    #[error("{path} is neither a regular file nor a block device")]
    WrongKind {
        /// The file.
        path: PathBuf,
    },
    /// No whole block fits.
    #[error("{path} has {bytes} bytes, less than one block of {lba_bytes}")]
    TooSmall {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// Bytes in a logical block.
        lba_bytes: u32,
    },
}

/// What kind of thing the descriptor is of, and how to deallocate there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deallocation {
    /// Not at all.
    None,
    /// By punching holes into a file.
    PunchHole,
    /// By a discard of the block device.
    Discard,
}

/// The file, open and locked for as long as anybody uses it.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    /// A description of its own: the kernel lets go of files that rings know some time after a ring is closed, and a
    /// lock on such would outlive the process for that long.
    lock: Option<File>,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // Closing it would not do at once: a child process that is about to be started elsewhere has a copy until then.
        if let Some(lock) = &self.lock {
            // Closing is what follows, so a failure changes nothing.
            _ = lock.unlock();
        }
    }
}

/// An open device, from which each core gets its queue. The lock ends when it and all its queues are gone.
#[derive(Clone, Debug)]
pub struct UringDevice {
    file: Arc<OpenFile>,
    geometry: Geometry,
    deallocation: Deallocation,
    io_poll: bool,
}

impl UringDevice {
    /// Opens a regular file or a block device.
    ///
    /// # Errors
    /// See [`OpenError`]; a file that existed is unchanged then.
    pub fn open(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let failed = |cause| OpenError::Open { path: path.to_owned(), cause };
        let create_bytes = options.create_bytes.filter(|_| !options.read_only);
        let options = OpenOptions { create_bytes, ..options };
        let file = open_file(path, options)?;
        let lock = if options.lock { Some(lock(&file, path, options.read_only)?) } else { None };
        let kind = file.metadata().map_err(failed)?;
        let is_device = kind.file_type().is_block_device();
        if let Some(bytes) = options.create_bytes
            && !is_device
            && kind.len() == 0
        {
            facts::allocate(&file, bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        let (geometry, deallocation) = learn(&file, is_device, options).map_err(failed)?;
        if geometry.blocks == 0 {
            let bytes = if is_device { 0 } else { kind.len() };
            return Err(OpenError::TooSmall { path: path.to_owned(), bytes, lba_bytes: geometry.lba_bytes });
        }
        let io_poll = options.io_poll && polls(&file, is_device).map_err(failed)?;
        Ok(Self { file: Arc::new(OpenFile { file, lock }), geometry, deallocation, io_poll })
    }

    /// The device's shape; its depth is zero until a queue is made.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// A queue for one core, of `depth` (1 to 4096) outstanding commands, that knows memory slots 0 to
    /// `memory_slots - 1`. To be called on the thread that will use it: the kernel ties the ring to it.
    ///
    /// # Errors
    /// What the system says; `InvalidInput` for a depth out of range.
    pub fn queue(&self, depth: u32, memory_slots: u16) -> io::Result<UringQueue> {
        if !(1..=4096).contains(&depth) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a queue's depth must be 1 to 4096"));
        }
        let geometry = Geometry { depth, ..self.geometry };
        UringQueue::new(Arc::clone(&self.file), geometry, self.deallocation, self.io_poll, memory_slots)
    }
}

fn open_file(path: &Path, options: OpenOptions) -> Result<File, OpenError> {
    // Looked at before it is opened, for opening a FIFO would wait for its other end.
    if let Ok(kind) = std::fs::metadata(path).map(|facts| facts.file_type())
        && !kind.is_file()
        && !kind.is_block_device()
    {
        return Err(OpenError::WrongKind { path: path.to_owned() });
    }
    let mut how = File::options();
    how.read(true).write(!options.read_only).create(options.create_bytes.is_some()).truncate(false).mode(0o600);
    how.custom_flags(if options.direct { libc::O_DIRECT } else { 0 }).open(path).map_err(|cause| {
        let path = path.to_owned();
        let no_direct = options.direct && cause.raw_os_error() == Some(libc::EINVAL);
        if no_direct { OpenError::NotDirect { path } } else { OpenError::Open { path, cause } }
    })
}

/// Opens the file that is open once more, and locks it; `shared` with others that only read.
fn lock(file: &File, path: &Path, shared: bool) -> Result<File, OpenError> {
    let failed = |cause| OpenError::Open { path: path.to_owned(), cause };
    // By its descriptor, so that it is the same file whatever the path names by now.
    let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(failed)?;
    match if shared { again.try_lock_shared() } else { again.try_lock() } {
        Ok(()) => Ok(again),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

/// Whether the block device, or the one that the file lies on, has queues to poll.
fn polls(file: &File, is_device: bool) -> io::Result<bool> {
    let number = facts::device_number(file, is_device)?;
    Ok(facts::queue_setting(number, "io_poll").is_some_and(|polls| polls == "1"))
}

/// Block size, alignment, capacity, cache and deallocation.
fn learn(file: &File, is_device: bool, options: OpenOptions) -> io::Result<(Geometry, Deallocation)> {
    let number = facts::device_number(file, is_device)?;
    let align = facts::direct_align(file);
    let lba_bytes = if is_device {
        // A write smaller than the physical sector makes the drive read first.
        let (logical, physical) = facts::sector_bytes(file)?;
        logical.max(physical.min(4096))
    } else {
        // A file system serialises direct writes smaller than its own blocks, which nearly always have 4096 bytes.
        align.map_or(4096, |align| align.offset.max(4096))
    };
    let bytes = if is_device { facts::device_bytes(file)? } else { file.metadata()?.len() };
    let setting = |name| facts::queue_setting(number, name);
    let discards = || setting("discard_max_bytes").is_some_and(|max| max != "0") && facts::kernel_discards();
    let deallocation = match is_device {
        _ if options.read_only => Deallocation::None,
        true if discards() => Deallocation::Discard,
        false if options.punch_holes => Deallocation::PunchHole,
        _ => Deallocation::None,
    };
    let memory_align = match align {
        _ if !options.direct => 1,
        Some(align) => align.memory,
        None => lba_bytes,
    };
    let geometry = Geometry {
        lba_bytes,
        blocks: bytes / u64::from(lba_bytes),
        memory_align,
        max_transfer: (options.max_transfer / lba_bytes).max(1) * lba_bytes,
        // Of a file, more than the drive's cache is volatile: that blocks of a fresh file were written at all stands
        // in the file system's journal, and gets there with a flush.
        volatile_cache: !is_device || setting("write_cache").is_none_or(|cache| cache != "write through"),
        deallocate: deallocation != Deallocation::None,
        depth: 0,
    };
    Ok((geometry, deallocation))
}
