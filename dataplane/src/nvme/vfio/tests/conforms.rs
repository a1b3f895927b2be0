//! The conformance suite of block queues, stepped by hand and with the model on a thread of its own.

use std::sync::Arc;
use std::time::Duration;

use super::super::model::{Model, ModelOptions, ModelThread};
use super::super::*;
use crate::Burst;
use crate::memory::{Region, RegionSlot};
use crate::nvme::conformance::{self, Keeps};
use crate::nvme::{AttachError, BlockDone, BlockIo, BlockQueue, Geometry, QueueFull};

/// A queue whose doorbell makes the model work.
pub(super) struct Stepped {
    pub(super) queue: VfioQueue,
    pub(super) model: Model,
}

impl BlockQueue for Stepped {
    fn geometry(&self) -> &Geometry {
        self.queue.geometry()
    }
    fn room(&self) -> usize {
        self.queue.room()
    }
    fn push(&mut self, io: BlockIo) -> Result<(), QueueFull> {
        self.queue.push(io)
    }
    fn ring(&mut self) {
        self.queue.ring();
        self.model.step();
    }
    fn poll(&mut self, done: &mut Burst<BlockDone>) {
        self.queue.poll(done);
    }
    fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }
    fn attach(&mut self, region: Arc<Region>) -> Result<(), AttachError> {
        self.queue.attach(region)
    }
    fn detach(&mut self, slot: RegionSlot) -> Result<(), AttachError> {
        self.queue.detach(slot)
    }
}

pub(super) fn options() -> ControllerOptions {
    ControllerOptions { admin_timeout: Duration::from_millis(300), ..ControllerOptions::default() }
}

pub(super) fn open(model: &Model) -> Controller {
    Controller::open(Arc::new(model.clone()), options()).unwrap()
}

pub(super) fn stepped(options: ModelOptions, depth: u32, slots: u16) -> Stepped {
    let model = Model::new(options).unwrap();
    let queue = open(&model).namespace(1).unwrap().queue(depth, slots).unwrap();
    Stepped { queue, model }
}

fn kinds() -> Vec<ModelOptions> {
    let base = ModelOptions::default();
    vec![
        base.clone(),
        ModelOptions { lba_bytes: 512, mdts: 1, volatile_cache: false, deallocate: false, ..base.clone() },
        ModelOptions { sgl: true, doorbell_stride: 2, ..base.clone() },
        ModelOptions { shadow_doorbells: true, ..base.clone() },
        ModelOptions { optimal_boundary: 16, lba_bytes: 4096, ..base.clone() },
        ModelOptions { queue_entries: 65, ..base },
    ]
}

#[test]
fn stepped_by_hand() {
    for kind in kinds() {
        let mut models = Vec::new();
        conformance::check(
            |depth, slots| {
                let stepped = stepped(kind.clone(), depth, slots);
                models.push(stepped.model.clone());
                stepped
            },
            Keeps::Bytes,
        );
        for model in models {
            assert_eq!(model.violations(), Vec::<String>::new(), "{kind:?}");
            assert_eq!(model.mappings(), 0, "everything was given back");
        }
    }
}

#[test]
fn on_a_thread_of_its_own() {
    let model = Model::new(ModelOptions::default()).unwrap();
    let _thread = ModelThread::start(model.clone()).unwrap();
    let device = open(&model).namespace(1).unwrap();
    conformance::check(|depth, slots| device.queue(depth, slots).unwrap(), Keeps::Bytes);
    assert_eq!(model.violations(), Vec::<String>::new());
}
