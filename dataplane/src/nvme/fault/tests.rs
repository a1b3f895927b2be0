use std::sync::Arc;

use super::*;
use crate::Burst;
use crate::memory::{Region, RegionSlot};
use crate::nvme::conformance::{self, Keeps, attach, blocks_of, finish, io, run};
use crate::nvme::ram::{RamDevice, RamOptions, RamQueue};
use crate::nvme::{AttachError, BlockDone, BlockError, BlockOp, BlockQueue};

const WRITE: BlockOp = BlockOp::write(false);
const EIO: Result<(), BlockError> = Err(BlockError::Media(libc::EIO));
const ALWAYS: u32 = 1_000_000;

fn device() -> RamDevice {
    RamDevice::new(RamOptions { bytes: 256 * 512, lba_bytes: 512, volatile_cache: false }).unwrap()
}

fn injector(device: &RamDevice, plan: FaultPlan) -> (FaultInjector<RamQueue>, Arc<Region>) {
    let mut queue = FaultInjector::new(device.queue(64, 1), plan);
    let region = attach(&mut queue, 0);
    region.fill(0, region.bytes(), 0xAA).unwrap();
    (queue, region)
}

/// The first byte of each of the first eight blocks.
fn first_bytes(device: &RamDevice) -> [u8; 8] {
    std::array::from_fn(|block| {
        let mut byte = [0];
        device.peek(block as u64 * 512, &mut byte).unwrap();
        byte[0]
    })
}

#[test]
fn without_faults_it_is_the_queue_inside() {
    let open = |depth, slots| FaultInjector::new(device().queue(depth, slots), FaultPlan::default());
    conformance::check(open, Keeps::Bytes);
}

#[test]
fn late_and_reordered_completions_conform() {
    let plan = FaultPlan { seed: 3, delay: ALWAYS / 2, max_delay: 5, reorder: true, ..FaultPlan::default() };
    conformance::check(|depth, slots| FaultInjector::new(device().queue(depth, slots), plan), Keeps::Bytes);
}

#[test]
fn a_torn_write_leaves_its_first_blocks_and_fails() {
    let device = device();
    let (mut queue, region) = injector(&device, FaultPlan::default());
    queue.strike(FaultSite { kind: OpKind::Write, lbas: 2..3, nth: 0, fault: Fault::TornWrite(2) });
    let memory = blocks_of(&queue, &region, 0, 4);
    assert_eq!(run(&mut queue, io(WRITE, 1, 4, memory)), EIO);
    assert_eq!(first_bytes(&device), [0, 0xAA, 0xAA, 0, 0, 0, 0, 0]);
    assert_eq!(run(&mut queue, io(WRITE, 1, 4, memory)), Ok(()), "a site strikes once");
    assert_eq!(queue.stats(), FaultStats { commands: 2, torn: 1, ..FaultStats::default() });
}

#[test]
fn a_misdirected_write_lands_elsewhere_and_succeeds() {
    let device = device();
    let (mut queue, region) = injector(&device, FaultPlan::default());
    let strike = |lba| FaultSite { kind: OpKind::Write, lbas: 0..256, nth: 0, fault: Fault::MisdirectedWrite(lba) };
    queue.strike(strike(5));
    let memory = blocks_of(&queue, &region, 0, 2);
    assert_eq!(run(&mut queue, io(WRITE, 0, 2, memory)), Ok(()));
    assert_eq!(first_bytes(&device), [0, 0, 0, 0, 0, 0xAA, 0xAA, 0]);
    queue.strike(strike(u64::MAX));
    assert_eq!(run(&mut queue, io(WRITE, 0, 2, memory)), Ok(()), "a place beyond the end is moved back");
    assert_eq!(first_bytes(&device)[0], 0);
}

#[test]
fn a_site_counts_only_commands_that_touch_it() {
    let (mut queue, region) = injector(&device(), FaultPlan::default());
    queue.strike(FaultSite { kind: OpKind::Read, lbas: 10..20, nth: 1, fault: Fault::MediaError });
    let memory = blocks_of(&queue, &region, 0, 2);
    for (op, lba, expected) in [
        (BlockOp::Read, 8, Ok(())),
        (WRITE, 10, Ok(())),
        (BlockOp::Read, 9, Ok(())),
        (BlockOp::Read, 20, Ok(())),
        (BlockOp::Read, 19, EIO),
        (BlockOp::Read, 19, Ok(())),
    ] {
        assert_eq!(run(&mut queue, io(op, lba, 2, memory)), expected, "{op:?} {lba}");
    }
    queue.strike(FaultSite { kind: OpKind::Flush, lbas: 0..0, nth: 0, fault: Fault::MediaError });
    assert_eq!(run(&mut queue, io(BlockOp::Flush, 0, 0, crate::memory::DmaSlice::EMPTY)), EIO);
}

#[test]
fn a_failed_read_moves_nothing() {
    let (mut queue, region) = injector(&device(), FaultPlan { read_error: ALWAYS, ..FaultPlan::default() });
    let memory = blocks_of(&queue, &region, 0, 1);
    assert_eq!(run(&mut queue, io(BlockOp::Read, 0, 1, memory)), EIO);
    assert_eq!(region.load64(0, std::sync::atomic::Ordering::Relaxed), Some(0xAAAA_AAAA_AAAA_AAAA));
    assert_eq!(run(&mut queue, io(WRITE, 0, 1, memory)), Ok(()));
}

#[test]
fn faults_do_not_make_invalid_commands_valid() {
    let plan = FaultPlan { torn_write: ALWAYS, ..FaultPlan::default() };
    let (mut queue, region) = injector(&device(), plan);
    let memory = blocks_of(&queue, &region, 0, 2);
    for (lba, blocks) in [(255, 2), (u64::MAX, 2), (0, 3), (0, 0)] {
        assert!(run(&mut queue, io(WRITE, lba, blocks, memory)).is_err(), "{lba} {blocks}");
    }
    let misdirect = FaultPlan { misdirected_write: ALWAYS, ..FaultPlan::default() };
    queue.set_plan(misdirect);
    assert_eq!(run(&mut queue, io(WRITE, 255, 2, memory)), Err(BlockError::Invalid));
}

#[test]
fn a_device_that_is_gone_stays_gone() {
    let device = device();
    let (mut queue, region) = injector(&device, FaultPlan { gone_after: Some(1), ..FaultPlan::default() });
    let memory = blocks_of(&queue, &region, 0, 1);
    let results: Vec<_> = (0..3).map(|lba| run(&mut queue, io(WRITE, lba, 1, memory))).collect();
    assert_eq!(results, [Ok(()), Err(BlockError::Gone), Err(BlockError::Gone)]);
    assert_eq!(first_bytes(&device)[..3], [0xAA, 0, 0]);

    let (mut queue, region) = injector(&device, FaultPlan { delay: ALWAYS, max_delay: 9, ..FaultPlan::default() });
    let memory = blocks_of(&queue, &region, 0, 1);
    queue.push(io(WRITE, 0, 1, memory)).unwrap();
    queue.disappear();
    assert_eq!(finish(&mut queue)[0].result, Err(BlockError::Gone));
}

#[test]
fn a_completion_held_back_holds_its_region() {
    let (mut queue, region) = injector(&device(), FaultPlan::default());
    queue.strike(FaultSite { kind: OpKind::Write, lbas: 0..1, nth: 0, fault: Fault::Delay(3) });
    queue.push(io(WRITE, 0, 1, blocks_of(&queue, &region, 0, 1))).unwrap();
    queue.ring();
    for _ in 0..3 {
        let mut done = Burst::new();
        queue.poll(&mut done);
        assert!(done.is_empty());
        assert!(matches!(queue.detach(RegionSlot(0)), Err(AttachError::Busy(1))));
    }
    assert_eq!(finish(&mut queue).len(), 1);
    queue.detach(RegionSlot(0)).unwrap();
}

fn all_at_once(seed: u64) -> (Vec<BlockDone>, FaultStats) {
    let plan = FaultPlan {
        seed,
        write_error: 100_000,
        torn_write: 100_000,
        misdirected_write: 100_000,
        delay: 300_000,
        max_delay: 4,
        reorder: true,
        ..FaultPlan::default()
    };
    let (mut queue, region) = injector(&device(), plan);
    for lba in 0..64 {
        queue.push(io(WRITE, lba, 4, blocks_of(&queue, &region, 0, 4))).unwrap();
    }
    (finish(&mut queue), queue.stats())
}

#[test]
fn one_seed_gives_one_history() {
    let (done, stats) = all_at_once(7);
    assert_eq!((done.clone(), stats), all_at_once(7));
    assert_ne!(done, all_at_once(8).0);
    assert_eq!(done.len(), 64);
    assert!(stats.errors > 0 && stats.torn > 0 && stats.misdirected > 0 && stats.delayed > 0, "{stats:?}");
    assert!(!done.is_sorted_by_key(|done| done.token), "64 completions in random order are hardly sorted");
}
