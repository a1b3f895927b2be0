//! Arbitrary bytes where a store should be.

use dataplane::Burst;
use dataplane::core::Ticks;
use dataplane::memory::{Arena, HugePages, RegionSlot};
use dataplane::nvme::BlockQueue;
use dataplane::nvme::ram::{RamDevice, RamOptions};

use super::format::load;
use super::inspect::inspect;
use super::layout::{Layout, UNIT_BYTES};
use super::page::{PAGE_BYTES, PageHeader, PageKind};
use super::record::{RECORDS_PER_PAGE, long, word};
use super::superblock::HEAD_BYTES;
use super::{FormatOptions, Shard, ShardConfig, Superblock};

const SEGMENT_BYTES: u64 = 64 << 10;
const DEVICE_BYTES: u64 = HEAD_BYTES + 4 * SEGMENT_BYTES;
/// More turns than any recovery of such a device takes.
const TURNS: u32 = 20_000;

/// The first byte says how the others get onto the device: as they are from its first byte on, as segments behind a
/// whole superblock, or as pages whose headers and checksums are put right, so that the fields behind them are met.
pub(super) fn run(bytes: &[u8]) {
    let Some((&how, rest)) = bytes.split_first() else { return };
    let need = Shard::<()>::STAGING_BYTES as usize;
    let Ok(mut arena) = Arena::new(need + PAGE_BYTES, HugePages::Off, RegionSlot(0)) else { return };
    let device = RamDevice::new(RamOptions { bytes: DEVICE_BYTES, lba_bytes: 512, volatile_cache: true });
    let (Ok(device), Some(staging), Some(buffer)) =
        (device, arena.alloc(need, PAGE_BYTES), arena.alloc(PAGE_BYTES, PAGE_BYTES))
    else {
        return;
    };
    let options = FormatOptions {
        segment_bytes: SEGMENT_BYTES,
        mean_value_bytes: 512,
        max_value_bytes: 16 << 10,
        ..FormatOptions::new([7; 16], 1)
    };
    let Ok(superblock) = options.superblock(512, DEVICE_BYTES) else { return };
    let whole = match how % 3 {
        0 => device.poke(0, &rest[..rest.len().min(DEVICE_BYTES as usize)]),
        1 => {
            let most = rest.len().min((DEVICE_BYTES - HEAD_BYTES) as usize);
            device.poke(0, &superblock.to_bytes()).and_then(|()| device.poke(HEAD_BYTES, &rest[..most]))
        }
        _ => device.poke(0, &superblock.to_bytes()).and_then(|()| poke_pages(&device, &superblock, rest)),
    };
    let mut blocks = device.queue(32, 1);
    if whole.is_none() || blocks.attach(arena.region().clone()).is_err() {
        return;
    }
    let _ = inspect(&mut blocks, &buffer);
    if let Ok(superblock) = load(&mut blocks, &buffer) {
        recover(&mut blocks, superblock, staging);
    }
}

/// Lays pages onto the device, each from a head of 32 bytes (segment, slot, kind, count, page, generation,
/// sequence) and as many records as follow.
fn poke_pages(device: &RamDevice, superblock: &Superblock, mut rest: &[u8]) -> Option<()> {
    let layout = Layout::new(superblock, 0);
    while let Some((head, body)) = rest.split_at_checked(32) {
        let (segment, slot) = (u32::from(head[0]) % layout.segments, u32::from(head[1]) % layout.pages());
        let count = u32::from(head[3]) % (RECORDS_PER_PAGE + 1);
        let kind = [PageKind::Open, PageKind::Free, PageKind::Records][usize::from(head[2]) % 3];
        let (generation, sequence) = (long(head, 8), long(head, 16));
        let mut page = [0; PAGE_BYTES];
        let records = body.len().min(count as usize * 64);
        page[64..64 + records].copy_from_slice(&body[..records]);
        PageHeader { generation, page: word(head, 4), count, sequence, kind }.seal(&layout, segment, slot, &mut page);
        let at = u64::from(layout.segment_unit(segment) + slot) * u64::from(UNIT_BYTES);
        device.poke(at, &page)?;
        rest = &body[records..];
    }
    Some(())
}

fn recover<B: BlockQueue>(blocks: &mut B, superblock: Superblock, staging: dataplane::memory::ArenaBuffer) {
    // Lengths that the device does not bear out would ask for a table of any size.
    if superblock.segments_per_shard > 64 {
        return;
    }
    let config = ShardConfig { entries: 1000, ..ShardConfig::new(superblock, 0, 1 << 56, 1) };
    let Ok(mut shard) = Shard::open(config, staging) else { return };
    // On past recovery: eviction reads the same pages once more.
    for turn in 0..TURNS {
        shard.poll(Ticks(u64::from(turn)), blocks);
        blocks.ring();
        let mut done = Burst::new();
        blocks.poll(&mut done);
        let idle = done.is_empty();
        done.into_iter().for_each(|done| shard.done(done.token, done.result, blocks));
        if shard.is_ready() && idle && blocks.in_flight() == 0 && turn % 64 == 63 {
            break;
        }
    }
    assert!(shard.is_ready(), "recovery must end whatever it finds");
}
