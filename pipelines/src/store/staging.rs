//! A shard's memory for the transfers of its own, and who has which part of it.

use dataplane::memory::DmaSlice;

use super::layout::UNIT_BYTES;
use super::operation::{COMMIT_PAGES, MOVES, READS};
use super::shard::Shard;

/// Bytes of metadata that are read at once.
pub(super) const CHUNK_BYTES: u32 = 64 << 10;
/// Bytes of one staging buffer of a move.
pub(super) const MOVE_BYTES: u32 = 128 << 10;
const COMMIT_HEADER_AT: u32 = COMMIT_PAGES as u32 * UNIT_BYTES;
const EVICT_HEADER_AT: u32 = COMMIT_HEADER_AT + UNIT_BYTES;
const CHUNK_AT: u32 = EVICT_HEADER_AT + UNIT_BYTES;
const BULK_AT: u32 = CHUNK_AT + CHUNK_BYTES;
const _: () = assert!(READS as u32 * CHUNK_BYTES <= MOVES as u32 * MOVE_BYTES, "reads and moves share their buffers");

impl Shard<()> {
    /// Bytes of staging memory that a shard needs.
    pub const STAGING_BYTES: u32 = BULK_AT + MOVES as u32 * MOVE_BYTES;
}

impl<P> Shard<P> {
    /// Where page `index` of a commit is staged.
    pub(super) fn staging_of_page(index: usize) -> u32 {
        index as u32 * UNIT_BYTES
    }

    /// Copies `self.page` into the staging memory at `at` and says where it lies.
    pub(super) fn stage_page(&self, at: u32) -> DmaSlice {
        self.staging.write(at, &*self.page).and_then(|()| self.staging.sub(at, UNIT_BYTES)).unwrap_or(DmaSlice::EMPTY)
    }

    pub(super) const COMMIT_HEADER_AT: u32 = COMMIT_HEADER_AT;
    pub(super) const EVICT_HEADER_AT: u32 = EVICT_HEADER_AT;

    /// Staging memory for `bytes` of metadata.
    pub(super) fn chunk_memory(&self, bytes: u32) -> DmaSlice {
        self.staging.sub(CHUNK_AT, bytes).unwrap_or(DmaSlice::EMPTY)
    }

    /// Copies metadata that was read out of the staging memory into `self.chunk`.
    pub(super) fn load_chunk(&mut self, bytes: u32) -> bool {
        self.staging.read(CHUNK_AT, &mut self.chunk[..bytes as usize]).is_some()
    }

    /// Staging memory of a move.
    pub(super) fn move_memory(&self, index: usize, bytes: u32) -> DmaSlice {
        self.staging.sub(BULK_AT + index as u32 * MOVE_BYTES, bytes).unwrap_or(DmaSlice::EMPTY)
    }

    /// Staging memory of a read of recovery.
    pub(super) fn read_memory(&self, index: usize, bytes: u32) -> DmaSlice {
        self.staging.sub(BULK_AT + index as u32 * CHUNK_BYTES, bytes).unwrap_or(DmaSlice::EMPTY)
    }

    /// Copies what a read of recovery brought into `self.chunk`.
    pub(super) fn load_read(&mut self, index: usize, bytes: u32) -> bool {
        self.staging.read(BULK_AT + index as u32 * CHUNK_BYTES, &mut self.chunk[..bytes as usize]).is_some()
    }
}
