//! An NVMe driver of a few hundred lines on a third party's vfio-user client. It knows the specification and nothing
//! of kvplane: neither owners of keys nor vendor commands. Bytes are put together by hand, so that a mistake in
//! kvplane's own encoding cannot hide behind itself.

mod command;
mod controller;
mod queue;

pub use command::{Answer, Command, kv};
pub use controller::{Controller, PAGE};
pub use queue::Queue;
