//! What a command costs on the reactor, stage by stage: one thread plays client and core in turn, so that nothing
//! else runs between two readings, on a device that moves nothing.

mod nvme;
mod rig;
mod uncounted;

pub use nvme::NvmeRig;
pub use rig::{Load, Rig, RigError};
