//! What goes over the wire besides commands and completions.

mod private_data;

pub use private_data::{ConnectAnswer, ConnectQuery, RejectReason, Rejection};

/// The port that NVMe over RDMA is known by, with IANA.
pub const DEFAULT_PORT: u16 = 4420;
/// Bytes of a command, at the beginning of its capsule.
pub const COMMAND_BYTES: u32 = 64;
/// Bytes of a completion.
pub const RESPONSE_BYTES: u32 = 16;
/// The most bytes that one command can name in memory: its keyed SGL descriptor has 24 bits for them.
pub const MAX_KEYED_BYTES: u32 = (1 << 24) - 1;
/// The longest admin queue (base, "Admin Submission Queue size" over fabrics: 32 entries at the least).
pub const ADMIN_ENTRIES: u16 = 32;
