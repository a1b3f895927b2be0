//! Scratch places for lists of keys that the client copies.

use dataplane::nvme::spec::kv::Key;
use dataplane::nvme::spec::vendor::{LIST_ENTRY_BYTES, MAX_LIST_KEYS};

use crate::{Buffer, Memory, SubmitError};

/// Bytes of a place: room for the longest list.
pub(crate) const PLACE_BYTES: u32 = MAX_LIST_KEYS * LIST_ENTRY_BYTES;

/// Registered memory cut into places.
pub(crate) struct Lists {
    memory: Memory,
    free: Vec<u16>,
}

impl Lists {
    /// Takes over memory of `places` times [`PLACE_BYTES`].
    pub fn new(memory: Memory, places: u16) -> Self {
        Self { memory, free: (0..places).rev().collect() }
    }

    /// Copies a list into a free place.
    pub fn take(&mut self, keys: &[Key]) -> Result<(u16, Buffer), SubmitError> {
        if keys.is_empty() || keys.len() > MAX_LIST_KEYS as usize {
            return Err(SubmitError::BadList);
        }
        let place = *self.free.last().ok_or(SubmitError::ListsFull)?;
        let offset = u64::from(place) * u64::from(PLACE_BYTES);
        let bytes = keys.len() as u32 * LIST_ENTRY_BYTES;
        self.memory.write_keys(offset, keys).map_err(|_| SubmitError::BadList)?;
        let buffer = self.memory.slice(offset, bytes).map_err(|_| SubmitError::BadList)?;
        self.free.pop();
        Ok((place, buffer))
    }

    /// Gives a place back.
    pub fn give_back(&mut self, place: u16) {
        self.free.push(place);
    }
}
