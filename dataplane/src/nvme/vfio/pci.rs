//! What the driver asks of a PCI function, whoever gives access to it.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::registers::{self, offset};
use crate::memory::Region;

/// Why a PCI function could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// The system, or the other end of the connection, refused.
    #[error("{what} failed: {cause}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// Somebody else has the function.
    #[error("{0}")]
    InUse(String),
    /// The function cannot do it.
    #[error("{0}")]
    Unsupported(String),
}

impl PciError {
    /// What was tried, and the system's last error.
    #[must_use]
    pub fn last_os(what: &'static str) -> Self {
        Self::System { what, cause: io::Error::last_os_error() }
    }
}

impl From<PciError> for io::Error {
    fn from(error: PciError) -> Self {
        let kind = match &error {
            PciError::System { cause, .. } => cause.kind(),
            PciError::InUse(_) => io::ErrorKind::ResourceBusy,
            PciError::Unsupported(_) => io::ErrorKind::Unsupported,
        };
        Self::new(kind, error)
    }
}

/// Where the doorbells lie: registers of BAR0 from offset 1000h on, mapped.
#[derive(Clone, Debug)]
pub struct DoorbellArea {
    /// The mapping.
    pub region: Arc<Region>,
    /// Where in it BAR0 offset 1000h lies.
    pub offset: u64,
}

/// What the function's DMA can reach.
#[derive(Clone, Debug)]
pub struct DmaLimits {
    /// I/O virtual addresses that may be used.
    pub addresses: Vec<RangeInclusive<u64>>,
    /// The granularity of mappings, a power of two, in bytes.
    pub page_bytes: u64,
    /// How many mappings there may be at once; `None` if nobody says.
    pub mappings: Option<u32>,
}

/// Access to one PCI function with an NVMe controller. Control only: queues write their doorbells through the
/// mapping of [`doorbells`](Self::doorbells), without a call.
pub trait PciFunction: Send + Sync {
    /// The function's name for people: its address on the bus, or its socket.
    fn name(&self) -> &str;

    /// Reads configuration space.
    ///
    /// # Errors
    /// What the system said.
    fn config_read(&self, offset: u16, into: &mut [u8]) -> Result<(), PciError>;

    /// Writes configuration space.
    ///
    /// # Errors
    /// What the system said.
    fn config_write(&self, offset: u16, from: &[u8]) -> Result<(), PciError>;

    /// Reads a register of BAR0; all ones if the function is gone, as on the bus.
    fn read32(&self, offset: u32) -> u32;

    /// Writes a register of BAR0. A function that is gone ignores it, as on the bus.
    fn write32(&self, offset: u32, value: u32);

    /// Reads a 64-bit register of BAR0 as two words (base, "Memory-Based Transport Controller Properties", lets a
    /// host do so).
    fn read64(&self, offset: u32) -> u64 {
        u64::from(self.read32(offset)) | (u64::from(self.read32(offset + 4)) << 32)
    }

    /// Writes a 64-bit register of BAR0 as two words, the low one first.
    fn write64(&self, offset: u32, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }

    /// The doorbells.
    fn doorbells(&self) -> &DoorbellArea;

    /// What DMA can reach.
    fn dma_limits(&self) -> DmaLimits;

    /// Lets the function reach a region at `iova` and the addresses after it, for reading, and for writing if the
    /// region is writable. `bytes` is the region's length rounded up to whole pages.
    ///
    /// # Errors
    /// What the system said; nothing is mapped then.
    fn map(&self, region: &Arc<Region>, iova: u64, bytes: u64) -> Result<(), PciError>;

    /// Takes back what [`map`](Self::map) gave. The function cannot reach it any more when this returns.
    ///
    /// # Errors
    /// What the system said; it may be mapped still.
    fn unmap(&self, iova: u64, bytes: u64) -> Result<(), PciError>;

    /// Resets the function (function level reset, or what the platform has in its place).
    ///
    /// # Errors
    /// What the system said.
    fn reset(&self) -> Result<(), PciError>;

    /// Whether the function is certainly not there any more, and so reaches no memory: not even configuration space
    /// answers. One that is merely silent is not gone.
    fn is_gone(&self) -> bool {
        let mut vendor = [0; 2];
        let read = self.config_read(config::VENDOR, &mut vendor);
        self.read32(offset::CSTS) == registers::GONE && read.is_ok() && vendor == [0xFF; 2]
    }

    /// Lets the function reach memory at all, or keeps it from doing so.
    ///
    /// # Errors
    /// What the system said, or that it is on still.
    fn set_bus_master(&self, on: bool) -> Result<(), PciError> {
        let mut command = [0; 2];
        self.config_read(config::COMMAND, &mut command)?;
        let mut bits = u16::from_le_bytes(command) | config::COMMAND_MEMORY | config::COMMAND_NO_INTX;
        if on {
            bits |= config::COMMAND_BUS_MASTER;
        } else {
            bits &= !config::COMMAND_BUS_MASTER;
        }
        self.config_write(config::COMMAND, &bits.to_le_bytes())?;
        self.config_read(config::COMMAND, &mut command)?;
        if on || u16::from_le_bytes(command) & config::COMMAND_BUS_MASTER == 0 {
            return Ok(());
        }
        let text = "bus mastering cannot be turned off: the command register does not take it";
        Err(PciError::Unsupported(text.into()))
    }
}

/// Configuration space (PCI Local Bus Specification 3.0, 6.1).
pub mod config {
    /// Vendor identifier; device identifier two bytes further.
    pub const VENDOR: u16 = 0x00;
    /// Command register.
    pub const COMMAND: u16 = 0x04;
    /// Revision, and in the three bytes after it the class code.
    pub const REVISION: u16 = 0x08;
    /// Command: memory space.
    pub const COMMAND_MEMORY: u16 = 1 << 1;
    /// Command: bus master.
    pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
    /// Command: no interrupts over pins; the driver polls.
    pub const COMMAND_NO_INTX: u16 = 1 << 10;
    /// Class code of an NVMe I/O controller.
    pub const CLASS_NVME: u32 = 0x01_0802;
}
