//! The vfio-user carrier, both ends over a real socket and real shared memory.
#![allow(clippy::unwrap_used)] // Also in the harness, which is not inside a test function.

mod garbage;
mod harness;
mod initiator;
mod lifecycle;
mod mapping;
mod measure;
mod third_party;
