//! The driver against the model.

mod change;
mod conforms;
mod device;
mod lies;
mod lifetime;
mod placement;
mod power;
mod random;
mod recovery;
mod report;
mod strictness;

use std::sync::Arc;
use std::time::Duration;

use super::model::{Model, ModelOptions};
use super::*;
use crate::Burst;
use crate::memory::{Region, RegionSlot};
use crate::nvme::{AttachError, BlockDone, BlockError, BlockIo, BlockOp, BlockQueue, Geometry, QueueFull, conformance};

const WRITE: BlockOp = BlockOp::write(false);

/// A queue whose doorbell makes the model work.
struct Stepped {
    queue: VfioQueue,
    model: Model,
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

fn options() -> ControllerOptions {
    ControllerOptions {
        admin_timeout: Duration::from_millis(300),
        command_timeout: Duration::from_secs(1),
        ..ControllerOptions::default()
    }
}

fn try_open(model: &Model) -> Result<Controller, OpenError> {
    Controller::open(Arc::new(model.clone()), options())
}

fn open(model: &Model) -> Controller {
    try_open(model).unwrap()
}

fn stepped(options: ModelOptions, depth: u32, slots: u16) -> Stepped {
    let model = Model::new(options).unwrap();
    let queue = open(&model).namespace(1).unwrap().queue(depth, slots).unwrap();
    Stepped { queue, model }
}

fn assert_clean(model: &Model) {
    assert_eq!(model.violations(), Vec::<String>::new());
}

/// Everything that a test of a misbehaving controller needs: the controller, a queue of depth 8, 64 blocks of memory.
struct Bench {
    model: Model,
    controller: Controller,
    queue: Stepped,
    region: Arc<Region>,
}

impl Bench {
    fn new(options: ModelOptions) -> Self {
        let model = Model::new(options).unwrap();
        let controller = open(&model);
        let queue = controller.namespace(1).unwrap().queue(8, 2).unwrap();
        let mut queue = Stepped { queue, model: model.clone() };
        let region = conformance::attach(&mut queue, 0);
        Self { model, controller, queue, region }
    }

    fn io(&self, op: BlockOp, lba: u64) -> BlockIo {
        let memory = conformance::blocks_of(&self.queue, &self.region, lba as u32 % 64, 1);
        conformance::io(op, lba, 1, memory)
    }

    fn push(&mut self, op: BlockOp, lba: u64) {
        let io = self.io(op, lba);
        self.queue.push(io).unwrap();
    }

    fn run(&mut self, op: BlockOp, lba: u64) -> Result<(), BlockError> {
        let io = self.io(op, lba);
        conformance::run(&mut self.queue, io)
    }

    fn poll(&mut self) -> Vec<BlockDone> {
        let mut done = Burst::new();
        self.queue.poll(&mut done);
        self.model.step();
        done.to_vec()
    }

    /// Lets time pass, control and queue taking turns, until `count` commands are done. Never waits for the clock.
    fn pass_time(&mut self, count: usize) -> Vec<BlockDone> {
        let mut all = Vec::new();
        for _ in 0..200 {
            if all.len() >= count {
                return all;
            }
            self.controller.service(Duration::from_millis(100));
            for _ in 0..4 {
                all.extend(self.poll());
            }
        }
        panic!("{} of {count} commands done: {:?}", all.len(), self.controller.status());
    }

    fn state(&self) -> ControllerState {
        self.controller.status().state
    }
}
