//! Memory that a client shares with a controller.

use std::io;
use std::sync::Arc;

use crate::memory::Region;

use super::super::shared_memory::SharedMemory;

/// Anonymous memory that can be registered with [`Initiator::register`](super::Initiator::register).
///
/// A device may write to it at any time, so its bytes are copied in and out. It lives until it is dropped, and its
/// pages until every process that mapped them has let go.
#[derive(Debug)]
pub struct ClientMemory {
    pub(super) shared: SharedMemory,
}

impl ClientMemory {
    /// `bytes` of zeros, rounded up to whole pages; out of 2 MiB hugepages if `huge`.
    ///
    /// # Errors
    /// What the system said; with `huge`, most likely that no hugepages are free.
    pub fn new(bytes: u64, huge: bool) -> io::Result<Self> {
        SharedMemory::create("kvplane-client", bytes, huge).map(|shared| Self { shared })
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.region().bytes() as u64
    }

    /// The mapping, for callers that keep the bytes longer than this handle.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        self.shared.region()
    }

    /// First address in this process, for callers with their own way to get at the bytes.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.shared.region().base()
    }

    /// Copies bytes in. `None`, and nothing copied, if they do not fit at `offset`.
    #[must_use]
    pub fn write(&self, offset: u64, from: &[u8]) -> Option<()> {
        self.shared.region().write(offset, from)
    }

    /// Copies bytes out. `None`, and nothing copied, if there are not as many at `offset`.
    #[must_use]
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Option<()> {
        self.shared.region().read(offset, into)
    }
}
