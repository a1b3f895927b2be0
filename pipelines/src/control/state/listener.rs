//! Where a subsystem can be reached.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Component, Path};
use std::str::FromStr;

use crate::control::ControlError;

/// The name of the socket that a vfio-user controller has in its folder.
const VFIO_USER_SOCKET: &str = "cntrl";
/// The longest path that a unix socket can be bound to.
const MAX_SOCKET_PATH: usize = 107;
/// The port that IANA assigned to NVMe over Fabrics.
pub const DEFAULT_PORT: u16 = 4420;

/// A carrier that can be listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// An emulated controller for processes and virtual machines on this machine; the address is a folder.
    VfioUser,
    /// NVMe/TCP; the address is an IP address and a port.
    Tcp,
    /// NVMe/RDMA; the address is an IP address and a port.
    Rdma,
}

impl Transport {
    /// Every carrier.
    pub const ALL: [Self; 3] = [Self::VfioUser, Self::Tcp, Self::Rdma];

    /// Its name as SPDK has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::VfioUser => "VFIOUSER",
            Self::Tcp => "TCP",
            Self::Rdma => "RDMA",
        }
    }

    /// Whether it reaches other machines. There a host is known by the NQN that it gives, and by nothing else.
    #[must_use]
    pub const fn is_network(self) -> bool {
        matches!(self, Self::Tcp | Self::Rdma)
    }

    /// The carrier of a name, in any case.
    ///
    /// # Errors
    /// If there is none.
    pub fn parse(trtype: &str) -> Result<Self, ControlError> {
        let known = Self::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(trtype));
        let known = known.or_else(|| trtype.eq_ignore_ascii_case("VFIO-USER").then_some(Self::VfioUser));
        known.ok_or_else(|| {
            ControlError::Invalid(format!("unknown trtype {trtype:?}: the transports are VFIOUSER, TCP and RDMA"))
        })
    }
}

/// An address to listen on, in the one form that it has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenAddress {
    /// vfio-user: the absolute path of a folder.
    VfioUser(String),
    /// NVMe/TCP. `0.0.0.0` stands for every IPv4 address of this machine, `::` for every address.
    Tcp(SocketAddr),
    /// NVMe/RDMA, likewise.
    Rdma(SocketAddr),
}

impl ListenAddress {
    /// Checks an address as SPDK's clients give it: a carrier's name and an address family in any case; for TCP and RDMA
    /// an IP address and a port (4420 if `None`), for VFIOUSER a folder.
    ///
    /// # Errors
    /// If there is no such carrier, or the address cannot be one of its.
    pub fn parse(
        trtype: &str,
        adrfam: Option<&str>,
        traddr: &str,
        trsvcid: Option<&str>,
    ) -> Result<Self, ControlError> {
        let transport = Transport::parse(trtype)?;
        if transport == Transport::VfioUser {
            return Self::vfio_user(traddr);
        }
        let ip = parse_ip(traddr)?;
        check_family(transport, adrfam, ip)?;
        Self::on(transport, SocketAddr::new(ip, parse_port(trsvcid)?))
    }

    /// The address of an emulated controller in a folder.
    ///
    /// # Errors
    /// If the path is relative, has `..` in it or is too long for a socket within it.
    pub fn vfio_user(folder: &str) -> Result<Self, ControlError> {
        let fault = |why: String| Err(ControlError::Invalid(format!("invalid traddr {folder:?}: {why}")));
        let path = Path::new(folder);
        if !path.is_absolute() || folder.contains('\0') {
            return fault("a VFIOUSER address is the absolute path of a folder".into());
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return fault("it must not contain ..".into());
        }
        let folder = path.components().collect::<std::path::PathBuf>().to_string_lossy().into_owned();
        let longest = MAX_SOCKET_PATH - VFIO_USER_SOCKET.len() - 1;
        if folder.len() > longest {
            return fault(format!("it is longer than {longest} bytes, too long for a unix socket in it"));
        }
        Ok(Self::VfioUser(folder))
    }

    /// An address of a carrier that has IP addresses.
    fn on(transport: Transport, address: SocketAddr) -> Result<Self, ControlError> {
        let address = canonical(address);
        check_ip(address.ip())?;
        if address.port() == 0 {
            return Err(ControlError::Invalid(format!(
                "invalid trsvcid 0: hosts must know the port; give one from 1 to 65535, {DEFAULT_PORT} is NVMe's own"
            )));
        }
        match transport {
            Transport::Tcp => Ok(Self::Tcp(address)),
            Transport::Rdma => Ok(Self::Rdma(address)),
            Transport::VfioUser => Err(ControlError::Invalid("a VFIOUSER address is a folder".into())),
        }
    }

    /// The carrier.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        match self {
            Self::VfioUser(_) => Transport::VfioUser,
            Self::Tcp(_) => Transport::Tcp,
            Self::Rdma(_) => Transport::Rdma,
        }
    }

    /// IP address and port, for carriers that have them.
    #[must_use]
    pub const fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::VfioUser(_) => None,
            Self::Tcp(address) | Self::Rdma(address) => Some(*address),
        }
    }

    /// The address family in SPDK's spelling. A folder has none; SPDK says `IPv4` there.
    #[must_use]
    pub const fn adrfam(&self) -> &'static str {
        match self.socket() {
            Some(SocketAddr::V6(_)) => "IPv6",
            _ => "IPv4",
        }
    }

    /// The address without the port: an IP address or a folder.
    #[must_use]
    pub fn traddr(&self) -> String {
        match self {
            Self::VfioUser(folder) => folder.clone(),
            Self::Tcp(address) | Self::Rdma(address) => address.ip().to_string(),
        }
    }

    /// The port as text. A folder has none; SPDK says `0` there.
    #[must_use]
    pub fn trsvcid(&self) -> String {
        self.socket().map_or(0, |address| address.port()).to_string()
    }

    /// Whether it stands for several addresses, `other` among them.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let (Some(all), Some(one)) = (self.socket(), other.socket()) else { return false };
        let same_kind = self.transport() == other.transport() && all.port() == one.port();
        same_kind && self != other && all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VfioUser(folder) => write!(f, "vfio-user:{folder}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Rdma(address) => write!(f, "rdma://{address}"),
        }
    }
}

/// As it is displayed: `vfio-user:DIR`, `tcp://ADDR[:PORT]` or `rdma://ADDR[:PORT]`, an IPv6 address in brackets.
impl FromStr for ListenAddress {
    type Err = ControlError;

    fn from_str(text: &str) -> Result<Self, ControlError> {
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        let transport = match scheme.to_ascii_lowercase().as_str() {
            "vfio-user" => return Self::vfio_user(rest),
            "tcp" => Transport::Tcp,
            "rdma" => Transport::Rdma,
            _ => return Err(unknown_form(text)),
        };
        let (traddr, trsvcid) = split_port(rest.strip_prefix("//").ok_or_else(|| unknown_form(text))?)?;
        Self::on(transport, SocketAddr::new(parse_ip(traddr)?, parse_port(trsvcid)?))
    }
}

/// An address as it is compared: an IPv4 address that is written as an IPv6 one becomes what it is.
#[must_use]
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn unknown_form(text: &str) -> ControlError {
    ControlError::Invalid(format!(
        "{text:?} is no address: expected vfio-user:DIR, tcp://ADDR:PORT or rdma://ADDR:PORT"
    ))
}

/// Address and port of `ADDR[:PORT]`, where an IPv6 address stands in brackets.
fn split_port(text: &str) -> Result<(&str, Option<&str>), ControlError> {
    let fault = |why: &str| Err(ControlError::Invalid(format!("invalid address {text:?}: {why}")));
    if let Some(rest) = text.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((address, "")) => Ok((address, None)),
            Some((address, port)) if port.starts_with(':') => Ok((address, Some(&port[1..]))),
            _ => fault("expected [ADDR]:PORT"),
        };
    }
    match text.split_once(':') {
        None => Ok((text, None)),
        Some((_, port)) if port.contains(':') => fault("write an IPv6 address in brackets, such as [::1]:4420"),
        Some((address, port)) => Ok((address, Some(port))),
    }
}

fn parse_ip(traddr: &str) -> Result<IpAddr, ControlError> {
    traddr.parse().map_err(|_| {
        ControlError::Invalid(format!(
            "invalid traddr {traddr:?}: a listener is bound to an IP address of this machine, and names are not looked \
             up; give the address, or 0.0.0.0 or :: for all of them"
        ))
    })
}

fn check_ip(ip: IpAddr) -> Result<(), ControlError> {
    let why = match ip {
        IpAddr::V4(Ipv4Addr::BROADCAST) => "it is the broadcast address",
        _ if ip.is_multicast() => "it is a multicast address",
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            "a link-local address means nothing without its interface, which cannot be given here; use another of this \
             machine's"
        }
        _ => return Ok(()),
    };
    Err(ControlError::Invalid(format!("invalid traddr {ip}: {why}")))
}

fn parse_port(trsvcid: Option<&str>) -> Result<u16, ControlError> {
    let Some(text) = trsvcid.filter(|text| !text.is_empty()) else { return Ok(DEFAULT_PORT) };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| {
        ControlError::Invalid(format!("invalid trsvcid {text:?}: expected a port, from 1 to 65535 in digits"))
    })
}

fn check_family(transport: Transport, adrfam: Option<&str>, ip: IpAddr) -> Result<(), ControlError> {
    let Some(adrfam) = adrfam.filter(|adrfam| !adrfam.is_empty()) else { return Ok(()) };
    let right = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    if adrfam.eq_ignore_ascii_case(right) {
        return Ok(());
    }
    Err(ControlError::Invalid(format!(
        "adrfam {adrfam:?} does not fit {ip}, which is {right}; {} is listened on at IPv4 and IPv6 addresses",
        transport.name()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(trtype: &str, traddr: &str) -> Result<ListenAddress, ControlError> {
        ListenAddress::parse(trtype, None, traddr, None)
    }

    #[test]
    fn one_folder_has_one_name() {
        let plain = folder("VFIOUSER", "/run/kv").unwrap();
        for (trtype, traddr) in [("vfiouser", "/run/kv/"), ("vfio-user", "/run//kv"), ("VfioUser", "/run/./kv")] {
            assert_eq!(folder(trtype, traddr).as_ref(), Ok(&plain));
        }
        assert_eq!((plain.traddr(), plain.trsvcid(), plain.socket()), ("/run/kv".into(), "0".into(), None));
        // SPDK's clients give both for a folder, too.
        assert_eq!(ListenAddress::parse("VFIOUSER", Some("ipv4"), "/run/kv", Some("0")), Ok(plain));
    }

    #[test]
    fn other_folders_are_refused() {
        for traddr in ["", "run/kv", "/run/../kv", "/a\0b"] {
            assert!(matches!(folder("VFIOUSER", traddr), Err(ControlError::Invalid(_))), "{traddr}");
        }
        assert!(ListenAddress::vfio_user(&format!("/{}", "x".repeat(100))).is_ok());
        assert!(ListenAddress::vfio_user(&format!("/{}", "x".repeat(101))).is_err());
        assert!(matches!(folder("FC", "x"), Err(ControlError::Invalid(_))));
    }

    #[test]
    fn one_socket_has_one_name() {
        let spoken = |trtype, adrfam, traddr, trsvcid| {
            let address = ListenAddress::parse(trtype, adrfam, traddr, trsvcid).unwrap();
            let shown = address.to_string();
            assert_eq!(shown.parse().as_ref(), Ok(&address), "{shown}");
            shown
        };
        for (adrfam, traddr, trsvcid) in [
            (None, "192.0.2.7", None),
            (Some("IPv4"), "192.0.2.7", Some("4420")),
            (Some("ipv4"), "192.0.2.7", Some("")),
            (Some(""), "192.0.2.7", Some("04420")),
            (None, "::ffff:192.0.2.7", None),
            (Some("ipv6"), "2001:db8::7", None),
        ] {
            let expected = if traddr.contains("db8") { "tcp://[2001:db8::7]:4420" } else { "tcp://192.0.2.7:4420" };
            assert_eq!(spoken("tcp", adrfam, traddr, trsvcid), expected);
        }
        assert_eq!(spoken("RDMA", Some("IPV6"), "2001:0db8:0::0:7", Some("5000")), "rdma://[2001:db8::7]:5000");
        assert_eq!(spoken("TCP", None, "0.0.0.0", None), "tcp://0.0.0.0:4420");
        assert_eq!(spoken("TCP", None, "::", None), "tcp://[::]:4420");
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for (text, shown) in [
            ("tcp://127.0.0.1", "tcp://127.0.0.1:4420"),
            ("TCP://127.0.0.1:8009", "tcp://127.0.0.1:8009"),
            ("rdma://[::1]", "rdma://[::1]:4420"),
            ("rdma://[::1]:5", "rdma://[::1]:5"),
            ("tcp://[::ffff:10.0.0.1]:5", "tcp://10.0.0.1:5"),
            ("vfio-user:/run//kv", "vfio-user:/run/kv"),
        ] {
            assert_eq!(text.parse::<ListenAddress>().map(|it| it.to_string()), Ok(shown.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_listened_on_is_refused_with_the_reason() {
        for (text, told) in [
            ("", "expected vfio-user:DIR, tcp://"),
            ("/run/kv", "expected vfio-user:DIR"),
            ("tcp:127.0.0.1:4420", "tcp://ADDR:PORT"),
            ("udp://127.0.0.1:4420", "tcp://ADDR:PORT"),
            ("tcp://", "0.0.0.0"),
            ("tcp://:4420", "0.0.0.0"),
            ("tcp://localhost:4420", "names are not looked up"),
            ("tcp://127.0.0.1:4420/", "a port"),
            ("tcp://127.0.0.1:0", "1 to 65535"),
            ("tcp://127.0.0.1:65536", "1 to 65535"),
            ("tcp://127.0.0.1:+80", "in digits"),
            ("tcp://::1:4420", "in brackets"),
            ("tcp://[::1]4420", "[ADDR]:PORT"),
            ("tcp://[::1", "[ADDR]:PORT"),
            ("tcp://[fe80::1]:4420", "link-local"),
            ("rdma://239.1.2.3", "multicast"),
            ("rdma://[ff02::1]", "multicast"),
            ("rdma://255.255.255.255", "broadcast"),
            ("vfio-user:run", "absolute"),
        ] {
            let error = text.parse::<ListenAddress>().expect_err(text).to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
        for adrfam in ["ipv6", "IB", "FC", "intra-host"] {
            let error = ListenAddress::parse("RDMA", Some(adrfam), "10.0.0.1", None).unwrap_err().to_string();
            assert!(error.contains("is IPv4"), "{error}");
        }
    }

    #[test]
    fn a_wildcard_covers_addresses_of_its_family_and_port() {
        let covers = |all: &str, one: &str| all.parse::<ListenAddress>().unwrap().covers(&one.parse().unwrap());
        assert!(covers("tcp://0.0.0.0", "tcp://10.0.0.1"));
        assert!(covers("tcp://[::]", "tcp://10.0.0.1"));
        assert!(covers("tcp://[::]", "tcp://[2001:db8::1]"));
        assert!(covers("tcp://[::]", "tcp://0.0.0.0"));
        for (all, one) in [
            ("tcp://0.0.0.0", "tcp://0.0.0.0"),
            ("tcp://0.0.0.0", "tcp://[::]"),
            ("tcp://0.0.0.0", "tcp://[2001:db8::1]"),
            ("tcp://0.0.0.0", "tcp://10.0.0.1:5"),
            ("tcp://0.0.0.0", "rdma://10.0.0.1"),
            ("tcp://10.0.0.1", "tcp://10.0.0.1"),
            ("tcp://10.0.0.1", "tcp://10.0.0.2"),
            ("vfio-user:/a", "vfio-user:/a/b"),
        ] {
            assert!(!covers(all, one), "{all} {one}");
        }
    }
}
