//! What carries the commands of tests that do not care: the same suite runs over each carrier.
//!
//! `KVPLANE_E2E_CARRIER` names it: `vfio-user` (the default); `tcp` for loopback; or `rdma:ADDR`, where ADDR is the IP
//! address of an RDMA device of this machine, of hardware or of software.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use kvplane::{Address, ConnectOptions};
use serde_json::{Value, json};

use crate::skip::skipped;

/// The variable.
pub const VARIABLE: &str = "KVPLANE_E2E_CARRIER";

/// The NQN of the host that the tests' clients are; over a network no other comes in.
pub const HOST_NQN: &str = "nqn.2026-01.io.kvplane:host-of-tests";

/// A carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A socket and shared memory of this machine.
    VfioUser,
    /// NVMe/TCP over loopback.
    Tcp,
    /// NVMe over RDMA, by the device of this address.
    Rdma(IpAddr),
}

/// The carrier that the tests run over.
///
/// # Panics
/// If the variable names none.
#[must_use]
pub fn chosen() -> Carrier {
    static CHOSEN: OnceLock<Carrier> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let text = std::env::var(VARIABLE).unwrap_or_else(|_| "vfio-user".to_owned());
        parse(&text).unwrap_or_else(|| panic!("{VARIABLE}={text}: vfio-user, tcp and rdma:ADDR are carriers"))
    })
}

fn parse(text: &str) -> Option<Carrier> {
    match text.split_once(':') {
        None if text == "vfio-user" => Some(Carrier::VfioUser),
        None if text == "tcp" => Some(Carrier::Tcp),
        Some(("rdma", address)) => address.parse().ok().map(Carrier::Rdma),
        _ => None,
    }
}

/// Whether a test that is about vfio-user alone can run. Where it cannot, it is announced as skipped.
#[must_use]
pub fn is_vfio_user(test: &str) -> bool {
    let it_is = chosen() == Carrier::VfioUser;
    if !it_is {
        skipped(test, &format!("it is about vfio-user alone, and {VARIABLE} names another carrier"));
    }
    it_is
}

/// The same options, with the name that the daemon expects of a host that comes over a network.
#[must_use]
pub fn introduce(mut options: ConnectOptions) -> ConnectOptions {
    options.network.host_nqn.get_or_insert_with(|| HOST_NQN.to_owned());
    options
}

/// Where a daemon listens and clients connect.
#[derive(Clone, Debug)]
pub enum Place {
    /// The folder of a vfio-user socket.
    Folder(PathBuf),
    /// An address of NVMe/TCP.
    Tcp(SocketAddr),
    /// An address of NVMe over RDMA.
    Rdma(SocketAddr),
}

impl Place {
    /// A place of the chosen carrier that nobody has: the folder, or else an address.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let process = std::process::id();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        match chosen() {
            Carrier::VfioUser => Self::Folder(folder),
            // All of 127/8 is loopback. An address of its own cannot be taken by a connection that goes out.
            Carrier::Tcp => {
                let [.., high, low] = process.to_be_bytes();
                let address = Ipv4Addr::new(127, 128 | (high & 127), low, 1 + (number % 254) as u8);
                Self::Tcp(SocketAddr::from((address, Address::DEFAULT_PORT)))
            }
            Carrier::Rdma(address) => {
                // Below what Linux gives to those that name no port.
                let port = 10_000 + 100 * (process % 200) as u16 + number % 100;
                Self::Rdma(SocketAddr::new(address, port))
            }
        }
    }

    /// The daemon's options to listen there.
    #[must_use]
    pub fn options(&self) -> Vec<OsString> {
        let address = match self {
            Self::Folder(folder) => {
                std::fs::create_dir_all(folder).unwrap();
                return vec!["--listen".into(), format!("vfio-user:{}", folder.display()).into()];
            }
            Self::Tcp(address) => format!("tcp://{address}"),
            Self::Rdma(address) => format!("rdma://{address}"),
        };
        vec!["--listen".into(), address.into(), "--host".into(), HOST_NQN.into()]
    }

    /// The `listen_address` of `nvmf_subsystem_add_listener`.
    #[must_use]
    pub fn listen_address(&self) -> Value {
        let of = |carrier: &str, address: &SocketAddr| {
            let (ip, port) = (address.ip().to_string(), address.port().to_string());
            json!({ "trtype": carrier, "traddr": ip, "trsvcid": port })
        };
        match self {
            Self::Folder(folder) => {
                std::fs::create_dir_all(folder).unwrap();
                json!({ "trtype": "VFIOUSER", "traddr": folder.to_str().unwrap() })
            }
            Self::Tcp(address) => of("TCP", address),
            Self::Rdma(address) => of("RDMA", address),
        }
    }

    /// What a client of a subsystem connects to.
    #[must_use]
    pub fn address(&self, nqn: &str) -> Address {
        let (host, port) = match self {
            Self::Folder(folder) => return Address::parse(&format!("vfio-user:{}", folder.display())).unwrap(),
            Self::Tcp(address) | Self::Rdma(address) => (address.ip().to_string(), address.port()),
        };
        let nqn = nqn.to_owned();
        match self {
            Self::Rdma(_) => Address::Rdma { host, port, nqn },
            _ => Address::Tcp { host, port, nqn },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carriers_are_named() {
        assert_eq!(parse("vfio-user"), Some(Carrier::VfioUser));
        assert_eq!(parse("tcp"), Some(Carrier::Tcp));
        assert_eq!(parse("rdma:10.9.0.2"), Some(Carrier::Rdma([10, 9, 0, 2].into())));
        for wrong in ["", "rdma", "rdma:", "rdma:host", "TCP", "tcp:1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
