use dataplane::memory::{Region, RegionSlot};
use dataplane::nvme::vfio::model::{Model, ModelOptions};
use dataplane::nvme::vfio::{Controller, ControllerOptions, VfioQueue};
use dataplane::nvme::{BlockIo, BlockOp, BlockQueue};
use dataplane::{BURST, Burst};
use std::sync::Arc;

#[inline(never)]
fn measured_submit(queue: &mut VfioQueue, ios: &[BlockIo]) {
    for io in ios {
        let _ = queue.push(*io);
    }
    queue.ring();
}

#[inline(never)]
fn measured_complete(queue: &mut VfioQueue) -> usize {
    let mut done = Burst::new();
    queue.poll(&mut done);
    done.iter().filter(|done| done.result.is_ok()).count()
}

fn main() {
    let bursts: u64 = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(100);
    let bytes: u32 = std::env::args().nth(2).and_then(|a| a.parse().ok()).unwrap_or(4096);
    let model = Model::new(ModelOptions::default()).unwrap();
    let controller = Controller::open(Arc::new(model.clone()), ControllerOptions::default()).unwrap();
    let mut queue = controller.namespace(1).unwrap().queue(64, 2).unwrap();
    let region = Arc::new(Region::anonymous(4 << 20, RegionSlot(0)).unwrap());
    queue.attach(region.clone()).unwrap();
    let ios: Vec<_> = (0..BURST as u64)
        .map(|i| BlockIo {
            op: BlockOp::Read,
            lba: i * u64::from(bytes / 4096),
            blocks: bytes / 4096,
            memory: region.slice(i * u64::from(bytes), bytes).unwrap(),
            token: i,
        })
        .collect();
    let mut done = 0;
    for _ in 0..bursts {
        measured_submit(&mut queue, &ios);
        while model.step() > 0 {}
        done += measured_complete(&mut queue);
    }
    println!("{done} done");
}
