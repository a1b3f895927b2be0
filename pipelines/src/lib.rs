//! KV blocks: what becomes of a command, and the flash store that keeps the values.
//!
//! Nothing in this crate reads a clock or talks to a device by itself: time is handed in as ticks, and devices and
//! hosts are reached through `dataplane`'s traits, so the very same code runs under a simulator.

pub mod store;
