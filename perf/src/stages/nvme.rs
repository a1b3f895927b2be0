//! The NVMe driver on a controller in software, on one thread: submit a burst, let the controller work, complete it.

use std::sync::Arc;

use dataplane::memory::{Region, RegionSlot};
use dataplane::nvme::vfio::model::{Model, ModelOptions};
use dataplane::nvme::vfio::{Controller, ControllerOptions, VfioQueue};
use dataplane::nvme::{BlockDone, BlockIo, BlockOp, BlockQueue};
use dataplane::{BURST, Burst};

use super::RigError;

/// Bytes of each read.
const BYTES: u32 = 4096;

/// Driver and controller.
pub struct NvmeRig {
    model: Model,
    queue: VfioQueue,
    reads: Vec<BlockIo>,
}

impl NvmeRig {
    /// Sets both up.
    ///
    /// # Errors
    /// What could not be set up.
    pub fn new() -> Result<Self, RigError> {
        let model = Model::new(ModelOptions::default())?;
        let controller = Controller::open(Arc::new(model.clone()), ControllerOptions::default())?;
        let mut queue = controller.namespace(1)?.queue(2 * BURST as u32, 1)?;
        let region = Arc::new(Region::anonymous(BURST * BYTES as usize, RegionSlot(0))?);
        queue.attach(Arc::clone(&region))?;
        let read = |at: u64| {
            let memory = region.slice(at * u64::from(BYTES), BYTES)?;
            Some(BlockIo { op: BlockOp::Read, lba: at, blocks: 1, memory, token: at })
        };
        let reads: Option<Vec<_>> = (0..BURST as u64).map(read).collect();
        Ok(Self { model, queue, reads: reads.ok_or("the reads do not fit their memory")? })
    }

    /// Reads `bursts` bursts.
    ///
    /// # Errors
    /// If one fails.
    pub fn run(&mut self, bursts: u64) -> Result<(), RigError> {
        for _ in 0..bursts {
            measured_turn_submit(&mut self.queue, &self.reads);
            while self.model.step() > 0 {}
            let mut done = Burst::new();
            measured_turn_complete(&mut self.queue, &mut done);
            if done.len() != BURST || done.iter().any(|done| done.result.is_err()) {
                return Err(format!("of {BURST} reads ended {done:?}").into());
            }
        }
        Ok(())
    }
}

/// Functions of their own, so that callgrind can count in them and nowhere else: it looks for `measured_turn`.
#[inline(never)]
fn measured_turn_submit(queue: &mut VfioQueue, reads: &[BlockIo]) {
    for read in reads {
        // There is room for two bursts; what is missing shows in what completes.
        let _ = queue.push(*read);
    }
    queue.ring();
}

#[inline(never)]
fn measured_turn_complete(queue: &mut VfioQueue, done: &mut Burst<BlockDone>) {
    queue.poll(done);
}
