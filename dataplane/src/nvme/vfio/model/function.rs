//! The model on its bus.

use std::io;
use std::sync::Arc;

use super::{Core, Model};
use crate::memory::Region;
use crate::nvme::spec::Sqe;
use crate::nvme::vfio::pci::{DmaLimits, DoorbellArea, PciError, PciFunction, config};
use crate::nvme::vfio::{lock, registers};

fn refused(what: &'static str, error: i32) -> PciError {
    PciError::System { what, cause: io::Error::from_raw_os_error(error) }
}

impl Core {
    fn config_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0..4].copy_from_slice(&[0x36, 0x1B, 0x10, 0x00]);
        bytes[4..6].copy_from_slice(&self.registers.command.to_le_bytes());
        bytes[8..12].copy_from_slice(&(config::CLASS_NVME << 8).to_le_bytes());
        bytes
    }

    /// What the driver takes away must not be in use.
    fn check_unused(&mut self, iova: u64, bytes: u64) {
        if self.removed || !self.bus_master() || self.registers.status & 1 == 0 {
            return;
        }
        let inside = |address: u64, length: u64| address < iova + bytes && iova < address.saturating_add(length);
        let mut found = Vec::new();
        let admin = 64 * (u64::from(self.registers.admin_attributes & 0xFFF) + 1);
        if inside(self.registers.admin_sq, admin) || inside(self.registers.admin_cq, admin / 4) {
            found.push("the admin queue".to_owned());
        }
        if let Some((values, events)) = self.shadow
            && (inside(values, 4096) || inside(events, 4096))
        {
            found.push("the shadow doorbells".to_owned());
        }
        for (address, entries) in self.completion_queues.iter().flatten() {
            if inside(*address, u64::from(*entries) * 16) {
                found.push("a completion queue".to_owned());
            }
        }
        for pair in self.pairs.iter().flatten() {
            if pair.rings().into_iter().any(|(address, length)| inside(address, length)) {
                found.push("an I/O queue".to_owned());
            }
            let names = |sqe: &&Sqe| self.named_by(sqe).into_iter().any(|(address, length)| inside(address, length));
            found.extend(pair.held.iter().filter(names).map(|sqe| format!("{sqe:?}")));
        }
        for what in found {
            self.violation(format!("memory at {iova:#x} was taken away under {what}"));
        }
    }
}

impl PciFunction for Model {
    fn name(&self) -> &str {
        "model"
    }

    fn config_read(&self, offset: u16, into: &mut [u8]) -> Result<(), PciError> {
        let core = lock(&self.core);
        let bytes = if core.removed { [0xFF; 64] } else { core.config_bytes() };
        let from = bytes.get(usize::from(offset)..usize::from(offset) + into.len());
        into.copy_from_slice(from.ok_or_else(|| refused("reading configuration space", libc::EINVAL))?);
        Ok(())
    }

    fn config_write(&self, offset: u16, from: &[u8]) -> Result<(), PciError> {
        let mut core = lock(&self.core);
        if let (config::COMMAND, [low, high], false) = (offset, from, core.removed) {
            let sticky =
                if core.lies.keeps_bus_master { core.registers.command & config::COMMAND_BUS_MASTER } else { 0 };
            core.registers.command = u16::from_le_bytes([*low, *high]) | sticky;
        }
        Ok(())
    }

    fn read32(&self, offset: u32) -> u32 {
        let mut core = lock(&self.core);
        if core.removed {
            return u32::MAX;
        }
        if offset == registers::offset::CSTS {
            core.go_on_stopping();
        }
        core.register(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        let mut core = lock(&self.core);
        if !core.removed {
            core.set_register(offset, value);
        }
    }

    fn doorbells(&self) -> &DoorbellArea {
        &self.doorbells
    }

    fn dma_limits(&self) -> DmaLimits {
        let mappings = Some(lock(&self.core).options.mappings);
        DmaLimits { addresses: vec![0..=0xFEDF_FFFF, 0xFEF0_0000..=(1 << 39) - 1], page_bytes: 4096, mappings }
    }

    fn map(&self, region: &Arc<Region>, iova: u64, bytes: u64) -> Result<(), PciError> {
        let mut core = lock(&self.core);
        let runs = core.registers.status & 1 != 0 && core.bus_master() && !core.removed;
        if runs && core.host.find(core.registers.admin_sq, 64).is_none() {
            core.violation("memory is shown to it while it runs with addresses of somebody else".into());
        }
        if core.host.map(region, iova, bytes) {
            Ok(())
        } else {
            Err(refused("mapping memory for the device", libc::EEXIST))
        }
    }

    fn unmap(&self, iova: u64, bytes: u64) -> Result<(), PciError> {
        let mut core = lock(&self.core);
        if core.lies.keeps_mappings {
            return Err(refused("unmapping memory", libc::EIO));
        }
        core.check_unused(iova, bytes);
        if core.host.unmap(iova, bytes) { Ok(()) } else { Err(refused("unmapping memory", libc::ENOENT)) }
    }

    fn reset(&self) -> Result<(), PciError> {
        let mut core = lock(&self.core);
        core.counters.function_resets += 1;
        if !core.lies.survives_function_reset && !core.removed {
            let command = core.registers.command;
            core.registers = super::Registers { command, ..super::Registers::default() };
            core.subsystem_was_reset = false;
            core.forget_queues();
        }
        Ok(())
    }
}
