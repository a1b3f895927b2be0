//! The NVMe driver on a controller in another process's stead: our model behind the server of the crate `vfio_user`. The
//! driver's end is our initiator.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::Burst;
use dataplane::fabric::vfio_user::ConnectOptions;
use dataplane::fabric::vfio_user::initiator::RemoteFunction;
use dataplane::memory::{Region, RegionSlot};
use dataplane::nvme::vfio::model::{Fault, ModelOptions};
use dataplane::nvme::vfio::{Controller, ControllerOptions, ControllerState, OpenError, VfioQueue};
use dataplane::nvme::{AttachError, BlockDone, BlockError, BlockIo, BlockOp, BlockQueue};
use e2e::nvme_target::NvmeTarget;

struct Rig {
    target: NvmeTarget,
}

impl Rig {
    fn new(options: ModelOptions) -> Self {
        Self { target: NvmeTarget::start(options) }
    }

    fn open(&self) -> Controller {
        open(self.target.folder()).unwrap()
    }
}

fn open(folder: &Path) -> Result<Controller, OpenError> {
    open_with(folder, ConnectOptions::default())
}

fn open_with(folder: &Path, options: ConnectOptions) -> Result<Controller, OpenError> {
    let function = RemoteFunction::connect(folder, &options).unwrap();
    let command_timeout = Duration::from_millis(500);
    Controller::open(function, ControllerOptions { command_timeout, ..ControllerOptions::default() })
}

/// Polls, with the control side taking its turns, until `count` commands are done.
fn finish(controller: &Controller, queue: &mut VfioQueue, count: usize) -> Vec<BlockDone> {
    let begin = Instant::now();
    let mut all = Vec::new();
    while all.len() < count {
        let mut done = Burst::new();
        queue.poll(&mut done);
        all.extend(done);
        controller.service(Duration::from_millis(1));
        assert!(begin.elapsed() < Duration::from_secs(60), "{} of {count}: {:?}", all.len(), controller.status());
    }
    all
}

fn io_of(region: &Region, op: BlockOp, lba: u64, blocks: u32) -> BlockIo {
    let memory = region.slice(lba * 4096, blocks * 4096).unwrap();
    BlockIo { op, lba, blocks, memory, token: lba }
}

const WRITE: BlockOp = BlockOp::write(false);

fn shared(slot: u16) -> Arc<Region> {
    Arc::new(Region::shared(256 * 4096, RegionSlot(slot)).unwrap())
}

fn carry_out(options: ModelOptions) {
    let rig = Rig::new(options);
    let controller = rig.open();
    let mut queue = controller.namespace(1).unwrap().queue(16, 2).unwrap();
    let region = shared(0);
    queue.attach(Arc::clone(&region)).unwrap();
    for (value, (lba, blocks)) in [(0, 1), (1, 2), (3, 5), (8, 100)].into_iter().enumerate() {
        region.fill(lba * 4096, blocks as usize * 4096, value as u8 + 1).unwrap();
        queue.push(io_of(&region, WRITE, lba, blocks)).unwrap();
    }
    queue.ring();
    assert!(finish(&controller, &mut queue, 4).iter().all(|done| done.result == Ok(())));
    region.fill(0, region.bytes(), 0xEE).unwrap();
    queue.push(io_of(&region, BlockOp::Read, 3, 6)).unwrap();
    queue.ring();
    assert_eq!(finish(&controller, &mut queue, 1)[0].result, Ok(()));
    let mut seen = vec![0; 7 * 4096];
    region.read(3 * 4096, &mut seen).unwrap();
    assert!(seen[..5 * 4096].iter().all(|byte| *byte == 3) && seen[5 * 4096..6 * 4096].iter().all(|byte| *byte == 4));
    assert!(seen[6 * 4096..].iter().all(|byte| *byte == 0xEE));
    // A lost command is aborted; a failure leads to a reset.
    rig.target.model.inject(Fault::Lose);
    queue.push(io_of(&region, BlockOp::Read, 0, 1)).unwrap();
    queue.ring();
    assert_eq!(finish(&controller, &mut queue, 1)[0].result, Ok(()));
    rig.target.model.fail();
    queue.push(io_of(&region, BlockOp::Read, 0, 1)).unwrap();
    queue.ring();
    assert_eq!(finish(&controller, &mut queue, 1)[0].result, Ok(()));
    assert_eq!((controller.status().aborts, controller.status().resets), (1, 1));
    assert_eq!(controller.health().unwrap().temperature, 300);
    drop((queue, controller));
    e2e::await_that("the controller lost sight of the driver's memory", || rig.target.model.mappings() == 0);
    assert_eq!(rig.target.model.violations(), Vec::<String>::new());
}

#[test]
fn another_process_stands_in_for_an_ssd() {
    carry_out(ModelOptions::default());
    carry_out(ModelOptions { sgl: true, shadow_doorbells: true, ..ModelOptions::default() });
}

#[test]
fn memory_that_is_in_no_file_is_refused() {
    let rig = Rig::new(ModelOptions::default());
    let mut queue = rig.open().namespace(1).unwrap().queue(4, 1).unwrap();
    let own = Arc::new(Region::anonymous(4096, RegionSlot(0)).unwrap());
    let error = queue.attach(Arc::clone(&own)).unwrap_err();
    assert!(matches!(error, AttachError::System(_)) && error.to_string().contains("from a file"), "{error}");
    assert_eq!(Arc::strong_count(&own), 1);
}

#[test]
fn a_process_that_dies_is_a_drive_that_was_pulled() {
    let rig = Rig::new(ModelOptions::default());
    let controller = rig.open();
    let mut queue = controller.namespace(1).unwrap().queue(4, 1).unwrap();
    let region = shared(0);
    queue.attach(Arc::clone(&region)).unwrap();
    rig.target.model.inject(Fault::Lose);
    rig.target.die();
    queue.push(io_of(&region, WRITE, 0, 1)).unwrap();
    queue.ring();
    assert_eq!(finish(&controller, &mut queue, 1)[0].result, Err(BlockError::Gone));
    assert_eq!(controller.status().state, ControllerState::Removed);
    queue.detach(RegionSlot(0)).unwrap();
    assert_eq!(Arc::strong_count(&region), 1);
}

#[test]
fn a_process_that_is_stopped_keeps_its_commands_until_it_ends() {
    let rig = Rig::new(ModelOptions::default());
    let timeout = Duration::from_millis(300);
    let controller = open_with(rig.target.folder(), ConnectOptions { timeout }).unwrap();
    let mut queue = controller.namespace(1).unwrap().queue(4, 1).unwrap();
    let region = shared(0);
    queue.attach(Arc::clone(&region)).unwrap();
    rig.target.model.inject(Fault::Lose);
    queue.push(io_of(&region, BlockOp::Read, 0, 1)).unwrap();
    queue.ring();
    rig.target.freeze();
    for _ in 0..50 {
        controller.service(Duration::from_millis(100));
        let mut done = Burst::new();
        queue.poll(&mut done);
        assert!(done.is_empty(), "it has the memory mapped, and may yet write to it: {done:?}");
    }
    assert!(matches!(controller.status().state, ControllerState::Failed(_)), "{:?}", controller.status());
    assert!(matches!(queue.detach(RegionSlot(0)), Err(AttachError::Busy(1))));
    assert!(rig.target.model.mappings() > 0);
    // It goes on, finds that nobody asks it anything any more, and hangs up.
    rig.target.thaw();
    assert_eq!(finish(&controller, &mut queue, 1)[0].result, Err(BlockError::Gone));
    queue.detach(RegionSlot(0)).unwrap();
    assert_eq!(Arc::strong_count(&region), 1);
}
