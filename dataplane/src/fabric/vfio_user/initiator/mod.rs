//! The client's end of vfio-user: connects to a target, drives its NVMe controller.
//!
//! It works with any target that presents an NVMe controller with the KV command set; what is kvplane's own (which
//! core owns which key) is an option that such a controller tells in Identify.

mod admin;
mod channel;
mod client_memory;
mod data_pointer;
mod function;
mod queue;

pub use crate::fabric::host::{AdminData, InitiatorIdentity};
pub use channel::ChannelError;
pub use client_memory::ClientMemory;
pub use data_pointer::{PrpError, PrpList, set_prps, set_sgl};
pub use function::RemoteFunction;
pub use queue::InitiatorQueue;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::fabric::NamespaceInfo;
use crate::fabric::controller::offset as property;
use crate::fabric::host::{self, Deadline};
use crate::memory::Region;
use crate::nvme::spec::Status;

use super::pci::{COMMAND_BUS_MASTER, COMMAND_MEMORY, offset as config};
use super::shared_memory;
use super::wire::region;
use admin::AdminRings;
use channel::Channel;

/// An I/O virtual address: what a device calls a byte of registered memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Iova(pub u64);

/// Name of the socket in a target's folder.
const SOCKET_NAME: &str = "cntrl";
/// I/O virtual addresses begin here; the first 4 GiB stay free so that a zero or small address is always an error.
const FIRST_IOVA: u64 = 1 << 32;
/// Registered memory begins on multiples of this.
const IOVA_ALIGN: u64 = 2 << 20;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// How long any one step may take: an answer on the socket, an admin command, a change of the controller's state.
    pub timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10) }
    }
}

/// Why a controller could not be reached or asked.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket, or what came over it.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Memory to share could not be made.
    #[error("cannot make shared memory: {0}; check the limits of memory and of open files")]
    Memory(#[from] std::io::Error),
    /// It is not an NVMe controller.
    #[error("the device has class {0:06x}, not that of an NVMe controller (010802)")]
    NotNvme(u32),
    /// It lacks something that this initiator needs.
    #[error("the controller lacks {0}")]
    Unsupported(&'static str),
    /// It did not get ready, or not answer, in time.
    #[error("the controller did not {what} within {waited:?}; is the target alive?")]
    TimedOut {
        /// What it was to do.
        what: &'static str,
        /// How long that was waited for.
        waited: Duration,
    },
    /// The target takes no more memory (ENOSPC): a limit of this client, of its user or of all clients is reached.
    #[error(
        "the target takes no more memory from this client, its user or anybody (its log says which limit it is): register \
         less, in fewer pieces, or out of hugepages, which take fewer regions"
    )]
    NoRoom,
    /// It says that it failed.
    #[error("the controller failed (CSTS.CFS is set)")]
    Failed,
    /// An admin command failed.
    #[error("{command} failed: {status}")]
    Admin {
        /// Which one.
        command: &'static str,
        /// How.
        status: Status,
    },
    /// The caller asked for what cannot be.
    #[error("{0}")]
    Invalid(&'static str),
}

/// A connection to one controller.
pub struct Initiator {
    channel: Channel,
    timeout: Duration,
    doorbells: Arc<Region>,
    /// Bytes between doorbells: CAP.DSTRD.
    stride: u64,
    max_queue_entries: u32,
    admin: AdminRings,
    identity: InitiatorIdentity,
    next_iova: u64,
    registered: Vec<(Iova, u64)>,
    /// Queue identifiers in use, by number.
    queues: Vec<bool>,
}

impl std::fmt::Debug for Initiator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Initiator").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Initiator {
    /// Connects to the target whose folder is `dir`, resets its controller and gets it ready.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(dir: &Path, options: &ConnectOptions) -> Result<Self, ConnectError> {
        let timeout = options.timeout;
        let mut channel = Channel::connect(&dir.join(SOCKET_NAME), timeout)?;
        check_class(&mut channel)?;
        let doorbells = Arc::new(map_doorbells(&mut channel)?);
        let command = COMMAND_MEMORY | COMMAND_BUS_MASTER;
        channel.region_write(region::CONFIG, config::COMMAND as u64, &command.to_le_bytes())?;
        let cap = channel.read64(region::BAR0, property::CAP)?;
        if cap & (1 << 43) == 0 {
            return Err(ConnectError::Unsupported("I/O command sets other than NVM (CAP.CSS bit 6)"));
        }
        let admin = AdminRings::new(doorbells.clone())?;
        let mut initiator = Self {
            channel,
            timeout,
            doorbells,
            stride: 4 << ((cap >> 32) & 0xF),
            max_queue_entries: (cap & 0xFFFF) as u32 + 1,
            admin,
            identity: InitiatorIdentity::default(),
            next_iova: FIRST_IOVA,
            registered: Vec::new(),
            queues: Vec::new(),
        };
        initiator.enable()?;
        initiator.identity = initiator.identify_controller()?;
        initiator.queues = vec![false; usize::from(initiator.identity.io_queues)];
        Ok(initiator)
    }

    /// What the controller says of itself.
    #[must_use]
    pub fn identity(&self) -> &InitiatorIdentity {
        &self.identity
    }

    /// Whether the target still holds its end of the connection. A system call.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.channel.is_alive()
    }

    /// Disables the controller, gives it the admin queues, enables it.
    fn enable(&mut self) -> Result<(), ConnectError> {
        self.channel.write32(region::BAR0, property::CC, 0)?;
        self.wait_ready(false, "stop")?;
        let (iova, bytes) = self.map(&self.admin.memory.clone())?;
        self.admin.place(iova, bytes);
        let attributes = (AdminRings::ENTRIES - 1) | ((AdminRings::ENTRIES - 1) << 16);
        self.channel.write32(region::BAR0, property::AQA, attributes)?;
        self.channel.write64(region::BAR0, property::ASQ, self.admin.sq_iova())?;
        self.channel.write64(region::BAR0, property::ACQ, self.admin.cq_iova())?;
        // IOCQES 16 bytes, IOSQES 64 bytes, CSS 110b (all supported I/O command sets), enable.
        let configuration = (4 << 20) | (6 << 16) | (0b110 << 4) | 1;
        self.channel.write32(region::BAR0, property::CC, configuration)?;
        self.wait_ready(true, "get ready")
    }

    fn wait_ready(&mut self, ready: bool, what: &'static str) -> Result<(), ConnectError> {
        let deadline = Deadline::after(self.timeout);
        loop {
            let status = self.channel.read32(region::BAR0, property::CSTS)?;
            if status & 0b10 != 0 && ready {
                return Err(ConnectError::Failed);
            }
            if (status & 1 != 0) == ready {
                return Ok(());
            }
            if deadline.has_passed() {
                return Err(ConnectError::TimedOut { what, waited: self.timeout });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Registers memory, so that commands can name it.
    ///
    /// # Errors
    /// What the target or the system said.
    pub fn register(&mut self, memory: &ClientMemory) -> Result<Iova, ConnectError> {
        self.map(&memory.shared).map(|(iova, _)| iova)
    }

    fn map(&mut self, memory: &shared_memory::SharedMemory) -> Result<(Iova, u64), ConnectError> {
        let bytes = memory.region().bytes() as u64;
        let iova = self.next_iova;
        // A hole after each: a command that runs over the end of its memory must fail, not reach a queue.
        let end = iova.checked_add(bytes).and_then(|end| end.checked_add(IOVA_ALIGN));
        let next = end.and_then(|end| end.checked_next_multiple_of(IOVA_ALIGN));
        self.next_iova = next.ok_or(ConnectError::Invalid("the I/O address space is used up"))?;
        self.channel.dma_map(memory.fd(), 0, iova, bytes, true).map_err(|error| match error {
            ChannelError::Refused { error, .. } if error.raw_os_error() == Some(libc::ENOSPC) => ConnectError::NoRoom,
            error => error.into(),
        })?;
        self.registered.push((Iova(iova), bytes));
        Ok((Iova(iova), bytes))
    }

    /// Takes memory back. Returns when the target no longer touches it; commands that name it fail from then on.
    ///
    /// # Errors
    /// What the target said; [`ConnectError::Invalid`] for an address that [`register`](Self::register) did not give.
    pub fn unregister(&mut self, iova: Iova) -> Result<(), ConnectError> {
        let at = self.registered.iter().position(|(known, _)| *known == iova);
        let at = at.ok_or(ConnectError::Invalid("no memory is registered at this address"))?;
        let (_, bytes) = self.registered.swap_remove(at);
        Ok(self.channel.dma_unmap(iova.0, bytes)?)
    }

    /// The namespaces with the KV command set, in rising order.
    ///
    /// # Errors
    /// What the controller said.
    pub fn namespaces(&mut self) -> Result<Vec<NamespaceInfo>, ConnectError> {
        host::namespaces(self)
    }

    fn identify_controller(&mut self) -> Result<InitiatorIdentity, ConnectError> {
        let identity = host::identify_controller(self)?;
        let io_queues = host::number_of_queues(self)?.min(self.doorbell_room()) as u16;
        Ok(InitiatorIdentity { max_queue_entries: self.max_queue_entries, io_queues, ..identity })
    }

    /// I/O queues that the mapped doorbells have room for.
    fn doorbell_room(&self) -> u32 {
        (self.doorbells.bytes() as u64 / (2 * self.stride)) as u32 - 1
    }
}

fn check_class(channel: &mut Channel) -> Result<(), ConnectError> {
    let class = channel.read32(region::CONFIG, config::REVISION as u64)? >> 8;
    if class == 0x01_0802 { Ok(()) } else { Err(ConnectError::NotNvme(class)) }
}

/// Maps the doorbells: the area of BAR0 that the target lets us map.
fn map_doorbells(channel: &mut Channel) -> Result<Region, ConnectError> {
    let (fd, offset, bytes) = channel.doorbell_area()?;
    if bytes < 4096 {
        return Err(ConnectError::Unsupported("doorbells that can be mapped"));
    }
    Ok(shared_memory::map_trusted(std::os::fd::AsFd::as_fd(&fd), offset, bytes.min(1 << 20))?)
}
