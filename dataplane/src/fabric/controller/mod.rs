//! The NVMe controller that every carrier presents: properties, admin commands, Identify.
//!
//! A synchronous model without I/O and without a clock. A carrier hands it register accesses and admin commands and
//! is told what to do; what an answer needs of queues, memory and time, the carrier does.
//!
//! Carriers with shared memory make queues by admin command and reach properties as registers; message carriers make
//! them by Connect and reach properties by command ([`ControllerLimits::fabrics`]). The rest is the same.

mod admin;
mod discovery;
mod events;
mod fabrics;
mod features;
#[doc(hidden)]
pub mod fuzzing;
mod identify;
mod logs;
mod queues;
mod registers;

pub use admin::AdminAction;
pub use fabrics::FabricsLimits;
pub use queues::{NewCompletionQueue, NewSubmissionQueue};
pub use registers::{AdminQueues, RegisterEffect, offset};

use crate::nvme::spec::{Sqe, Status};

use super::{ControllerIdentity, NamespaceInfo};
use discovery::DiscoveryLog;
use events::Events;
use features::Features;
use queues::Queues;
use registers::Registers;

/// The most namespaces, Identify Controller NN.
pub const MAX_NAMESPACES: u32 = 1024;

/// What the carrier can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerLimits {
    /// Entries of the longest queue, 2 to 65,536; CAP.MQES is one less.
    pub max_queue_entries: u32,
    /// I/O queues of each kind.
    pub io_queues: u16,
    /// Interrupt vectors.
    pub vectors: u16,
    /// Cores that serve I/O queues: queue `q` is served by core `(q - 1) % cores`.
    pub cores: u16,
    /// What only message carriers have; `None` for a carrier with shared memory.
    pub fabrics: Option<FabricsLimits>,
}

/// What kind of controller it is, which decides what commands, properties and features there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Queues lie in shared memory.
    Memory,
    /// Queues are connections.
    Fabrics,
    /// Tells what there is to connect to; has an admin queue only, which is a connection.
    Discovery,
}

/// One controller, for one host.
#[derive(Debug)]
pub struct Controller {
    kind: Kind,
    identity: ControllerIdentity,
    namespaces: Vec<NamespaceInfo>,
    limits: ControllerLimits,
    registers: Registers,
    queues: Queues,
    features: Features,
    events: Events,
    errors: logs::ErrorLog,
    /// Empty, except for [`Kind::Discovery`].
    discovery: DiscoveryLog,
}

impl Controller {
    /// A controller that was just reset.
    #[must_use]
    pub fn new(identity: ControllerIdentity, namespaces: Vec<NamespaceInfo>, limits: ControllerLimits) -> Self {
        let kind = if limits.fabrics.is_some() { Kind::Fabrics } else { Kind::Memory };
        Self::of_kind(kind, identity, namespaces, limits)
    }

    fn of_kind(
        kind: Kind,
        mut identity: ControllerIdentity,
        namespaces: Vec<NamespaceInfo>,
        limits: ControllerLimits,
    ) -> Self {
        identity.max_transfer_bytes = limits.transfer_bytes(identity.max_transfer_bytes);
        Self {
            kind,
            identity,
            namespaces,
            limits,
            registers: Registers::new(kind, limits.max_queue_entries),
            queues: Queues::default(),
            features: Features::new(kind),
            events: Events::default(),
            errors: logs::ErrorLog::default(),
            discovery: DiscoveryLog::default(),
        }
    }

    /// Reads properties. Bytes that belong to none read zero.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        self.registers.read(offset, into);
    }

    /// Writes a property: 4 bytes at a multiple of 4 or 8 bytes at a multiple of 8. Anything else, and writes to what
    /// is read-only, change nothing.
    pub fn write(&mut self, offset: u64, from: &[u8]) -> RegisterEffect {
        self.registers.write(offset, from)
    }

    /// The carrier has ended every queue after [`RegisterEffect::Reset`] or [`RegisterEffect::Shutdown`], or the
    /// whole device was reset. Requests for events that waited are forgotten; nobody completes them.
    pub fn queues_ended(&mut self) {
        self.queues = Queues::default();
        self.features.reset();
        self.events.forget_requests();
        self.registers.settle();
    }

    /// Puts every property back to its value after power-on. The carrier has ended every queue before.
    pub fn reset(&mut self) {
        self.registers = Registers::new(self.kind, self.limits.max_queue_entries);
        self.queues_ended();
    }

    /// The carrier could not go on, for instance because the admin queues are not in registered memory. Sets
    /// CSTS.CFS; only a reset mends it.
    pub fn fail(&mut self) {
        self.registers.fail();
    }

    /// Whether the controller is enabled and ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.registers.is_ready()
    }

    /// Carries out an admin command. Fabrics commands are not among them: see
    /// [`FabricsCommand`](crate::nvme::spec::fabrics::FabricsCommand), [`property_get`](Self::property_get) and their
    /// like.
    pub fn admin(&mut self, sqe: &Sqe) -> AdminAction {
        let action = self.dispatch(sqe);
        if let AdminAction::Complete(completion) = &action
            && !completion.status.is_success()
        {
            self.errors.record(0, sqe, completion.status);
        }
        action
    }

    /// Replaces the namespaces. If they differ from before, the host is told, if it asked to be.
    pub fn set_namespaces(&mut self, namespaces: Vec<NamespaceInfo>) {
        let shape = |list: &[NamespaceInfo]| -> Vec<NamespaceInfo> {
            // What a namespace holds changes all the time and is no event.
            list.iter().map(|namespace| NamespaceInfo { used_bytes: 0, ..*namespace }).collect()
        };
        let (before, after) = (shape(&self.namespaces), shape(&namespaces));
        let changed = before.iter().chain(&after).filter(|item| !(before.contains(item) && after.contains(item)));
        let changed: Vec<u32> = changed.map(|namespace| namespace.nsid).collect();
        self.namespaces = namespaces;
        self.events.namespaces_changed(&changed, self.features.namespace_events());
    }

    /// A doorbell was written with a value that is not valid.
    pub fn invalid_doorbell(&mut self) {
        self.events.invalid_doorbell();
    }

    /// An asynchronous event and the request to complete with it: command identifier and DW0.
    pub fn take_event(&mut self) -> Option<(u16, u32)> {
        self.events.take()
    }

    /// A queue was made as asked by [`AdminAction::CreateCompletionQueue`].
    pub fn completion_queue_made(&mut self, queue: &NewCompletionQueue) {
        self.queues.add_completion(queue);
    }

    /// A queue was made as asked by [`AdminAction::CreateSubmissionQueue`].
    pub fn submission_queue_made(&mut self, queue: &NewSubmissionQueue) {
        self.queues.add_submission(queue);
    }

    /// A queue was ended as asked by [`AdminAction::DeleteSubmissionQueue`].
    pub fn submission_queue_ended(&mut self, qid: u16) {
        self.queues.remove_submission(qid);
    }

    /// A queue was ended as asked by [`AdminAction::DeleteCompletionQueue`].
    pub fn completion_queue_ended(&mut self, qid: u16) {
        self.queues.remove_completion(qid);
    }

    fn namespace(&self, nsid: u32) -> Result<&NamespaceInfo, Status> {
        self.namespaces.iter().find(|namespace| namespace.nsid == nsid).ok_or(Status::INVALID_NAMESPACE)
    }
}

#[cfg(test)]
mod tests;
