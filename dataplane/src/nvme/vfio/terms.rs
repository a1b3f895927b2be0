//! What a queue relies on. A controller comes back from a reset as it pleases, with other firmware even, and a namespace
//! may be formatted at any time.
//!
//! Where write hints go is no term: a queue goes on without, and asks anew ([`placement`](super::placement)).

use super::NamespaceInfo;
use super::control::Control;

/// What the controller and a namespace were when a queue was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) namespace: NamespaceInfo,
    /// The largest transfer that the queue sends, in bytes.
    pub(super) max_transfer: u32,
    pub(super) volatile_cache: bool,
    /// Whether the queue describes data by SGLs.
    pub(super) sgl: bool,
    /// Whether the queue rings in memory: both sides must, or neither.
    pub(super) shadows: bool,
    /// Bytes from one doorbell to the next.
    pub(super) stride: u64,
}

impl Terms {
    /// What of it holds no more.
    pub(super) fn broken(&self, control: &Control) -> Option<&'static str> {
        let info = &control.info;
        match () {
            () if !control.namespaces.contains(&self.namespace) => Some("it was formatted, resized or taken away"),
            () if info.max_transfer_bytes.is_some_and(|most| most < u64::from(self.max_transfer)) => {
                Some("the controller's largest transfer is smaller (MDTS)")
            }
            () if info.volatile_cache && !self.volatile_cache => Some("the controller has a volatile cache now (VWC)"),
            () if self.sgl && !info.sgl => Some("the controller takes no SGLs any more"),
            () if self.shadows != control.shadowed => Some("the controller has no shadow doorbells any more"),
            () if self.stride != control.capabilities.doorbell_stride() => {
                Some("the controller's doorbells lie elsewhere (CAP.DSTRD)")
            }
            () => None,
        }
    }
}
