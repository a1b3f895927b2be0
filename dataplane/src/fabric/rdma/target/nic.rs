//! What a core asks of RDMA devices. libibverbs answers; in tests, a device that they script.

use std::fmt::Debug;

use super::core_end::Remains;
use super::device_table::Condition;
use crate::fabric::rdma::verbs::{Endpoint, EndpointId, Piece, ReceiveList, SendList, VerbsError, WorkDone};
use crate::memory::DmaSlice;
use crate::nvme::spec::Sqe;

/// A queue pair of a host, with its connection.
pub trait QueuePair: Debug {
    /// Its name in orders.
    fn id(&self) -> EndpointId;

    /// Its number, by which completions of receives name it; `None` if there is no queue pair.
    fn number(&self) -> Option<u32>;

    /// Makes it fail: what it had outstanding ends as flushed.
    fn fail(&self);

    /// Posts work requests.
    ///
    /// # Errors
    /// What the device said. Some of them may be under way.
    fn post(&self, list: &mut SendList) -> Result<(), VerbsError>;
}

/// A core's part of a device.
pub trait PortDevice: Debug {
    /// Its queue pairs.
    type Pair: QueuePair;

    /// Takes completions, as many as there are and fit, and says how many.
    ///
    /// # Errors
    /// If the device failed. Nothing more comes then.
    fn poll(&self, into: &mut [WorkDone]) -> Result<usize, VerbsError>;

    /// Posts receives that all queue pairs share.
    ///
    /// # Errors
    /// What the device said.
    fn post_receives(&self, list: &mut ReceiveList) -> Result<(), VerbsError>;

    /// Receives that there are.
    fn receives(&self) -> u32;

    /// Data that may come along with a command, in bytes.
    fn in_capsule_bytes(&self) -> u32;

    /// Where the command of a receive goes.
    fn command_piece(&self, index: u16) -> Option<Piece>;

    /// A private copy of the command that came in.
    fn command(&self, index: u16) -> Option<Sqe>;

    /// Staging memory, as work requests name it.
    fn staging_piece(&self, slice: DmaSlice) -> Option<Piece>;

    /// Where connections go that the core is done with.
    fn remains(&self) -> &Remains<Self::Pair>;

    /// Notes of how much use it is, for whoever looks for a place for a new queue.
    fn note(&self, condition: Condition);
}

impl QueuePair for Endpoint {
    #[inline]
    fn id(&self) -> EndpointId {
        self.id()
    }

    #[inline]
    fn number(&self) -> Option<u32> {
        self.number()
    }

    fn fail(&self) {
        self.fail();
    }

    #[inline]
    fn post(&self, list: &mut SendList) -> Result<(), VerbsError> {
        self.post(list)
    }
}
