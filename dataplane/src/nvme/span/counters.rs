//! What one core did on one device.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::nvme::{BlockIo, BlockOp};

/// Counters that one core writes and anybody may read, in cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct IoCounters {
    reads: AtomicU64,
    bytes_read: AtomicU64,
    writes: AtomicU64,
    bytes_written: AtomicU64,
    deallocations: AtomicU64,
    bytes_deallocated: AtomicU64,
    flushes: AtomicU64,
    errors: AtomicU64,
    gone: AtomicBool,
}

/// What [`IoCounters`] stand at. Commands are counted when they are taken, errors when they end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoFigures {
    /// Reads.
    pub reads: u64,
    /// Bytes that they asked for.
    pub bytes_read: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes that they brought.
    pub bytes_written: u64,
    /// Deallocations.
    pub deallocations: u64,
    /// Bytes that they named.
    pub bytes_deallocated: u64,
    /// Flushes.
    pub flushes: u64,
    /// Commands that failed.
    pub errors: u64,
}

/// Only one thread adds, so no locked instruction is needed.
#[inline(always)]
fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

impl IoCounters {
    /// Counts a command that was taken, on a device with blocks of `lba_bytes`.
    #[inline(always)]
    pub(super) fn count(&self, io: &BlockIo, lba_bytes: u32) {
        let bytes = u64::from(io.blocks) * u64::from(lba_bytes);
        let (commands, moved) = match io.op {
            BlockOp::Read => (&self.reads, &self.bytes_read),
            BlockOp::Write { .. } => (&self.writes, &self.bytes_written),
            BlockOp::Deallocate => (&self.deallocations, &self.bytes_deallocated),
            BlockOp::Flush => return add(&self.flushes, 1),
        };
        add(commands, 1);
        add(moved, bytes);
    }

    #[cold]
    pub(super) fn count_error(&self) {
        add(&self.errors, 1);
    }

    /// Tells the core that the device is gone for good.
    pub fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Whether the device is known to be gone for good.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// What they stand at.
    #[must_use]
    pub fn figures(&self) -> IoFigures {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        IoFigures {
            reads: get(&self.reads),
            bytes_read: get(&self.bytes_read),
            writes: get(&self.writes),
            bytes_written: get(&self.bytes_written),
            deallocations: get(&self.deallocations),
            bytes_deallocated: get(&self.bytes_deallocated),
            flushes: get(&self.flushes),
            errors: get(&self.errors),
        }
    }
}

impl std::ops::AddAssign for IoFigures {
    fn add_assign(&mut self, other: Self) {
        self.reads += other.reads;
        self.bytes_read += other.bytes_read;
        self.writes += other.writes;
        self.bytes_written += other.bytes_written;
        self.deallocations += other.deallocations;
        self.bytes_deallocated += other.bytes_deallocated;
        self.flushes += other.flushes;
        self.errors += other.errors;
    }
}
