//! Where a subsystem can be reached.

use std::fmt;
use std::path::{Component, Path};

use crate::control::ControlError;

/// The name of the socket that a vfio-user controller has in its folder.
const VFIO_USER_SOCKET: &str = "cntrl";
/// The longest path that a unix socket can be bound to.
const MAX_SOCKET_PATH: usize = 107;

/// A carrier that can be listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// An emulated controller for processes and virtual machines on this machine; the address is a folder.
    VfioUser,
}

impl Transport {
    /// Its name as SPDK has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::VfioUser => "VFIOUSER",
        }
    }
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenAddress {
    /// The carrier.
    pub transport: Transport,
    /// The address as the carrier has it; for vfio-user an absolute path of a folder.
    pub traddr: String,
}

impl ListenAddress {
    /// Checks a carrier's name, in any case, and an address.
    ///
    /// # Errors
    /// If the carrier is not there, or the address cannot be one of its.
    pub fn parse(trtype: &str, traddr: &str) -> Result<Self, ControlError> {
        match trtype.to_ascii_uppercase().as_str() {
            "VFIOUSER" | "VFIO-USER" => Self::vfio_user(traddr),
            known @ ("RDMA" | "TCP") => Err(ControlError::Unsupported(format!(
                "this build has no {known} listener; the transport it has is VFIOUSER"
            ))),
            _ => Err(ControlError::Invalid(format!("unknown trtype {trtype:?}: the transport it has is VFIOUSER"))),
        }
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
        let traddr = path.components().collect::<std::path::PathBuf>().to_string_lossy().into_owned();
        let longest = MAX_SOCKET_PATH - VFIO_USER_SOCKET.len() - 1;
        if traddr.len() > longest {
            return fault(format!("it is longer than {longest} bytes, too long for a unix socket in it"));
        }
        Ok(Self { transport: Transport::VfioUser, traddr })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport.name(), self.traddr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_folder_has_one_name() {
        let plain = ListenAddress::parse("VFIOUSER", "/run/kv").unwrap();
        for (trtype, traddr) in [("vfiouser", "/run/kv/"), ("vfio-user", "/run//kv"), ("VfioUser", "/run/./kv")] {
            assert_eq!(ListenAddress::parse(trtype, traddr).as_ref(), Ok(&plain));
        }
        assert_eq!(plain.traddr, "/run/kv");
    }

    #[test]
    fn others_are_refused() {
        for traddr in ["", "run/kv", "/run/../kv", "/a\0b"] {
            assert!(matches!(ListenAddress::parse("VFIOUSER", traddr), Err(ControlError::Invalid(_))), "{traddr}");
        }
        assert!(ListenAddress::vfio_user(&format!("/{}", "x".repeat(100))).is_ok());
        assert!(ListenAddress::vfio_user(&format!("/{}", "x".repeat(101))).is_err());
        assert!(matches!(ListenAddress::parse("tcp", "127.0.0.1"), Err(ControlError::Unsupported(_))));
        assert!(matches!(ListenAddress::parse("RDMA", "10.0.0.1"), Err(ControlError::Unsupported(_))));
        assert!(matches!(ListenAddress::parse("FC", "x"), Err(ControlError::Invalid(_))));
    }
}
