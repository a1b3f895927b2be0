use std::sync::Arc;

use super::*;
use crate::Burst;
use crate::memory::{DmaSlice, RegionSlot};
use crate::nvme::conformance::{Keeps, attach, blocks_of, check, finish, io, run};
use crate::nvme::fault::{FaultInjector, FaultPlan};
use crate::nvme::ram::{RamDevice, RamOptions, RamQueue};
use crate::nvme::{AttachError, BlockError, BlockOp, BlockQueue};

const WRITE: BlockOp = BlockOp::write(false);

fn device(bytes: u64, lba_bytes: u32, volatile_cache: bool) -> RamDevice {
    RamDevice::new(RamOptions { bytes, lba_bytes, volatile_cache }).unwrap()
}

fn part<B>(queue: B, first_byte: u64, bytes: u64) -> SpanPart<B> {
    SpanPart { queue, first_byte, bytes, counters: Arc::default() }
}

/// Two devices of unlike blocks: 40 blocks of 4096 bytes on the first, and on the second as much after its first MiB.
fn two(depth: u32, slots: u16) -> (RamDevice, RamDevice, SpanQueue<RamQueue>) {
    let (one, other) = (device(40 << 12, 4096, false), device(2 << 20, 512, true));
    let parts = vec![part(one.queue(depth, slots), 0, 40 << 12), part(other.queue(depth, slots), 1 << 20, 40 << 12)];
    (one, other, SpanQueue::new(parts).unwrap())
}

#[test]
fn conforms() {
    check(
        |depth, slots| SpanQueue::new(vec![part(device(1 << 20, 512, true).queue(depth, slots), 0, 1 << 20)]).unwrap(),
        Keeps::Bytes,
    );
    // Its commands lie on both sides of the joint, and none crosses it.
    check(|depth, slots| two(depth, slots).2, Keeps::Bytes);
}

#[test]
fn blocks_lie_one_device_after_the_other() {
    let (one, other, mut span) = two(4, 1);
    let geometry = *span.geometry();
    assert_eq!((geometry.lba_bytes, geometry.blocks, geometry.volatile_cache), (4096, 80, true));
    let region = attach(&mut span, 0);
    region.fill(0, 4096, 1).unwrap();
    region.fill(4096, 4096, 2).unwrap();
    for (lba, at) in [(39, 0), (40, 1)] {
        let memory = blocks_of(&span, &region, at, 1);
        assert_eq!(run(&mut span, io(WRITE, lba, 1, memory)), Ok(()));
    }
    let mut seen = [0; 4096];
    one.peek(39 << 12, &mut seen).unwrap();
    assert_eq!(seen, [1; 4096]);
    other.peek(1 << 20, &mut seen).unwrap();
    assert_eq!(seen, [2; 4096]);
    for (lba, blocks) in [(39, 2), (79, 2), (u64::MAX, 1)] {
        let memory = blocks_of(&span, &region, 0, blocks);
        assert_eq!(run(&mut span, io(BlockOp::Read, lba, blocks, memory)), Err(BlockError::Invalid), "{lba}");
    }
    let figures: Vec<_> = span.counters().map(IoCounters::figures).collect();
    assert!(figures.iter().all(|it| (it.writes, it.bytes_written, it.errors) == (1, 4096, 0)), "{figures:?}");
}

#[test]
fn parts_must_be_whole_blocks() {
    let queue = || device(1 << 20, 4096, false).queue(1, 1);
    for (first, bytes) in [(512, 4096), (0, 512), (0, 2 << 20), (u64::MAX - 4095, 4096)] {
        assert!(SpanQueue::new(vec![part(queue(), first, bytes)]).is_err(), "{first} {bytes}");
    }
    assert!(SpanQueue::<RamQueue>::new(Vec::new()).is_err());
}

#[test]
fn a_region_that_one_device_refuses_is_known_to_none() {
    let (one, other) = (device(1 << 20, 4096, false), device(1 << 20, 4096, false));
    let parts = vec![part(one.queue(4, 2), 0, 1 << 20), part(other.queue(4, 1), 0, 1 << 20)];
    let mut span = SpanQueue::new(parts).unwrap();
    let region = Arc::new(crate::memory::Region::anonymous(4096, RegionSlot(1)).unwrap());
    assert!(matches!(span.attach(Arc::clone(&region)), Err(AttachError::NoSuchSlot(_))));
    assert_eq!(Arc::strong_count(&region), 1);
}

fn faulty() -> (SpanQueue<FaultInjector<RamQueue>>, Vec<RamDevice>) {
    let devices: Vec<_> = (0..2).map(|_| device(1 << 20, 4096, true)).collect();
    let parts = devices.iter().map(|it| part(FaultInjector::new(it.queue(8, 1), FaultPlan::default()), 0, 1 << 20));
    (SpanQueue::new(parts.collect()).unwrap(), devices)
}

#[test]
fn a_flush_ends_when_every_device_flushed_and_fails_if_one_did_not() {
    let (mut span, _devices) = faulty();
    let flush = io(BlockOp::Flush, 0, 0, DmaSlice::EMPTY);
    assert_eq!(run(&mut span, flush), Ok(()));
    let each: Vec<_> = span.counters().map(|it| it.figures().flushes).collect();
    assert_eq!(each, [1, 1]);
    span.queue_mut(1).disappear();
    assert_eq!(run(&mut span, flush), Err(BlockError::Gone));
    // Once it is known that nothing on it will ever be read again, it has nothing that a flush could save.
    span.counters().nth(1).unwrap().set_gone();
    assert_eq!(run(&mut span, flush), Ok(()));
    span.counters().next().unwrap().set_gone();
    assert_eq!(run(&mut span, flush), Err(BlockError::Gone));
}

#[test]
fn one_device_that_is_gone_leaves_the_other_working() {
    let (mut span, _devices) = faulty();
    let region = attach(&mut span, 0);
    span.queue_mut(1).disappear();
    for lba in [0, 256] {
        let memory = blocks_of(&span, &region, 0, 1);
        span.push(io(WRITE, lba, 1, memory)).unwrap();
    }
    let mut done = finish(&mut span);
    done.sort_by_key(|done| done.token);
    assert_eq!((done[0].result, done[1].result), (Ok(()), Err(BlockError::Gone)));
    assert_eq!(span.counters().map(|it| it.figures().errors).collect::<Vec<_>>(), [0, 1]);
    // Which of its blocks are gone for good is known once somebody said so.
    assert_eq!((span.gone_devices(), span.is_gone(256)), (0, false));
    span.counters().nth(1).unwrap().set_gone();
    assert_eq!(span.gone_devices(), 1);
    assert_eq!([0, 255, 256, 511, 512].map(|lba| span.is_gone(lba)), [false, false, true, true, false]);
}

#[test]
fn flushes_and_other_commands_are_told_apart_however_they_mix() {
    let (_one, _other, mut span) = two(32, 1);
    let region = attach(&mut span, 0);
    let mut told = Vec::new();
    for round in 0..50_u64 {
        for token in 0..8 {
            let op = if token % 3 == 0 { BlockOp::Flush } else { BlockOp::Read };
            let memory = if op == BlockOp::Read { blocks_of(&span, &region, 0, 1) } else { DmaSlice::EMPTY };
            let (lba, blocks) = if op == BlockOp::Read { ((round * 7 + token) % 80, 1) } else { (0, 0) };
            span.push(crate::nvme::BlockIo { op, lba, blocks, memory, token: round * 8 + token }).unwrap();
        }
        span.ring();
        let mut done = Burst::new();
        span.poll(&mut done);
        told.extend(done.iter().map(|done| (done.token, done.result)));
    }
    told.extend(finish(&mut span).iter().map(|done| (done.token, done.result)));
    told.sort_by_key(|(token, _)| *token);
    assert_eq!(told, (0..400).map(|token| (token, Ok(()))).collect::<Vec<_>>());
}
