//! Who is connected, and who may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::fabric::{Admission, ControllerIdentity, NamespaceInfo, Peer, Refused, RefusedKind, Session, SessionId};
use dataplane::nvme::spec::vendor::OwnerMap;

use super::{Control, ListenAddress, Nqn, State, Subsystem};
use crate::control::Shape;
use crate::policy::table::MAX_SESSIONS;

/// A host that drives a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its number.
    pub id: u16,
    /// The subsystem.
    pub subsystem: Nqn,
    /// The attached host; `None` for one that is let in because any may connect.
    pub host: Option<Nqn>,
    /// The user id of the peer process.
    pub uid: Option<u32>,
    /// The process id of the peer.
    pub pid: Option<i32>,
    /// Where it came in.
    pub listener: ListenAddress,
    /// Whether its host lost its place since it connected: it sees nothing any more.
    pub revoked: bool,
}

impl SessionRecord {
    /// The controller identifier that the host sees.
    #[must_use]
    pub const fn controller_id(&self) -> u16 {
        self.id + 1
    }
}

/// Default is to deny: the listener must be a subsystem's, and the host attached to it or any host allowed.
impl Admission for Control {
    fn open(&self, peer: &Peer) -> Result<Box<dyn Session>, Refused> {
        let opened = self.admit(peer);
        match &opened {
            Ok(session) => tracing::info!(?peer, session = session.id.0, "host connected"),
            // The listener warns of it, and bounds how often.
            Err(refused) => tracing::debug!(?peer, reason = %refused.reason, "host refused"),
        }
        Ok(Box::new(opened?))
    }
}

impl Control {
    fn admit(&self, peer: &Peer) -> Result<OpenSession, Refused> {
        let other = |error: super::ControlError| Refused::new(RefusedKind::Other, error.to_string());
        let engine = self.engine().map_err(other)?;
        let mut state = self.lock();
        let (subsystem, listener) = state.listening(peer).ok_or_else(|| {
            let reason = format!("no subsystem listens on {}: call nvmf_subsystem_add_listener", peer.listener);
            Refused::new(RefusedKind::NotListening, reason)
        })?;
        let host = standing(subsystem, peer)?;
        let id = state.free_session().ok_or_else(|| {
            let reason = format!("all {MAX_SESSIONS} sessions are taken; disconnect a host first");
            Refused::new(RefusedKind::Full, reason)
        })?;
        let record = SessionRecord {
            id,
            subsystem: subsystem.nqn.clone(),
            host,
            uid: peer.uid,
            pid: peer.pid,
            listener,
            revoked: false,
        };
        let session = OpenSession {
            control: self.clone(),
            id: SessionId(id),
            identity: identity(subsystem, &record, &engine.shape()),
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
    fn listening(&self, peer: &Peer) -> Option<(&Subsystem, ListenAddress)> {
        self.subsystems.values().find_map(|subsystem| {
            let listener = subsystem.listeners.iter().find(|listener| listener.traddr == peer.listener)?;
            Some((subsystem, listener.clone()))
        })
    }
}

/// Which of the subsystem's hosts a peer is; `None` for a stranger where any host may connect.
fn standing(subsystem: &Subsystem, peer: &Peer) -> Result<Option<Nqn>, Refused> {
    let host = match &peer.host_nqn {
        Some(name) => subsystem.host_of_name(name, peer.uid),
        None => peer.uid.and_then(|uid| subsystem.host_of_uid(uid)).cloned(),
    };
    if host.is_some() || subsystem.allow_any_host {
        return Ok(host);
    }
    let who = match (&peer.host_nqn, peer.uid) {
        (Some(name), Some(uid)) => format!("host {name} with uid {uid}"),
        (Some(name), None) => format!("host {name}"),
        (None, Some(uid)) => format!("uid {uid}"),
        (None, None) => "a peer without NQN and uid".to_owned(),
    };
    let reason = format!("{who} is not attached to subsystem {}: call nvmf_subsystem_add_host", subsystem.nqn);
    Err(Refused::new(RefusedKind::HostNotAllowed, reason))
}

fn identity(subsystem: &Subsystem, record: &SessionRecord, shape: &Shape) -> ControllerIdentity {
    ControllerIdentity {
        subsystem_nqn: subsystem.nqn.to_string(),
        serial: subsystem.serial.clone(),
        model: subsystem.model.clone(),
        firmware: env!("CARGO_PKG_VERSION").chars().take(8).collect(),
        controller_id: record.controller_id(),
        max_transfer_bytes: shape.max_transfer_bytes,
        owners: OwnerMap { shards: shape.shards, cores: shape.cores },
    }
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
                    max_value_bytes: namespace.max_value_bytes,
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
