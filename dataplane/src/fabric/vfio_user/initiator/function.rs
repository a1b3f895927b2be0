//! A PCI function that another process plays, for the NVMe driver.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory::Region;
use crate::nvme::vfio::pci::{DmaLimits, DoorbellArea, PciError, PciFunction};

use super::super::wire::region;
use super::channel::Channel;
use super::{ChannelError, ConnectError, ConnectOptions, FIRST_IOVA, SOCKET_NAME, map_doorbells};

/// The I/O virtual addresses of a target that does not say what it takes: 47 bits, as processors have.
const LAST_IOVA: u64 = (1 << 47) - 1;

/// Whether the target can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Line {
    Open = 0,
    /// It did not answer, or not so that it makes sense. It is asked nothing any more, for an answer that came late would be
    /// taken for another's; but it may be there, and reach all memory that it was shown.
    Silent = 1,
    /// It closed the connection, or ended.
    Closed = 2,
}

/// An NVMe controller that is another process, over vfio-user. Registers are read and written by messages, doorbells
/// through shared memory. It reaches only memory that comes from a file
/// ([`Region::shared`](crate::memory::Region::shared)).
pub struct RemoteFunction {
    name: String,
    channel: Mutex<Channel>,
    doorbells: DoorbellArea,
    /// A [`Line`].
    line: AtomicU8,
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
        Ok(Arc::new(Self { name, channel: Mutex::new(channel), doorbells, line: AtomicU8::new(Line::Open as u8) }))
    }

    fn channel(&self) -> MutexGuard<'_, Channel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self) -> Line {
        match self.line.load(Ordering::Acquire) {
            0 => Line::Open,
            1 => Line::Silent,
            _ => Line::Closed,
        }
    }

    fn lose(&self, line: Line, error: &ChannelError) {
        tracing::error!(function = self.name, %error, ?line, "the controller's process answers no more");
        self.line.store(line as u8, Ordering::Release);
    }

    fn request<T>(
        &self,
        what: &'static str,
        ask: impl FnOnce(&mut Channel) -> Result<T, ChannelError>,
    ) -> Result<T, PciError> {
        let mut channel = self.channel();
        // With the channel in hand: who waited for it may find it lost.
        let result = if self.line() == Line::Open { ask(&mut channel) } else { Err(ChannelError::Closed) };
        if self.line() == Line::Open {
            match &result {
                Ok(_) | Err(ChannelError::Refused { .. }) => {}
                Err(error @ ChannelError::Closed) => self.lose(Line::Closed, error),
                Err(error) => {
                    channel.hang_up();
                    self.lose(Line::Silent, error);
                }
            }
        }
        result.map_err(|error| match error {
            ChannelError::Refused { error, .. } | ChannelError::System(error) => {
                PciError::System { what, cause: error }
            }
            other => PciError::System { what, cause: io::Error::other(other) },
        })
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
        if self.line() == Line::Closed {
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
        if self.line() == Line::Closed {
            // It has pages of the file at most, and no part of this process.
            return Ok(());
        }
        self.request("unmapping memory", |channel| channel.dma_unmap(iova, bytes))
    }

    /// Only one that closed the connection is: whatever a process answers, or does not, it may have memory mapped.
    fn is_gone(&self) -> bool {
        if self.line() == Line::Silent && self.channel().is_closed() {
            self.lose(Line::Closed, &ChannelError::Closed);
        }
        self.line() == Line::Closed
    }

    fn reset(&self) -> Result<(), PciError> {
        self.request("resetting the function", Channel::reset)
    }
}
