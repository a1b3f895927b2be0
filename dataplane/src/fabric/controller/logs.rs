//! Get Log Page.

use std::collections::VecDeque;

use crate::nvme::spec::admin::log::DISCOVERY;
use crate::nvme::spec::{Sqe, Status, kv, vendor};

use super::{Controller, Kind};

/// Log page identifiers.
pub(super) const ERROR: u8 = 0x01;
const SMART: u8 = 0x02;
const FIRMWARE_SLOT: u8 = 0x03;
pub(super) const CHANGED_NAMESPACES: u8 = 0x04;
const COMMANDS_AND_EFFECTS: u8 = 0x05;

/// Entries of the error log: Identify Controller ELPE is one less.
pub(super) const ERROR_ENTRIES: usize = 8;

/// The last admin commands that failed, the youngest first, for log page 01h.
#[derive(Debug, Default)]
pub(super) struct ErrorLog {
    count: u64,
    entries: VecDeque<[u8; 64]>,
}

impl ErrorLog {
    pub(super) fn record(&mut self, sqid: u16, sqe: &Sqe, status: Status) {
        self.count += 1;
        let mut entry = [0; 64];
        entry[0..8].copy_from_slice(&self.count.to_le_bytes());
        entry[8..10].copy_from_slice(&sqid.to_le_bytes());
        entry[10..12].copy_from_slice(&sqe.cid().to_le_bytes());
        entry[12..14].copy_from_slice(&(status.bits() << 1).to_le_bytes());
        entry[14..16].copy_from_slice(&0xFFFFu16.to_le_bytes());
        entry[24..28].copy_from_slice(&sqe.nsid().to_le_bytes());
        self.entries.truncate(ERROR_ENTRIES - 1);
        self.entries.push_front(entry);
    }

    /// Entries that there were not yet are zeros, as their error count says.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.entries.iter().flatten().copied().collect();
        bytes.resize(ERROR_ENTRIES * 64, 0);
        bytes
    }
}

/// Command effects: supported; with bit 1 it changes data.
const SUPPORTED: u32 = 1;
const CHANGES_DATA: u32 = 1 << 1;

fn commands_and_effects(kind: Kind, csi: u8) -> Vec<u8> {
    let mut log = vec![0; 4096];
    let mut set = |offset: usize, opcode: u8, effects: u32| {
        let at = offset + usize::from(opcode) * 4;
        log[at..at + 4].copy_from_slice(&effects.to_le_bytes());
    };
    for opcode in super::admin::supported_opcodes(kind) {
        set(0, opcode, SUPPORTED);
    }
    if csi == kv::CSI {
        for opcode in [kv::opcode::STORE, kv::opcode::DELETE] {
            set(1024, opcode, SUPPORTED | CHANGES_DATA);
        }
        let reading = [kv::opcode::RETRIEVE, kv::opcode::LIST, kv::opcode::EXIST];
        let ours = [
            vendor::opcode::RELEASE,
            vendor::opcode::LOOKUP_PREFIX,
            vendor::opcode::LOOKUP_STATE,
            vendor::opcode::HINT,
        ];
        for opcode in reading.into_iter().chain(ours) {
            set(1024, opcode, SUPPORTED);
        }
    }
    log
}

fn smart() -> Vec<u8> {
    let mut log = vec![0; 512];
    // Composite temperature 300 K and a whole spare capacity: there is no drive whose health this could be.
    log[1..3].copy_from_slice(&300u16.to_le_bytes());
    log[3] = 100;
    log[4] = 10;
    log
}

impl Controller {
    /// Get Log Page: exactly the bytes asked for, padded with zeros beyond the end of the log.
    pub(super) fn log_page(&mut self, sqe: &Sqe) -> Result<Vec<u8>, Status> {
        let page = sqe.dword(10) as u8;
        let retain = sqe.dword(10) & (1 << 15) != 0;
        let dwords = u64::from(sqe.dword(10) >> 16) | (u64::from(sqe.dword(11) & 0xFFFF) << 16);
        let bytes = (dwords + 1) * 4;
        let offset = sqe.quadword(12);
        if bytes > u64::from(self.identity.max_transfer_bytes) || !offset.is_multiple_of(4) {
            return Err(Status::INVALID_FIELD);
        }
        let log = match page {
            ERROR => self.errors.bytes(),
            DISCOVERY if self.kind == Kind::Discovery => self.discovery.bytes().to_vec(),
            _ if self.kind == Kind::Discovery => return Err(Status::INVALID_LOG_PAGE),
            SMART => smart(),
            FIRMWARE_SLOT => self.firmware_slot(),
            CHANGED_NAMESPACES => self.changed_namespaces(retain),
            COMMANDS_AND_EFFECTS => commands_and_effects(self.kind, (sqe.dword(14) >> 24) as u8),
            _ => return Err(Status::INVALID_LOG_PAGE),
        };
        let Some(start) = usize::try_from(offset).ok().filter(|start| *start <= log.len()) else {
            return Err(Status::INVALID_FIELD);
        };
        if !retain {
            self.events.log_read(page);
        }
        let mut answer = log[start..].to_vec();
        answer.resize(bytes as usize, 0);
        Ok(answer)
    }

    fn firmware_slot(&self) -> Vec<u8> {
        let mut log = vec![0; 512];
        log[0] = 1;
        log[8..16].fill(b' ');
        for (to, byte) in log[8..16].iter_mut().zip(self.identity.firmware.bytes()) {
            *to = byte;
        }
        log
    }

    fn changed_namespaces(&mut self, retain: bool) -> Vec<u8> {
        let changed = self.events.take_changed();
        let mut log = vec![0; 4096];
        for (to, nsid) in log.chunks_exact_mut(4).zip(&changed) {
            to.copy_from_slice(&nsid.to_le_bytes());
        }
        if retain {
            self.events.put_back(changed);
        }
        log
    }
}
