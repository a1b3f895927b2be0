//! Blocks of a namespace, and what of them a loss of power leaves.

use std::io;

use super::NO_SLOT;
use crate::memory::Region;

/// Bytes that are durable or not together.
const GRANULE: u64 = 512;

pub(super) struct Media {
    /// What commands see.
    pub(super) blocks: Region,
    durable: Region,
    /// One bit a granule that is not durable.
    dirty: Vec<u64>,
}

impl Media {
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let words = (bytes as u64).div_ceil(64 * GRANULE) as usize;
        let (blocks, durable) = (Region::anonymous(bytes, NO_SLOT)?, Region::anonymous(bytes, NO_SLOT)?);
        Ok(Self { blocks, durable, dirty: vec![0; words] })
    }

    /// Bytes were written, into the volatile cache or through it.
    pub(super) fn written(&mut self, offset: u64, bytes: u64, volatile: bool) {
        for granule in offset / GRANULE..(offset + bytes).div_ceil(GRANULE) {
            let Some(word) = self.dirty.get_mut((granule / 64) as usize) else { return };
            let bit = 1 << (granule % 64);
            if volatile {
                *word |= bit;
            } else {
                *word &= !bit;
            }
        }
        if !volatile {
            let _ = self.blocks.copy_to(offset, &self.durable, offset, bytes as usize);
        }
    }

    /// Empties the cache.
    pub(super) fn flush(&mut self) {
        self.settle(|media, offset| _ = media.blocks.copy_to(offset, &media.durable, offset, GRANULE as usize));
    }

    /// Loses the cache.
    pub(super) fn lose_power(&mut self) {
        self.settle(|media, offset| _ = media.durable.copy_to(offset, &media.blocks, offset, GRANULE as usize));
    }

    fn settle(&mut self, granule: impl Fn(&Self, u64)) {
        for at in 0..self.dirty.len() {
            let mut word = std::mem::take(&mut self.dirty[at]);
            while word != 0 {
                granule(self, (at as u64 * 64 + u64::from(word.trailing_zeros())) * GRANULE);
                word &= word - 1;
            }
        }
    }
}
