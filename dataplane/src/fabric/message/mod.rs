//! What carriers without shared memory (TCP, RDMA) have in common: staging memory between network and device, the
//! hosts' controllers with their admin queues, and a core's end that has a part for each carrier.
//!
//! A command's data lies in one staging buffer. What comes from the host is there before the command is yielded, and what
//! goes to the host is sent when it completes; the stages and the device work on the buffer as on memory of a client.

mod admin;
mod buddy;
pub(crate) mod callers;
mod channel;
mod core_end;
mod door;
mod hosts;
mod lines;
mod orders;
mod staging;

pub use channel::{AdminCapsule, Channel, ChannelError, QueueTerms};
pub use core_end::{Held, MessageFabric, StagedData};
pub use door::Door;
pub use hosts::{HostOptions, Hosts, MAX_IO_QUEUES, OpenError, Watch};
pub(crate) use lines::{AccountId, Lines, NO_MEMORY, Served};
pub use orders::{Answer, CoreCommand, CoreError, HostLink};
pub use staging::{Area, Buffer, KEPT_FOR_CAPSULES, Staging, StagingLayout, StagingMap};

/// How a core's permits tell the carriers apart: see [`Permit::carrier`](super::Permit::carrier).
pub mod carrier {
    /// NVMe/TCP.
    pub const TCP: u16 = 1;
    /// NVMe/RDMA.
    pub const RDMA: u16 = 2;
}

#[cfg(test)]
mod tests;
