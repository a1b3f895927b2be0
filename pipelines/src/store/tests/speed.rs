//! How much recovery reads, and how fast it is.

use std::time::Instant;

use dataplane::Burst;
use dataplane::core::Ticks;
use dataplane::memory::{Arena, ArenaBuffer, HugePages, RegionSlot};
use dataplane::nvme::BlockQueue;
use dataplane::nvme::ram::{RamDevice, RamOptions, RamQueue};
use dataplane::nvme::spec::kv::StoreOptions;

use super::world::{NAMESPACE, id};
use crate::store::{Class, FormatOptions, NewBlock, Published, Refusal, Shard, ShardConfig, format, load};

fn turn(shard: &mut Shard, blocks: &mut RamQueue, now: &mut u64) {
    *now += 1;
    shard.poll(Ticks(*now), blocks);
    blocks.ring();
    let mut done = Burst::new();
    blocks.poll(&mut done);
    done.into_iter().for_each(|done| shard.done(done.token, done.result, blocks));
}

fn parts(device: &RamDevice) -> (RamQueue, ArenaBuffer) {
    let need = Shard::<()>::STAGING_BYTES as usize;
    let mut arena = Arena::new(need, HugePages::Off, RegionSlot(0)).unwrap();
    let mut blocks = device.queue(64, 1);
    blocks.attach(arena.region().clone()).unwrap();
    (blocks, arena.alloc(need, 4096).unwrap())
}

fn open(device: &RamDevice, entries: u32) -> (RamQueue, Shard) {
    let (mut blocks, staging) = parts(device);
    let superblock = load(&mut blocks, &staging).unwrap();
    let config = ShardConfig { entries, ..ShardConfig::new(superblock, 0, 1 << 56, 3) };
    (blocks, Shard::open(config, staging).unwrap())
}

/// Fills a store of `bytes` with records of values of `value` bytes, restarts it and says how many records came back
/// a second, and what share of the capacity was read.
fn restart(bytes: u64, value: u32) -> (u64, f64, f64) {
    let device = RamDevice::new(RamOptions { bytes, lba_bytes: 512, volatile_cache: false }).unwrap();
    let (mut blocks, staging) = parts(&device);
    let options = FormatOptions { mean_value_bytes: value.min(16 << 10), ..FormatOptions::new([5; 16], 1) };
    format(&mut blocks, &staging, &options).unwrap();
    let entries = (bytes / u64::from(value)) as u32;
    let (mut blocks, mut shard) = open(&device, entries);
    let (mut now, mut stored) = (0, 0);
    while !shard.is_ready() {
        turn(&mut shard, &mut blocks, &mut now);
    }
    loop {
        // The values themselves are of no account here.
        match shard.reserve(NAMESPACE, value, Class::Cache, None) {
            Ok(extent) => {
                let block = NewBlock {
                    id: id(stored),
                    hash: shard.hash(&id(stored)),
                    bytes: value,
                    checksum: 0,
                    parent: 0,
                    class: Class::Cache,
                    condition: StoreOptions::default(),
                };
                assert_eq!(shard.publish(extent, block, 0), Published::Visible);
                stored += 1;
            }
            Err(Refusal::Wait) => turn(&mut shard, &mut blocks, &mut now),
            Err(refusal) => panic!("{refusal}"),
        }
        if shard.stats().evicted_segments > 0 {
            break;
        }
    }
    while !shard.drain(Ticks(now), &mut blocks) {
        turn(&mut shard, &mut blocks, &mut now);
    }
    let kept = shard.stats().blocks;
    let (mut blocks, mut shard) = open(&device, entries);
    let start = Instant::now();
    while !shard.is_ready() {
        turn(&mut shard, &mut blocks, &mut now);
    }
    let seconds = start.elapsed().as_secs_f64();
    let stats = shard.stats();
    assert_eq!(stats.blocks, kept);
    (kept, stats.recovery.records as f64 / seconds, stats.recovery.bytes_read as f64 / bytes as f64)
}

#[test]
fn a_restart_of_usual_values_reads_little() {
    let (blocks, _, share) = restart(1 << 30, 256 << 10);
    assert!(blocks > 2000);
    assert!(share < 0.003, "read {:.3}% of the capacity", share * 100.0);
}

#[test]
#[ignore = "a measurement: run it with --release and --nocapture"]
fn recovery_speed() {
    for value in [4 << 10, 16 << 10, 64 << 10] {
        let (blocks, speed, share) = restart(2 << 30, value);
        println!("{blocks} blocks of {value}: {:.2} M records/s, {:.3}% read", speed / 1e6, share * 100.0);
    }
}
