//! What a client counts, and what the target says of itself.

use dataplane::fabric::host::InitiatorIdentity;
use dataplane::nvme::spec::vendor::OwnerMap;

/// What the target says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The subsystem's NQN.
    pub subsystem_nqn: String,
    /// Serial number.
    pub serial: String,
    /// Model number.
    pub model: String,
    /// Firmware revision.
    pub firmware: String,
    /// The most bytes one command may move; 0 for no limit.
    pub max_transfer_bytes: u32,
    /// How keys map to cores; `None` for a target that is not kvplane's.
    pub owners: Option<OwnerMap>,
}

impl From<&InitiatorIdentity> for Identity {
    fn from(told: &InitiatorIdentity) -> Self {
        Self {
            subsystem_nqn: told.subsystem_nqn.clone(),
            serial: told.serial.clone(),
            model: told.model.clone(),
            firmware: told.firmware.clone(),
            max_transfer_bytes: told.max_transfer_bytes.unwrap_or(0),
            owners: told.owners,
        }
    }
}

/// Counts since the client was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commands taken.
    pub submitted: u64,
    /// Commands ended, in whatever way.
    pub completed: u64,
    /// Commands that ended in [`Outcome::Failed`](crate::Outcome::Failed).
    pub failed: u64,
    /// Commands sent again because of a passing failure.
    pub retries: u64,
    /// Values that did not match their checksum.
    pub corrupt: u64,
    /// Completions that named no command in flight. Not zero means that the target is broken.
    pub unknown_completions: u64,
    /// Connections lost.
    pub disconnects: u64,
    /// Connections made again.
    pub reconnects: u64,
}
