//! The host's end of NVMe over RDMA: connects to a target, drives its NVMe controller.
//!
//! It works with any target of the RDMA transport; what is kvplane's own (which core owns which key) is an option that a
//! controller tells in Identify.

mod admin;
mod dial;
mod queue;

#[cfg(test)]
mod tests;

pub use queue::InitiatorQueue;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::verbs::{Access, Domain, Piece, RegisteredMemory, VerbsError};
use super::wire::{MAX_KEYED_BYTES, RejectReason};
use crate::fabric::NamespaceInfo;
use crate::fabric::host::{self, AdminData, AdminPort, ControllerState, Deadline, InitiatorIdentity};
use crate::memory::Region;
use crate::nvme::spec::fabrics::ConnectData;
use crate::nvme::spec::{DataPointer, SglDescriptor, SglKind, Sqe, Status};
use admin::AdminQueue;

/// I/O queues of one controller at most, whatever it offers.
const MAX_IO_QUEUES: u32 = 256;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// How long any one step may take: to find the way, to connect, an admin command, a change of the controller's state.
    pub timeout: Duration,
    /// The subsystem.
    pub subsystem_nqn: String,
    /// Who the host is: what the target's policy goes by.
    pub host_nqn: String,
    /// Tells hosts of one name apart; not zero.
    pub host_id: [u8; 16],
    /// The address of this machine to connect from, where there is a choice.
    pub from: Option<IpAddr>,
    /// Keep alive timeout in milliseconds, 0 for none: the target gives the connection up that is silent for longer.
    pub keep_alive_ms: u32,
}

/// Why a controller could not be reached or asked.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The RDMA device, or the libraries.
    #[error(transparent)]
    Verbs(#[from] VerbsError),
    /// There is no way to the address, or nobody answers.
    #[error("cannot {what} {address}: {cause}")]
    Unreachable {
        /// What was tried.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        cause: String,
    },
    /// The target refused the connection.
    #[error("the target refused the connection: {0}")]
    Rejected(RejectReason),
    /// The connection ended.
    #[error("the connection ended")]
    Closed,
    /// It lacks something that this initiator needs.
    #[error("the controller lacks {0}")]
    Unsupported(&'static str),
    /// It did not get ready, or not answer, in time.
    #[error("the controller did not {what} within {waited:?}; is the target alive?")]
    TimedOut {
        /// What it was to do.
        what: &'static str,
        /// How long that was waited for.
        waited: Duration,
    },
    /// It says that it failed.
    #[error("the controller failed (CSTS.CFS is set)")]
    Failed,
    /// An admin command or Connect failed.
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

/// A connection to one controller.
pub struct Initiator {
    target: SocketAddr,
    options: ConnectOptions,
    domain: Arc<Domain>,
    admin: AdminQueue,
    controller_id: u16,
    identity: InitiatorIdentity,
    registered: Vec<RegisteredMemory>,
    /// Queue identifiers in use, by number.
    queues: Vec<bool>,
}

impl std::fmt::Debug for Initiator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Initiator")
            .field("target", &self.target)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Initiator {
    /// Connects to the target at `target`, and gets a controller of its ready. All that is done with it until
    /// [`connected`](Self::connected) is called has to be done `within` this time.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(target: SocketAddr, options: ConnectOptions, within: Duration) -> Result<Self, ConnectError> {
        let deadline = Deadline::after(within);
        let (mut admin, domain) = AdminQueue::connect(target, &options, deadline)?;
        let controller_id = admin.controller_id();
        let enabled = match host::enable(&mut admin, deadline.left())? {
            ControllerState::Ready(enabled) => enabled,
            ControllerState::Failed => return Err(ConnectError::Failed),
            ControllerState::Silent => {
                return Err(ConnectError::TimedOut { what: "get ready", waited: within });
            }
            ControllerState::NoCommandSets => {
                return Err(ConnectError::Unsupported("I/O command sets other than NVM (CAP.CSS bit 6)"));
            }
        };
        let mut identity = host::identify_controller(&mut admin)?;
        identity.max_queue_entries = entries_of(enabled.max_queue_entries, identity.max_commands);
        identity.io_queues = host::number_of_queues(&mut admin)?.min(MAX_IO_QUEUES) as u16;
        let most = identity.max_transfer_bytes.unwrap_or(MAX_KEYED_BYTES).min(MAX_KEYED_BYTES);
        identity.max_transfer_bytes = Some(most);
        let queues = vec![false; usize::from(identity.io_queues)];
        Ok(Self { target, options, domain, admin, controller_id, identity, registered: Vec::new(), queues })
    }

    /// Connecting is done: each step has the timeout for itself from now on.
    pub fn connected(&mut self) {
        self.admin.connected();
    }

    /// What the controller says of itself.
    #[must_use]
    pub fn identity(&self) -> &InitiatorIdentity {
        &self.identity
    }

    /// The number of the controller that this host was given.
    #[must_use]
    pub fn controller_id(&self) -> u16 {
        self.controller_id
    }

    /// Whether the target still holds its end of the connection. A system call.
    #[must_use]
    pub fn is_alive(&mut self) -> bool {
        self.admin.is_alive()
    }

    /// Carries out an admin command and waits for its completion, which may say that it failed. Command identifier and
    /// data pointer of `sqe` are filled in.
    ///
    /// # Errors
    /// If the target did not answer at all.
    pub fn admin(&mut self, sqe: Sqe, data: AdminData<'_>) -> Result<crate::nvme::spec::Cqe, ConnectError> {
        AdminPort::admin(&mut self.admin, sqe, data)
    }

    /// The namespaces with the KV command set, in rising order.
    ///
    /// # Errors
    /// What the controller said.
    pub fn namespaces(&mut self) -> Result<Vec<NamespaceInfo>, ConnectError> {
        host::namespaces(&mut self.admin)
    }

    /// Registers memory, so that commands can name it by its address in this process.
    ///
    /// # Errors
    /// What the device said.
    pub fn register(&mut self, region: &Arc<Region>) -> Result<(), ConnectError> {
        self.registered.push(RegisteredMemory::new(&self.domain, region, Access::Remote)?);
        Ok(())
    }

    /// Registers memory behind a DMA buffer, such as a GPU's: `bytes` from `offset` on, which commands name from `address`
    /// on. No other memory may be known by these addresses.
    ///
    /// # Errors
    /// What library or device said; many devices cannot.
    pub fn register_dma_buf(&mut self, buffer: OwnedFd, part: (u64, usize), address: u64) -> Result<(), ConnectError> {
        self.registered.push(RegisteredMemory::dma_buf(&self.domain, buffer, part, address, Access::Remote)?);
        Ok(())
    }

    /// Takes memory back: the device serves nobody from it any more. No command may be outstanding that names it: the
    /// target's access would fail, and break the queue's connection.
    ///
    /// # Errors
    /// [`ConnectError::Invalid`] for memory that was not registered.
    pub fn unregister(&mut self, address: u64) -> Result<(), ConnectError> {
        let at = self.registered.iter().position(|memory| memory.address() == address);
        let at = at.ok_or(ConnectError::Invalid("no memory is registered at this address"))?;
        self.registered.swap_remove(at);
        Ok(())
    }

    fn holder(&self, address: u64, bytes: u32) -> Option<&RegisteredMemory> {
        self.registered.iter().find(|memory| {
            let offset = address.wrapping_sub(memory.address());
            offset <= memory.bytes() && u64::from(bytes) <= memory.bytes() - offset
        })
    }

    /// Makes a command whose SGL names memory by address say what goes over the wire: a keyed descriptor, or, for data to
    /// the controller of at most `in_capsule` bytes, that it comes along, and then which bytes those are. `None`, and
    /// nothing changed, if the memory is not registered.
    #[inline]
    pub fn address(&self, sqe: &mut Sqe, in_capsule: u32) -> Option<Option<Piece>> {
        let Some(DataPointer::Sgl(SglDescriptor { address, length, .. })) = sqe.data_pointer().filter(names_memory)
        else {
            // No data: an empty keyed descriptor, as the transport asks for.
            sqe.set_sgl(SglDescriptor::keyed(0, 0, 0, false));
            return Some(None);
        };
        let memory = self.holder(address, length)?;
        if sqe.opcode() & 0b11 == 0b01 && length <= in_capsule {
            sqe.set_sgl(SglDescriptor::in_capsule(0, length));
            return Some(memory.piece(address - memory.address(), length));
        }
        sqe.set_sgl(SglDescriptor::keyed(address, length, memory.remote_key(), false));
        Some(None)
    }

    /// Makes an I/O queue for `depth` outstanding commands; `interrupt` if its completions are to make a descriptor
    /// readable. The lowest free queue identifier is taken, so the first `n` queues are served by the first `n` cores.
    ///
    /// # Errors
    /// [`ConnectError::Invalid`] for a depth of 0 or beyond the controller's queues, or if every identifier is in use;
    /// otherwise what the target said.
    pub fn create_queue(&mut self, depth: u32, interrupt: bool) -> Result<InitiatorQueue, ConnectError> {
        if depth == 0 || depth >= self.identity.max_queue_entries.min(1 << 15) {
            return Err(ConnectError::Invalid("the queue depth is 0 or more than the controller's queues hold"));
        }
        let free = self.queues.iter().position(|used| !used);
        let index = free.ok_or(ConnectError::Invalid("every queue of the controller is in use"))?;
        let qid = index as u16 + 1;
        let (domain, deadline) = (Some(&self.domain), self.admin.deadline());
        let dialled = dial::Dial { target: self.target, options: &self.options, domain, deadline };
        let mut queue = InitiatorQueue::dial(&dialled, qid, self.controller_id, depth as u16, interrupt)?;
        let core = self.identity.owners.map_or(0, |owners| ((u32::from(qid) - 1) % owners.cores.max(1)) as u16);
        queue.set_core(core);
        self.admin.connect_queue(&mut queue, &connect_data(&self.options, self.controller_id), 0)?;
        self.queues[index] = true;
        Ok(queue)
    }

    /// Ends a queue. Completions of commands that are outstanding are lost.
    pub fn delete_queue(&mut self, queue: InitiatorQueue) {
        if let Some(used) = self.queues.get_mut(usize::from(queue.qid()).wrapping_sub(1)) {
            *used = false;
        }
    }
}

/// Entries of a queue: what it may have, and no more than hold the commands that may be outstanding (MAXCMD). A queue of n
/// entries holds n - 1.
fn entries_of(max_queue_entries: u32, max_commands: Option<u16>) -> u32 {
    max_queue_entries.min(max_commands.map_or(u32::MAX, |most| u32::from(most) + 1))
}

/// Whether a data pointer is an unkeyed data block.
fn names_memory(pointer: &DataPointer) -> bool {
    matches!(pointer, DataPointer::Sgl(descriptor) if descriptor.kind() == Some(SglKind::DataBlock) && descriptor.length > 0)
}

fn connect_data(options: &ConnectOptions, controller_id: u16) -> ConnectData {
    ConnectData {
        host_id: options.host_id,
        controller_id,
        subsystem_nqn: options.subsystem_nqn.clone(),
        host_nqn: options.host_nqn.clone(),
    }
}
