//! The memory that holds the blocks.

use std::io;
use std::sync::Arc;

use super::RamQueue;
use crate::memory::{Region, RegionSlot};
use crate::nvme::Geometry;

/// What a [`RamDevice`] should look like.
#[derive(Clone, Copy, Debug)]
pub struct RamOptions {
    /// Capacity in bytes; what does not fill a block is left out.
    pub bytes: u64,
    /// Bytes in a logical block, a power of two from 512 to 65,536.
    pub lba_bytes: u32,
    /// Whether the geometry speaks of a volatile cache, so that callers flush. There is none to lose.
    pub volatile_cache: bool,
}

/// Blocks in memory, zeros at first. Cheap to clone; all clones and their queues share the blocks.
#[derive(Clone, Debug)]
pub struct RamDevice {
    blocks: Arc<Region>,
    geometry: Geometry,
}

impl RamDevice {
    /// Maps the memory. Pages are taken as they are first written.
    ///
    /// # Errors
    /// `InvalidInput` for options out of range, else what `mmap` says.
    pub fn new(options: RamOptions) -> io::Result<Self> {
        let RamOptions { bytes, lba_bytes, volatile_cache } = options;
        let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidInput, text.to_owned());
        if !lba_bytes.is_power_of_two() || !(512..=65_536).contains(&lba_bytes) {
            return Err(invalid("a logical block must have a power of two of bytes, 512 to 65,536"));
        }
        let blocks = bytes / u64::from(lba_bytes);
        let bytes = usize::try_from(blocks * u64::from(lba_bytes)).map_err(|_| invalid("too many bytes"))?;
        let geometry = Geometry {
            lba_bytes,
            blocks,
            memory_align: 4,
            max_transfer: 16 << 20,
            volatile_cache,
            deallocate: true,
            depth: 0,
        };
        // The slot is never looked at: no command names this region.
        let blocks = Region::anonymous(bytes, RegionSlot(u16::MAX))?;
        blocks.prefer_large_pages();
        Ok(Self { blocks: Arc::new(blocks), geometry })
    }

    /// A queue for one core, of `depth` outstanding commands, that knows memory slots 0 to `memory_slots - 1`.
    #[must_use]
    pub fn queue(&self, depth: u32, memory_slots: u16) -> RamQueue {
        RamQueue::new(Arc::clone(&self.blocks), Geometry { depth: depth.max(1), ..self.geometry }, memory_slots)
    }

    /// Looks at the bytes behind the queues' backs. `None` if the range does not lie inside.
    #[must_use]
    pub fn peek(&self, offset: u64, into: &mut [u8]) -> Option<()> {
        self.blocks.read(offset, into)
    }

    /// Changes bytes behind the queues' backs, as a failing medium would. `None` if the range does not lie inside.
    #[must_use]
    pub fn poke(&self, offset: u64, from: &[u8]) -> Option<()> {
        self.blocks.write(offset, from)
    }
}
