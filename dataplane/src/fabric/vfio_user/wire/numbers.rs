//! The protocol's numbers, and the limits that hold here.

/// Bytes of the header in front of every message.
pub const HEADER_BYTES: usize = 16;
/// The longest message that is read; longer ones end the connection.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// The most bytes that one region access may carry.
pub const MAX_TRANSFER_BYTES: u32 = 32 * 1024;
/// The most file descriptors in one message: one for each interrupt vector.
pub const MAX_FDS: usize = 64;
/// Protocol version, major.
pub const MAJOR: u16 = 0;
/// Protocol version, minor.
pub const MINOR: u16 = 1;

/// Message numbers.
pub mod command {
    /// Negotiates version and capabilities.
    pub const VERSION: u16 = 1;
    /// Makes client memory reachable for DMA.
    pub const DMA_MAP: u16 = 2;
    /// Takes client memory back.
    pub const DMA_UNMAP: u16 = 3;
    /// Counts of regions and interrupts.
    pub const DEVICE_GET_INFO: u16 = 4;
    /// Shape of a region.
    pub const DEVICE_GET_REGION_INFO: u16 = 5;
    /// File descriptors for a region's doorbells.
    pub const DEVICE_GET_REGION_IO_FDS: u16 = 6;
    /// Shape of an interrupt.
    pub const DEVICE_GET_IRQ_INFO: u16 = 7;
    /// Ties interrupts to eventfds.
    pub const DEVICE_SET_IRQS: u16 = 8;
    /// Reads a region.
    pub const REGION_READ: u16 = 9;
    /// Writes a region.
    pub const REGION_WRITE: u16 = 10;
    /// Resets the device.
    pub const DEVICE_RESET: u16 = 13;
}

/// Header flags: bits 3:0 hold the type, 1 for a reply.
pub const FLAG_REPLY: u32 = 1;
/// Header flag: the sender wants no reply.
pub const FLAG_NO_REPLY: u32 = 1 << 4;
/// Header flag: the command failed; the error field holds an errno.
pub const FLAG_ERROR: u32 = 1 << 5;

/// DMA_MAP flag: the device may read.
pub const DMA_READABLE: u32 = 1;
/// DMA_MAP flag: the device may write.
pub const DMA_WRITABLE: u32 = 1 << 1;
/// DMA_UNMAP flag: give everything back (as VFIO's "unmap all").
pub const UNMAP_ALL: u32 = 1 << 2;

/// DEVICE_SET_IRQS flags: data types and actions, as in linux/vfio.h.
pub mod irq {
    /// No data.
    pub const DATA_NONE: u32 = 1;
    /// One byte for each vector.
    pub const DATA_BOOL: u32 = 1 << 1;
    /// One eventfd for each vector.
    pub const DATA_EVENTFD: u32 = 1 << 2;
    /// Hold the vector back.
    pub const ACTION_MASK: u32 = 1 << 3;
    /// Let the vector through.
    pub const ACTION_UNMASK: u32 = 1 << 4;
    /// Set the eventfd, or raise the interrupt.
    pub const ACTION_TRIGGER: u32 = 1 << 5;
    /// The index of MSI-X.
    pub const MSIX: u32 = 2;
    /// Number of interrupt indices of a PCI device.
    pub const INDICES: u32 = 5;
}

/// Region indices of a PCI device, as in linux/vfio.h.
pub mod region {
    /// BAR0.
    pub const BAR0: u32 = 0;
    /// BAR4.
    pub const BAR4: u32 = 4;
    /// PCI configuration space.
    pub const CONFIG: u32 = 7;
    /// Number of region indices.
    pub const INDICES: u32 = 9;
    /// Flag: readable.
    pub const READ: u32 = 1;
    /// Flag: writable.
    pub const WRITE: u32 = 1 << 1;
    /// Flag: parts can be mapped.
    pub const MMAP: u32 = 1 << 2;
    /// Flag: a list of capabilities follows.
    pub const CAPS: u32 = 1 << 3;
    /// Capability: the areas that can be mapped.
    pub const CAP_SPARSE_MMAP: u16 = 1;
    /// Bytes of the region information without capabilities.
    pub const INFO_BYTES: u32 = 32;
}
