//! The vfio-user carrier, both ends over a real socket and real shared memory.

mod harness;
mod initiator;
