//! The control side's end of an I/O queue until its core has it: the core hands Connect over, and takes the answer back.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::devices::RdmaDevices;
use super::orders::RdmaOrder;
use crate::fabric::CarrierKind;
use crate::fabric::message::{AdminCapsule, Answer, Channel, ChannelError, CoreCommand, QueueTerms};
use crate::fabric::rdma::verbs::Endpoint;
use crate::nvme::spec::{Cqe, Sqe};

/// An I/O queue that its core expects. Dropped before the core served it, the queue ends.
pub(super) struct IoChannel {
    pub devices: RdmaDevices,
    pub core: u16,
    pub endpoint: Arc<Endpoint>,
    pub connect: Receiver<AdminCapsule>,
    pub max_transfer_bytes: u32,
    /// Whether the core has the queue, or ends it by itself.
    pub settled: bool,
}

impl Channel for IoChannel {
    fn carrier(&self) -> CarrierKind {
        CarrierKind::Rdma
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.endpoint.peer_address()
    }

    fn max_transfer_bytes(&self) -> u32 {
        self.max_transfer_bytes
    }

    fn receive(&mut self, wait: Duration) -> Result<Option<AdminCapsule>, ChannelError> {
        match self.connect.recv_timeout(wait) {
            Ok(capsule) => Ok(Some(capsule)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(ChannelError::Closed),
        }
    }

    fn respond(&mut self, _command: &Sqe, _data: &[u8], completion: Cqe) -> Result<(), ChannelError> {
        self.settled |= !completion.status.is_success();
        self.devices.hosts().tell(self.core, CoreCommand::Rdma(RdmaOrder::Respond(self.endpoint.id(), completion)));
        Ok(())
    }

    fn hand_over(&mut self, terms: QueueTerms, answer: Answer) -> io::Result<CoreCommand> {
        self.settled = true;
        self.devices.belongs(self.endpoint.id(), terms.session);
        Ok(CoreCommand::Rdma(RdmaOrder::Take(self.endpoint.id(), Box::new(terms), answer)))
    }
}

impl Drop for IoChannel {
    fn drop(&mut self) {
        if !self.settled {
            // Here and not on the core, because it takes long.
            self.endpoint.disconnect();
            self.devices.hosts().tell(self.core, CoreCommand::Rdma(RdmaOrder::Lose(self.endpoint.id())));
        }
    }
}
