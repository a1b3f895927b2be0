//! Identify data structures, 4096 bytes each.

use crate::fabric::{ControllerIdentity, NamespaceInfo};
use crate::nvme::spec::kv;
use crate::nvme::spec::vendor::OwnerMap;
use crate::nvme::spec::{Sqe, Status};

use super::events::REQUEST_LIMIT;
use super::features::KEEP_ALIVE_UNIT_MS;
use super::logs::ERROR_ENTRIES;
use super::{Controller, FabricsLimits, Kind, MAX_NAMESPACES};

/// Bytes of every Identify data structure.
pub(super) const IDENTIFY_BYTES: usize = 4096;

/// NVM command set identifier.
const CSI_NVM: u8 = 0x00;

/// A data structure under construction.
struct Page(Vec<u8>);

impl Page {
    fn new() -> Self {
        Self(vec![0; IDENTIFY_BYTES])
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) -> &mut Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// ASCII, padded with spaces, cut to length.
    fn text(&mut self, offset: usize, length: usize, text: &str) -> &mut Self {
        self.0[offset..offset + length].fill(b' ');
        let printable = text.bytes().map(|byte| if byte.is_ascii_graphic() || byte == b' ' { byte } else { b'?' });
        for (to, byte) in self.0[offset..offset + length].iter_mut().zip(printable) {
            *to = byte;
        }
        self
    }
}

impl Controller {
    /// Identify: the data structure, or the status to refuse with.
    pub(super) fn identify(&self, sqe: &Sqe) -> Result<Vec<u8>, Status> {
        let cns = sqe.dword(10) as u8;
        let csi = (sqe.dword(11) >> 24) as u8;
        let nsid = sqe.nsid();
        if self.kind == Kind::Discovery && cns != 0x01 {
            return Err(Status::INVALID_FIELD);
        }
        match cns {
            0x00 => self.namespace_nvm(nsid),
            0x01 => Ok(self.controller()),
            0x02 => self.active_list(nsid, None),
            0x03 => self.descriptors(nsid),
            0x05 if csi == kv::CSI => self.namespace_kv(nsid),
            0x05 if csi == CSI_NVM => self.namespace_nvm_specific(nsid),
            // No namespace has the NVM command set, and the KV one defines no controller fields.
            0x06 if matches!(csi, CSI_NVM | kv::CSI) => Ok(Page::new().0),
            0x07 if matches!(csi, CSI_NVM | kv::CSI) => self.active_list(nsid, Some(csi)),
            0x08 => self.namespace_independent(nsid),
            0x1C => Ok(command_sets()),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    /// CNS 01h.
    fn controller(&self) -> Vec<u8> {
        let ControllerIdentity { subsystem_nqn, serial, model, firmware, controller_id, .. } = &self.identity;
        // MDTS: a power of two in pages.
        let mdts = (self.identity.max_transfer_bytes / 4096).max(1).ilog2() as u8;
        let mut page = Page::new();
        page.text(4, 20, serial)
            .text(24, 40, model)
            .text(64, 8, firmware)
            .put(77, &[mdts])
            .put(78, &controller_id.to_le_bytes())
            .put(80, &0x0002_0000u32.to_le_bytes()) // VER: 2.0
            .put(258, &[3]) // ACL; OACS (257:256) is zero: no optional admin command
            .put(259, &[REQUEST_LIMIT as u8 - 1]) // AERL
            .put(262, &[ERROR_ENTRIES as u8 - 1]) // ELPE
            // KAS, in units of 100 ms; whether the timer runs out is the carrier's business.
            .put(320, &((KEEP_ALIVE_UNIT_MS / 100) as u16).to_le_bytes())
            .put(536, &1u32.to_le_bytes()); // SGLS: supported, no alignment or granularity required
        let nqn = subsystem_nqn.as_bytes();
        page.put(768, &nqn[..nqn.len().min(223)]);
        if let Some(fabrics) = &self.limits.fabrics {
            self.put_fabrics(&mut page, fabrics);
        }
        match self.kind {
            Kind::Memory | Kind::Fabrics => self.put_io_controller(&mut page),
            Kind::Discovery => {
                page.put(92, &(1u32 << 31).to_le_bytes()) // OAES: discovery log page change notices
                    .put(111, &[2]) // CNTRLTYPE: discovery controller
                    .put(261, &[0b100]); // LPA: extended data, so that a log can be read in parts
            }
        }
        page.0
    }

    /// What a controller with namespaces adds.
    fn put_io_controller(&self, page: &mut Page) {
        page.put(92, &(1u32 << 8).to_le_bytes()) // OAES: namespace attribute notices
            .put(111, &[1]) // CNTRLTYPE: I/O controller
            .put(260, &[0b11]) // FRMW: one slot, read only
            .put(261, &[0b110]) // LPA: commands supported and effects, extended data
            .put(266, &0x0157u16.to_le_bytes()) // WCTEMP
            .put(268, &0x0175u16.to_le_bytes()) // CCTEMP
            .put(512, &[0x66, 0x44]) // SQES 64 bytes, CQES 16 bytes
            .put(516, &MAX_NAMESPACES.to_le_bytes()) // NN
            .put(525, &[0]) // VWC: none that a host need care for
            .put(540, &MAX_NAMESPACES.to_le_bytes()) // MNAN
            .put(2048 + 4, &[0]) // PSD0: all zeros, nothing said
            .put(OwnerMap::IDENTIFY_OFFSET, &self.identity.owners.to_bytes());
    }

    /// What the controller of a message carrier adds.
    fn put_fabrics(&self, page: &mut Page, fabrics: &FabricsLimits) {
        let in_capsule = fabrics.io_capsule_bytes > Sqe::BYTES as u32;
        // Keyed data blocks, or transport ones; and, for data in the capsule, an offset instead of an address.
        let data_blocks = if fabrics.keyed_sgl { 1 << 2 } else { 1 << 21 };
        let sgls: u32 = 1 | data_blocks | (u32::from(in_capsule) << 20);
        page.put(96, &1u32.to_le_bytes()) // CTRATT: host identifiers of 128 bits
            // MAXCMD: what fits into a queue. Hosts take zero for a fault.
            .put(514, &u16::try_from(self.limits.max_queue_entries).unwrap_or(u16::MAX).to_le_bytes())
            .put(536, &sgls.to_le_bytes());
        if self.kind == Kind::Discovery {
            return;
        }
        page.put(76, &[0b11]) // CMIC: more than one port, more than one controller
            .put(1792, &(fabrics.io_capsule_bytes / 16).to_le_bytes()) // IOCCSZ
            .put(1796, &(fabrics.response_bytes / 16).to_le_bytes()) // IORCSZ
            .put(1800, &(fabrics.in_capsule_offset / 16).to_le_bytes()) // ICDOFF
            .put(1802, &[0]) // FCATT: controllers are made for who connects
            .put(1803, &[fabrics.max_sgl_descriptors]) // MSDBD
            .put(1804, &1u16.to_le_bytes()); // OFCS: I/O queues can be ended one by one, by Disconnect
    }

    /// NMIC: a host may reach a namespace over several connections to the subsystem, and several hosts may.
    fn sharing(&self) -> u8 {
        u8::from(self.kind == Kind::Fabrics)
    }

    /// CNS 00h. The namespaces have the KV command set, which has no NVM fields; hosts that ask anyway get size 0.
    fn namespace_nvm(&self, nsid: u32) -> Result<Vec<u8>, Status> {
        if nsid == u32::MAX {
            return Ok(Page::new().0);
        }
        let Ok(namespace) = self.namespace(nsid) else {
            return inactive(nsid);
        };
        let mut page = Page::new();
        page.put(30, &[self.sharing()]).put(104, &namespace.nguid).put(128, &[0, 0, 9, 0]); // LBAF0: 512 bytes, never used
        Ok(page.0)
    }

    fn namespace_nvm_specific(&self, nsid: u32) -> Result<Vec<u8>, Status> {
        self.namespace(nsid).map(|_| Page::new().0)
    }

    /// CNS 02h and 07h: active namespaces above `after`.
    fn active_list(&self, after: u32, csi: Option<u8>) -> Result<Vec<u8>, Status> {
        if after >= 0xFFFF_FFFE {
            return Err(Status::INVALID_NAMESPACE);
        }
        let mut page = Page::new();
        if csi == Some(CSI_NVM) {
            return Ok(page.0);
        }
        let above = self.namespaces.iter().filter(|namespace| namespace.nsid > after);
        for (index, namespace) in above.take(IDENTIFY_BYTES / 4).enumerate() {
            page.put(index * 4, &namespace.nsid.to_le_bytes());
        }
        Ok(page.0)
    }

    /// CNS 03h: NGUID, UUID and command set identifier.
    fn descriptors(&self, nsid: u32) -> Result<Vec<u8>, Status> {
        let namespace = self.namespace(nsid)?;
        let mut page = Page::new();
        page.put(0, &[0x02, 16]).put(4, &namespace.nguid);
        page.put(20, &[0x03, 16]).put(24, &uuid(&namespace.nguid));
        page.put(40, &[0x04, 1]).put(44, &[kv::CSI]);
        Ok(page.0)
    }

    /// CNS 05h, CSI 01h (KV, "Identify Namespace Data Structure").
    fn namespace_kv(&self, nsid: u32) -> Result<Vec<u8>, Status> {
        let Ok(namespace) = self.namespace(nsid) else {
            return inactive(nsid);
        };
        let NamespaceInfo { size_bytes, used_bytes, max_value_bytes, max_keys, granularity, nguid, .. } = namespace;
        let mut page = Page::new();
        page.put(0, &size_bytes.to_le_bytes())
            .put(16, &used_bytes.to_le_bytes())
            .put(25, &[0]) // NKVF: one format
            .put(26, &[self.sharing()]) // NMIC
            .put(29, &[0]) // KVFC: format 0 is in use
            .put(32, &granularity.to_le_bytes())
            .put(48, nguid)
            // The format list: key length, reserved, additional format options, value length, number of keys.
            .put(72, &(kv::MAX_KEY_BYTES as u16).to_le_bytes())
            .put(76, &max_value_bytes.to_le_bytes())
            .put(80, &max_keys.to_le_bytes());
        Ok(page.0)
    }

    /// CNS 08h.
    fn namespace_independent(&self, nsid: u32) -> Result<Vec<u8>, Status> {
        self.namespace(nsid)?;
        let mut page = Page::new();
        page.put(1, &[self.sharing()]) // NMIC
            .put(14, &[1]); // NSTAT: ready
        Ok(page.0)
    }
}

/// A namespace that is not attached reads all zeros, one that cannot exist is an error (base, "Identify Namespace").
fn inactive(nsid: u32) -> Result<Vec<u8>, Status> {
    if nsid == 0 || nsid > MAX_NAMESPACES { Err(Status::INVALID_NAMESPACE) } else { Ok(Page::new().0) }
}

/// CNS 1Ch: one combination, the KV command set and, for hosts that insist on it, the NVM one.
fn command_sets() -> Vec<u8> {
    let mut page = Page::new();
    page.put(0, &((1u64 << CSI_NVM) | (1u64 << kv::CSI)).to_le_bytes());
    page.0
}

/// The NGUID made into a UUID of version 8 (RFC 9562: vendor specific).
fn uuid(nguid: &[u8; 16]) -> [u8; 16] {
    let mut uuid = *nguid;
    uuid[6] = (uuid[6] & 0x0F) | 0x80;
    uuid[8] = (uuid[8] & 0x3F) | 0x80;
    uuid
}
