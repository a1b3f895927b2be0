//! The trait behind which every device hides: a submission queue and a completion queue of one core.

use std::sync::Arc;

use crate::Burst;
use crate::memory::{DmaSlice, Region, RegionSlot};

/// What a device looks like to the core that drives it. Constant after the queue was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes in a logical block, a power of two (512 or 4096 in practice).
    pub lba_bytes: u32,
    /// Capacity in logical blocks.
    pub blocks: u64,
    /// The alignment that the device's DMA asks of a memory address, a power of two, in bytes.
    pub memory_align: u32,
    /// The largest transfer of one command in bytes, a multiple of `lba_bytes`.
    pub max_transfer: u32,
    /// Whether a completed write may be lost by a power cut until a flush completes.
    pub volatile_cache: bool,
    /// Whether [`BlockOp::Deallocate`] does anything.
    pub deallocate: bool,
    /// How many commands may be outstanding at once.
    pub depth: u32,
}

impl Geometry {
    /// Capacity in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks * u64::from(self.lba_bytes)
    }
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockOp {
    /// Device to memory.
    Read,
    /// Memory to device; with `fua` the completion means that it survives a power cut.
    Write {
        /// Force unit access: bypass the volatile cache.
        fua: bool,
        /// What it is likely to become worthless together with.
        hint: WriteHint,
    },
    /// Makes every write that completed before this was pushed survive a power cut.
    Flush,
    /// Tells the device that the blocks hold nothing of worth (TRIM). A hint: what a later read returns is undefined.
    Deallocate,
}

impl BlockOp {
    /// A write without a hint.
    #[must_use]
    pub const fn write(fua: bool) -> Self {
        Self::Write { fua, hint: WriteHint::NONE }
    }
}

/// Says which writes belong together: what is written with the same number is likely to become worthless at about the same
/// time, so a device that is told can keep it apart from the rest, and has less to move when it makes room. A device that
/// tells fewer kinds apart takes the higher numbers for the last that it knows; one that tells none apart does not care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteHint(u8);

impl WriteHint {
    /// No hint.
    pub const NONE: Self = Self(0);
    /// How many kinds there are.
    pub const KINDS: u8 = 7;

    /// The kind `number`, from 1 to [`KINDS`](Self::KINDS); what lies beyond is the nearest of them.
    #[must_use]
    pub const fn kind(number: u8) -> Self {
        let number = if number == 0 { 1 } else { number };
        Self(if number > Self::KINDS { Self::KINDS } else { number })
    }

    /// Its number; 0 for none.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// A command for the device.
#[derive(Clone, Copy, Debug)]
pub struct BlockIo {
    /// What to do.
    pub op: BlockOp,
    /// First logical block. Zero for [`BlockOp::Flush`].
    pub lba: u64,
    /// Number of logical blocks. Zero for [`BlockOp::Flush`].
    pub blocks: u32,
    /// Memory to move to or from; exactly `blocks * lba_bytes` long. [`DmaSlice::EMPTY`] where no bytes move.
    pub memory: DmaSlice,
    /// Handed back with the completion, unchanged.
    pub token: u64,
}

/// Why a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The range or the memory of the command is not valid; nothing was sent to the device.
    #[error("the command's range or memory is not valid")]
    Invalid,
    /// The device could not read or write the medium: what it said, as the number of a system error. ENODATA and EILSEQ are
    /// kept for what the medium itself does not give back, see [`is_unreadable`](Self::is_unreadable).
    #[error("the device reported a media error (os error {0})")]
    Media(i32),
    /// Fewer bytes moved than asked for.
    #[error("the device moved {moved} of {asked} bytes")]
    Short {
        /// Bytes that moved.
        moved: u32,
        /// Bytes that were asked for.
        asked: u32,
    },
    /// The device is gone or was reset; what became of the command is not known.
    #[error("the device is gone or was reset")]
    Gone,
}

impl BlockError {
    /// Whether a read failed because the medium does not give the blocks back, and will not the next time: unrecovered, or
    /// damaged and found to be so. Not so for a device that is busy, gone, or in trouble of another kind, where nothing is
    /// known of the blocks. The numbers are those that Linux gives for a medium error (ENODATA) and for a failed check of
    /// integrity (EILSEQ).
    #[must_use]
    pub const fn is_unreadable(self) -> bool {
        matches!(self, Self::Media(libc::ENODATA | libc::EILSEQ))
    }
}

/// A completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockDone {
    /// The token of the command.
    pub token: u64,
    /// How it ended.
    pub result: Result<(), BlockError>,
}

/// The queue has no room; the command comes back so that nothing is lost.
#[derive(Clone, Copy, Debug)]
#[must_use = "the command was not taken"]
pub struct QueueFull(pub BlockIo);

/// Why a region could not be made known to the device.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The slot already holds a region.
    #[error("memory slot {0:?} is already in use")]
    SlotTaken(RegionSlot),
    /// The slot number is beyond what the queue was opened for.
    #[error("memory slot {0:?} is beyond this queue's table")]
    NoSuchSlot(RegionSlot),
    /// Commands still move bytes of the region.
    #[error("{0} commands still move bytes of this memory")]
    Busy(u32),
    /// The operating system refused.
    #[error("the system refused to register the memory: {0}")]
    System(#[from] std::io::Error),
}

/// One core's queue pair on a device.
///
/// Commands are pushed, then sent together by [`ring`](Self::ring), and complete in any order through
/// [`poll`](Self::poll). A queue belongs to one core and is never shared.
///
/// Memory safety is the queue's own business: it keeps every attached [`Region`] alive, checks each command's
/// memory against the region in the slot it names, and will not let go of a region while a command that names it
/// is outstanding. Hence every method here is safe.
pub trait BlockQueue {
    /// The device's shape.
    fn geometry(&self) -> &Geometry;

    /// How many commands may be pushed now without a refusal.
    fn room(&self) -> usize;

    /// Puts a command into the queue. It reaches the device with the next [`ring`](Self::ring).
    ///
    /// A command that is not valid is not refused here but completes with [`BlockError::Invalid`], so that callers
    /// have one path for failures.
    ///
    /// # Errors
    /// [`QueueFull`] hands the command back.
    fn push(&mut self, io: BlockIo) -> Result<(), QueueFull>;

    /// Sends what was pushed to the device: one doorbell, or one system call, a burst.
    fn ring(&mut self);

    /// Collects completions until `done` is full or none is left. Never waits.
    fn poll(&mut self, done: &mut Burst<BlockDone>);

    /// Commands pushed and not yet handed back by [`poll`](Self::poll).
    fn in_flight(&self) -> usize;

    /// How many devices behind it are known to be gone for good; it never falls. Costs next to nothing, to be asked once a
    /// turn.
    fn gone_devices(&self) -> usize {
        0
    }

    /// Whether a block lies on a device that is known to be gone for good, so that it will never be read again. Not for the
    /// hot path.
    fn is_gone(&self, lba: u64) -> bool {
        let _ = lba;
        false
    }

    /// Makes a region known to the device under its slot. Not for the hot path.
    ///
    /// # Errors
    /// See [`AttachError`]; the queue is unchanged then.
    fn attach(&mut self, region: Arc<Region>) -> Result<(), AttachError>;

    /// The memory that the device's blocks lie in, for devices that are memory themselves. Not for the hot path.
    fn memory(&self) -> Vec<Arc<Region>> {
        Vec::new()
    }

    /// Where blocks lie in [`memory`](Self::memory), for whoever can use them there: bytes that stay as they are until
    /// something is written to the blocks or they are deallocated. Counts as a read. `None` for devices that are no
    /// memory, and for blocks that are not all there in one piece.
    #[inline]
    fn resident(&mut self, lba: u64, blocks: u32) -> Option<DmaSlice> {
        let _ = (lba, blocks);
        None
    }

    /// Forgets the region in `slot` and drops the queue's hold on it. Not for the hot path.
    ///
    /// # Errors
    /// [`AttachError::Busy`] while commands that name it are outstanding: poll, then call again.
    fn detach(&mut self, slot: RegionSlot) -> Result<(), AttachError>;
}
