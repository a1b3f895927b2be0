//! Fills in a command's data pointer for bytes that lie together.

use crate::nvme::spec::{SglDescriptor, Sqe};

use super::{ClientMemory, Iova};

const PAGE: u64 = 4096;
/// Entries of a page of a PRP list.
const LIST_ENTRIES: usize = 512;

/// Names `bytes` at `iova` by one SGL data block.
pub fn set_sgl(sqe: &mut Sqe, iova: Iova, bytes: u32) {
    sqe.set_sgl(SglDescriptor::data_block(iova.0, bytes));
}

/// Where a PRP list may be written.
#[derive(Clone, Copy, Debug)]
pub struct PrpList<'a> {
    /// Registered memory.
    pub memory: &'a ClientMemory,
    /// Where it was registered.
    pub iova: Iova,
    /// Offset of the list in it, a multiple of 4096.
    pub offset: u64,
    /// Pages that may be used from there on.
    pub pages: usize,
}

/// Why PRP entries cannot name the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrpError {
    /// More than two pages, and no list, or one that is too short.
    #[error("{needed} pages of PRP list are needed; give a list as long as that")]
    NoList {
        /// Pages of list that are needed.
        needed: usize,
    },
    /// The address is not on a multiple of 4, or the list not on one of 4096.
    #[error("the address is not aligned: data to 4 bytes, lists to 4096")]
    Unaligned,
}

/// Names `bytes` at `iova` by PRP entries, and by a list if there are more than two pages.
///
/// # Errors
/// See [`PrpError`]; the command is unchanged then.
pub fn set_prps(sqe: &mut Sqe, iova: Iova, bytes: u32, list: Option<PrpList<'_>>) -> Result<(), PrpError> {
    if !iova.0.is_multiple_of(4) {
        return Err(PrpError::Unaligned);
    }
    let first_page = iova.0 - iova.0 % PAGE;
    let pages = (iova.0 % PAGE + u64::from(bytes)).div_ceil(PAGE).max(1) as usize;
    let page = |index: usize| first_page + index as u64 * PAGE;
    match pages {
        1 => sqe.set_prp(iova.0, 0),
        2 => sqe.set_prp(iova.0, page(1)),
        _ => {
            // Each list page but the last gives one entry to the way to the next.
            let needed = if pages - 1 <= LIST_ENTRIES { 1 } else { (pages - 2).div_ceil(LIST_ENTRIES - 1) };
            let list = list.filter(|list| list.pages >= needed).ok_or(PrpError::NoList { needed })?;
            if !list.offset.is_multiple_of(PAGE) {
                return Err(PrpError::Unaligned);
            }
            write_list(&list, &mut (1..pages).map(page)).ok_or(PrpError::NoList { needed })?;
            sqe.set_prp(iova.0, list.iova.0 + list.offset);
        }
    }
    Ok(())
}

fn write_list(list: &PrpList<'_>, pages: &mut impl ExactSizeIterator<Item = u64>) -> Option<()> {
    let mut offset = list.offset;
    loop {
        let last = pages.len() <= LIST_ENTRIES;
        let here = if last { pages.len() } else { LIST_ENTRIES - 1 };
        let mut at = offset;
        for page in pages.take(here) {
            list.memory.write(at, &page.to_le_bytes())?;
            at += 8;
        }
        if last {
            return Some(());
        }
        offset += PAGE;
        list.memory.write(at, &(list.iova.0 + offset).to_le_bytes())?;
    }
}
