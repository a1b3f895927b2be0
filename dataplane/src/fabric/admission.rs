//! Who may connect, and what a host may know of: asked of the control plane by every carrier.

use std::net::SocketAddr;

use crate::nvme::spec::fabrics::DiscoveryEntry;

use super::Session;

/// What carries a host's commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CarrierKind {
    /// vfio-user: shared memory, for processes and virtual machines on this machine.
    VfioUser,
    /// NVMe/TCP.
    Tcp,
    /// NVMe over RDMA.
    Rdma,
}

/// Who is at the other end of a connection, as far as the carrier can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What carries the connection.
    pub carrier: CarrierKind,
    /// Where the connection came in: for vfio-user the folder, as it was given to the target; else the address that the
    /// host reached, `IP:PORT`, an IPv6 address in brackets (with a wildcard, a listener has many).
    pub listener: String,
    /// The subsystem that the host asked for (Connect, SUBNQN), where the carrier has one (not vfio-user).
    pub subsystem_nqn: Option<String>,
    /// The NQN that the host gave, where the carrier has one (not vfio-user).
    pub host_nqn: Option<String>,
    /// The host identifier that the host gave (Connect, HOSTID), where the carrier has one (not vfio-user).
    pub host_id: Option<[u8; 16]>,
    /// Where the host is, for carriers with addresses.
    pub address: Option<SocketAddr>,
    /// The user id of the peer process, for carriers on this machine.
    pub uid: Option<u32>,
    /// The process id of the peer, for carriers on this machine.
    pub pid: Option<i32>,
}

/// Decides who may connect. Default is to deny.
pub trait Admission: Send + Sync {
    /// Opens a session for a peer.
    ///
    /// # Errors
    /// Why not, for the log and, where the carrier can carry it, for the peer.
    fn open(&self, peer: &Peer) -> Result<Box<dyn Session>, Refused>;

    /// What a host that asks the discovery service may connect to: what [`open`](Self::open) would let it into, and
    /// nothing else. `peer` names the host; its subsystem is the discovery service.
    fn discover(&self, peer: &Peer) -> Discovered {
        let _ = peer;
        Discovered::default()
    }
}

/// What the discovery service has for a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// A number that changes whenever [`entries`](Self::entries) may differ from before.
    pub generation: u64,
    /// Subsystems and where they listen, one entry for each pair of them.
    pub entries: Vec<DiscoveryEntry>,
}

/// Why a peer was refused, as far as a carrier can tell it in a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusedKind {
    /// There is no such subsystem.
    UnknownSubsystem,
    /// The host is not attached to the subsystem.
    HostNotAllowed,
    /// The subsystem does not listen there.
    NotListening,
    /// There is no room for another host.
    Full,
    /// Something else, which may pass.
    Other,
}

/// A peer was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// What kind of refusal it is, for the status.
    pub kind: RefusedKind,
    /// Why, and what to do about it.
    pub reason: String,
}

impl Refused {
    /// A refusal with its reason.
    #[must_use]
    pub fn new(kind: RefusedKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }
}
