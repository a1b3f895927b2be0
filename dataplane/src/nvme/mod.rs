//! NVMe: the bits on the wire ([`spec`]), the queue that moves logical blocks ([`BlockQueue`]) and its back ends,
//! one folder each.

mod block_queue;
pub mod spec;

pub use block_queue::{AttachError, BlockDone, BlockError, BlockIo, BlockOp, BlockQueue, Geometry, QueueFull};
