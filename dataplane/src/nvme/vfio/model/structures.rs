//! What the model says of itself.

use super::Core;
use super::lies::apply;
use crate::nvme::spec::nvm;

pub(super) type Structure = [u8; 4096];

impl Core {
    /// Not the handle's own number, so that whoever takes the one for the other is found out.
    pub(super) const fn placement_identifier(&self, handle: u16) -> u16 {
        self.options.first_placement + 0x11 * handle
    }

    /// CAP.
    pub(super) fn capabilities(&self) -> u64 {
        let entries = u64::from(self.options.queue_entries.max(2) - 1);
        // CQR, TO of one unit, NSSRS, the NVM command set.
        let crms = u64::from(self.lies.ready_timeouts.is_some()) << 59;
        let stride = u64::from(self.options.doorbell_stride & 0xF) << 32;
        let truth = crms | entries | (1 << 16) | (1 << 24) | stride | (1 << 36) | (1 << 37);
        self.lies.capabilities.unwrap_or(truth)
    }

    pub(super) fn identify_controller(&self) -> Structure {
        let mut data = [0; 4096];
        let mut put = |at: usize, bytes: &[u8]| data[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &0x1B36_u16.to_le_bytes());
        put(4, b"MODEL0001           ");
        put(24, b"kvplane controller model                ");
        put(64, b"1.0     ");
        put(77, &[self.options.mdts]);
        put(78, &1_u16.to_le_bytes());
        put(80, &0x0001_0400_u32.to_le_bytes());
        put(92, &0x0000_0100_u32.to_le_bytes());
        put(96, &(u32::from(self.options.placement_handles > 0) << 19).to_le_bytes());
        put(111, &[1]);
        put(256, &(u16::from(self.options.shadow_doorbells) << 8).to_le_bytes());
        // Aborts, four event requests at once, an error log of eight entries: all zero-based.
        put(258, &[(self.options.abort_limit.max(1) - 1) as u8, 3]);
        put(262, &[7]);
        put(266, &343_u16.to_le_bytes());
        put(268, &353_u16.to_le_bytes());
        put(512, &[0x66, 0x44]);
        put(516, &(self.options.namespaces.len() as u32).to_le_bytes());
        put(520, &(u16::from(self.options.deallocate) << 2).to_le_bytes());
        put(525, &[u8::from(self.options.volatile_cache)]);
        put(536, &u32::from(self.options.sgl).to_le_bytes());
        put(768, b"nqn.2026-01.io.kvplane:model");
        apply(&self.lies.controller, &mut data);
        data
    }

    pub(super) fn identify_namespace(&self, nsid: u32) -> Option<Structure> {
        let blocks = *self.options.namespaces.get(nsid.checked_sub(1)? as usize)?;
        let mut data = [0; 4096];
        for at in [0, 8, 16] {
            data[at..at + 8].copy_from_slice(&blocks.to_le_bytes());
        }
        data[46..48].copy_from_slice(&self.options.optimal_boundary.to_le_bytes());
        data[104] = nsid as u8;
        data[130] = self.options.lba_bytes.trailing_zeros() as u8;
        apply(&self.lies.namespace, &mut data);
        Some(data)
    }

    /// The status of reclaim unit handles.
    pub(super) fn handle_status(&self) -> Structure {
        let mut data = [0; 4096];
        data[14..16].copy_from_slice(&self.options.placement_handles.to_le_bytes());
        let (_, descriptors) = data.split_at_mut(nvm::HANDLE_STATUS_HEAD_BYTES);
        let handles = 0..self.options.placement_handles;
        for (descriptor, handle) in descriptors.chunks_exact_mut(nvm::HANDLE_STATUS_BYTES).zip(handles) {
            descriptor[..2].copy_from_slice(&self.placement_identifier(handle).to_le_bytes());
            descriptor[2..4].copy_from_slice(&handle.to_le_bytes());
        }
        data
    }

    pub(super) fn namespace_list(&self, after: u32) -> Structure {
        let mut data = [0; 4096];
        let nsids = (1..=self.options.namespaces.len() as u32).filter(|nsid| *nsid > after).take(1024);
        for (entry, nsid) in data.chunks_exact_mut(4).zip(nsids) {
            entry.copy_from_slice(&nsid.to_le_bytes());
        }
        apply(&self.lies.namespace_list, &mut data);
        data
    }

    /// The health log page: 300 kelvins, nothing wrong, one power cycle at first.
    pub(super) fn health_page(&self) -> Structure {
        let mut data = [0; 4096];
        data[1..3].copy_from_slice(&300_u16.to_le_bytes());
        data[3] = 100;
        data[4] = 10;
        data[64..72].copy_from_slice(&self.counters.commands.to_le_bytes());
        data[112..120].copy_from_slice(&self.power_cycles.to_le_bytes());
        data[144..152].copy_from_slice(&self.unsafe_shutdowns.to_le_bytes());
        data[176..184].copy_from_slice(&(self.admin.errors.len() as u64).to_le_bytes());
        data
    }

    /// The error log page, the last error first.
    pub(super) fn error_page(&self) -> Structure {
        let mut data = [0; 4096];
        for (entry, error) in data.chunks_exact_mut(64).zip(self.admin.errors.iter().rev().take(8)) {
            entry.copy_from_slice(error);
        }
        data
    }
}
