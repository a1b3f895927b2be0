//! What connections ask of cores, and what cores answer.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::super::ring::{CommandRing, CompletionRing, Doorbell};
use super::core_end::MAX_QUEUES;
use super::iova::IovaRange;
use super::link::Link;
use crate::fabric::SessionId;

/// Why a core could not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// The core's table of queues is full.
    #[error("the core serves {MAX_QUEUES} queues already")]
    NoRoom,
    /// The queue named does not exist on this core.
    #[error("the queue does not exist on this core")]
    NoSuchQueue,
    /// The address range is taken.
    #[error("the address range is taken")]
    Overlap,
    /// The device's queue refused the region.
    #[error("the device refused the memory: {0}")]
    Attach(String),
    /// The device's queue did not give the region up.
    #[error("the device did not let go of the memory: {0}")]
    Detach(String),
}

pub(super) type Answer = SyncSender<Result<(), CoreError>>;

/// What a connection asks of a core. Made by the target, handed over by a
/// [`CorePort`](crate::fabric::CorePort), carried out by [`VfioUserFabric`](super::VfioUserFabric).
#[derive(Debug)]
pub struct CoreCommand {
    pub(super) session: SessionId,
    pub(super) order: Order,
    pub(super) answer: Answer,
}

pub(super) enum Order {
    /// Make a region known to the device and to address look-ups.
    Attach(IovaRange),
    /// Stop taking commands, answer when none is in flight.
    Quiesce,
    /// Forget the region at this address; queues that lie in it end.
    Detach(u64),
    /// Take commands again.
    Resume,
    CreateCq(NewCq),
    CreateSq(NewSq),
    DeleteSq(u16),
    DeleteCq(u16),
    /// End every queue, throw completions away, answer when no command is in flight.
    CloseQueues,
    /// Forget the session. Its regions were detached before.
    Forget,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Attach(_) => "Attach",
            Self::Quiesce => "Quiesce",
            Self::Detach(_) => "Detach",
            Self::Resume => "Resume",
            Self::CreateCq(_) => "CreateCq",
            Self::CreateSq(_) => "CreateSq",
            Self::DeleteSq(_) => "DeleteSq",
            Self::DeleteCq(_) => "DeleteCq",
            Self::CloseQueues => "CloseQueues",
            Self::Forget => "Forget",
        })
    }
}

pub(super) struct NewCq {
    pub qid: u16,
    pub ring: CompletionRing,
    pub head: Doorbell,
    pub vector: Option<u16>,
    pub link: Arc<Link>,
}

pub(super) struct NewSq {
    pub qid: u16,
    pub cqid: u16,
    pub ring: CommandRing,
    pub tail: Doorbell,
    pub link: Arc<Link>,
}
