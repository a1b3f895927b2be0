//! Who this host is to targets across a network.

use std::fmt::Write as _;

use dataplane::fabric::host::host_id_of;

/// Where nvme-cli keeps the host's names, and other initiators look for them.
const HOST_NQN: &str = "/etc/nvme/hostnqn";
const HOST_ID: &str = "/etc/nvme/hostid";
/// What tells one machine from others, the most lasting first.
const MACHINE: [&str; 3] = ["/etc/machine-id", "/proc/sys/kernel/random/boot_id", "/proc/sys/kernel/random/uuid"];
/// Names by UUID (base, "NVMe Qualified Names").
const BY_UUID: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// The first line of a file that has one.
fn line(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

/// 16 bytes that another text hardly has.
fn digest(text: &str) -> [u8; 16] {
    let half = |salt: &str| {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        digest.update(salt.as_bytes());
        digest.update(text.as_bytes());
        digest.finalize().to_be_bytes()
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&half("kvplane host, first half: "));
    bytes[8..].copy_from_slice(&half("kvplane host, second half: "));
    bytes
}

/// The NQN of this host: that of /etc/nvme/hostnqn, or else one made from what tells this machine from others.
pub(crate) fn default_nqn() -> String {
    if let Some(nqn) = line(HOST_NQN).filter(|nqn| nqn.starts_with("nqn.") && nqn.len() <= 223) {
        return nqn;
    }
    nqn_of_machine(&MACHINE.into_iter().find_map(line).unwrap_or_default())
}

fn nqn_of_machine(machine: &str) -> String {
    let mut uuid = digest(machine);
    // Version 8 and variant 10b (RFC 9562): bytes made in a way of one's own.
    uuid[6] = 0x80 | (uuid[6] & 0x0F);
    uuid[8] = 0x80 | (uuid[8] & 0x3F);
    let mut nqn = BY_UUID.to_owned();
    for (at, byte) in uuid.iter().enumerate() {
        let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(nqn, "{dash}{byte:02x}");
    }
    nqn
}

/// The identifier that goes with a host NQN: with this host's own that of /etc/nvme/hostid; else the UUID that the NQN
/// ends in, or one made from the NQN.
pub(crate) fn id_of(nqn: &str) -> [u8; 16] {
    let own = line(HOST_NQN).is_some_and(|own| own == nqn);
    let told = line(HOST_ID).filter(|_| own).and_then(|id| host_id_of(&format!("{BY_UUID}{id}")));
    told.or_else(|| host_id_of(nqn)).unwrap_or_else(|| digest(nqn))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_one_name_and_another_another() {
        let (one, two) = (nqn_of_machine("0123"), nqn_of_machine("0124"));
        assert_eq!(one, nqn_of_machine("0123"));
        assert_ne!(one, two);
        assert_eq!(one.len(), BY_UUID.len() + 36);
        assert_eq!(&one[BY_UUID.len() + 14..][..1], "8");
        let id = host_id_of(&one).expect("a UUID");
        assert_eq!(id_of(&one), id);
        assert_ne!(id_of("nqn.2026-01.io.kvplane:a"), id_of("nqn.2026-01.io.kvplane:b"));
    }

    #[test]
    fn this_host_has_a_name() {
        let nqn = default_nqn();
        assert!(nqn.starts_with("nqn.") && nqn == default_nqn());
    }
}
