//! The back ends a store may lie on. With [`nvme`](super::nvme), the only place in this crate that knows them by name.

use std::io;
use std::path::PathBuf;

use dataplane::memory::{Arena, ArenaError, HugePages, RegionSlot};
use dataplane::nvme::BlockQueue;
use dataplane::nvme::null::{NullDevice, NullQueue};
use dataplane::nvme::ram::{RamDevice, RamOptions, RamQueue};
use dataplane::nvme::uring::{OpenError, OpenOptions, UringDevice, UringQueue};

use super::nvme::DeviceAddress;

/// Commands that one core may have on a device at once.
pub(super) const QUEUE_DEPTH: u32 = 1024;
/// Memory regions that a queue can know: the core's arena and the clients'.
pub(super) const MEMORY_SLOTS: u16 = 1024;

/// What a store lies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// A file or a block device. With `create_bytes`, a file that is absent or empty is made that long.
    File {
        /// Where.
        path: PathBuf,
        /// How long to make it.
        create_bytes: Option<u64>,
    },
    /// Namespaces of NVMe controllers that the daemon drives itself.
    Devices(Vec<DeviceAddress>),
    /// Memory of the daemon: for tests, and for measuring without a disk.
    Ram {
        /// Its size.
        bytes: u64,
    },
    /// Nothing: writes vanish and reads leave memory as it is. For measuring alone.
    Null {
        /// The size it claims.
        bytes: u64,
    },
}

/// A store: what it lies on, and how to format it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSource {
    /// What it lies on.
    pub kind: StoreKind,
    /// When to format it.
    pub format: FormatPolicy,
    /// Bytes of a segment, for formatting; `None` to choose by the device's size.
    pub segment_bytes: Option<u64>,
    /// Shards, for formatting; `None` for one a core.
    pub shards: Option<u32>,
}

/// When to format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FormatPolicy {
    /// Never: the store must be there.
    Never,
    /// Only if the device is blank.
    #[default]
    IfBlank,
    /// Always, whatever was there.
    Force,
}

impl StoreSource {
    /// The store's name in reports and messages.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.kind {
            StoreKind::File { path, .. } => format!("file:{}", path.display()),
            StoreKind::Devices(addresses) => {
                addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
            }
            StoreKind::Ram { bytes } => format!("ram:{bytes}"),
            StoreKind::Null { bytes } => format!("null:{bytes}"),
        }
    }
}

/// An open device from which each core gets its queue.
pub(super) trait QueueSource: Clone + Send + Sync + 'static {
    /// The queue.
    type Queue: BlockQueue + 'static;

    /// A queue for the calling thread.
    fn queue(&self) -> io::Result<Self::Queue>;

    /// Whether the device is another process, and reaches only memory that comes from a file.
    fn needs_files(&self) -> bool {
        false
    }

    /// Memory that the device can reach, for one core.
    fn arena(&self, bytes: usize, huge: HugePages) -> Result<Arena, ArenaError> {
        Arena::new(bytes, huge, RegionSlot(0))
    }
}

impl QueueSource for UringDevice {
    type Queue = UringQueue;

    fn queue(&self) -> io::Result<UringQueue> {
        UringDevice::queue(self, QUEUE_DEPTH, MEMORY_SLOTS).map_err(|error| {
            io::Error::new(error.kind(), format!("{error}; is io_uring allowed (kernel.io_uring_disabled)?"))
        })
    }
}

impl QueueSource for RamDevice {
    type Queue = RamQueue;

    fn queue(&self) -> io::Result<RamQueue> {
        Ok(RamDevice::queue(self, QUEUE_DEPTH, MEMORY_SLOTS))
    }
}

impl QueueSource for NullDevice {
    type Queue = NullQueue;

    fn queue(&self) -> io::Result<NullQueue> {
        Ok(NullDevice::queue(self, QUEUE_DEPTH, MEMORY_SLOTS))
    }
}

pub(super) fn open_file(path: &PathBuf, create_bytes: Option<u64>) -> Result<UringDevice, OpenError> {
    UringDevice::open(path, OpenOptions { create_bytes, ..OpenOptions::default() })
}

pub(super) fn open_ram(bytes: u64) -> io::Result<RamDevice> {
    RamDevice::new(RamOptions { bytes, lba_bytes: 4096, volatile_cache: false })
}

pub(super) fn open_null(bytes: u64) -> NullDevice {
    NullDevice::new(bytes / 4096)
}
