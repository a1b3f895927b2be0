//! A device in memory: for tests, for simulation, and for blocks that may be lost.

mod device;
mod queue;
#[cfg(test)]
mod tests;

pub use device::{RamDevice, RamOptions};
pub use queue::RamQueue;
