//! The daemon's end of NVMe/TCP: I/O queues polled by cores, admin queues on control threads.

mod channel;
mod connection;
mod core_end;
mod desk;
mod exchange;
#[doc(hidden)]
pub mod fuzzing;
mod listener;
pub mod streams;

pub use channel::TcpChannel;
pub use connection::NewTcpQueue;
pub use core_end::{TcpEnd, staging_layout};
pub use listener::{ListenError, TcpTarget};

#[cfg(test)]
mod tests;
