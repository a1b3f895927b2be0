//! The RDMA carrier: a target across a network, by NVMe over RDMA. Values go between the target and registered memory
//! without a copy on this side.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use dataplane::Burst;
use dataplane::fabric::rdma::initiator::{ConnectError, ConnectOptions as InitiatorOptions, Initiator, InitiatorQueue};
use dataplane::fabric::{NamespaceInfo, host};
use dataplane::nvme::spec::{Cqe, Sqe};

use crate::private_memory::allocate;
use crate::transport::{Backing, Mapping, Transport, queue_pairs};
use crate::{Address, ConnectOptions, DmaBuf, Error, Identity};

/// A controller that this process drives.
pub(crate) struct Rdma {
    // The queues' connections end before the memory is taken from the device.
    queues: Vec<InitiatorQueue>,
    initiator: Initiator,
    /// Data that a command to the controller may carry in its capsule.
    in_capsule: u32,
    /// Where the next DMA buffer is to be known from.
    next_address: u64,
}

/// Addresses by which DMA buffers are known begin here, where no address of a process lies.
const DMA_BUF_ADDRESSES: u64 = 1 << 60;
/// They are multiples of this, so that a device may use pages as large as these; devices ask that an address has its
/// offset's place in a page.
const DMA_BUF_ALIGNMENT: u64 = 2 << 20;

impl Rdma {
    /// Connects to the subsystem `nqn` at a target and opens a queue pair to each of its cores, or one if it says nothing
    /// of cores.
    pub fn connect(host: &str, port: u16, nqn: &str, options: &ConnectOptions) -> Result<Self, Error> {
        let address = || Address::Rdma { host: host.to_owned(), port, nqn: nqn.to_owned() }.to_string();
        let failed = |error: ConnectError| Error::Connect { address: address(), reason: error.to_string() };
        let begun = Instant::now();
        let target =
            resolve(host, port, options.deadline).map_err(|reason| Error::Connect { address: address(), reason })?;
        let network = options.network.for_initiator(nqn, options.deadline);
        let keep_alive = network.keep_alive.as_millis();
        let how = InitiatorOptions {
            timeout: options.deadline,
            subsystem_nqn: network.subsystem_nqn,
            host_nqn: network.host_nqn,
            host_id: network.host_id,
            from: None,
            keep_alive_ms: u32::try_from(keep_alive).unwrap_or(u32::MAX),
        };
        let left = options.deadline.saturating_sub(begun.elapsed());
        let mut initiator = Initiator::connect(target, how, left).map_err(failed)?;
        let identity = initiator.identity();
        let pairs = queue_pairs(identity, options.queue_depth)?;
        let in_capsule = identity.capsule_data_bytes;
        let mut queues = Vec::new();
        for _ in 0..pairs {
            queues.push(initiator.create_queue(u32::from(options.queue_depth), options.interrupt).map_err(failed)?);
        }
        Ok(Self { queues, initiator, in_capsule, next_address: DMA_BUF_ADDRESSES })
    }
}

fn resolve(name: &str, port: u16, time: Duration) -> Result<SocketAddr, String> {
    let found = host::resolve(name, port, time).map_err(|error| format!("cannot look {name} up: {error}"))?;
    found.into_iter().next().ok_or_else(|| format!("{name} has no address"))
}

impl Transport for Rdma {
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
        let failed = |reason: String| Error::Register { bytes, reason };
        let region = allocate(bytes, hugepages).map_err(|error| failed(error.to_string()))?;
        self.initiator.register(&region).map_err(|error| failed(error.to_string()))?;
        // Commands name it by its address in this process; so does the target, with the key that goes along.
        Ok(Mapping { iova: region.base(), region, backing: Backing::Private })
    }

    fn register_again(&mut self, mapping: &mut Mapping) -> Result<(), Error> {
        mapping.iova = mapping.region.base();
        let failed = |error: ConnectError| Error::Register { bytes: mapping.region.bytes(), reason: error.to_string() };
        self.initiator.register(&mapping.region).map_err(failed)
    }

    fn unregister(&mut self, mapping: &Mapping) -> Result<(), Error> {
        self.initiator.unregister(mapping.iova).map_err(asked)
    }

    fn register_dma_buf(&mut self, buffer: &DmaBuf) -> Result<u64, Error> {
        let failed = |reason: String| Error::Register { bytes: buffer.bytes, reason };
        let address = self.next_address + buffer.offset % DMA_BUF_ALIGNMENT;
        let end =
            address.checked_add(buffer.bytes as u64).and_then(|end| end.checked_next_multiple_of(DMA_BUF_ALIGNMENT));
        let next = end.ok_or_else(|| failed("there are no addresses for it".to_owned()))?;
        let file = buffer.file.try_clone().map_err(|error| failed(error.to_string()))?;
        let part = (buffer.offset, buffer.bytes);
        self.initiator.register_dma_buf(file, part, address).map_err(|error| failed(error.to_string()))?;
        self.next_address = next;
        Ok(address)
    }

    fn unregister_dma_buf(&mut self, iova: u64) -> Result<(), Error> {
        self.initiator.unregister(iova).map_err(asked)
    }

    #[inline]
    fn push(&mut self, queue: usize, mut sqe: Sqe) -> Result<u16, Sqe> {
        let plain = sqe;
        let Some(data) = self.initiator.address(&mut sqe, self.in_capsule) else { return Err(plain) };
        // Handed back as it came, so that it can be pushed again.
        self.queues[queue].push(sqe, data).map_err(|_| plain)
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
        self.queues[queue].descriptor()
    }

    /// A poll that finds nothing sets it back.
    fn interrupted(&self, _queue: usize) {}

    fn is_alive(&mut self) -> bool {
        // All of them: a loss is noticed by looking.
        let mut alive = self.initiator.is_alive();
        for queue in &mut self.queues {
            alive &= queue.is_alive();
        }
        alive
    }

    fn strays(&self) -> u64 {
        self.queues.iter().map(InitiatorQueue::stray_completions).sum()
    }
}

/// What a living connection answered to a question that is not about values.
fn asked(error: ConnectError) -> Error {
    match error {
        ConnectError::Admin { status, .. } => Error::Status(status),
        ConnectError::TimedOut { .. } => Error::TimedOut,
        ConnectError::Closed | ConnectError::Failed => Error::Disconnected,
        _ => Error::Protocol("it refused a question that every controller answers"),
    }
}
