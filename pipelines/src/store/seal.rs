//! The head that a store's superblock and its devices' labels share: magic (bytes 0 to 7), format version (8 to 11) and
//! CRC-32C of the block, taken with its own field zero (12 to 15).

use super::StoreError;
use super::page::{PAGE_BYTES, crc32c};
use super::record::word;

/// Gives a block its head, when all else stands in it.
pub(super) fn close(bytes: &mut [u8; PAGE_BYTES], magic: &[u8; 8], version: u32) {
    bytes[..8].copy_from_slice(magic);
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    bytes[12..16].fill(0);
    let crc = crc32c(bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// Whether a block is whole and of the version that is known. Its magic was looked at.
///
/// # Errors
/// [`StoreError::Damaged`], then [`StoreError::Version`].
pub(super) fn check(bytes: &[u8; PAGE_BYTES], known: u32) -> Result<(), StoreError> {
    let mut sealed = *bytes;
    sealed[12..16].fill(0);
    if crc32c(&sealed) != word(bytes, 12) {
        return Err(StoreError::Damaged);
    }
    let found = word(bytes, 8);
    if found == known { Ok(()) } else { Err(StoreError::Version { found, known }) }
}
