//! A file or a block device driven by io_uring: direct I/O with registered buffers and a registered file.

mod device;
mod entry;
mod facts;
mod queue;
mod ring;
#[cfg(test)]
mod tests;

pub use device::{OpenError, OpenOptions, UringDevice};
pub use queue::{UringQueue, UringStats};
