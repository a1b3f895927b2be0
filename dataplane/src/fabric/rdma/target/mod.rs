//! The controller's end of NVMe over RDMA.
//!
//! One *port* for each device and core: a completion queue, and receives that the core's queue pairs share. The request
//! for a connection says which I/O queue it is to be, so its queue pair is made on its core's port at once. The first
//! command, Connect, goes from the core to the control side and its completion back; from then on only the core posts and
//! polls.
//!
//! A queue pair that fails is drained before its buffers are used again: after it was made to fail, one more work request
//! is posted, which ends when everything before it has. Destroying it takes long, so control threads do that.

mod admin_channel;
mod core_end;
mod desk;
mod device_table;
mod devices;
mod exchange;
#[doc(hidden)]
pub mod fuzzing;
mod io_channel;
mod listener;
mod nic;
mod orders;
mod port;
mod queue;
#[cfg(test)]
mod tests;

pub use core_end::{RdmaEnd, Remain, Remains};
pub use devices::RdmaDevices;
pub use listener::{ListenError, MAX_TRANSFER_BYTES, RdmaTarget};
pub use nic::{PortDevice, QueuePair};
pub use orders::{ExpectedQueue, RdmaOrder};
pub use port::PortParts;
