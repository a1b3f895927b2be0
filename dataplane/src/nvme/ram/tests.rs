use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::Burst;
use crate::memory::{Region, RegionSlot};
use crate::nvme::{BlockIo, BlockOp, BlockQueue, conformance};

fn device(blocks: u64) -> RamDevice {
    RamDevice::new(RamOptions { bytes: blocks * 512, lba_bytes: 512, volatile_cache: false }).unwrap()
}

#[test]
fn conforms() {
    conformance::check(|depth, slots| device(4096).queue(depth, slots), conformance::Keeps::Bytes);
}

#[test]
fn options_out_of_range_are_refused() {
    for lba_bytes in [0, 256, 1000, 131_072] {
        assert!(RamDevice::new(RamOptions { bytes: 1 << 20, lba_bytes, volatile_cache: false }).is_err());
    }
    assert!(RamDevice::new(RamOptions { bytes: 511, lba_bytes: 512, volatile_cache: false }).is_err());
}

#[test]
fn queues_of_one_device_share_its_blocks() {
    let device = device(8);
    device.poke(512, &[5; 512]).unwrap();
    let mut queue = device.queue(1, 1);
    let region = Arc::new(Region::anonymous(4096, RegionSlot(0)).unwrap());
    queue.attach(Arc::clone(&region)).unwrap();
    let memory = region.slice(0, 512).unwrap();
    queue.push(BlockIo { op: BlockOp::Read, lba: 1, blocks: 1, memory, token: 9 }).unwrap();
    queue.ring();
    let mut done = Burst::new();
    queue.poll(&mut done);
    assert_eq!((done[0].token, done[0].result), (9, Ok(())));
    assert_eq!(region.load64(504, std::sync::atomic::Ordering::Relaxed), Some(0x0505_0505_0505_0505));
}

#[derive(Clone, Debug)]
enum Step {
    Write { lba: u64, blocks: u32, value: u8 },
    Read { lba: u64, blocks: u32 },
    Deallocate { lba: u64, blocks: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    // Beyond the 16 blocks of the device and the 8 of the memory, too: those must fail and change nothing.
    let range = || (0_u64..18, 0_u32..10);
    prop_oneof![
        (range(), any::<u8>()).prop_map(|((lba, blocks), value)| Step::Write { lba, blocks, value }),
        range().prop_map(|(lba, blocks)| Step::Read { lba, blocks }),
        range().prop_map(|(lba, blocks)| Step::Deallocate { lba, blocks }),
    ]
}

proptest! {
    #[test]
    fn behaves_like_an_array(steps in proptest::collection::vec(step(), 1..60)) {
        let mut model = [0_u8; 16 * 512];
        let mut queue = device(16).queue(1, 1);
        let region = Arc::new(Region::anonymous(8 * 512, RegionSlot(0)).unwrap());
        queue.attach(Arc::clone(&region)).unwrap();
        for step in steps {
            let (op, lba, blocks) = match step {
                Step::Write { lba, blocks, .. } => (BlockOp::write(false), lba, blocks),
                Step::Read { lba, blocks } => (BlockOp::Read, lba, blocks),
                Step::Deallocate { lba, blocks } => (BlockOp::Deallocate, lba, blocks),
            };
            let memory = region.slice(0, blocks * 512).unwrap_or(region.slice(0, 512).unwrap());
            if let Step::Write { value, .. } = step {
                region.fill(0, 8 * 512, value).unwrap();
            }
            queue.push(BlockIo { op, lba, blocks, memory, token: 0 }).unwrap();
            queue.ring();
            let mut done = Burst::new();
            queue.poll(&mut done);
            let in_range = blocks > 0 && lba + u64::from(blocks) <= 16;
            let fits = op == BlockOp::Deallocate || blocks <= 8;
            prop_assert_eq!(done[0].result.is_ok(), in_range && fits);
            if done[0].result.is_err() {
                continue;
            }
            let span = lba as usize * 512..(lba as usize + blocks as usize) * 512;
            match step {
                Step::Write { value, .. } => model[span].fill(value),
                Step::Deallocate { .. } => model[span].fill(0),
                Step::Read { .. } => {
                    let mut seen = vec![0; span.len()];
                    region.read(0, &mut seen).unwrap();
                    prop_assert_eq!(&seen[..], &model[span]);
                }
            }
        }
    }
}
