//! Memory that is registered with the target.

use std::sync::Arc;

use dataplane::memory::Region;
use dataplane::nvme::spec::kv::Key;
use dataplane::nvme::spec::vendor::{KeyState, LIST_ENTRY_BYTES};

/// A range lies outside the memory or buffer it was asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes at offset {offset} do not lie inside {size} bytes")]
pub struct OutOfRange {
    /// Where the range begins.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Size of what it should lie in.
    pub size: u64,
}

/// Memory shared with the target, made by [`Client::register`](crate::Client::register).
///
/// The target may write to it for as long as commands that name it are in flight, so its bytes are copied in and
/// out and never lent as a slice ([`as_slice`](Self::as_slice) is the unsafe exception). A clone is another handle
/// to the same memory; it stays mapped until the last handle is gone and the client has unregistered it.
#[derive(Clone, Debug)]
pub struct Memory {
    pub(crate) region: Arc<Region>,
    pub(crate) id: MemoryId,
}

/// Names a registration: the place in its client's table, and a serial number that no other registration of the
/// process ever has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MemoryId {
    pub index: u16,
    pub serial: u32,
}

/// Bytes of a [`Memory`], for use in a command. Plain data; it keeps nothing alive.
///
/// Addresses and lengths that are multiples of 4,096 let the device move the bytes itself. Others work as well, but
/// the target stages and copies them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    pub(crate) memory: MemoryId,
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
}

impl Buffer {
    /// Offset in its memory, in bytes.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.bytes
    }

    /// Whether it holds no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The first `bytes` of it; all of it if it is shorter.
    #[must_use]
    pub const fn first(self, bytes: u32) -> Self {
        Self { bytes: if bytes < self.bytes { bytes } else { self.bytes }, ..self }
    }
}

impl Memory {
    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.region.bytes() as u64
    }

    /// Whether it has no bytes. It always has some.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A buffer of `bytes` bytes at `offset`.
    ///
    /// # Errors
    /// [`OutOfRange`] if it does not lie inside.
    pub fn slice(&self, offset: u64, bytes: u32) -> Result<Buffer, OutOfRange> {
        self.region.slice(offset, bytes).ok_or_else(|| self.out_of_range(offset, bytes as usize))?;
        Ok(Buffer { memory: self.id, offset, bytes })
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// [`OutOfRange`], and nothing copied, if they do not fit.
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), OutOfRange> {
        self.region.write(offset, from).ok_or_else(|| self.out_of_range(offset, from.len()))
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// [`OutOfRange`], and nothing copied, if there are not so many.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OutOfRange> {
        self.region.read(offset, into).ok_or_else(|| self.out_of_range(offset, into.len()))
    }

    /// Writes a list of keys, 16 bytes each, for [`Keys::InPlace`](crate::Keys::InPlace) and
    /// [`Request::LookupState`](crate::Request::LookupState).
    ///
    /// # Errors
    /// [`OutOfRange`] if they do not fit; some keys may have been written then.
    pub fn write_keys(&self, offset: u64, keys: &[Key]) -> Result<(), OutOfRange> {
        let step = u64::from(LIST_ENTRY_BYTES);
        for (place, key) in (0..).zip(keys) {
            self.write(offset.saturating_add(step * place), key.bytes())?;
        }
        Ok(())
    }

    /// Entry `index` of the answer to a [`Request::LookupState`](crate::Request::LookupState) whose list began at
    /// `offset`. `None` outside the memory, or if the target wrote something that is not a state.
    #[must_use]
    pub fn key_state(&self, offset: u64, index: u32) -> Option<KeyState> {
        let mut bytes = [0; LIST_ENTRY_BYTES as usize];
        self.read(offset.checked_add(u64::from(index) * u64::from(LIST_ENTRY_BYTES))?, &mut bytes).ok()?;
        KeyState::from_bytes(&bytes)
    }

    /// Hands the bytes of a range to `each` in order, in pieces of at most 4,096 bytes that were copied out one
    /// after the other: reads a range of any size without a second buffer of that size.
    ///
    /// # Errors
    /// [`OutOfRange`] if the range does not lie inside; `each` was not called then.
    pub fn for_each_piece(&self, offset: u64, bytes: u64, mut each: impl FnMut(&[u8])) -> Result<(), OutOfRange> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.len()) {
            return Err(OutOfRange { offset, bytes, size: self.len() });
        }
        let mut piece = [0u8; PIECE];
        let mut done = 0;
        while done < bytes {
            let part = &mut piece[..(bytes - done).min(PIECE as u64) as usize];
            self.read(offset + done, part)?;
            each(part);
            done += part.len() as u64;
        }
        Ok(())
    }

    /// The CRC-64/NVME of a range: what goes with a value under [`Checksum::Verify`](crate::Checksum::Verify).
    ///
    /// # Errors
    /// [`OutOfRange`] if the range does not lie inside.
    pub fn checksum(&self, offset: u64, bytes: u64) -> Result<u64, OutOfRange> {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        self.for_each_piece(offset, bytes, |piece| digest.update(piece))?;
        Ok(digest.finalize())
    }

    /// Overwrites a range with zeros.
    pub(crate) fn wipe(&self, offset: u64, bytes: u64) -> Result<(), OutOfRange> {
        let mut done = 0;
        while done < bytes {
            let part = (bytes - done).min(PIECE as u64) as usize;
            self.write(offset + done, &[0; PIECE][..part])?;
            done += part as u64;
        }
        Ok(())
    }

    fn out_of_range(&self, offset: u64, bytes: usize) -> OutOfRange {
        OutOfRange { offset, bytes: bytes as u64, size: self.len() }
    }
}

/// Small enough for the stack and the first-level cache, large enough that calls do not count.
const PIECE: usize = 4096;
