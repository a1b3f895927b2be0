//! The discovery controller: it tells a host what it may connect to (base, "Discovery Controller").

use crate::fabric::ControllerIdentity;
use crate::nvme::spec::fabrics::{DISCOVERY_NQN, DiscoveryEntry, discovery_header};
use crate::nvme::spec::{Sqe, admin};

use super::{Controller, ControllerLimits, Kind};

/// Log page 70h.
#[derive(Debug)]
pub(super) struct DiscoveryLog {
    entries: Vec<DiscoveryEntry>,
    bytes: Vec<u8>,
}

impl Default for DiscoveryLog {
    fn default() -> Self {
        Self { entries: Vec::new(), bytes: discovery_header(0, 0).to_vec() }
    }
}

impl DiscoveryLog {
    /// The whole log.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Replaces the entries. If they are the same as before, the generation stays too, and it says no.
    fn replace(&mut self, generation: u64, entries: Vec<DiscoveryEntry>) -> bool {
        if entries == self.entries {
            return false;
        }
        self.bytes = discovery_header(generation, entries.len() as u64).to_vec();
        for entry in &entries {
            self.bytes.extend_from_slice(&entry.encode());
        }
        self.entries = entries;
        true
    }
}

impl Controller {
    /// A discovery controller that was just connected. Its subsystem is the discovery service, whatever the identity
    /// says, and it has no I/O queues.
    #[must_use]
    pub fn discovery(identity: ControllerIdentity, limits: ControllerLimits) -> Self {
        let identity = ControllerIdentity { subsystem_nqn: DISCOVERY_NQN.into(), ..identity };
        Self::of_kind(Kind::Discovery, identity, Vec::new(), ControllerLimits { io_queues: 0, ..limits })
    }

    /// Whether a command reads what a discovery controller knows, so that a carrier may bring it up to date first with
    /// [`set_discovery`](Self::set_discovery).
    #[must_use]
    pub fn reads_discovery(sqe: &Sqe) -> bool {
        sqe.opcode() == admin::opcode::GET_LOG_PAGE && sqe.dword(10) as u8 == admin::log::DISCOVERY
    }

    /// Replaces what a discovery controller tells. If the entries differ from before, `generation` becomes the log's, and
    /// the host is told, if it asked to be.
    pub fn set_discovery(&mut self, generation: u64, entries: Vec<DiscoveryEntry>) {
        if self.discovery.replace(generation, entries) {
            self.events.discovery_changed(self.features.discovery_events());
        }
    }
}
