//! NVMe over RDMA (NVMe-oF, RDMA transport): commands and completions as messages, values by RDMA READ and WRITE.
//!
//! A command is a message of 64 bytes, perhaps with data behind it; its completion is one of 16. The data of a command
//! lies in its capsule (writes up to what the controller tells), or in the host's memory, which the command names by
//! address, length and remote key: the controller reads it from there, or writes it there before it sends the completion.

pub mod initiator;
pub mod target;
pub mod verbs;
pub mod wire;
