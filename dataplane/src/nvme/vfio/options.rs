//! How to drive a controller.

use std::time::Duration;

/// Options of [`Controller::open`](super::Controller::open).
#[derive(Clone, Copy, Debug)]
pub struct ControllerOptions {
    /// I/O queues to ask for: one a core, 1 to 65,534. The controller may grant fewer:
    /// [`queues`](super::Controller::queues) says how many.
    pub queues: u16,
    /// The largest transfer of one command in bytes, within what the controller takes; 2 MiB at most.
    pub max_transfer: u32,
    /// How long an I/O command may take before it is aborted. If it still has not ended after as long again, the
    /// controller is reset. [`service`](super::Controller::service) must be called four times within it at least: time
    /// that passes unseen counts for less.
    pub command_timeout: Duration,
    /// How long an admin command may take.
    pub admin_timeout: Duration,
    /// Whether to describe data by SGLs where the controller takes them and PRPs would need a list.
    pub sgl: bool,
    /// Whether to pass write hints on to namespaces with Flexible Data Placement.
    pub placement: bool,
    /// Whether to use shadow doorbells where the controller has them.
    pub shadow_doorbells: bool,
}

impl Default for ControllerOptions {
    fn default() -> Self {
        Self {
            queues: 64,
            max_transfer: 1 << 20,
            command_timeout: Duration::from_secs(10),
            admin_timeout: Duration::from_secs(10),
            sgl: true,
            placement: true,
            shadow_doorbells: true,
        }
    }
}
