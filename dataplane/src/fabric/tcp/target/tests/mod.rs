//! I/O queues over streams that misbehave, between hosts and a store in memory.

mod faults;
mod host;
mod staging;
mod world;
