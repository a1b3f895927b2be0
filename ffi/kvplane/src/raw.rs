//! The one way to look at registered memory without a copy.
#![allow(unsafe_code)]

use crate::{Memory, OutOfRange};

impl Memory {
    /// The bytes of a range, in place.
    ///
    /// # Errors
    /// [`OutOfRange`] if the range does not lie inside.
    ///
    /// # Safety
    /// For as long as the slice lives, nobody may write to the range: no command in flight reads a value or a state
    /// into it (a command that failed with [`Error::TimedOut`](crate::Error::TimedOut) or
    /// [`Error::Disconnected`](crate::Error::Disconnected) may still do so), no [`write`](Self::write) is made, and
    /// the target, which has the memory mapped, is trusted not to write unasked.
    pub unsafe fn as_slice(&self, offset: u64, bytes: usize) -> Result<&[u8], OutOfRange> {
        if offset.checked_add(bytes as u64).is_none_or(|end| end > self.len()) {
            return Err(OutOfRange { offset, bytes: bytes as u64, size: self.len() });
        }
        let from = (self.region.base() + offset) as *const u8;
        // SAFETY: the range was just checked to lie inside the mapping, which lives as long as `self`; the caller
        // vouches that nobody writes to it meanwhile.
        Ok(unsafe { std::slice::from_raw_parts(from, bytes) })
    }
}
