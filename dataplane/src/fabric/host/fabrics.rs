//! Enabling a controller over fabrics: properties by command (base, "Property Get command", "Property Set command").

use std::time::{Duration, Instant};

use super::{AdminData, AdminPort};
use crate::fabric::controller::offset as property;
use crate::nvme::spec::fabrics::FabricsCommand;

/// How a controller answered being enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerState {
    /// It is ready.
    Ready(Enabled),
    /// It says that it failed (CSTS.CFS).
    Failed,
    /// It is not ready after the time that it was given.
    Silent,
    /// It has no I/O command sets other than NVM (CAP.CSS bit 6).
    NoCommandSets,
}

/// What an enabled controller told of itself in CAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enabled {
    /// Entries of the longest queue (CAP.MQES).
    pub max_queue_entries: u32,
}

/// Enables a controller: all of its command sets, and entries of 64 and 16 bytes.
///
/// # Errors
/// What the port says.
pub fn enable<P: AdminPort>(port: &mut P, timeout: Duration) -> Result<ControllerState, P::Error> {
    let cap = get(port, property::CAP, true)?;
    if cap & (1 << 43) == 0 {
        return Ok(ControllerState::NoCommandSets);
    }
    // IOCQES 16 bytes, IOSQES 64 bytes, CSS 110b (all supported I/O command sets), enable.
    let value = (4 << 20) | (6 << 16) | (0b110 << 4) | 1;
    let set = FabricsCommand::PropertySet { offset: property::CC as u32, size8: false, value };
    port.admin_checked("Property Set (CC)", set.encode(0), AdminData::None)?;
    let begun = Instant::now();
    loop {
        let status = get(port, property::CSTS, false)?;
        if status & 0b10 != 0 {
            return Ok(ControllerState::Failed);
        }
        if status & 1 != 0 {
            return Ok(ControllerState::Ready(Enabled { max_queue_entries: (cap & 0xFFFF) as u32 + 1 }));
        }
        if begun.elapsed() > timeout {
            return Ok(ControllerState::Silent);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn get<P: AdminPort>(port: &mut P, offset: u64, size8: bool) -> Result<u64, P::Error> {
    let get = FabricsCommand::PropertyGet { offset: offset as u32, size8 };
    let cqe = port.admin_checked("Property Get", get.encode(0), AdminData::None)?;
    let high = if size8 { u64::from(cqe.dword1) << 32 } else { 0 };
    Ok(u64::from(cqe.dword0) | high)
}

/// The host identifier that goes with a host NQN: the UUID that it ends in, if it is one of the form
/// `nqn.2014-08.org.nvmexpress:uuid:UUID` (base, "NVMe Qualified Names"), else `None`.
#[must_use]
pub fn host_id_of(host_nqn: &str) -> Option<[u8; 16]> {
    let text = host_nqn.strip_prefix("nqn.2014-08.org.nvmexpress:uuid:")?;
    let dashes =
        text.len() == 36 && text.bytes().enumerate().all(|(at, byte)| (byte == b'-') == [8, 13, 18, 23].contains(&at));
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let (pairs, rest) = digits.as_chunks::<2>();
    if !dashes || !rest.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_id_is_read_from_a_name_that_has_one() {
        let id = host_id_of("nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6");
        let expected = [0xF8, 0x1D, 0x4F, 0xAE, 0x7D, 0xEC, 0x11, 0xD0, 0xA7, 0x65, 0, 0xA0, 0xC9, 0x1E, 0x6B, 0xF6];
        assert_eq!(id, Some(expected));
        for other in [
            "nqn.2026-01.io.kvplane:host",
            "nqn.2014-08.org.nvmexpress:uuid:",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae7dec-11d0-a765-00a0c91e6bf6--",
            "nqn.2014-08.org.nvmexpress:uuid:+81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "nqn.2014-08.org.nvmexpress:uuid:g81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        ] {
            assert_eq!(host_id_of(other), None, "{other}");
        }
    }
}
