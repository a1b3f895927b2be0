//! Where a target listens.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::Error;

/// Where a target listens. The text form is `vfio-user:DIR` or a plain path for a target on this machine, and
/// `tcp://HOST:PORT/NQN` or `rdma://HOST:PORT/NQN` for one across a network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A target on this machine: the folder in which kvplaned made its vfio-user socket `cntrl`.
    VfioUser(PathBuf),
    /// NVMe/TCP.
    Tcp {
        /// Name or IP address (IPv6 without brackets).
        host: String,
        /// TCP port.
        port: u16,
        /// The subsystem's NQN.
        nqn: String,
    },
    /// NVMe over RDMA.
    Rdma {
        /// Name or IP address (IPv6 without brackets).
        host: String,
        /// Port of the RDMA connection manager.
        port: u16,
        /// The subsystem's NQN.
        nqn: String,
    },
}

impl Address {
    /// The port of NVMe over Fabrics, where an address names none.
    pub const DEFAULT_PORT: u16 = 4420;
    /// The subsystem, where an address names none: the one that `kvplaned --listen` makes.
    pub const DEFAULT_NQN: &'static str = "nqn.2026-01.io.kvplane:tier";

    /// Reads an address: `vfio-user:/run/kvplane/tier`, or a plain path such as `/run/kvplane/tier`;
    /// `tcp://HOST[:PORT][/NQN]` or `rdma://HOST[:PORT][/NQN]`, where an IPv6 address stands in brackets.
    ///
    /// # Errors
    /// [`Error::Address`] for an empty place, or for a scheme that this version does not know.
    ///
    /// ```
    /// use kvplane::Address;
    /// let address = Address::parse("vfio-user:/run/kvplane/tier")?;
    /// assert_eq!(address, Address::parse("/run/kvplane/tier")?);
    /// let address = Address::parse("tcp://10.0.0.1")?;
    /// assert_eq!(address.to_string(), "tcp://10.0.0.1:4420/nqn.2026-01.io.kvplane:tier");
    /// assert!(Address::parse("tcp:10.0.0.1:4420").is_err());
    /// # Ok::<(), kvplane::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |reason: &str| Err(Error::Address { text: text.to_owned(), reason: reason.to_owned() });
        let place = match text.split_once(':') {
            Some(("vfio-user", place)) => place,
            Some((scheme @ ("tcp" | "rdma"), rest)) => {
                let endpoint = rest.strip_prefix("//").and_then(endpoint);
                return match endpoint {
                    Some((host, port, nqn)) if scheme == "tcp" => Ok(Self::Tcp { host, port, nqn }),
                    Some((host, port, nqn)) => Ok(Self::Rdma { host, port, nqn }),
                    None => refuse(&format!("write {scheme}://HOST:PORT or {scheme}://HOST:PORT/NQN")),
                };
            }
            Some((scheme, _)) if !scheme.contains('/') => {
                return refuse(&format!(
                    "scheme \"{scheme}\" is not supported; use vfio-user:DIR, tcp://HOST:PORT or rdma://HOST:PORT"
                ));
            }
            _ => text,
        };
        if place.is_empty() {
            return refuse("the folder is missing; write vfio-user:DIR");
        }
        Ok(Self::VfioUser(Path::new(place).to_path_buf()))
    }
}

/// Host, port and subsystem of `HOST[:PORT][/NQN]`.
fn endpoint(text: &str) -> Option<(String, u16, String)> {
    let (place, nqn) = text.split_once('/').unwrap_or((text, Address::DEFAULT_NQN));
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let port = match port {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        Some(_) => return None,
        None => Address::DEFAULT_PORT,
    };
    let named = !host.is_empty() && port > 0 && nqn.starts_with("nqn.") && nqn.len() <= 223;
    named.then(|| (host.to_owned(), port, nqn.to_owned()))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port, nqn) = match self {
            Self::VfioUser(path) => return write!(f, "vfio-user:{}", path.display()),
            Self::Tcp { host, port, nqn } => ("tcp", host, port, nqn),
            Self::Rdma { host, port, nqn } => ("rdma", host, port, nqn),
        };
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}/{nqn}")
        } else {
            write!(f, "{scheme}://{host}:{port}/{nqn}")
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        let address = Address::parse("./sockets/a:b").unwrap();
        assert_eq!(address.to_string(), "vfio-user:./sockets/a:b");
        assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
        for (text, printed) in [
            ("tcp://node7:4421/nqn.2014-08.org.x:y", "tcp://node7:4421/nqn.2014-08.org.x:y"),
            ("rdma://[fe80::1]", "rdma://[fe80::1]:4420/nqn.2026-01.io.kvplane:tier"),
            ("tcp://[::1]:9", "tcp://[::1]:9/nqn.2026-01.io.kvplane:tier"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.to_string(), printed);
            assert_eq!(printed.parse::<Address>().unwrap(), address);
        }
    }

    #[test]
    fn other_schemes_and_empty_places_are_refused_by_name() {
        let refused = Address::parse("nfs:10.0.0.1").unwrap_err().to_string();
        assert!(refused.contains("\"nfs\" is not supported"), "{refused}");
        assert!(Address::parse("").is_err());
        assert!(Address::parse("vfio-user:").is_err());
        for text in [
            "tcp://",
            "tcp://:4420",
            "tcp://host:",
            "tcp://host:0",
            "tcp://host:65536",
            "tcp://host:+80",
            "tcp://host:44:20",
            "tcp://fe80::1",
            "tcp://[::1",
            "tcp://[::1]4420",
            "tcp://host/tier",
            "tcp:/host",
            "rdma:host:4420",
        ] {
            let refused = Address::parse(text).unwrap_err().to_string();
            assert!(refused.contains("://HOST:PORT"), "{text}: {refused}");
        }
    }
}
