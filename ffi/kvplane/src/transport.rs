//! What a client needs of the initiator end of a carrier, and the carriers there are.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use dataplane::Burst;
use dataplane::fabric::NamespaceInfo;
use dataplane::fabric::host::InitiatorIdentity;
use dataplane::fabric::vfio_user::ClientMemory;
use dataplane::memory::Region;
use dataplane::nvme::spec::{Cqe, Sqe};

use crate::rdma::Rdma;
use crate::tcp::Tcp;
use crate::vfio_user::VfioUser;
use crate::{Address, ConnectOptions, DmaBuf, Error, Identity};

#[cfg(test)]
use crate::fake;

/// The initiator end of a carrier: a controller with one I/O queue pair per core of the target.
pub(crate) trait Transport {
    /// What the target says of itself.
    fn identity(&self) -> Identity;

    /// The namespaces attached to this host now. Not the hot path.
    fn namespaces(&mut self) -> Result<Vec<NamespaceInfo>, Error>;

    /// Queue pairs; number `n` (from 0) is served by core `n`.
    fn queues(&self) -> usize;

    /// Allocates memory that this carrier can register, and registers it.
    fn allocate(&mut self, bytes: usize, hugepages: bool) -> Result<Mapping, Error>;

    /// Registers memory that [`allocate`](Self::allocate) made for an earlier connection; its address may change.
    fn register_again(&mut self, mapping: &mut Mapping) -> Result<(), Error>;

    /// Takes memory away from the target.
    fn unregister(&mut self, mapping: &Mapping) -> Result<(), Error>;

    /// Registers memory of a device; the address by which the target knows its first byte.
    fn register_dma_buf(&mut self, buffer: &DmaBuf) -> Result<u64, Error> {
        let reason = "over this carrier the target reaches memory of this process only; connect over RDMA".to_owned();
        Err(Error::Register { bytes: buffer.bytes, reason })
    }

    /// Takes memory of a device away from the target.
    fn unregister_dma_buf(&mut self, _iova: u64) -> Result<(), Error> {
        Ok(())
    }

    /// Puts a command into a queue and gives it a command identifier that is free there. The target sees it after
    /// [`ring`](Self::ring). Hands the command back if the queue is full.
    fn push(&mut self, queue: usize, sqe: Sqe) -> Result<u16, Sqe>;

    /// Tells the target of new commands.
    fn ring(&mut self, queue: usize);

    /// Takes completions until the burst is full or there are none.
    fn poll(&mut self, queue: usize, completions: &mut Burst<Cqe>);

    /// What becomes readable with a completion, if interrupts were asked for.
    fn interrupt(&self, queue: usize) -> Option<BorrowedFd<'_>>;

    /// After a wait: sets it back. The queue is polled afterwards.
    fn interrupted(&self, queue: usize);

    /// Whether the target is still there. May cost a system call.
    fn is_alive(&mut self) -> bool;

    /// Completions that the carrier dropped because they named no command.
    fn strays(&self) -> u64;

    /// Connecting is done, which one deadline bounds as a whole.
    fn connected(&mut self) {}
}

/// How many queue pairs to open: one to each core of the target, or one if it says nothing of cores.
///
/// # Errors
/// [`Error::Option`] if its queues do not hold `queue_depth` commands: those have a ring of one entry more, and the
/// controller bounds the ring.
pub(crate) fn queue_pairs(identity: &InitiatorIdentity, queue_depth: u16) -> Result<u32, Error> {
    if u32::from(queue_depth) >= identity.max_queue_entries {
        let reason = format!("this target's queues hold at most {}", identity.max_queue_entries.saturating_sub(1));
        return Err(Error::Option { option: "queue_depth", reason });
    }
    Ok(identity.owners.map_or(1, |owners| owners.cores).min(u32::from(identity.io_queues)).max(1))
}

/// Memory as a carrier registered it.
pub(crate) struct Mapping {
    /// The bytes, mapped in this process.
    pub region: Arc<Region>,
    /// The address by which the target knows the first of them.
    pub iova: u64,
    /// What it is to the carrier.
    pub backing: Backing,
}

/// Memory as the carrier that made it keeps it, to register it again with a later connection.
pub(crate) enum Backing {
    VfioUser(ClientMemory),
    /// The region is all there is.
    Private,
    #[cfg(test)]
    Fake,
}

/// The carriers there are. An enum and not a trait object, so that a command costs no indirect call.
#[allow(clippy::large_enum_variant, reason = "the small one is for tests, and a client holds one carrier only")]
pub(crate) enum Carrier {
    VfioUser(VfioUser),
    Tcp(Tcp),
    Rdma(Rdma),
    #[cfg(test)]
    Fake(fake::FakeTransport),
}

/// How to make a connection, and to make it again.
pub(crate) enum Dial {
    Address(Address),
    #[cfg(test)]
    Fake(fake::FakeTarget),
}

impl Dial {
    pub(crate) fn connect(&self, options: &ConnectOptions) -> Result<Carrier, Error> {
        match self {
            Self::Address(Address::VfioUser(folder)) => VfioUser::connect(folder, options).map(Carrier::VfioUser),
            Self::Address(Address::Tcp { host, port, nqn }) => {
                Tcp::connect(host, *port, nqn, options).map(Carrier::Tcp)
            }
            Self::Address(Address::Rdma { host, port, nqn }) => {
                Rdma::connect(host, *port, nqn, options).map(Carrier::Rdma)
            }
            #[cfg(test)]
            Self::Fake(target) => target.connect(options).map(Carrier::Fake),
        }
    }
}

macro_rules! forward {
    ($self:ident, $carrier:ident => $call:expr) => {
        match $self {
            Carrier::VfioUser($carrier) => $call,
            Carrier::Tcp($carrier) => $call,
            Carrier::Rdma($carrier) => $call,
            #[cfg(test)]
            Carrier::Fake($carrier) => $call,
        }
    };
}

impl Transport for Carrier {
    fn identity(&self) -> Identity {
        forward!(self, carrier => carrier.identity())
    }

    fn namespaces(&mut self) -> Result<Vec<NamespaceInfo>, Error> {
        forward!(self, carrier => carrier.namespaces())
    }

    fn queues(&self) -> usize {
        forward!(self, carrier => carrier.queues())
    }

    fn allocate(&mut self, bytes: usize, hugepages: bool) -> Result<Mapping, Error> {
        forward!(self, carrier => carrier.allocate(bytes, hugepages))
    }

    fn register_again(&mut self, mapping: &mut Mapping) -> Result<(), Error> {
        forward!(self, carrier => carrier.register_again(mapping))
    }

    fn unregister(&mut self, mapping: &Mapping) -> Result<(), Error> {
        forward!(self, carrier => carrier.unregister(mapping))
    }

    fn register_dma_buf(&mut self, buffer: &DmaBuf) -> Result<u64, Error> {
        forward!(self, carrier => carrier.register_dma_buf(buffer))
    }

    fn unregister_dma_buf(&mut self, iova: u64) -> Result<(), Error> {
        forward!(self, carrier => carrier.unregister_dma_buf(iova))
    }

    #[inline]
    fn push(&mut self, queue: usize, sqe: Sqe) -> Result<u16, Sqe> {
        forward!(self, carrier => carrier.push(queue, sqe))
    }

    #[inline]
    fn ring(&mut self, queue: usize) {
        forward!(self, carrier => carrier.ring(queue))
    }

    #[inline]
    fn poll(&mut self, queue: usize, completions: &mut Burst<Cqe>) {
        forward!(self, carrier => carrier.poll(queue, completions))
    }

    fn interrupt(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        forward!(self, carrier => carrier.interrupt(queue))
    }

    fn interrupted(&self, queue: usize) {
        forward!(self, carrier => carrier.interrupted(queue));
    }

    fn is_alive(&mut self) -> bool {
        forward!(self, carrier => carrier.is_alive())
    }

    fn strays(&self) -> u64 {
        forward!(self, carrier => carrier.strays())
    }

    fn connected(&mut self) {
        forward!(self, carrier => carrier.connected());
    }
}
