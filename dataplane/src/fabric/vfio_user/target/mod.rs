//! The daemon's end of vfio-user: a listener, a thread for each connection, and an end on every core.

mod connection;
mod core_end;
mod cursor;
mod dma;
#[doc(hidden)]
pub mod fuzzing;
mod iova;
mod link;
mod listener;
mod orders;
mod queue_pair;

pub use crate::memory::region_slots_in_use;
pub use core_end::VfioUserFabric;
pub use cursor::Cursor;
pub use listener::{ListenError, Target, TargetOptions};
pub use orders::{CoreCommand, CoreError};
