//! A PCI function that another process plays, for the NVMe driver.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory::Region;
use crate::nvme::vfio::pci::{DmaLimits, DoorbellArea, PciError, PciFunction};

use super::super::wire::region;
use super::channel::Channel;
use super::{ChannelError, ConnectError, ConnectOptions, FIRST_IOVA, SOCKET_NAME, map_doorbells};

/// The I/O virtual addresses of a target that does not say what it takes: 47 bits, as processors have.
const LAST_IOVA: u64 = (1 << 47) - 1;

/// An NVMe controller that is another process, over vfio-user. Registers are read and written by messages, doorbells
/// through shared memory. It reaches only memory that comes from a file
/// ([`Region::shared`](crate::memory::Region::shared)).
pub struct RemoteFunction {
    name: String,
    channel: Mutex<Channel>,
    doorbells: DoorbellArea,
    /// The other end did not answer once: its registers read as ones from then on.
    gone: AtomicBool,
}

impl std::fmt::Debug for RemoteFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteFunction").field("name", &self.name).finish_non_exhaustive()
    }
}

impl RemoteFunction {
    /// Connects to the target whose folder is `dir`.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(dir: &Path, options: &ConnectOptions) -> Result<Arc<Self>, ConnectError> {
        let mut channel = Channel::connect(&dir.join(SOCKET_NAME), options.timeout)?;
        let doorbells = DoorbellArea { region: Arc::new(map_doorbells(&mut channel)?), offset: 0 };
        let name = dir.display().to_string();
        Ok(Arc::new(Self { name, channel: Mutex::new(channel), doorbells, gone: AtomicBool::new(false) }))
    }

    fn channel(&self) -> MutexGuard<'_, Channel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a request gave. A target that hung up or fell silent is gone for good: an answer that came late would be
    /// taken for another's.
    fn judge<T>(&self, what: &'static str, result: Result<T, ChannelError>) -> Result<T, PciError> {
        result.map_err(|error| {
            if !matches!(error, ChannelError::Refused { .. }) && !self.gone.swap(true, Ordering::Relaxed) {
                tracing::error!(function = self.name, %error, "the controller's process is gone");
            }
            let cause = match error {
                ChannelError::Refused { error, .. } | ChannelError::System(error) => error,
                other => io::Error::other(other),
            };
            PciError::System { what, cause }
        })
    }

    fn request<T>(
        &self,
        what: &'static str,
        ask: impl FnOnce(&mut Channel) -> Result<T, ChannelError>,
    ) -> Result<T, PciError> {
        if self.gone.load(Ordering::Relaxed) {
            return self.judge(what, Err(ChannelError::Closed));
        }
        let result = ask(&mut self.channel());
        self.judge(what, result)
    }
}

impl PciFunction for RemoteFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn config_read(&self, offset: u16, into: &mut [u8]) -> Result<(), PciError> {
        self.request("reading configuration space", |channel| {
            channel.region_read(region::CONFIG, u64::from(offset), into)
        })
    }

    fn config_write(&self, offset: u16, from: &[u8]) -> Result<(), PciError> {
        self.request("writing configuration space", |channel| {
            channel.region_write(region::CONFIG, u64::from(offset), from)
        })
    }

    fn read32(&self, offset: u32) -> u32 {
        let read = |channel: &mut Channel| channel.read32(region::BAR0, u64::from(offset));
        self.request("reading a register", read).unwrap_or(u32::MAX)
    }

    fn write32(&self, offset: u32, value: u32) {
        // As on the bus: who wants to know reads a register.
        let write = |channel: &mut Channel| channel.write32(region::BAR0, u64::from(offset), value);
        let _ = self.request("writing a register", write);
    }

    fn doorbells(&self) -> &DoorbellArea {
        &self.doorbells
    }

    fn dma_limits(&self) -> DmaLimits {
        DmaLimits { addresses: vec![FIRST_IOVA..=LAST_IOVA], page_bytes: 4096, mappings: None }
    }

    fn map(&self, memory: &Arc<Region>, iova: u64, bytes: u64) -> Result<(), PciError> {
        if self.gone.load(Ordering::Relaxed) {
            // It will never reach anything again, and what it does not reach may well be called mapped.
            return Ok(());
        }
        let (file, offset) = memory.file().ok_or_else(|| {
            PciError::Unsupported(
                "the memory is this process's own; a controller in another process reaches only memory from a file"
                    .into(),
            )
        })?;
        self.request("mapping memory for the device", |channel| {
            channel.dma_map(file, offset, iova, bytes, memory.writable())
        })
    }

    fn unmap(&self, iova: u64, bytes: u64) -> Result<(), PciError> {
        if self.gone.load(Ordering::Relaxed) {
            // It has pages of the file at most, and no part of this process.
            return Ok(());
        }
        self.request("unmapping memory", |channel| channel.dma_unmap(iova, bytes))
    }

    fn reset(&self) -> Result<(), PciError> {
        self.request("resetting the function", Channel::reset)
    }
}
