//! The TCP carrier: a target across a network, by NVMe/TCP.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use dataplane::Burst;
use dataplane::fabric::NamespaceInfo;
use dataplane::fabric::tcp::initiator::{ConnectError, Initiator, InitiatorQueue};
use dataplane::memory::{Arena, HugePages, PageSize, Region, RegionSlot};
use dataplane::nvme::spec::{Cqe, Sqe};

use crate::transport::{Backing, Mapping, Transport};
use crate::{Address, ConnectOptions, Error, Identity};

/// The slot of regions that are never made known to a device.
const NO_SLOT: RegionSlot = RegionSlot(u16::MAX);

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
        let cores = identity.owners.map_or(1, |owners| owners.cores).min(u32::from(identity.io_queues)).max(1);
        // A queue of n commands has a ring of n + 1 entries, and the controller bounds the ring.
        if u32::from(options.queue_depth) >= identity.max_queue_entries {
            let reason = format!("this target's queues hold at most {}", identity.max_queue_entries.saturating_sub(1));
            return Err(Error::Option { option: "queue_depth", reason });
        }
        let mut queues = Vec::new();
        for _ in 0..cores {
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

/// Zeroed memory of this process alone, rounded up to whole pages; out of hugepages if they are wanted and free.
fn allocate(bytes: usize, hugepages: bool) -> std::io::Result<Arc<Region>> {
    if hugepages && let Ok(arena) = Arena::new(bytes, HugePages::Require(PageSize::Size2M), NO_SLOT) {
        return Ok(Arc::clone(arena.region()));
    }
    let bytes = bytes.checked_next_multiple_of(4096).ok_or(std::io::ErrorKind::OutOfMemory)?;
    Region::anonymous(bytes, NO_SLOT).map(Arc::new)
}

impl Transport for Tcp {
    fn identity(&self) -> Identity {
        Identity::from(self.initiator.identity())
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
        self.initiator.is_alive() && self.queues.iter_mut().all(InitiatorQueue::is_alive)
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
