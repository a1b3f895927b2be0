//! The TCP carrier: a target across a network, by NVMe/TCP.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use dataplane::Burst;
use dataplane::fabric::NamespaceInfo;
use dataplane::fabric::tcp::initiator::{ConnectError, Initiator, InitiatorQueue};
use dataplane::memory::Region;
use dataplane::nvme::spec::{Cqe, Sqe};

use crate::private_memory::allocate;
use crate::transport::{Backing, Mapping, Transport, queue_pairs};
use crate::{Address, ConnectOptions, Error, Identity};

/// A controller that this process drives.
pub(crate) struct Tcp {
    initiator: Initiator,
    queues: Vec<InitiatorQueue>,
}

impl Tcp {
    /// Connects to the subsystem `nqn` at a target and opens a queue pair to each of its cores, or one if it says nothing
    /// of cores.
    pub fn connect(host: &str, port: u16, nqn: &str, options: &ConnectOptions) -> Result<Self, Error> {
        let failed = |error: ConnectError| Error::Connect {
            address: Address::Tcp { host: host.to_owned(), port, nqn: nqn.to_owned() }.to_string(),
            reason: error.to_string(),
        };
        let how = options.network.for_initiator(nqn, options.deadline);
        let mut initiator = Initiator::connect(host, port, &how).map_err(failed)?;
        let identity = initiator.identity();
        let pairs = queue_pairs(identity, options.queue_depth)?;
        let mut queues = Vec::new();
        for _ in 0..pairs {
            queues.push(initiator.create_queue(options.queue_depth, options.interrupt).map_err(failed)?);
        }
        Ok(Self { initiator, queues })
    }

    fn attach(&mut self, region: &Arc<Region>) -> Result<(), Error> {
        if self.queues.iter_mut().all(|queue| queue.attach(region)) {
            return Ok(());
        }
        Err(Error::Register { bytes: region.bytes(), reason: "a queue takes no further memory".to_owned() })
    }
}

impl Transport for Tcp {
    fn identity(&self) -> Identity {
        Identity::from(self.initiator.identity())
    }

    fn connected(&mut self) {
        self.initiator.connected();
    }

    fn namespaces(&mut self) -> Result<Vec<NamespaceInfo>, Error> {
        self.initiator.namespaces().map_err(asked)
    }

    fn queues(&self) -> usize {
        self.queues.len()
    }

    fn allocate(&mut self, bytes: usize, hugepages: bool) -> Result<Mapping, Error> {
        let failed = |error: std::io::Error| Error::Register { bytes, reason: error.to_string() };
        let region = allocate(bytes, hugepages).map_err(failed)?;
        self.attach(&region)?;
        // Commands name it by its address in this process; the target sees none.
        Ok(Mapping { iova: region.base(), region, backing: Backing::Private })
    }

    fn register_again(&mut self, mapping: &mut Mapping) -> Result<(), Error> {
        mapping.iova = mapping.region.base();
        self.attach(&mapping.region)
    }

    fn unregister(&mut self, mapping: &Mapping) -> Result<(), Error> {
        let busy = self.queues.iter_mut().filter_map(|queue| (!queue.detach(&mapping.region)).then_some(())).count();
        if busy == 0 {
            return Ok(());
        }
        self.attach(&mapping.region)?;
        Err(Error::MemoryBusy { commands: busy as u32 })
    }

    #[inline]
    fn push(&mut self, queue: usize, sqe: Sqe) -> Result<u16, Sqe> {
        self.queues[queue].push(sqe)
    }

    #[inline]
    fn ring(&mut self, queue: usize) {
        self.queues[queue].ring();
    }

    #[inline]
    fn poll(&mut self, queue: usize, completions: &mut Burst<Cqe>) {
        self.queues[queue].poll(completions);
    }

    fn interrupt(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        self.queues[queue].wake()
    }

    /// It stays readable until the queue was polled.
    fn interrupted(&self, _queue: usize) {}

    fn is_alive(&mut self) -> bool {
        // All of them: a loss is noticed by looking.
        let mut alive = self.initiator.is_alive();
        for queue in &mut self.queues {
            alive &= queue.is_alive();
        }
        alive
    }

    /// Completions of unknown commands end the connection.
    fn strays(&self) -> u64 {
        0
    }
}

/// What a living connection answered to a question that is not about values.
fn asked(error: ConnectError) -> Error {
    match error {
        ConnectError::Admin { status, .. } => Error::Status(status),
        ConnectError::TimedOut { .. } => Error::TimedOut,
        ConnectError::Lost(_) | ConnectError::Failed => Error::Disconnected,
        _ => Error::Protocol("it refused a question that every controller answers"),
    }
}
