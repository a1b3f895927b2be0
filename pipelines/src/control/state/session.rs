//! Who is connected, and who may be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::fabric::{
    Admission, ControllerIdentity, Discovered, NamespaceInfo, Peer, Refused, RefusedKind, Session, SessionId,
};
use dataplane::nvme::spec::vendor::OwnerMap;

use super::{Control, ListenAddress, Nqn, State, Subsystem, Transport, discovery};
use crate::control::{ControlError, Shape};
use crate::policy::table::MAX_SESSIONS;

/// Sessions that one host of a network may have at once, by its name.
const SESSIONS_OF_A_HOST: usize = 64;
/// Sessions that all hosts of networks may have at once that are let in because any may connect, under whatever names:
/// room is left for those that are attached.
const SESSIONS_OF_STRANGERS: usize = MAX_SESSIONS / 2;

/// A host that drives a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its number.
    pub id: u16,
    /// The subsystem.
    pub subsystem: Nqn,
    /// The attached host; `None` for one that is let in because any may connect.
    pub host: Option<Nqn>,
    /// The name that it gave, attached or not; `None` on carriers of this machine, which carry none.
    pub host_nqn: Option<Nqn>,
    /// The host identifier that it gave, on carriers that carry one.
    pub host_id: Option<[u8; 16]>,
    /// Where it is, on carriers of a network.
    pub address: Option<SocketAddr>,
    /// The user id of the peer process, on carriers of this machine.
    pub uid: Option<u32>,
    /// The process id of the peer, on carriers of this machine.
    pub pid: Option<i32>,
    /// The listener that it came in by, which also tells the carrier.
    pub listener: ListenAddress,
    /// Whether its host lost its place since it connected: it sees nothing any more.
    pub revoked: bool,
}

impl SessionRecord {
    /// The controller identifier that the host sees: no two controllers of the process have the same.
    #[must_use]
    pub const fn controller_id(&self) -> u16 {
        self.id + 1
    }
}

/// Default is to deny: the subsystem must listen where the peer came in, and the host be attached to it or any host
/// allowed.
impl Admission for Control {
    fn open(&self, peer: &Peer) -> Result<Box<dyn Session>, Refused> {
        let opened = self.admit(peer);
        if let Some(transport) = self.lock().transports.get_mut(&peer.carrier.into()) {
            let count = if opened.is_ok() { &mut transport.admitted } else { &mut transport.refused };
            *count += 1;
        }
        match &opened {
            Ok(session) => tracing::info!(?peer, session = session.id.0, "host connected"),
            // The listener warns of it, and bounds how often.
            Err(refused) => tracing::debug!(?peer, reason = %refused.reason, "host refused"),
        }
        Ok(Box::new(opened?))
    }

    fn discover(&self, peer: &Peer) -> Discovered {
        self.discovered(peer)
    }
}

impl Control {
    fn admit(&self, peer: &Peer) -> Result<OpenSession, Refused> {
        let other = |error: ControlError| Refused::new(RefusedKind::Other, error.to_string());
        let engine = self.engine().map_err(other)?;
        let mut state = self.lock();
        let (subsystem, listener) = state.asked_for(peer)?;
        let host = standing(subsystem, peer)?;
        state.check_share(peer, host.is_none())?;
        let id = state.free_session().ok_or_else(|| {
            let reason = format!("all {MAX_SESSIONS} sessions are taken; disconnect a host first");
            Refused::new(RefusedKind::Full, reason)
        })?;
        let record = SessionRecord {
            id,
            subsystem: subsystem.nqn.clone(),
            host,
            host_nqn: peer.host_nqn.as_deref().and_then(|name| Nqn::parse(name).ok()),
            host_id: peer.host_id,
            address: peer.address,
            uid: peer.uid,
            pid: peer.pid,
            listener: listener.clone(),
            revoked: false,
        };
        let session = OpenSession {
            control: self.clone(),
            id: SessionId(id),
            identity: state.identity(subsystem, &record, &engine.shape()),
            generation: Arc::clone(&subsystem.generation),
        };
        state.sessions.insert(id, record);
        if let Err(error) = state.distribute(&*engine) {
            // Dropping the session would lock the state again.
            state.sessions.remove(&id);
            state.ended.insert(id);
            drop(state);
            std::mem::forget(session);
            return Err(other(error));
        }
        Ok(session)
    }

    fn close(&self, id: SessionId) {
        let mut state = self.lock();
        state.sessions.remove(&id.0);
        state.ended.insert(id.0);
        match self.engine() {
            Ok(engine) => {
                // What went wrong is logged there; the number stays taken until the cores have a later table.
                let _ = state.distribute(&*engine);
            }
            // The cores have stopped: nobody knows the number any more.
            Err(_) => state.ended.clear(),
        }
    }
}

impl State {
    /// The subsystem that a peer wants, and the listener of it that the peer came in by.
    fn asked_for(&self, peer: &Peer) -> Result<(&Subsystem, &ListenAddress), Refused> {
        let deaf = |who: &str| {
            let reason = format!("{who} on {}: call nvmf_subsystem_add_listener", peer.listener);
            Refused::new(RefusedKind::NotListening, reason)
        };
        let by = |subsystem: &'_ Subsystem| subsystem.listeners.iter().position(|listener| came_by(peer, listener));
        if !Transport::from(peer.carrier).is_network() {
            // A folder leads to one subsystem, so no name is needed.
            let found = self.subsystems.values().find_map(|it| Some((it, it.listeners.get(by(it)?)?)));
            return found.ok_or_else(|| deaf("no subsystem listens"));
        }
        let name = peer.subsystem_nqn.as_deref().unwrap_or_default();
        let subsystem = Nqn::parse(name).ok().and_then(|nqn| self.subsystems.get(&nqn)).ok_or_else(|| {
            let reason = format!("there is no subsystem {name:?}: call nvmf_create_subsystem, or correct the host");
            Refused::new(RefusedKind::UnknownSubsystem, reason)
        })?;
        let listener = by(subsystem).and_then(|at| subsystem.listeners.get(at));
        listener.map(|listener| (subsystem, listener)).ok_or_else(|| deaf(&format!("subsystem {name} does not listen")))
    }

    /// Whether a host of a network may have one more session, so that one alone cannot keep the others out. How many
    /// processes of a user on this machine may connect, the listener bounds.
    fn check_share(&self, peer: &Peer, stranger: bool) -> Result<(), Refused> {
        if !Transport::from(peer.carrier).is_network() {
            return Ok(());
        }
        let on_network = || self.sessions.values().filter(|session| session.listener.transport().is_network());
        let name = peer.host_nqn.as_deref();
        let own = on_network().filter(|session| session.host_nqn.as_ref().map(Nqn::as_str) == name).count();
        let strangers = on_network().filter(|session| session.host.is_none()).count();
        let (have, most, who) = if own >= SESSIONS_OF_A_HOST {
            (own, SESSIONS_OF_A_HOST, format!("host {}", name.unwrap_or_default()))
        } else if stranger && strangers >= SESSIONS_OF_STRANGERS {
            (strangers, SESSIONS_OF_STRANGERS, "hosts that are not attached".to_owned())
        } else {
            return Ok(());
        };
        let reason = format!("{who}: {have} sessions are open, and {most} may be; disconnect some first");
        Err(Refused::new(RefusedKind::Full, reason))
    }

    fn identity(&self, subsystem: &Subsystem, record: &SessionRecord, shape: &Shape) -> ControllerIdentity {
        let limits = self.transports.get(&record.listener.transport()).map(|it| it.limits.max_io_bytes);
        ControllerIdentity {
            subsystem_nqn: subsystem.nqn.to_string(),
            serial: subsystem.serial.clone(),
            model: subsystem.model.clone(),
            firmware: env!("CARGO_PKG_VERSION").chars().take(8).collect(),
            controller_id: record.controller_id(),
            max_transfer_bytes: limits.unwrap_or(u32::MAX).min(shape.max_transfer_bytes),
            owners: OwnerMap { shards: shape.shards, cores: shape.cores },
        }
    }
}

/// Whether a peer came in by a listener: at its address, or at one that it stands for.
fn came_by(peer: &Peer, listener: &ListenAddress) -> bool {
    let here = |address: ListenAddress| *listener == address || listener.covers(&address);
    match (Transport::from(peer.carrier), discovery::reached(peer)) {
        (Transport::VfioUser, _) => *listener == ListenAddress::VfioUser(peer.listener.clone()),
        (Transport::Tcp, Some(address)) => here(ListenAddress::Tcp(address)),
        (Transport::Rdma, Some(address)) => here(ListenAddress::Rdma(address)),
        (Transport::Tcp | Transport::Rdma, None) => false,
    }
}

/// Which of the subsystem's hosts a peer is; `None` for a stranger where any host may connect. On this machine the user
/// id decides, which nobody can make up; over a network the name that the host gives, which proves nothing: there is no
/// authentication (DH-HMAC-CHAP) and no TLS yet.
pub(super) fn standing(subsystem: &Subsystem, peer: &Peer) -> Result<Option<Nqn>, Refused> {
    let not_allowed = |reason: String| Refused::new(RefusedKind::HostNotAllowed, reason);
    let (host, who) = if Transport::from(peer.carrier).is_network() {
        let name = Nqn::parse(peer.host_nqn.as_deref().unwrap_or_default());
        let name = name.map_err(|error| not_allowed(error.to_string()))?;
        (subsystem.host_of_name(&name).cloned(), format!("host {name}"))
    } else {
        let host = peer.uid.and_then(|uid| subsystem.host_of_uid(uid)).cloned();
        (host, peer.uid.map_or_else(|| "a peer without uid".to_owned(), |uid| format!("uid {uid}")))
    };
    if host.is_some() || subsystem.allow_any_host {
        return Ok(host);
    }
    Err(not_allowed(format!("{who} is not attached to subsystem {}: call nvmf_subsystem_add_host", subsystem.nqn)))
}

/// A session as its carrier holds it.
struct OpenSession {
    control: Control,
    id: SessionId,
    identity: ControllerIdentity,
    generation: Arc<AtomicU64>,
}

impl Session for OpenSession {
    fn id(&self) -> SessionId {
        self.id
    }

    fn identity(&self) -> ControllerIdentity {
        self.identity.clone()
    }

    fn namespaces(&self) -> Vec<NamespaceInfo> {
        let Ok(engine) = self.control.engine() else { return Vec::new() };
        let shape = engine.shape();
        let mut seen = Vec::new();
        {
            let state = self.control.lock();
            let record = state.sessions.get(&self.id.0).filter(|record| !record.revoked);
            let Some(record) = record else { return Vec::new() };
            let Some(subsystem) = state.subsystems.get(&record.subsystem) else { return Vec::new() };
            for (nsid, namespace) in subsystem.visible(record.host.as_ref()) {
                let info = NamespaceInfo {
                    nsid,
                    size_bytes: namespace.quota_bytes.map_or(shape.capacity_bytes, |it| it.min(shape.capacity_bytes)),
                    used_bytes: 0,
                    // What is longer than one command may move cannot be stored and not be fetched whole.
                    max_value_bytes: namespace.max_value_bytes.min(self.identity.max_transfer_bytes),
                    max_keys: 0,
                    granularity: shape.granularity,
                    nguid: namespace.nguid(),
                };
                seen.push((namespace.ns28, info));
            }
        }
        // Asking the cores may take a while, so not under the lock.
        seen.into_iter().map(|(ns28, info)| NamespaceInfo { used_bytes: engine.namespace_used(ns28), ..info }).collect()
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.control.close(self.id);
        tracing::info!(session = self.id.0, "host disconnected");
    }
}
