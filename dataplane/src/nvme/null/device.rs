//! A shape without substance.

use super::NullQueue;
use crate::nvme::Geometry;

/// Says it has capacity. A read leaves its memory as it is.
#[derive(Clone, Copy, Debug)]
pub struct NullDevice {
    geometry: Geometry,
}

impl NullDevice {
    /// A device of `blocks` logical blocks of 4096 bytes.
    #[must_use]
    pub const fn new(blocks: u64) -> Self {
        Self {
            geometry: Geometry {
                lba_bytes: 4096,
                blocks,
                memory_align: 4,
                max_transfer: 16 << 20,
                volatile_cache: false,
                deallocate: true,
                depth: 0,
            },
        }
    }

    /// A queue for one core, of `depth` outstanding commands, that knows memory slots 0 to `memory_slots - 1`.
    #[must_use]
    pub fn queue(&self, depth: u32, memory_slots: u16) -> NullQueue {
        NullQueue::new(Geometry { depth: depth.max(1), ..self.geometry }, memory_slots)
    }
}
