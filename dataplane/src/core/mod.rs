//! Cores: the reactor and what it runs.

mod clock;
mod poll;

pub use clock::{Clock, Ticks};
pub use poll::{Poll, Poller};
