//! The memory that one client registered, and the cores' knowledge of it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use tracing::warn;

use crate::fabric::{CorePort, SessionId};
use crate::memory::{
    Access, MAX_REGION_BYTES, MapError, NoSlot, Region, SlotAccount, SlotLease, map_client, page_bytes_of, populate,
    seals,
};

use super::super::wire::{DMA_READABLE, DMA_WRITABLE};
use super::iova::{IovaRange, IovaTable};
use super::orders::{CoreCommand, CoreError, Order};

/// The longest piece of memory in ordinary pages. Every core's ring pins a piece in one go, and serves nobody
/// meanwhile: with the pages there already, this many take some milliseconds.
const MAX_PIECE_BYTES: u64 = 128 << 20;
/// Pages from this size on are so few that the longest region is pinned as fast.
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// How long the pieces are that memory in pages of `page` bytes is cut into: a multiple of `page`.
fn piece_bytes(page: u64) -> u64 {
    if page >= HUGE_PAGE_BYTES { MAX_REGION_BYTES.max(page) } else { MAX_PIECE_BYTES }
}

/// Why a core did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("the core has stopped")]
    Stopped,
    #[error(transparent)]
    Refused(#[from] CoreError),
}

/// The way to the cores, for one session.
pub(super) struct Cores {
    port: Arc<dyn CorePort<CoreCommand>>,
    session: SessionId,
}

impl Cores {
    pub(super) fn new(port: Arc<dyn CorePort<CoreCommand>>, session: SessionId) -> Self {
        Self { port, session }
    }

    pub(super) fn count(&self) -> u16 {
        self.port.cores().max(1)
    }

    /// The core that serves an I/O queue.
    pub(super) fn of_queue(&self, qid: u16) -> u16 {
        qid.saturating_sub(1) % self.count()
    }

    /// Asks one core and waits for the answer.
    pub(super) fn ask(&self, core: u16, order: Order) -> Result<(), AskError> {
        let (answer, answers) = sync_channel(1);
        let command = CoreCommand { session: self.session, order, answer };
        self.port.send(core, command).map_err(|_| AskError::Stopped)?;
        Ok(answers.recv().map_err(|_| AskError::Stopped)??)
    }

    /// Asks every core and waits for all answers. The first failure counts.
    pub(super) fn ask_all(&self, order: impl Fn() -> Order) -> Result<(), AskError> {
        let count = self.count();
        let (answer, answers) = sync_channel(usize::from(count));
        let mut outcome = Ok(());
        for core in 0..count {
            let command = CoreCommand { session: self.session, order: order(), answer: answer.clone() };
            if self.port.send(core, command).is_err() {
                outcome = Err(AskError::Stopped);
            }
        }
        drop(answer);
        let mut answered = 0;
        // Ends when every command was answered or dropped.
        while let Ok(result) = answers.recv() {
            answered += 1;
            if outcome.is_ok() {
                outcome = result.map_err(AskError::from);
            }
        }
        if answered < count && outcome.is_ok() { Err(AskError::Stopped) } else { outcome }
    }
}

/// Why DMA_MAP or DMA_UNMAP was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum DmaError {
    #[error("no file descriptor came with it; memory that only messages can reach is not supported")]
    NoDescriptor,
    #[error(
        "the descriptor is not of shared memory; memory must come from memfd_create, tmpfs or hugetlbfs, because a file \
         system in between could make whoever touches it wait"
    )]
    NotSharedMemory,
    #[error("a core did not let go of it")]
    Kept,
    #[error("its pages cannot be had: {0}")]
    Populate(std::io::Error),
    #[error("flags {0:#x} are none that are known, or do not let the device read")]
    Flags(u32),
    #[error("address {address:#x}, size {size:#x} or offset {offset:#x} is zero, not on a page, or overflows")]
    Range { address: u64, size: u64, offset: u64 },
    #[error("it overlaps memory that is mapped already")]
    Overlap,
    #[error(
        "with {need} more than the {have} regions that it has, the client would have more than the {most} that one client \
         may; map less memory, in fewer pieces, or out of hugepages (regions of 1 GiB instead of 128 MiB)"
    )]
    TooMany { have: usize, need: u64, most: usize },
    #[error("the client would map more than the {0} bytes that one client may; map less memory")]
    TooMuch(u64),
    #[error("a device cannot reach it: {0}")]
    Device(std::io::Error),
    #[error("its descriptor cannot be kept for a device that is another process: {0}")]
    Descriptor(std::io::Error),
    #[error(transparent)]
    NoSlot(#[from] NoSlot),
    #[error("nothing is mapped at exactly this address and size")]
    NotMapped,
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Core(#[from] AskError),
}

impl DmaError {
    /// The errno for the reply.
    pub(super) fn errno(&self) -> u32 {
        let errno = match self {
            Self::NoDescriptor | Self::NotSharedMemory | Self::Flags(_) | Self::Range { .. } | Self::Map(_) => {
                libc::EINVAL
            }
            Self::Kept => libc::EIO,
            Self::Overlap => libc::EEXIST,
            Self::TooMany { .. } | Self::TooMuch(_) | Self::NoSlot(_) => libc::ENOSPC,
            Self::Device(cause) if cause.kind() == std::io::ErrorKind::StorageFull => libc::ENOSPC,
            Self::NotMapped => libc::ENOENT,
            Self::Core(AskError::Stopped) => libc::ESHUTDOWN,
            Self::Populate(_) | Self::Device(_) | Self::Descriptor(_) | Self::Core(AskError::Refused(_)) => {
                libc::ENOMEM
            }
        };
        errno as u32
    }
}

/// One DMA_MAP as the client asked for it.
struct Mapping {
    iova: u64,
    bytes: u64,
    /// One for each region that it was cut into.
    pieces: Vec<Piece>,
}

struct Piece {
    iova: u64,
    lease: SlotLease,
}

/// What a client may register.
#[derive(Clone, Copy, Debug)]
pub(super) struct DmaLimits {
    pub regions: usize,
    /// Whose regions they are, and how many this user may have over all clients.
    pub account: SlotAccount,
    pub bytes: u64,
    /// Whether regions keep their descriptor.
    pub keep_files: bool,
}

/// Everything that one client registered.
pub(super) struct ClientMemoryMap {
    limits: DmaLimits,
    mappings: Vec<Mapping>,
    table: IovaTable,
    kept: bool,
}

impl ClientMemoryMap {
    pub(super) fn new(limits: DmaLimits) -> Self {
        Self { limits, mappings: Vec::new(), table: IovaTable::default(), kept: false }
    }

    /// Whether a core did not let go of some of it, so that the session's number may still lead there.
    pub(super) fn kept(&self) -> bool {
        self.kept
    }

    /// Whether the client took memory away that it had lent (truncated the file).
    pub(super) fn poisoned(&self) -> bool {
        self.table.ranges().iter().any(|range| range.region.poisoned())
    }

    /// How many regions the client may have.
    pub(super) fn region_limit(&self) -> usize {
        self.limits.regions
    }

    /// Address look-ups for this connection's own use: the admin queue.
    pub(super) fn table(&mut self) -> &mut IovaTable {
        &mut self.table
    }

    fn check(&self, offset: u64, address: u64, size: u64, piece: u64) -> Result<(), DmaError> {
        let range = DmaError::Range { address, size, offset };
        let aligned = [address, size, offset].iter().all(|value| value % 4096 == 0);
        let Some(end) = address.checked_add(size) else { return Err(range) };
        if size == 0 || !aligned || offset.checked_add(size).is_none() {
            return Err(range);
        }
        let pieces: usize = self.mappings.iter().map(|mapping| mapping.pieces.len()).sum();
        let need = size.div_ceil(piece);
        if (pieces as u64).saturating_add(need) > self.limits.regions as u64 {
            return Err(DmaError::TooMany { have: pieces, need, most: self.limits.regions });
        }
        let mapped: u64 = self.mappings.iter().map(|mapping| mapping.bytes).sum();
        if mapped.saturating_add(size) > self.limits.bytes {
            return Err(DmaError::TooMuch(self.limits.bytes));
        }
        if self.table.overlaps(address, end) { Err(DmaError::Overlap) } else { Ok(()) }
    }

    /// Maps memory here and makes it known to every core. All or nothing.
    pub(super) fn map(
        &mut self,
        cores: &Cores,
        request: (u32, u64, u64, u64),
        fd: Option<OwnedFd>,
    ) -> Result<(), DmaError> {
        let (flags, offset, address, size) = request;
        let fd = fd.ok_or(DmaError::NoDescriptor)?;
        // Only memory of the kernel's own has seals. A page of any other file may be the client's to bring (FUSE), which
        // a core that touches it would wait for.
        if seals(fd.as_fd()).is_none() {
            return Err(DmaError::NotSharedMemory);
        }
        let piece_bytes = piece_bytes(page_bytes_of(fd.as_fd())?);
        self.check(offset, address, size, piece_bytes)?;
        let access = match flags {
            DMA_READABLE => Access::Read,
            flags if flags == DMA_READABLE | DMA_WRITABLE => Access::ReadWrite,
            _ => return Err(DmaError::Flags(flags)),
        };
        let mut pieces: Vec<Piece> = Vec::new();
        let mut outcome = Ok(());
        let mut done = 0;
        while done < size && outcome.is_ok() {
            let bytes = (size - done).min(piece_bytes);
            let place = (offset + done, address + done, bytes);
            outcome = self.map_piece(cores, &fd, access, place).map(|piece| pieces.push(piece));
            done += bytes;
        }
        if outcome.is_err() {
            self.detach(cores, pieces);
        } else {
            self.mappings.push(Mapping { iova: address, bytes: size, pieces });
        }
        outcome
    }

    fn map_piece(
        &mut self,
        cores: &Cores,
        fd: &OwnedFd,
        access: Access,
        (offset, iova, bytes): (u64, u64, u64),
    ) -> Result<Piece, DmaError> {
        let lease = SlotLease::take(self.limits.account)?;
        let mut region = map_client(fd.as_fd(), offset, bytes, lease.slot(), access)?;
        if self.limits.keep_files {
            region = region.with_file(fd.try_clone().map_err(DmaError::Descriptor)?, offset);
        }
        let region = Arc::new(region);
        // Here, where it holds up this client alone, and not on the cores.
        populate(&region).map_err(DmaError::Populate)?;
        cores.port.hold_memory(&region).map_err(DmaError::Device)?;
        let range = IovaRange { iova, region };
        let attached = cores.ask_all(|| Order::Attach(range.clone()));
        if self.table.insert(range).is_err() {
            // `check` made sure of the opposite.
            warn!(iova, "a region overlaps another after all");
        }
        let piece = Piece { iova, lease };
        match attached {
            Ok(()) => Ok(piece),
            Err(error) => {
                self.detach(cores, vec![piece]);
                Err(error.into())
            }
        }
    }

    /// Takes regions from every core, then drops them. Says whether every core let go of every one.
    fn detach(&mut self, cores: &Cores, pieces: Vec<Piece>) -> bool {
        let mut all = true;
        for piece in pieces {
            let detached = cores.ask_all(|| Order::Detach(piece.iova));
            let Some(range) = self.table.remove(piece.iova) else { continue };
            if detached.is_ok() {
                cores.port.release_memory(&range.region);
            }
            let sole = Arc::strong_count(&range.region) == 1;
            if detached.is_err() || !sole {
                // A core that has stopped may still hold it. Its number must never name other memory.
                warn!(iova = piece.iova, "memory of a client is kept: a core did not let go of it");
                std::mem::forget(piece.lease);
                all = false;
            }
        }
        self.kept |= !all;
        all
    }

    /// The regions of a mapping, for who has queues in them.
    pub(super) fn regions_of(&self, iova: u64) -> Vec<Arc<Region>> {
        let Some(mapping) = self.mappings.iter().find(|mapping| mapping.iova == iova) else { return Vec::new() };
        let inside = |range: &&IovaRange| mapping.pieces.iter().any(|piece| piece.iova == range.iova);
        self.table.ranges().iter().filter(inside).map(|range| Arc::clone(&range.region)).collect()
    }

    /// Whether exactly this was mapped.
    pub(super) fn is_mapped(&self, iova: u64, bytes: u64) -> bool {
        self.mappings.iter().any(|mapping| mapping.iova == iova && mapping.bytes == bytes)
    }

    /// Takes a mapping back. The session's commands have ended before; they begin again only after.
    pub(super) fn unmap(&mut self, cores: &Cores, iova: u64) -> Result<(), DmaError> {
        let at = self.mappings.iter().position(|mapping| mapping.iova == iova).ok_or(DmaError::NotMapped)?;
        let mapping = self.mappings.remove(at);
        if self.detach(cores, mapping.pieces) { Ok(()) } else { Err(DmaError::Kept) }
    }

    /// Addresses of all mappings.
    pub(super) fn addresses(&self) -> Vec<u64> {
        self.mappings.iter().map(|mapping| mapping.iova).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_pages_and_quick_to_pin() {
        assert_eq!(piece_bytes(4096), MAX_PIECE_BYTES);
        assert_eq!(piece_bytes(2 << 20), MAX_REGION_BYTES);
        assert_eq!(piece_bytes(1 << 30), 1 << 30);
        assert!([4096, 65536].iter().all(|page| MAX_PIECE_BYTES.is_multiple_of(*page)));
    }
}
