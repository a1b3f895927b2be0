//! NVMe/TCP: NVMe capsules and data over TCP connections, one for each queue pair (NVM Express TCP Transport
//! Specification 1.0).

pub mod initiator;
mod socket;
pub mod target;
pub mod wire;
