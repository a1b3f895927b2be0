//! NVMe: the bits on the wire ([`spec`]), the queue that moves logical blocks ([`BlockQueue`]) and its back ends,
//! one folder each: [`uring`] drives a file or a block device, [`ram`] keeps blocks in memory, [`vfio`] owns an NVMe
//! controller, [`null`] moves nothing and is for measuring. [`fault`] wraps any other and makes it fail, [`span`] joins several.

mod attached;
mod block_queue;
#[cfg(test)]
mod conformance;
pub mod fault;
pub mod null;
pub mod ram;
pub mod span;
pub mod spec;
pub mod uring;
pub mod vfio;

pub use block_queue::{AttachError, BlockDone, BlockError, BlockIo, BlockOp, BlockQueue, Geometry, QueueFull};
