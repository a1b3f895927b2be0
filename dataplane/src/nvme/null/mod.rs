//! A device that completes every valid command at once and moves no byte, to measure what lies above it.

mod device;
mod queue;
#[cfg(test)]
mod tests;

pub use device::NullDevice;
pub use queue::NullQueue;
