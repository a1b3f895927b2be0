//! Checks, and says done.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::attached::AttachedRegions;
use crate::Burst;
use crate::memory::{Region, RegionSlot};
use crate::nvme::{AttachError, BlockDone, BlockError, BlockIo, BlockQueue, Geometry, QueueFull};

/// A queue pair of a [`NullDevice`](super::NullDevice).
pub struct NullQueue {
    geometry: Geometry,
    regions: AttachedRegions,
    pushed: VecDeque<(BlockIo, Result<(), BlockError>)>,
    /// How many of the commands were rung for.
    rung: usize,
}

impl NullQueue {
    pub(super) fn new(geometry: Geometry, memory_slots: u16) -> Self {
        let pushed = VecDeque::with_capacity(geometry.depth as usize);
        Self { geometry, regions: AttachedRegions::new(memory_slots), pushed, rung: 0 }
    }
}

impl BlockQueue for NullQueue {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn room(&self) -> usize {
        self.geometry.depth as usize - self.pushed.len()
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
        self.rung = self.pushed.len();
    }

    fn poll(&mut self, done: &mut Burst<BlockDone>) {
        while self.rung > 0
            && !done.is_full()
            && let Some((io, result)) = self.pushed.pop_front()
        {
            self.rung -= 1;
            if result.is_ok() {
                self.regions.end(&io);
            }
            done.push(BlockDone { token: io.token, result });
        }
    }

    fn in_flight(&self) -> usize {
        self.pushed.len()
    }

    fn attach(&mut self, region: Arc<Region>) -> Result<(), AttachError> {
        self.regions.attach(region)
    }

    fn detach(&mut self, slot: RegionSlot) -> Result<(), AttachError> {
        self.regions.detach(slot)
    }
}
