//! The host's end of NVMe/TCP: connects to a target, drives its NVMe controller.
//!
//! It works with any target that presents an NVMe controller with the KV command set; what is kvplane's own (which
//! core owns which key) is an option that such a controller tells in Identify. Nothing that a target sends is believed:
//! what does not fit ends the connection, and no byte is written outside a command's own data.

mod admin;
mod commands;
mod connect;
#[doc(hidden)]
pub mod fuzzing;
mod inbox;
mod outbox;
mod pieces;
mod queue;
mod regions;
mod stream;
#[cfg(test)]
mod tests;

pub use crate::fabric::host::{AdminData, InitiatorIdentity};
pub use pieces::{Incoming, Outgoing};
pub use queue::{InitiatorQueue, Lost, QueueTerms};
pub use stream::{ByteStream, Socket};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::wire::{ADMIN_CAPSULE_DATA_BYTES, Digests};
use crate::fabric::NamespaceInfo;
use crate::fabric::host::{self, AdminPort, ControllerState, Deadline};
use crate::memory::Region;
use crate::nvme::spec::fabrics::{ConnectData, ConnectFields, ConnectInvalid, DYNAMIC_CONTROLLER, FabricsCommand};
use crate::nvme::spec::{Cqe, Sqe, Status};
use admin::AdminQueue;
use connect::left;

/// Commands at once on the admin queue: one, and a Keep Alive. 32 entries are the least that a controller has.
const ADMIN_DEPTH: u16 = 31;
/// I/O queues that are connected at most, whatever a controller grants: each is a socket.
const MAX_IO_QUEUES: u32 = 256;

/// Who connects to what, and how.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// How long connecting may take as a whole, up to [`Initiator::connected`]: the look-up of the name, the connections,
    /// and the commands on them. After that, how long any one step may take.
    pub timeout: Duration,
    /// The subsystem.
    pub subsystem_nqn: String,
    /// The name of this host, by which the target knows what it may do.
    pub host_nqn: String,
    /// The identifier of this host: 16 bytes that are its own.
    pub host_id: [u8; 16],
    /// Digests to ask for; the target may do without.
    pub digests: Digests,
    /// After so long without a word from this host the target ends the association (Keep Alive Timeout; whole
    /// milliseconds). [`Initiator::is_alive`] then has to be called more often than three times within it. Zero for never.
    pub keep_alive: Duration,
}

/// Why a controller could not be reached or asked.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The host's name means nothing.
    #[error("cannot find the address of {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// Why not.
        source: io::Error,
    },
    /// Nobody listens there, or the network is in the way.
    #[error("{source} ({address}); is the daemon running, and does it listen there?")]
    Connect {
        /// The address.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The connection ended.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// Memory for commands could not be had.
    #[error("no memory: {0}")]
    Memory(#[from] io::Error),
    /// The target does not let this host in, or not to this subsystem.
    #[error("{reason} ({status})")]
    Refused {
        /// What that means, and what to do about it.
        reason: String,
        /// How it was answered.
        status: Status,
    },
    /// It lacks something that this initiator needs.
    #[error("the controller lacks {0}")]
    Unsupported(&'static str),
    /// It did not get ready, or not answer, in time.
    #[error("the target did not {what} within {waited:?}; is it alive?")]
    TimedOut {
        /// What it was to do.
        what: &'static str,
        /// How long that was waited for.
        waited: Duration,
    },
    /// It says that it failed.
    #[error("the controller failed (CSTS.CFS is set)")]
    Failed,
    /// An admin command failed.
    #[error("{command} failed: {status}")]
    Admin {
        /// Which one.
        command: &'static str,
        /// How.
        status: Status,
    },
    /// The caller asked for what cannot be.
    #[error("{0}")]
    Invalid(&'static str),
}

/// An association with one controller.
pub struct Initiator {
    admin: AdminQueue,
    address: SocketAddr,
    options: ConnectOptions,
    controller_id: u16,
    identity: InitiatorIdentity,
    /// I/O queues made so far; identifiers are not used twice.
    queues: u16,
}

impl std::fmt::Debug for Initiator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Initiator")
            .field("address", &self.address)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Initiator {
    /// Connects to a target's port, makes a controller there and gets it ready. A name with several addresses is tried
    /// in their order; each that cannot be reached has its part of the time. What is done with the controller from then on
    /// counts for the same time, until [`connected`](Self::connected) is called.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(host: &str, port: u16, options: &ConnectOptions) -> Result<Self, ConnectError> {
        let unknown = |source| ConnectError::Resolve { host: host.to_owned(), source };
        let deadline = Deadline::after(options.timeout);
        let addresses = host::resolve(host, port, options.timeout).map_err(unknown)?;
        let mut last = unknown(io::ErrorKind::NotFound.into());
        for (tried, address) in addresses.iter().enumerate() {
            let left = left(deadline, "take a connection at any of its addresses")?;
            let reach = left / (addresses.len() - tried).min(u32::MAX as usize) as u32;
            match Self::connect_to(*address, options, reach, deadline) {
                Err(error @ ConnectError::Connect { .. }) => last = error,
                other => return other,
            }
        }
        Err(last)
    }

    fn connect_to(
        address: SocketAddr,
        options: &ConnectOptions,
        reach: Duration,
        deadline: Deadline,
    ) -> Result<Self, ConnectError> {
        let terms = QueueTerms { qid: 0, depth: ADMIN_DEPTH, core: 0, capsule_data: ADMIN_CAPSULE_DATA_BYTES };
        let (queue, scratch, controller_id) =
            connect_queue(&address, options, terms, (DYNAMIC_CONTROLLER, false), (reach, deadline))?;
        let mut admin = AdminQueue::new(queue, scratch, options.timeout, options.keep_alive);
        admin.bound(Some(deadline));
        let enabled = match host::enable(&mut admin, left(deadline, "get ready")?)? {
            ControllerState::Ready(enabled) => enabled,
            ControllerState::Failed => return Err(ConnectError::Failed),
            ControllerState::Silent => {
                return Err(ConnectError::TimedOut { what: "get ready", waited: options.timeout });
            }
            ControllerState::NoCommandSets => {
                return Err(ConnectError::Unsupported("I/O command sets other than NVM (CAP.CSS bit 6)"));
            }
        };
        let identity = host::identify_controller(&mut admin)?;
        let io_queues = host::number_of_queues(&mut admin)?.min(MAX_IO_QUEUES) as u16;
        // A queue of n entries holds n - 1 commands.
        let max_commands = identity.max_commands.map_or(u32::MAX, |most| u32::from(most) + 1);
        let max_queue_entries = enabled.max_queue_entries.min(max_commands);
        let identity = InitiatorIdentity { io_queues, max_queue_entries, ..identity };
        Ok(Self { admin, address, options: options.clone(), controller_id, identity, queues: 0 })
    }

    /// Connecting is done: each step has the timeout for itself from now on.
    pub fn connected(&mut self) {
        self.admin.bound(None);
    }

    /// What the controller says of itself.
    #[must_use]
    pub fn identity(&self) -> &InitiatorIdentity {
        &self.identity
    }

    /// The address that it was found at.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the controller is still there, as far as is known; sends a Keep Alive when one is due. A system call or
    /// two.
    pub fn is_alive(&mut self) -> bool {
        self.admin.is_alive()
    }

    /// The namespaces with the KV command set, in rising order.
    ///
    /// # Errors
    /// What the controller said.
    pub fn namespaces(&mut self) -> Result<Vec<NamespaceInfo>, ConnectError> {
        host::namespaces(&mut self.admin)
    }

    /// Carries out an admin command and waits for its completion, which may say that it failed. Command identifier
    /// and data pointer of `sqe` are filled in.
    ///
    /// # Errors
    /// If the target did not answer at all.
    pub fn admin(&mut self, sqe: Sqe, data: AdminData<'_>) -> Result<Cqe, ConnectError> {
        self.admin.admin(sqe, data)
    }

    /// Makes an I/O queue for `depth` outstanding commands, on a connection of its own, with something to wait for if
    /// asked ([`InitiatorQueue::wake`]). Identifiers rise from 1, so the first `n` queues are served by the first `n`
    /// cores.
    ///
    /// # Errors
    /// [`ConnectError::Invalid`] for a depth of 0 or beyond the controller's queues, or if every identifier is in
    /// use; otherwise what the target said.
    pub fn create_queue(&mut self, depth: u16, wake: bool) -> Result<InitiatorQueue, ConnectError> {
        if depth == 0 || u32::from(depth) >= self.identity.max_queue_entries {
            return Err(ConnectError::Invalid("the queue depth is 0 or more than the controller's queues hold"));
        }
        if self.queues >= self.identity.io_queues {
            return Err(ConnectError::Invalid("every queue of the controller is in use"));
        }
        let qid = self.queues + 1;
        let core = self.identity.owners.map_or(0, |owners| ((u32::from(qid) - 1) % owners.cores) as u16);
        let terms = QueueTerms { qid, depth, core, capsule_data: self.identity.capsule_data_bytes };
        let (how, time) = ((self.controller_id, wake), (Duration::MAX, self.admin.deadline()));
        let (mut queue, scratch, _) = connect_queue(&self.address, &self.options, terms, how, time)?;
        if !queue.detach(&scratch) {
            return Err(ConnectError::Invalid("the queue's Connect is still on its way"));
        }
        self.queues = qid;
        Ok(queue)
    }
}

/// Makes a connection and a queue pair of it (base, "Connect command"), and says which controller it belongs to. The
/// memory that is attached to it is that of the command's data.
fn connect_queue(
    address: &SocketAddr,
    options: &ConnectOptions,
    terms: QueueTerms,
    (controller_id, wake): (u16, bool),
    (reach, deadline): (Duration, Deadline),
) -> Result<(InitiatorQueue, Arc<Region>, u16), ConnectError> {
    let mut queue = connect::open(address, options.digests, terms, wake, reach, deadline)?;
    let scratch = admin::scratch()?;
    if !queue.attach(&scratch) {
        return Err(ConnectError::Invalid("the queue takes no memory"));
    }
    let keep_alive_ms =
        if terms.qid == 0 { u32::try_from(options.keep_alive.as_millis()).unwrap_or(u32::MAX) } else { 0 };
    // Counted from 0: a queue of n entries holds n - 1 commands.
    let fields = ConnectFields { record_format: 0, qid: terms.qid, sqsize: terms.depth, attributes: 0, keep_alive_ms };
    let data = ConnectData {
        host_id: options.host_id,
        controller_id,
        subsystem_nqn: options.subsystem_nqn.clone(),
        host_nqn: options.host_nqn.clone(),
    };
    let sqe = FabricsCommand::Connect(fields).encode(0);
    let cqe = admin::run(&mut queue, &scratch, sqe, AdminData::Out(&data.encode()), deadline)?;
    if cqe.status.is_success() {
        return Ok((queue, scratch, cqe.dword0 as u16));
    }
    Err(ConnectError::Refused { reason: refusal(&cqe, options), status: cqe.status })
}

/// What a Connect that failed means.
fn refusal(cqe: &Cqe, options: &ConnectOptions) -> String {
    let is = |known: Status| cqe.status.code_type() == known.code_type() && cqe.status.code() == known.code();
    let ConnectOptions { subsystem_nqn, host_nqn, .. } = options;
    if is(Status::CONNECT_INVALID_HOST) {
        return format!("{subsystem_nqn} does not let host {host_nqn} in; add the host to the subsystem");
    }
    if is(Status::CONNECT_CONTROLLER_BUSY) {
        return "the target has no controller free for this host; try again later".to_owned();
    }
    if !is(Status::CONNECT_INVALID_PARAMETERS) {
        return "the target refused the connection".to_owned();
    }
    let names = [
        (ConnectInvalid::SUBSYSTEM_NQN, format!("the target has no subsystem {subsystem_nqn} at this address")),
        (ConnectInvalid::HOST_NQN, format!("the target does not take the host NQN {host_nqn}")),
        (ConnectInvalid::CONTROLLER_ID, "the controller has gone".to_owned()),
    ];
    let named = names.into_iter().find(|(field, _)| field.dword0() == cqe.dword0).map(|(_, reason)| reason);
    named.unwrap_or_else(|| format!("the target does not take a parameter of Connect (DW0 {:#x})", cqe.dword0))
}
