//! Client of kvplane: stores and retrieves KV-cache blocks by 16-byte keys.
//!
//! There are two faces over one connection. The pipelined one takes commands with [`Client::submit`] and hands out
//! their ends with [`Client::poll`]; values lie in memory that was registered before, and move between there and
//! the target's device without a copy. The blocking one ([`Client::put`], [`Client::get`], ...) copies, waits, and
//! is meant for hands and scripts.
//!
//! ```no_run
//! use kvplane::{Address, Client, ConnectOptions, Key};
//!
//! # fn main() -> Result<(), kvplane::Error> {
//! let mut client = Client::connect(&Address::parse("vfio-user:/var/run/kvplane")?, ConnectOptions::default())?;
//! let key = Key::new(*b"an example's key");
//! client.put(key, b"bytes")?;
//! assert_eq!(client.get(key)?.as_deref(), Some(&b"bytes"[..]));
//! # Ok(())
//! # }
//! ```

mod address;
mod blocking;
pub mod chain;
mod client;
mod device_memory;
mod encode;
mod error;
#[cfg(test)]
mod fake;
mod host;
mod in_flight;
mod lane;
mod lists;
mod liveness;
mod memory;
mod options;
mod poll;
mod private_memory;
mod raw;
mod rdma;
mod registrations;
mod request;
mod stats;
mod submit;
mod tcp;
#[cfg(test)]
mod tests;
mod transport;
mod vfio_user;
mod wait;

pub use address::Address;
pub use client::Client;
pub use dataplane::Burst;
pub use dataplane::fabric::NamespaceInfo;
pub use dataplane::nvme::spec::Status;
pub use dataplane::nvme::spec::kv::Key;
pub use dataplane::nvme::spec::vendor::{MAX_LIST_KEYS, OwnerMap};
pub use device_memory::{DeviceMemory, DmaBuf};
pub use error::{Error, SubmitError};
pub use memory::{Buffer, Memory, OutOfRange};
pub use options::{Checksum, ConnectOptions, NetworkOptions, ReconnectPolicy, RetryPolicy};
pub use request::{Event, HintKind, KeyState, Keys, Lease, Outcome, Request, StoreOptions, Ticket, Tier};
pub use stats::{Identity, Stats};
