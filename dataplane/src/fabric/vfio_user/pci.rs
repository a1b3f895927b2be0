//! PCI configuration space of the emulated controller.
//!
//! BAR0 holds the controller's properties and doorbells, BAR4 the MSI-X table (offset 0) and pending bits (offset
//! 2048). As with other vfio-user targets, what the MSI-X table says is kept but has no effect: interrupts are masked
//! and routed with DEVICE_SET_IRQS.

use super::{BAR0_BYTES, VECTORS};

/// Bytes of configuration space.
pub const CONFIG_BYTES: usize = 4096;
/// Bytes of BAR4.
pub const BAR4_BYTES: u64 = 4096;
/// Where the pending bits begin in BAR4.
const PENDING_BITS: u32 = 2048;

/// Offsets of what is used.
pub mod offset {
    /// Vendor and device identifier.
    pub const VENDOR: usize = 0x00;
    /// Command register.
    pub const COMMAND: usize = 0x04;
    /// Status register.
    pub const STATUS: usize = 0x06;
    /// Revision and class code.
    pub const REVISION: usize = 0x08;
    /// BAR0, low half.
    pub const BAR0: usize = 0x10;
    /// BAR4, low half.
    pub const BAR4: usize = 0x20;
    /// Subsystem vendor and device identifier.
    pub const SUBSYSTEM: usize = 0x2C;
    /// First capability.
    pub const CAPABILITIES: usize = 0x34;
    /// Interrupt line and pin.
    pub const INTERRUPT: usize = 0x3C;
    /// Power management capability.
    pub const PM: usize = 0x40;
    /// MSI-X capability.
    pub const MSIX: usize = 0x50;
    /// PCI Express capability.
    pub const PCIE: usize = 0x60;
}

/// Command register: memory space enable.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command register: bus master enable.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;

/// Vendor identifier used by software devices of Linux and QEMU (Red Hat).
const VENDOR_ID: u16 = 0x1B36;
/// QEMU's number for an NVMe controller.
const DEVICE_ID: u16 = 0x0010;
/// Mass storage, non-volatile memory, NVM Express I/O controller.
const CLASS: [u8; 3] = [0x02, 0x08, 0x01];

/// The configuration space and which of its bits a client may write.
#[derive(Clone)]
pub struct ConfigSpace {
    bytes: Box<[u8; CONFIG_BYTES]>,
    writable: Box<[u8; CONFIG_BYTES]>,
}

impl std::fmt::Debug for ConfigSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigSpace").field("command", &self.command()).finish_non_exhaustive()
    }
}

impl Default for ConfigSpace {
    fn default() -> Self {
        let mut space = Self { bytes: Box::new([0; CONFIG_BYTES]), writable: Box::new([0; CONFIG_BYTES]) };
        space.header();
        space.power_management();
        space.msix();
        space.express();
        space
    }
}

impl ConfigSpace {
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    fn header(&mut self) {
        self.put(offset::VENDOR, &VENDOR_ID.to_le_bytes());
        self.put(offset::VENDOR + 2, &DEVICE_ID.to_le_bytes());
        self.put(offset::STATUS, &(1u16 << 4).to_le_bytes()); // capability list
        self.put(offset::REVISION + 1, &CLASS);
        self.put(offset::BAR0, &[0b100]); // 64-bit memory
        self.put(offset::BAR4, &[0b100]);
        self.put(offset::SUBSYSTEM, &VENDOR_ID.to_le_bytes());
        self.put(offset::CAPABILITIES, &[offset::PM as u8]);
        // I/O space (no effect), memory space, bus master, parity, SERR, interrupt disable.
        self.allow(offset::COMMAND, &0x0547u16.to_le_bytes());
        // A BAR of a power of two bytes: only address bits above its size can be set, which tells the size.
        self.allow(offset::BAR0, &(!(BAR0_BYTES - 1)).to_le_bytes());
        self.allow(offset::BAR4, &(!(BAR4_BYTES - 1)).to_le_bytes());
        self.allow(offset::INTERRUPT, &[0xFF]);
        self.allow(0x0C, &[0xFF]); // cache line size
    }

    fn power_management(&mut self) {
        self.put(offset::PM, &[0x01, offset::MSIX as u8]);
        self.put(offset::PM + 2, &3u16.to_le_bytes());
        self.put(offset::PM + 4, &[0x08]); // no soft reset
        self.allow(offset::PM + 4, &[0b11]);
    }

    fn msix(&mut self) {
        self.put(offset::MSIX, &[0x11, offset::PCIE as u8]);
        self.put(offset::MSIX + 2, &(VECTORS - 1).to_le_bytes());
        self.put(offset::MSIX + 4, &4u32.to_le_bytes()); // table: BAR4, offset 0
        self.put(offset::MSIX + 8, &(PENDING_BITS | 4).to_le_bytes());
        self.allow(offset::MSIX + 3, &[0b1100_0000]); // enable, function mask
    }

    fn express(&mut self) {
        self.put(offset::PCIE, &[0x10, 0]);
        self.put(offset::PCIE + 2, &2u16.to_le_bytes()); // version 2, endpoint
        self.put(offset::PCIE + 4, &((1u32 << 15) | (1 << 28)).to_le_bytes()); // role based errors, function reset
        self.allow(offset::PCIE + 8, &0x7FFFu16.to_le_bytes());
    }

    /// Command register.
    #[must_use]
    pub fn command(&self) -> u16 {
        u16::from_le_bytes([self.bytes[offset::COMMAND], self.bytes[offset::COMMAND + 1]])
    }

    /// Whether the device may read and write the client's memory.
    #[must_use]
    pub fn bus_master(&self) -> bool {
        self.command() & COMMAND_BUS_MASTER != 0
    }

    /// Reads bytes; `None` if they do not lie inside.
    #[must_use]
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Option<()> {
        let start = usize::try_from(offset).ok()?;
        into.copy_from_slice(self.bytes.get(start..start.checked_add(into.len())?)?);
        Some(())
    }

    /// Writes what may be written; `None` if it does not lie inside.
    #[must_use]
    pub fn write(&mut self, offset: u64, from: &[u8]) -> Option<()> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(from.len())?;
        let masks = self.writable.get(start..end)?;
        for ((byte, mask), new) in self.bytes[start..end].iter_mut().zip(masks).zip(from) {
            *byte = (*byte & !mask) | (new & mask);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read32(space: &ConfigSpace, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        space.read(offset as u64, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn class_and_bar_sizing_are_as_the_bus_expects() {
        let mut space = ConfigSpace::default();
        assert_eq!(read32(&space, offset::REVISION) >> 8, 0x01_0802);
        space.write(offset::BAR0 as u64, &[0xFF; 8]).unwrap();
        assert_eq!(read32(&space, offset::BAR0), 0xFFFF_C004);
        assert_eq!(read32(&space, offset::BAR0 + 4), 0xFFFF_FFFF);
        space.write(0x18, &[0xFF; 8]).unwrap();
        assert_eq!(read32(&space, 0x18), 0);
    }

    #[test]
    fn the_capability_list_ends() {
        let space = ConfigSpace::default();
        let mut at = space.bytes[offset::CAPABILITIES] as usize;
        let mut seen = Vec::new();
        while at != 0 {
            seen.push(space.bytes[at]);
            at = space.bytes[at + 1] as usize;
        }
        assert_eq!(seen, [0x01, 0x11, 0x10]);
    }

    #[test]
    fn read_only_bits_stay_and_ends_are_checked() {
        let mut space = ConfigSpace::default();
        let before = space.bytes.clone();
        space.write(0, &[0; 4]).unwrap();
        assert_eq!(space.bytes, before);
        assert!(!space.bus_master());
        space.write(offset::COMMAND as u64, &[0x06, 0]).unwrap();
        assert!(space.bus_master());
        assert_eq!(space.write(4095, &[0, 0]), None);
        assert_eq!(space.read(u64::MAX, &mut [0]), None);
    }
}
