//! vfio-user: an NVMe controller for processes and virtual machines on the same machine, over a unix socket and
//! shared memory.
//!
//! The socket carries set-up only. Queues and doorbells lie in shared memory, so a command costs no system call.
//! [`target`] is the daemon's end, [`initiator`] the client's; both speak through [`wire`].

pub mod initiator;
pub mod pci;
pub mod target;
pub mod wire;

mod eventfd;
mod ring;
mod shared_memory;
mod socket;

pub use initiator::{ChannelError, ClientMemory, ConnectError, ConnectOptions, Initiator, InitiatorQueue, Iova};
pub use target::{CoreCommand, Cursor, Target, TargetOptions, VfioUserFabric};

/// Size of BAR0: registers in the first page, doorbells in the second.
pub const BAR0_BYTES: u64 = 0x4000;
/// Where the doorbells begin in BAR0 (base, "Controller Properties": offset 1000h).
pub const DOORBELL_OFFSET: u64 = 0x1000;
/// Bytes of doorbells that a client may map: one page, enough for 511 I/O queues.
pub const DOORBELL_BYTES: u64 = 0x1000;
/// I/O queues of one controller at most.
pub const MAX_IO_QUEUES: u16 = 64;
/// MSI-X vectors of one controller.
pub const VECTORS: u16 = 64;
