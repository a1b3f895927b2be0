//! What the messages of a client ask of the device: regions, interrupts, memory, reset.

use std::os::fd::OwnedFd;

use tracing::{debug, warn};

use super::super::super::pci::{BAR4_BYTES, CONFIG_BYTES};
use super::super::super::wire::{
    self, Header, MAJOR, MINOR, Message, PeerCapabilities, Request, UNMAP_ALL, capabilities, irq, region,
};
use super::super::super::{BAR0_BYTES, DOORBELL_BYTES, DOORBELL_OFFSET, VECTORS};
use super::super::dma::DmaError;
use super::Connection;

/// A reply, perhaps with the descriptor of the doorbells.
pub(super) struct Reply {
    pub message: Message,
    pub with_doorbells: bool,
}

impl From<Message> for Reply {
    fn from(message: Message) -> Self {
        Self { message, with_doorbells: false }
    }
}

const EINVAL: u32 = libc::EINVAL as u32;
/// Flags of DEVICE_GET_INFO: can be reset, is a PCI device.
const DEVICE_FLAGS: u32 = 0b11;
/// Flags of DEVICE_GET_IRQ_INFO: eventfds.
const IRQ_EVENTFD: u32 = 1;
/// Bytes of the sparse mmap capability with one area.
const SPARSE_BYTES: u32 = 32;

impl Connection {
    /// Carries a message out. An errno if it fails.
    pub(super) fn carry_out(&mut self, header: &Header, request: Request<'_>, fds: Vec<OwnedFd>) -> Result<Reply, u32> {
        let reply = Message::reply(header);
        match request {
            Request::Version { major, minor, json } => self.negotiate(reply, (major, minor), json),
            Request::DmaMap { flags, offset, address, size } => {
                let fd = fds.into_iter().next();
                let mapped = self.memory.map(&self.cores, (flags, offset, address, size), fd);
                mapped.map_err(|error| self.refuse(&error)).map(|()| reply.into())
            }
            Request::DmaUnmap { flags, address, size } => {
                self.unmap(flags, address, size).map_err(|error| self.refuse(&error))?;
                Ok(reply.u32(24).u32(flags).u64(address).u64(size).into())
            }
            Request::GetInfo => Ok(reply.u32(16).u32(DEVICE_FLAGS).u32(region::INDICES).u32(irq::INDICES).into()),
            Request::GetRegionInfo { argsz, index } => region_info(reply, argsz, index),
            Request::GetIrqInfo { index } if index < irq::INDICES => {
                let (flags, count) = if index == irq::MSIX { (IRQ_EVENTFD, u32::from(VECTORS)) } else { (0, 0) };
                Ok(reply.u32(16).u32(flags).u32(index).u32(count).into())
            }
            Request::GetIrqInfo { .. } => Err(EINVAL),
            Request::SetIrqs { flags, index: irq::MSIX, start, count, data } => {
                self.interrupts.set(flags, (start, count), data, fds, &self.link).map(|()| reply.into())
            }
            // Other indices have no vectors; giving all of none back is no error.
            Request::SetIrqs { index, count: 0, .. } if index < irq::INDICES => Ok(reply.into()),
            Request::SetIrqs { .. } => Err(EINVAL),
            Request::RegionRead { offset, region, count } => {
                let mut data = vec![0; count as usize];
                self.region_read(region, offset, &mut data)?;
                Ok(reply.u64(offset).u32(region).u32(count).bytes(&data).into())
            }
            Request::RegionWrite { offset, region, data } => {
                self.region_write(region, offset, data)?;
                Ok(reply.u64(offset).u32(region).u32(data.len() as u32).into())
            }
            Request::Reset => {
                self.reset();
                Ok(reply.into())
            }
        }
    }

    fn negotiate(&mut self, reply: Message, version: (u16, u16), json: &[u8]) -> Result<Reply, u32> {
        if version.0 != MAJOR {
            return Err(libc::ENOTSUP as u32);
        }
        self.negotiated = true;
        debug!(session = self.session.id().0, peer = ?PeerCapabilities::parse(json), "vfio-user client negotiated");
        Ok(reply.u16(MAJOR).u16(version.1.min(MINOR)).bytes(&capabilities(self.memory.region_limit())).into())
    }

    /// Logs why memory was refused, a bounded number of times for each client.
    fn refuse(&mut self, error: &DmaError) -> u32 {
        if self.refusals < 16 {
            warn!(session = self.session.id().0, %error, "memory of a vfio-user client was refused");
        }
        self.refusals = self.refusals.saturating_add(1);
        error.errno()
    }

    fn unmap(&mut self, flags: u32, address: u64, size: u64) -> Result<(), DmaError> {
        let all = flags & UNMAP_ALL != 0;
        if flags & !UNMAP_ALL != 0 {
            return Err(DmaError::Flags(flags));
        }
        if !all && !self.memory.is_mapped(address, size) {
            return Err(DmaError::NotMapped);
        }
        self.quiesce()?;
        let mut outcome = Ok(());
        let addresses = if all { self.memory.addresses() } else { vec![address] };
        for iova in addresses {
            let regions = self.memory.regions_of(iova);
            if self.admin.as_ref().is_some_and(|admin| regions.iter().any(|region| admin.lies_in(region))) {
                warn!(session = self.session.id().0, "a client took the memory of its admin queues away");
                self.admin = None;
                self.controller.fail();
            }
            drop(regions);
            outcome = outcome.and(self.memory.unmap(&self.cores, iova));
        }
        self.resume_if_allowed();
        outcome
    }

    fn region_read(&mut self, region: u32, offset: u64, into: &mut [u8]) -> Result<(), u32> {
        check_range(region, offset, into.len())?;
        match region {
            region::BAR0 if offset >= DOORBELL_OFFSET => self.doorbells.region().read(offset, into).ok_or(EINVAL),
            region::BAR0 => {
                self.controller.read(offset, into);
                Ok(())
            }
            region::BAR4 => {
                let start = offset as usize;
                into.copy_from_slice(&self.msix_table[start..start + into.len()]);
                Ok(())
            }
            _ => self.config.read(offset, into).ok_or(EINVAL),
        }
    }

    fn region_write(&mut self, region: u32, offset: u64, from: &[u8]) -> Result<(), u32> {
        check_range(region, offset, from.len())?;
        match region {
            region::BAR0 if offset >= DOORBELL_OFFSET => {
                if let (&[a, b, c, d], Some(word)) = (from, self.doorbells.region().word32(offset)) {
                    word.store(u32::from_ne_bytes([a, b, c, d]), std::sync::atomic::Ordering::Release);
                }
                Ok(())
            }
            region::BAR0 => {
                let effect = self.controller.write(offset, from);
                self.apply(effect);
                Ok(())
            }
            region::BAR4 => {
                let start = offset as usize;
                self.msix_table[start..start + from.len()].copy_from_slice(from);
                Ok(())
            }
            _ => {
                let before = self.config.bus_master();
                self.config.write(offset, from).ok_or(EINVAL)?;
                self.bus_master_changed(before)
            }
        }
    }

    /// While bus mastering is off, the device touches no memory of the client.
    fn bus_master_changed(&mut self, before: bool) -> Result<(), u32> {
        match (before, self.config.bus_master()) {
            (true, false) => self.quiesce().map_err(|_| libc::ESHUTDOWN as u32),
            (false, true) => {
                self.resume_if_allowed();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// DEVICE_RESET: as after power-on, except that registered memory stays registered, as with VFIO.
    fn reset(&mut self) {
        self.admin = None;
        self.end_queues();
        self.controller.reset();
        self.config = super::ConfigSpace::default();
        self.msix_table.fill(0);
        self.interrupts.reset(&self.link);
    }
}

fn region_size(region: u32) -> u64 {
    match region {
        region::BAR0 => BAR0_BYTES,
        region::BAR4 => BAR4_BYTES,
        region::CONFIG => CONFIG_BYTES as u64,
        _ => 0,
    }
}

fn check_range(region: u32, offset: u64, bytes: usize) -> Result<(), u32> {
    let end = offset.checked_add(bytes as u64).ok_or(EINVAL)?;
    if bytes > 0 && end <= region_size(region) { Ok(()) } else { Err(EINVAL) }
}

fn region_info(reply: Message, argsz: u32, index: u32) -> Result<Reply, u32> {
    if index >= region::INDICES || argsz < region::INFO_BYTES {
        return Err(EINVAL);
    }
    let size = region_size(index);
    if index != region::BAR0 {
        let flags = if size > 0 { region::READ | region::WRITE } else { 0 };
        return Ok(reply.u32(region::INFO_BYTES).u32(flags).u32(index).u32(0).u64(size).u64(0).into());
    }
    let flags = region::READ | region::WRITE | region::MMAP | region::CAPS;
    let needed = region::INFO_BYTES + SPARSE_BYTES;
    let message = reply.u32(needed).u32(flags).u32(index).u32(region::INFO_BYTES).u64(size).u64(0);
    if argsz < needed {
        // The client asks again with room for the capability; the descriptor comes then.
        return Ok(message.into());
    }
    let message = message.u16(region::CAP_SPARSE_MMAP).u16(1).u32(0).u32(1).u32(0);
    Ok(Reply { message: message.u64(DOORBELL_OFFSET).u64(DOORBELL_BYTES), with_doorbells: true })
}

const _: () = assert!(DOORBELL_OFFSET + DOORBELL_BYTES <= BAR0_BYTES);
const _: () = assert!(BAR0_BYTES <= wire::MAX_TRANSFER_BYTES as u64);
