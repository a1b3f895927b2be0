//! What the NVMe specifications say about bits and bytes. Little endian throughout; bit shifts live only here.
//!
//! Sources: NVM Express Base Specification 2.0c ("base"), NVM Express Key Value Command Set Specification 1.0c
//! ("KV"), NVM Express NVM Command Set Specification 1.0c ("NVM").

pub mod admin;
mod command;
mod completion;
pub mod fabrics;
pub mod kv;
pub mod nvm;
mod status;
pub mod vendor;

pub use command::{DataPointer, SglDescriptor, SglKind, Sqe};
pub use completion::Cqe;
pub use status::Status;
