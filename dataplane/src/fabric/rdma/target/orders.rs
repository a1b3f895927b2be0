//! What control threads ask of a core's end.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::nic::PortDevice;
use super::port::PortParts;
use crate::fabric::message::{AdminCapsule, Answer, QueueTerms};
use crate::fabric::rdma::verbs::{Endpoint, EndpointId};
use crate::nvme::spec::Cqe;

/// What is asked of a core's end of NVMe over RDMA.
#[derive(Debug)]
pub enum RdmaOrder<P: PortDevice = PortParts> {
    /// Serve queues on the device of this number, which none had before.
    Open(usize, Arc<P>, Answer),
    /// A device is not there any more: let go of it. Refused with [`CoreError::InUse`] as long as there are queues on it.
    ///
    /// [`CoreError::InUse`]: crate::fabric::message::CoreError::InUse
    Leave(usize, Answer),
    /// Nothing is left of a device that was let go of: take back the buffers of its receives.
    Reclaim(usize),
    /// A queue pair on the core's completion queue is about to be connected: hand its first command over.
    Expect(Box<ExpectedQueue<P::Pair>>, Answer),
    /// What came of the first command: serve the queue.
    Take(EndpointId, Box<QueueTerms>, Answer),
    /// Send a completion, the one of the first command. After one that says that it failed, the queue ends.
    Respond(EndpointId, Cqe),
    /// The connection is at its end, and its queue pair was made to fail.
    Lose(EndpointId),
    /// A queue pair that could not be drained was destroyed: nothing that it touched is in use any more.
    Gone(EndpointId),
}

/// A queue pair whose first command is to come.
#[derive(Debug)]
pub struct ExpectedQueue<Q = Endpoint> {
    /// The connection.
    pub endpoint: Arc<Q>,
    /// The device.
    pub port: usize,
    /// Entries, as the request for the connection told.
    pub entries: u32,
    /// READs that may be under way at once.
    pub reads: u8,
    /// Work requests that it takes.
    pub send_entries: u32,
    /// Where the first command goes.
    pub connect: SyncSender<AdminCapsule>,
    /// Room for the first command's data, so that the core need not allocate.
    pub room: Vec<u8>,
}
