//! Several devices as one: their blocks one after another, in one queue a core.
//!
//! A command that moves bytes goes to the device that its blocks lie on; one that would cross from one device to the next is
//! not valid. A flush goes to all of them. Each device's commands are counted where everybody may look.

mod counters;
mod queue;
#[cfg(test)]
mod tests;

pub use counters::{IoCounters, IoFigures};
pub use queue::{SpanPart, SpanQueue};
