//! Identify (base, "Identify command"; KV, "Identify").

use super::{AdminData, AdminPort};
use crate::fabric::NamespaceInfo;
use crate::nvme::spec::vendor::OwnerMap;
use crate::nvme::spec::{Sqe, kv};

/// Bytes of every Identify data structure.
const IDENTIFY_BYTES: usize = 4096;

/// What the controller says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitiatorIdentity {
    /// Serial number.
    pub serial: String,
    /// Model number.
    pub model: String,
    /// Firmware revision.
    pub firmware: String,
    /// NQN of the subsystem.
    pub subsystem_nqn: String,
    /// The most bytes one command may move; `None` for no limit.
    pub max_transfer_bytes: Option<u32>,
    /// How keys map to cores; `None` from a controller that is not kvplane's.
    pub owners: Option<OwnerMap>,
    /// Entries of the longest queue.
    pub max_queue_entries: u32,
    /// I/O queues that may be made.
    pub io_queues: u16,
    /// Data that a command on an I/O queue may carry in its capsule, in bytes (IOCCSZ); 0 without fabrics.
    pub capsule_data_bytes: u32,
    /// Commands that may be outstanding on one queue (MAXCMD); `None` if the controller does not say.
    pub max_commands: Option<u16>,
}

impl InitiatorIdentity {
    /// What the Identify Controller data structure says. What lies elsewhere (properties, features) stays 0.
    #[must_use]
    pub fn from_bytes(data: &[u8; IDENTIFY_BYTES]) -> Self {
        let text = |from: usize, to: usize| {
            String::from_utf8_lossy(&data[from..to]).trim_matches(|c| c == ' ' || c == '\0').to_owned()
        };
        let mut owners = [0; OwnerMap::BYTES];
        owners.copy_from_slice(&data[OwnerMap::IDENTIFY_OFFSET..OwnerMap::IDENTIFY_OFFSET + OwnerMap::BYTES]);
        let shift = u32::from(data[77]);
        let max_commands = u16::from_le_bytes([data[514], data[515]]);
        Self {
            serial: text(4, 24),
            model: text(24, 64),
            firmware: text(64, 72),
            subsystem_nqn: text(768, 1024),
            max_transfer_bytes: (shift > 0)
                .then(|| 4096u32.checked_shl(shift).filter(|it| *it > 0).unwrap_or(u32::MAX)),
            owners: OwnerMap::from_bytes(&owners),
            max_queue_entries: 0,
            io_queues: 0,
            // IOCCSZ counts units of 16 bytes and the command with them.
            capsule_data_bytes: word32(data, 1792).saturating_mul(16).saturating_sub(Sqe::BYTES as u32),
            max_commands: (max_commands > 0).then_some(max_commands),
        }
    }
}

/// Asks the controller what it is.
///
/// # Errors
/// What the port says.
pub fn identify_controller<P: AdminPort>(port: &mut P) -> Result<InitiatorIdentity, P::Error> {
    let data = identify(port, "Identify (controller)", 0x01, 0, 0)?;
    Ok(InitiatorIdentity::from_bytes(&data))
}

/// Asks for as many I/O queues as there are; the answer says how many that is.
///
/// # Errors
/// What the port says.
pub fn number_of_queues<P: AdminPort>(port: &mut P) -> Result<u32, P::Error> {
    let mut sqe = Sqe::new(0x09, 0);
    sqe.set_dword(10, 0x07);
    sqe.set_dword(11, 0x00FF_00FF);
    let queues = port.admin_checked("Set Features (number of queues)", sqe, AdminData::None)?.dword0;
    Ok((queues & 0xFFFF).min(queues >> 16) + 1)
}

/// The namespaces with the KV command set, in rising order.
///
/// # Errors
/// What the port says.
pub fn namespaces<P: AdminPort>(port: &mut P) -> Result<Vec<NamespaceInfo>, P::Error> {
    let list = identify(port, "Identify (active namespaces)", 0x07, 0, kv::CSI)?;
    let words = list.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    let nsids: Vec<u32> = words.take_while(|nsid| *nsid != 0).collect();
    nsids.into_iter().map(|nsid| namespace(port, nsid)).collect()
}

fn namespace<P: AdminPort>(port: &mut P, nsid: u32) -> Result<NamespaceInfo, P::Error> {
    let data = identify(port, "Identify (KV namespace)", 0x05, nsid, kv::CSI)?;
    let mut nguid = [0; 16];
    nguid.copy_from_slice(&data[48..64]);
    let format = 72 + 16 * usize::from(data[29] & 0x0F);
    Ok(NamespaceInfo {
        nsid,
        size_bytes: word64(&data, 0),
        used_bytes: word64(&data, 16),
        max_value_bytes: word32(&data, format + 4),
        max_keys: word32(&data, format + 8),
        granularity: word32(&data, 32),
        nguid,
    })
}

fn identify<P: AdminPort>(
    port: &mut P,
    what: &'static str,
    cns: u8,
    nsid: u32,
    csi: u8,
) -> Result<Box<[u8; IDENTIFY_BYTES]>, P::Error> {
    let mut sqe = Sqe::new(0x06, 0);
    sqe.set_nsid(nsid);
    sqe.set_dword(10, u32::from(cns));
    sqe.set_dword(11, u32::from(csi) << 24);
    let mut data = Box::new([0; IDENTIFY_BYTES]);
    port.admin_checked(what, sqe, AdminData::In(&mut data[..]))?;
    Ok(data)
}

fn word32(data: &[u8; IDENTIFY_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

fn word64(data: &[u8; IDENTIFY_BYTES], at: usize) -> u64 {
    u64::from(word32(data, at)) | (u64::from(word32(data, at + 4)) << 32)
}
