//! The discovery log, log page 70h (base, "Discovery Log Page").

use std::net::{IpAddr, SocketAddr};

use super::nqn;

/// Bytes of the log's header; entries follow.
pub const DISCOVERY_HEADER_BYTES: usize = 1024;

/// TRTYPE of the transports that kvplane has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TransportType {
    /// 1h.
    Rdma = 0x1,
    /// 3h.
    Tcp = 0x3,
}

/// ADRFAM of the addresses that these transports have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum AddressFamily {
    /// 1h.
    Ipv4 = 0x1,
    /// 2h.
    Ipv6 = 0x2,
}

/// SUBTYPE: what an entry leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum SubsystemKind {
    /// 1h: another discovery service.
    Referral = 0x1,
    /// 2h: a subsystem with namespaces.
    Nvme = 0x2,
    /// 3h: the discovery service that is being asked.
    CurrentDiscovery = 0x3,
}

/// One entry: a subsystem, and where it listens. Field names are those of the specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryEntry {
    /// Transport type.
    pub trtype: TransportType,
    /// Address family of `traddr`.
    pub adrfam: AddressFamily,
    /// Subsystem type.
    pub subtype: SubsystemKind,
    /// Transport requirements: bits 1:0 secure channel (00b not specified, 01b required, 10b not required), bit 2
    /// submission queues may go without flow control.
    pub treq: u8,
    /// Port identifier: the same for all entries of one listening address.
    pub portid: u16,
    /// Controller identifier: [`DYNAMIC_CONTROLLER`](super::DYNAMIC_CONTROLLER).
    pub cntlid: u16,
    /// The most entries of an admin submission queue, at least 32.
    pub asqsz: u16,
    /// Transport service identifier: the port, in decimal.
    pub trsvcid: String,
    /// The subsystem's name.
    pub subnqn: String,
    /// The address, without brackets.
    pub traddr: String,
}

const TRSVCID: std::ops::Range<usize> = 32..64;
const SUBNQN: std::ops::Range<usize> = 256..512;
const TRADDR: std::ops::Range<usize> = 512..768;
/// Transport specific address subtype. TCP: security type, 0 for none. RDMA: queue pair type, provider, connection
/// management.
const TSAS: usize = 768;
/// Reliable connected, no provider specified, RDMA_CM.
const TSAS_RDMA: [u8; 3] = [1, 1, 1];

/// Text without the spaces or nulls that fill its field up. `None` if it is not printable ASCII.
fn text(field: &[u8]) -> Option<String> {
    let end = field.iter().rposition(|byte| !matches!(byte, 0 | b' ')).map_or(0, |last| last + 1);
    let text = field.get(..end)?;
    text.iter().all(u8::is_ascii_graphic).then(|| text.iter().map(|byte| char::from(*byte)).collect())
}

/// ASCII, cut to the field and filled up with spaces.
fn put_text(field: &mut [u8], text: &str) {
    field.fill(b' ');
    for (to, byte) in field.iter_mut().zip(text.bytes()) {
        *to = byte;
    }
}

impl DiscoveryEntry {
    /// Bytes of an entry.
    pub const BYTES: usize = 1024;

    /// ASQSZ of every entry: what the specification demands at least.
    pub const ADMIN_QUEUE_ENTRIES: u16 = 32;

    /// A subsystem that listens at an address. No secure channel is required; hosts use flow control.
    #[must_use]
    pub fn nvme(trtype: TransportType, address: SocketAddr, portid: u16, subnqn: impl Into<String>) -> Self {
        Self {
            trtype,
            adrfam: match address.ip() {
                IpAddr::V4(_) => AddressFamily::Ipv4,
                IpAddr::V6(_) => AddressFamily::Ipv6,
            },
            subtype: SubsystemKind::Nvme,
            treq: 0b10,
            portid,
            cntlid: super::DYNAMIC_CONTROLLER,
            asqsz: Self::ADMIN_QUEUE_ENTRIES,
            trsvcid: address.port().to_string(),
            subnqn: subnqn.into(),
            traddr: address.ip().to_string(),
        }
    }

    /// The entry as bytes of the log.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&[self.trtype as u8, self.adrfam as u8, self.subtype as u8, self.treq]);
        bytes[4..6].copy_from_slice(&self.portid.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.cntlid.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.asqsz.to_le_bytes());
        put_text(&mut bytes[TRSVCID], &self.trsvcid);
        nqn::write(&mut bytes[SUBNQN], &self.subnqn);
        put_text(&mut bytes[TRADDR], &self.traddr);
        if self.trtype == TransportType::Rdma {
            bytes[TSAS..TSAS + TSAS_RDMA.len()].copy_from_slice(&TSAS_RDMA);
        }
        bytes
    }

    /// The entry in bytes of a log. `None` for transports, address families and kinds that are not known here, which a
    /// host passes over, and for text that is none.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Some(Self {
            trtype: match bytes[0] {
                0x1 => TransportType::Rdma,
                0x3 => TransportType::Tcp,
                _ => return None,
            },
            adrfam: match bytes[1] {
                0x1 => AddressFamily::Ipv4,
                0x2 => AddressFamily::Ipv6,
                _ => return None,
            },
            subtype: match bytes[2] {
                0x1 => SubsystemKind::Referral,
                0x2 => SubsystemKind::Nvme,
                0x3 => SubsystemKind::CurrentDiscovery,
                _ => return None,
            },
            treq: bytes[3],
            portid: number(4),
            cntlid: number(6),
            asqsz: number(8),
            trsvcid: text(&bytes[TRSVCID])?,
            subnqn: nqn::read(&bytes[SUBNQN])?,
            traddr: text(&bytes[TRADDR])?,
        })
    }
}

/// The header of a log: GENCTR, NUMREC; record format 0.
#[must_use]
pub fn discovery_header(generation: u64, entries: u64) -> [u8; DISCOVERY_HEADER_BYTES] {
    let mut bytes = [0; DISCOVERY_HEADER_BYTES];
    bytes[..8].copy_from_slice(&generation.to_le_bytes());
    bytes[8..16].copy_from_slice(&entries.to_le_bytes());
    bytes
}

/// Generation and number of entries that the first bytes of a log tell. `None` if there are fewer than 18, or the
/// record format is another.
#[must_use]
pub fn read_discovery_header(log: &[u8]) -> Option<(u64, u64)> {
    let (generation, rest) = log.split_first_chunk::<8>()?;
    let (entries, rest) = rest.split_first_chunk::<8>()?;
    let format = rest.first_chunk::<2>()?;
    (*format == [0, 0]).then(|| (u64::from_le_bytes(*generation), u64::from_le_bytes(*entries)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> DiscoveryEntry {
        DiscoveryEntry::nvme(TransportType::Tcp, "192.0.2.7:4420".parse().unwrap(), 3, "nqn.2026-01.io.kvplane:tier")
    }

    #[test]
    fn an_entry_lies_where_the_specification_puts_it() {
        let bytes = entry().encode();
        assert_eq!(&bytes[..12], &[3, 1, 2, 0b10, 3, 0, 0xFF, 0xFF, 32, 0, 0, 0]);
        assert_eq!(&bytes[32..64], b"4420                            ");
        assert_eq!(&bytes[256..284], b"nqn.2026-01.io.kvplane:tier\0");
        assert_eq!(&bytes[512..522], b"192.0.2.7 ");
        assert_eq!(bytes[767], b' ');
        assert!(bytes[768..].iter().all(|byte| *byte == 0), "TCP without security");
        assert_eq!(DiscoveryEntry::decode(&bytes), Some(entry()));

        let address = "[2001:db8::1]:4421".parse().unwrap();
        let rdma = DiscoveryEntry::nvme(TransportType::Rdma, address, 1, "nqn.x");
        let bytes = rdma.encode();
        assert_eq!(&bytes[..2], &[1, 2]);
        assert_eq!(&bytes[512..524], b"2001:db8::1 ");
        assert_eq!(&bytes[768..772], &[1, 1, 1, 0]);
        assert_eq!(DiscoveryEntry::decode(&bytes), Some(rdma));
    }

    #[test]
    fn entries_of_other_targets_are_read_or_passed_over() {
        // Fields filled up with nulls, as some targets do.
        let mut bytes = entry().encode();
        bytes[36..64].fill(0);
        bytes[521..768].fill(0);
        assert_eq!(DiscoveryEntry::decode(&bytes), Some(entry()));
        for (at, byte) in [(0, 2), (1, 4), (2, 0), (32, 0x80), (256, 0), (513, 0x07)] {
            let mut bytes = entry().encode();
            bytes[at] = byte;
            assert_eq!(DiscoveryEntry::decode(&bytes), None, "byte {at}");
        }
        let mut long = entry();
        long.traddr = "a".repeat(300);
        assert_eq!(DiscoveryEntry::decode(&long.encode()).unwrap().traddr.len(), 256);
    }

    #[test]
    fn the_header_tells_generation_and_number() {
        let mut header = discovery_header(0x0102, 7);
        assert_eq!(&header[..18], &[2, 1, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read_discovery_header(&header), Some((0x0102, 7)));
        assert_eq!(read_discovery_header(&header[..17]), None);
        header[16] = 1;
        assert_eq!(read_discovery_header(&header), None);
    }
}
