//! Data pointers of one contiguous range of I/O virtual addresses.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::registers::PAGE_BYTES;

/// The most bytes that one page of a PRP list describes, whatever offset they begin at.
pub(super) const MAX_TRANSFER: u32 = 2 << 20;

/// Bytes of the list that a transfer of `max_transfer` bytes may need; a power of two, so that lists side by side
/// never cross a page. At least a range of Dataset Management fits.
pub(super) const fn list_bytes(max_transfer: u32) -> usize {
    let entries = max_transfer.div_ceil(PAGE_BYTES as u32) as usize;
    let bytes = (entries * 8).next_power_of_two();
    if bytes < 64 { 64 } else { bytes }
}

/// A command's list: memory of the queue's, and where the controller finds it.
#[derive(Clone, Copy)]
pub(super) struct List {
    pub(super) first: NonNull<u64>,
    pub(super) iova: u64,
}

/// How the bytes at `iova` are described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pages {
    /// Both PRP entries.
    Pair(u64, u64),
    /// More pages than two entries describe.
    Many,
}

/// The PRP entries of a range, if two do (base, "Physical Region Page Entry and List").
#[inline(always)]
pub(super) const fn pair(iova: u64, bytes: u32) -> Pages {
    let end = (iova & (PAGE_BYTES - 1)) + bytes as u64;
    if end <= PAGE_BYTES {
        Pages::Pair(iova, 0)
    } else if end <= 2 * PAGE_BYTES {
        Pages::Pair(iova, (iova & !(PAGE_BYTES - 1)) + PAGE_BYTES)
    } else {
        Pages::Many
    }
}

/// Writes the list of the pages after the first. Gives both PRP entries.
///
/// # Safety
/// `list` must have room for the entries of `bytes` bytes at the offset of `iova`: see [`list_bytes`].
#[inline]
pub(super) unsafe fn write_list(list: List, iova: u64, bytes: u32) -> (u64, u64) {
    let pages = ((iova & (PAGE_BYTES - 1)) + u64::from(bytes)).div_ceil(PAGE_BYTES);
    let mut page = iova & !(PAGE_BYTES - 1);
    for entry in 0..pages.saturating_sub(1) as usize {
        page += PAGE_BYTES;
        // SAFETY: the caller vouches for the room. Only the controller reads it, after the doorbell.
        unsafe { list.first.add(entry).write(page.to_le()) };
    }
    (iova, list.iova)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_entries_describe_two_pages() {
        assert_eq!(pair(0x1_0000, 4096), Pages::Pair(0x1_0000, 0));
        assert_eq!(pair(0x1_0800, 2048), Pages::Pair(0x1_0800, 0));
        assert_eq!(pair(0x1_0800, 2049), Pages::Pair(0x1_0800, 0x1_1000));
        assert_eq!(pair(0x1_0000, 8192), Pages::Pair(0x1_0000, 0x1_1000));
        assert_eq!(pair(0x1_0004, 8192), Pages::Many);
    }

    #[test]
    fn a_list_names_every_page_after_the_first() {
        let mut words = [0_u64; 512];
        let list = List { first: NonNull::from(&mut words).cast(), iova: 0x9_0000 };
        // SAFETY: 512 entries are enough for 2 MiB at any offset.
        let entries = unsafe { write_list(list, 0x1_0800, MAX_TRANSFER) };
        assert_eq!(entries, (0x1_0800, 0x9_0000));
        assert_eq!((words[0].to_le(), words[511].to_le()), (0x1_1000, 0x1_1000 + 511 * 4096));
        assert_eq!((list_bytes(MAX_TRANSFER), list_bytes(4096), list_bytes(96 << 10)), (4096, 64, 256));
    }
}
