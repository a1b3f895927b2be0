//! Cores: the reactor and what it runs.

mod clock;
mod core_lock;
mod descriptor_limit;
mod idle;
pub(crate) mod io_ring;
mod mailbox;
mod manual_clock;
mod mask;
mod poll;
mod reactor;
mod reactor_counters;
mod thread;
mod tsc;
mod wake;

pub use clock::{Clock, Ticks};
pub use core_lock::{CoreLock, CoreLockError};
pub use descriptor_limit::raise_descriptor_limit;
pub use idle::{IdlePolicy, ParseIdlePolicyError};
pub use mailbox::{Mailbox, PostError, Postbox, mailbox, mailbox_on};
pub use manual_clock::ManualClock;
pub use mask::{CoreMask, MaskError};
pub use poll::{Poll, Poller, Wake};
pub use reactor::{Reactor, ReactorEnd, ReactorHandle, ReactorPanicked, SpawnError};
pub use reactor_counters::ReactorCounters;
pub use tsc::TscClock;
pub use wake::{WakeEvent, WakeLatency};
