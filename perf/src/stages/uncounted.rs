//! The device behind the pipeline, in functions that callgrind can leave out: what a command costs "without the device".

use std::sync::Arc;

use dataplane::Burst;
use dataplane::memory::{Region, RegionSlot};
use dataplane::nvme::null::NullQueue;
use dataplane::nvme::{AttachError, BlockDone, BlockIo, BlockQueue, Geometry, QueueFull};

/// A null device. What it does with commands is not counted; asking it for room and shape, and calling it, is.
pub(super) struct Uncounted(pub NullQueue);

#[inline(never)]
fn uncounted_device_push(queue: &mut NullQueue, io: BlockIo) -> Result<(), QueueFull> {
    queue.push(io)
}

#[inline(never)]
fn uncounted_device_poll(queue: &mut NullQueue, done: &mut Burst<BlockDone>) {
    queue.poll(done);
}

impl BlockQueue for Uncounted {
    #[inline]
    fn geometry(&self) -> &Geometry {
        self.0.geometry()
    }

    #[inline]
    fn room(&self) -> usize {
        self.0.room()
    }

    #[inline]
    fn push(&mut self, io: BlockIo) -> Result<(), QueueFull> {
        uncounted_device_push(&mut self.0, io)
    }

    #[inline]
    fn ring(&mut self) {
        self.0.ring();
    }

    #[inline]
    fn poll(&mut self, done: &mut Burst<BlockDone>) {
        uncounted_device_poll(&mut self.0, done);
    }

    #[inline]
    fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    fn attach(&mut self, region: Arc<Region>) -> Result<(), AttachError> {
        self.0.attach(region)
    }

    fn detach(&mut self, slot: RegionSlot) -> Result<(), AttachError> {
        self.0.detach(slot)
    }
}
