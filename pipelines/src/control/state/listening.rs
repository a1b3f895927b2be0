//! The changes to where hosts can come in: carriers and listeners.

use std::collections::btree_map::Entry;

use dataplane::fabric::CarrierKind;
use dataplane::nvme::spec::fabrics::DISCOVERY_NQN;

use super::{Control, ListenAddress, MAX_LISTENERS, State, Subsystem, Transport};
use crate::control::{ControlError, Engine, EngineError, TransportLimits};

/// The least that a command may be limited to.
const SMALLEST_IO_BYTES: u32 = 4096;

impl From<CarrierKind> for Transport {
    fn from(kind: CarrierKind) -> Self {
        match kind {
            CarrierKind::VfioUser => Self::VfioUser,
            CarrierKind::Tcp => Self::Tcp,
            CarrierKind::Rdma => Self::Rdma,
        }
    }
}

/// A carrier that was made ready for listeners, by a call or by its first listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportRecord {
    /// Which.
    pub transport: Transport,
    /// What its controllers offer, with the limits that were chosen.
    pub limits: TransportLimits,
    /// Hosts that were let in so far.
    pub admitted: u64,
    /// Hosts that were turned away so far.
    pub refused: u64,
}

impl Control {
    /// Makes a carrier ready for listeners, with a limit of bytes that one command may move if there is to be a lower one
    /// than the carrier's own.
    ///
    /// # Errors
    /// If it is ready already, is not in this build, or the limit makes no sense.
    pub fn create_transport(&self, transport: Transport, max_io_bytes: Option<u32>) -> Result<(), ControlError> {
        self.change(|state, engine| {
            if state.transports.contains_key(&transport) {
                return Err(ControlError::Exists(format!(
                    "there is the transport {} already; its first listener makes it if no call did before",
                    transport.name()
                )));
            }
            let mut limits = engine.transport(transport)?;
            if let Some(bytes) = max_io_bytes {
                let range = SMALLEST_IO_BYTES..=limits.max_io_bytes;
                if !bytes.is_power_of_two() || !range.contains(&bytes) {
                    return Err(ControlError::Invalid(format!(
                        "max_io_size {bytes} is not possible: give a power of two from {SMALLEST_IO_BYTES} to {}",
                        limits.max_io_bytes
                    )));
                }
                limits.max_io_bytes = bytes;
            }
            state.transports.insert(transport, TransportRecord { transport, limits, admitted: 0, refused: 0 });
            Ok(())
        })
    }

    /// The carriers that are ready for listeners.
    #[must_use]
    pub fn transports(&self) -> Vec<TransportRecord> {
        self.lock().transports.values().cloned().collect()
    }

    /// The addresses that the discovery subsystem was given of its own.
    #[must_use]
    pub fn own_discovery_listeners(&self) -> Vec<ListenAddress> {
        self.lock().discovery.clone()
    }

    /// Lets a subsystem be reached at an address. Several subsystems may share an address of a network; a folder leads
    /// to one alone. The discovery subsystem is reached at every address of a network, and may have more of its own.
    ///
    /// # Errors
    /// If there is no such subsystem, the address is taken, or the engine cannot listen there.
    pub fn add_listener(&self, nqn: &str, address: &ListenAddress) -> Result<(), ControlError> {
        self.change(|state, engine| {
            let listeners = state.listeners_mut(nqn)?;
            if listeners.contains(address) {
                return Err(ControlError::Exists(format!("{address} is a listener of {nqn} already")));
            }
            if listeners.len() >= MAX_LISTENERS {
                return Err(ControlError::Full(format!("{nqn} has {MAX_LISTENERS} listeners already")));
            }
            let shared = state.may_share(nqn, address)?;
            state.ready(address.transport(), engine)?;
            state.listeners_mut(nqn)?.push(address.clone());
            if shared { Ok(()) } else { Ok(engine.listen(address)?) }
        })?;
        if let Ok(subsystem) = self.subsystem(nqn) {
            warn_of_access(&subsystem, address);
        }
        Ok(())
    }

    /// Ends a listener of a subsystem, and disconnects the subsystem's hosts that came in by it.
    ///
    /// # Errors
    /// If there is no such subsystem or listener.
    pub fn remove_listener(&self, nqn: &str, address: &ListenAddress) -> Result<(), ControlError> {
        let lost = self.change(|state, engine| {
            let listeners = state.listeners_mut(nqn)?;
            let at = listeners.iter().position(|listener| listener == address);
            let at = at.ok_or_else(|| ControlError::Missing(format!("{nqn} has no listener {address} of its own")))?;
            listeners.remove(at);
            state.let_go(address, engine)?;
            Ok(state.revoke(|session| session.subsystem.as_str() == nqn && session.listener == *address))
        })?;
        self.disconnect(&lost)
    }
}

impl State {
    /// The listeners that a subsystem has of its own.
    fn listeners_mut(&mut self, nqn: &str) -> Result<&mut Vec<ListenAddress>, ControlError> {
        if nqn == DISCOVERY_NQN {
            return Ok(&mut self.discovery);
        }
        Ok(&mut self.subsystem_mut(nqn)?.listeners)
    }

    /// Where the engine listens, in order. Addresses that are shared come once for each subsystem.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &ListenAddress> {
        self.subsystems.values().flat_map(|subsystem| &subsystem.listeners).chain(&self.discovery)
    }

    /// Whether the address of a new listener is listened on already, so that it is to be shared.
    fn may_share(&self, nqn: &str, address: &ListenAddress) -> Result<bool, ControlError> {
        let network = address.transport().is_network();
        if nqn == DISCOVERY_NQN && !network {
            return Err(ControlError::Unsupported("the discovery subsystem is reached over TCP and RDMA alone".into()));
        }
        if self.addresses().any(|other| other == address) {
            let taken = || format!("{address} is another subsystem's already, and a folder leads to one alone");
            return if network { Ok(true) } else { Err(ControlError::Exists(taken())) };
        }
        match self.addresses().find(|other| other.covers(address) || address.covers(other)) {
            None => Ok(false),
            Some(other) => Err(ControlError::Exists(format!(
                "{address} overlaps with {other}, which is listened on already: add {other} instead, which subsystems \
                 can share, or remove it first"
            ))),
        }
    }

    /// Makes a carrier ready as it is, unless it is.
    fn ready(&mut self, transport: Transport, engine: &dyn Engine) -> Result<(), ControlError> {
        if let Entry::Vacant(place) = self.transports.entry(transport) {
            let limits = engine.transport(transport)?;
            place.insert(TransportRecord { transport, limits, admitted: 0, refused: 0 });
        }
        Ok(())
    }

    /// Ends listening on an address that a subsystem gave up, unless another has it.
    pub(super) fn let_go(&self, address: &ListenAddress, engine: &dyn Engine) -> Result<(), ControlError> {
        if self.addresses().any(|other| other == address) {
            return Ok(());
        }
        forgive_missing(engine.unlisten(address))
    }
}

/// A listener that the engine no longer has has ended, which is what was wanted.
fn forgive_missing(ended: Result<(), EngineError>) -> Result<(), ControlError> {
    match ended {
        Err(error) if error.errno == libc::ENOENT || error.errno == libc::ENODEV => Ok(()),
        other => Ok(other?),
    }
}

/// Says in the log who gets in at an address, if that is anybody, or nobody on a network: neither may pass unseen.
pub(super) fn warn_of_access(subsystem: &Subsystem, address: &ListenAddress) {
    if let Some(warning) = access(subsystem, address) {
        tracing::warn!("{warning}");
    }
}

pub(super) fn access(subsystem: &Subsystem, address: &ListenAddress) -> Option<String> {
    let nqn = &subsystem.nqn;
    if subsystem.allow_any_host {
        return Some(format!("anybody who can reach {address} may connect to {nqn}: allow_any_host is set"));
    }
    let nobody = address.transport().is_network() && subsystem.hosts.values().all(|host| host.uid.is_some());
    nobody.then(|| {
        format!(
            "nobody may connect to {nqn} at {address} yet, because no host of a network is attached: kvplane rpc \
             nvmf_subsystem_add_host --nqn {nqn} --host NQN, then nvmf_ns_add_host for what it is to see (or start \
             kvplaned with --host NQN)"
        )
    })
}
