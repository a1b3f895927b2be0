//! How hosts reach the data plane: the [`Fabric`] trait, the controller model that every carrier shares, and the
//! carriers, one folder each.

mod admission;
pub mod carriers;
pub mod controller;
pub mod host;
pub mod message;
pub mod null;
mod permit;
pub mod rdma;
mod refusals;
pub mod tcp;
pub mod vfio_user;

pub use admission::{Admission, CarrierKind, Discovered, Peer, Refused, RefusedKind};
pub use permit::{Permit, abandoning, is_abandoning, lost_completions};

use std::io;
use std::sync::Arc;

use crate::Burst;
use crate::memory::{DmaSlice, Region, SlotId};
use crate::nvme::BlockQueue;
use crate::nvme::spec::{Sqe, Status};

/// Who sent a command: a slot in the table of sessions that the control plane keeps. A session is one controller
/// that one host drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u16);

/// A command that a host submitted: a private copy of its 64 bytes, who sent it, and the duty to complete it once.
#[derive(Debug)]
pub struct Capsule {
    /// The command.
    pub sqe: Sqe,
    /// Who sent it.
    pub session: SessionId,
    /// The duty to complete it.
    pub permit: Permit,
}

/// What a completion says, besides what the carrier adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// DW0.
    pub dword0: u32,
    /// DW1.
    pub dword1: u32,
    /// Status.
    pub status: Status,
}

impl Completion {
    /// Success with a result.
    #[must_use]
    pub const fn success(dword0: u32, dword1: u32) -> Self {
        Self { dword0, dword1, status: Status::SUCCESS }
    }

    /// A failure.
    #[must_use]
    pub const fn failed(status: Status) -> Self {
        Self { dword0: 0, dword1: 0, status }
    }
}

/// One core's end of a carrier: it yields the commands of every queue pair assigned to the core, and takes
/// completions.
///
/// `Data` names a command's data as it lies with the client (PRP entries, an SGL). It is a cursor: reading from it
/// moves it on, and a clone remembers the place. A capsule or a cursor may travel to another core, whose own end of
/// the same carrier can resolve it.
pub trait Fabric {
    /// Where a command's data lies, and how far it has been read.
    type Data: Clone + Send + std::fmt::Debug;

    /// What the control side of the carrier asks of a core's end: take or give up a queue pair or a region. Each
    /// carries its own way to answer, and the answer may come late.
    type Command: Send;

    /// Carries out a command of the control side, or begins to. Not the hot path.
    fn command<B: BlockQueue>(&mut self, command: Self::Command, blocks: &mut B);

    /// Goes on with commands that had to wait, for instance for DMA to end before a region may go. Costs next to
    /// nothing when there are none.
    fn settle<B: BlockQueue>(&mut self, blocks: &mut B);

    /// Commands taken and not yet completed, over all queue pairs of this core.
    fn outstanding(&self) -> usize;

    /// Takes new commands, fairly over the queue pairs, until `capsules` is full or none is left. Never waits.
    /// Back pressure is to call it with less room: what is not taken stays in the client's queue.
    fn poll(&mut self, capsules: &mut Burst<Capsule>);

    /// Where a command's data lies. Checks and looks up nothing yet, and is asked only of commands that move data.
    fn data(&self, capsule: &Capsule) -> Self::Data;

    /// Completes a command of a queue pair of this core. Reaches the client with the next [`flush`](Self::flush).
    /// A client that does not read its completions holds up only itself: what does not fit is kept.
    fn complete(&mut self, permit: Permit, completion: Completion);

    /// Whether the carrier would send a command's bytes from the memory of a device that is memory itself, so that
    /// [`lend`](Self::lend) is worth asking.
    #[inline]
    fn borrows(&self, permit: &Permit) -> bool {
        let _ = permit;
        false
    }

    /// Has the carrier send `bytes`, which lie in the memory of a device, as a command's data, instead of what lies in the
    /// client's memory. They must stay as they are until `loan` has [come back](Self::take_returned). False, and nothing
    /// changed, if the carrier does not: then the bytes have to be moved as always.
    #[inline]
    fn lend(&mut self, permit: &Permit, bytes: DmaSlice, loan: u64) -> bool {
        let _ = (permit, bytes, loan);
        false
    }

    /// Asks for a loan back, under the queue and the loan that [`lend`](Self::lend) had: the lender needs its memory. What
    /// is not being sent is copied into memory of the carrier's own, and the loan comes back at once; what is comes
    /// back when the host has taken that much. If it has had its time (`overdue`), its queue ends. Says how many bytes were
    /// copied. Not for the hot path.
    fn recall(&mut self, queue: SlotId, loan: u64, overdue: bool) -> u32 {
        let _ = (queue, loan, overdue);
        0
    }

    /// Takes loans whose bytes the carrier does not look at any more.
    #[inline]
    fn take_returned(&mut self, into: &mut Burst<u64>) {
        let _ = into;
    }

    /// Publishes completions and raises interrupts, once a burst.
    fn flush(&mut self);

    /// Whether the carrier itself moves bytes that the core has to look after, so that it is not idle although there
    /// is no command to take.
    fn is_moving(&self) -> bool {
        false
    }

    /// The next contiguous bytes of the client's memory, `max` at most and at least one, and moves the cursor past
    /// them. Adjacent pages come as one slice.
    ///
    /// # Errors
    /// The status to complete the command with, if the data pointer is not valid or too short.
    fn window(&mut self, data: &mut Self::Data, max: u32) -> Result<DmaSlice, Status>;

    /// Copies bytes out of the client's memory by CPU and moves the cursor on: for lists of keys and for values
    /// that the device cannot address. Counted in [`copied_bytes`](Self::copied_bytes).
    ///
    /// # Errors
    /// As [`window`](Self::window).
    fn copy_from_client(&mut self, data: &mut Self::Data, into: &mut [u8]) -> Result<(), Status>;

    /// Copies bytes into the client's memory by CPU and moves the cursor on.
    ///
    /// # Errors
    /// As [`window`](Self::window).
    fn copy_to_client(&mut self, data: &mut Self::Data, from: &[u8]) -> Result<(), Status>;

    /// Bytes that the CPU copied out of and into clients' memory so far.
    fn copied_bytes(&self) -> u64;

    /// Appends what there is to tell of the queue pairs of this core. Not the hot path.
    fn queue_pairs(&self, into: &mut Vec<QueuePairInfo>);
}

/// What a core tells of one of its queue pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePairInfo {
    /// Whose it is.
    pub session: SessionId,
    /// I/O submission queue identifier, from 1.
    pub qid: u16,
    /// Its completion queue.
    pub cqid: u16,
    /// The core that serves it.
    pub core: u16,
    /// Entries.
    pub depth: u32,
    /// Commands taken and not completed.
    pub outstanding: u32,
    /// Commands taken so far.
    pub commands: u64,
    /// Completions written so far.
    pub completions: u64,
}

/// The control side's way to a core: where a carrier sends its [`Fabric::Command`]s.
pub trait CorePort<C>: Send + Sync {
    /// How many cores there are. I/O queue `q` is served by core `(q - 1) % cores`.
    fn cores(&self) -> u16;

    /// Hands a command to a core. Waits for room in the core's mailbox, which a live core makes within
    /// microseconds.
    ///
    /// # Errors
    /// The command, if the core has stopped.
    fn send(&self, core: u16, command: C) -> Result<(), C>;

    /// Hands a command to a core if its mailbox has room. Never waits.
    ///
    /// # Errors
    /// The command, if there is no room, or the core has stopped.
    fn offer(&self, core: u16, command: C) -> Result<(), C> {
        self.send(core, command)
    }

    /// Makes a client's memory known to the devices before the cores attach it: what takes long about that is to hold
    /// up this client alone, and no core.
    ///
    /// # Errors
    /// Why a device cannot reach it, and what to do. No device knows it then.
    fn hold_memory(&self, region: &Arc<Region>) -> io::Result<()> {
        let _ = region;
        Ok(())
    }

    /// Takes it from the devices again, after every core let go of it.
    fn release_memory(&self, region: &Arc<Region>) {
        let _ = region;
    }
}

/// One namespace as a host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// Namespace identifier, from 1.
    pub nsid: u32,
    /// Bytes that the namespace may hold.
    pub size_bytes: u64,
    /// Bytes that it holds now.
    pub used_bytes: u64,
    /// The longest value, in bytes.
    pub max_value_bytes: u32,
    /// The most keys, 0 for no limit.
    pub max_keys: u32,
    /// Value granularity that suits the device, in bytes.
    pub granularity: u32,
    /// Globally unique identifier.
    pub nguid: [u8; 16],
}

/// What a controller says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerIdentity {
    /// The subsystem's NQN.
    pub subsystem_nqn: String,
    /// Serial number, 20 ASCII characters at most.
    pub serial: String,
    /// Model number, 40 ASCII characters at most.
    pub model: String,
    /// Firmware revision, 8 ASCII characters at most.
    pub firmware: String,
    /// Controller identifier.
    pub controller_id: u16,
    /// The most bytes one command may move; a power of two times 4096.
    pub max_transfer_bytes: u32,
    /// How keys map to cores.
    pub owners: crate::nvme::spec::vendor::OwnerMap,
}

/// A host's standing with the control plane for as long as its controller lives. Dropping it ends the session.
pub trait Session: Send + Sync {
    /// The number under which the cores know it.
    fn id(&self) -> SessionId;
    /// What the controller says of itself.
    fn identity(&self) -> ControllerIdentity;
    /// The namespaces attached to this host now, in rising order of their identifiers.
    fn namespaces(&self) -> Vec<NamespaceInfo>;
    /// A number that changes whenever [`namespaces`](Self::namespaces) may answer differently, for the namespace
    /// attribute changed event.
    fn generation(&self) -> u64;
}
