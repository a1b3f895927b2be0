//! Copies at the doorbell; completes in order.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::attached::AttachedRegions;
use crate::Burst;
use crate::memory::{DmaSlice, Region, RegionSlot};
use crate::nvme::{AttachError, BlockDone, BlockError, BlockIo, BlockOp, BlockQueue, Geometry, QueueFull};

/// A queue pair of a [`RamDevice`](super::RamDevice).
pub struct RamQueue {
    blocks: Arc<Region>,
    geometry: Geometry,
    regions: AttachedRegions,
    /// Pushed, with what the check said; not yet carried out.
    pushed: VecDeque<(BlockIo, Result<(), BlockError>)>,
    /// Carried out, with whether its region counts it as outstanding.
    done: VecDeque<(BlockIo, bool, Result<(), BlockError>)>,
}

impl RamQueue {
    pub(super) fn new(blocks: Arc<Region>, geometry: Geometry, memory_slots: u16) -> Self {
        let depth = geometry.depth as usize;
        Self {
            blocks,
            geometry,
            regions: AttachedRegions::new(memory_slots),
            pushed: VecDeque::with_capacity(depth),
            done: VecDeque::with_capacity(depth),
        }
    }

    fn carry_out(&self, io: &BlockIo) -> Result<(), BlockError> {
        let at = io.lba * u64::from(self.geometry.lba_bytes);
        let moved = match io.op {
            BlockOp::Flush => Some(()),
            BlockOp::Deallocate => self.blocks.fill(at, io.blocks as usize * self.geometry.lba_bytes as usize, 0),
            BlockOp::Read | BlockOp::Write { .. } => self.copy(io, at),
        };
        moved.ok_or(BlockError::Invalid)
    }

    fn copy(&self, io: &BlockIo, at: u64) -> Option<()> {
        let region = self.regions.get(io.memory.slot())?;
        let offset = region.offset_of(&io.memory)?;
        let bytes = io.memory.bytes() as usize;
        match io.op {
            BlockOp::Read => self.blocks.copy_to(at, region, offset, bytes),
            _ => region.copy_to(offset, &self.blocks, at, bytes),
        }
    }
}

impl BlockQueue for RamQueue {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn room(&self) -> usize {
        self.geometry.depth as usize - self.in_flight()
    }

    fn push(&mut self, io: BlockIo) -> Result<(), QueueFull> {
        if self.room() == 0 {
            return Err(QueueFull(io));
        }
        let checked = self.regions.take_in(&self.geometry, &io);
        self.pushed.push_back((io, checked));
        Ok(())
    }

    fn ring(&mut self) {
        while let Some((io, checked)) = self.pushed.pop_front() {
            let result = checked.and_then(|()| self.carry_out(&io));
            self.done.push_back((io, checked.is_ok(), result));
        }
    }

    fn poll(&mut self, done: &mut Burst<BlockDone>) {
        while !done.is_full()
            && let Some((io, counted, result)) = self.done.pop_front()
        {
            if counted {
                self.regions.end(&io);
            }
            done.push(BlockDone { token: io.token, result });
        }
    }

    fn in_flight(&self) -> usize {
        self.pushed.len() + self.done.len()
    }

    fn attach(&mut self, region: Arc<Region>) -> Result<(), AttachError> {
        self.regions.attach(region)
    }

    fn memory(&self) -> Vec<Arc<Region>> {
        vec![Arc::clone(&self.blocks)]
    }

    fn resident(&mut self, lba: u64, blocks: u32) -> Option<DmaSlice> {
        let lba_bytes = self.geometry.lba_bytes;
        self.blocks.slice(lba.checked_mul(u64::from(lba_bytes))?, blocks.checked_mul(lba_bytes)?)
    }

    fn detach(&mut self, slot: RegionSlot) -> Result<(), AttachError> {
        self.regions.detach(slot)
    }
}
