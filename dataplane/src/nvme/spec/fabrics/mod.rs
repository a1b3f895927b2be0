//! NVMe over Fabrics: the commands of opcode 7Fh, what Connect carries, where the data of a capsule lies, and the
//! discovery log (base, "Fabrics Command Set", "Discovery Log Page").

mod command;
mod connect;
mod data;
mod discovery;
mod nqn;

pub use command::{ConnectFields, FABRICS_OPCODE, FabricsCommand, attributes, fctype};
pub use connect::{ConnectData, ConnectInvalid, DYNAMIC_CONTROLLER, STATIC_CONTROLLER};
pub use data::CapsuleData;
pub use discovery::{
    AddressFamily, DISCOVERY_HEADER_BYTES, DiscoveryEntry, SubsystemKind, TransportType, discovery_header,
    read_discovery_header,
};
pub use nqn::{DISCOVERY_NQN, MAX_NQN_BYTES};
