//! Damage on the device, and devices that refuse.

use std::collections::HashMap;

use dataplane::memory::{Arena, HugePages, RegionSlot};
use dataplane::nvme::{BlockOp, BlockQueue};
use proptest::prelude::*;

use super::device::{CrashQueue, ENODATA, Medium};
use super::world::{World, id, value_of};
use crate::store::inspect::{SegmentState, StoreReport, inspect};
use crate::store::{Class, fuzz_recover};

fn look(medium: &std::rc::Rc<std::cell::RefCell<Medium>>) -> StoreReport {
    let mut arena = Arena::new(4096, HugePages::Off, RegionSlot(0)).unwrap();
    let mut blocks = CrashQueue::new(medium);
    blocks.attach(arena.region().clone()).unwrap();
    inspect(&mut blocks, &arena.alloc(4096, 4096).unwrap()).unwrap()
}

/// Byte of a page of a segment of the test store.
fn page_at(segment: usize, slot: usize) -> usize {
    (1 << 20) + segment * (256 << 10) + slot * 4096
}

fn filled(blocks: u64) -> World {
    let mut world = World::new(8, true, 3);
    world.recover();
    for number in 0..blocks {
        assert!(world.put(id(number), number, 1000, Class::Durable));
    }
    world
}

#[test]
fn inspection_counts_what_is_there_and_changes_nothing() {
    let mut world = filled(60);
    assert!(world.put(id(5), 900, 2000, Class::Durable));
    assert!(matches!(
        world.shard.delete(world.shard.hash(&id(6)), &id(6), Class::Durable, 77),
        crate::store::Deleted::Pending
    ));
    assert!(world.ticket(77));
    let blocks = world.shard.stats().blocks;
    let medium = world.crash();
    let before = medium.borrow_mut().bytes().clone();
    let report = look(&medium);
    assert_eq!((report.blocks, report.live_bytes), (blocks, 58 * 1000 + 2000));
    assert_eq!((report.problem_count, report.duplicates), (0, 2), "{:?}", report.problems);
    let used: Vec<_> = report.segments.iter().filter(|segment| segment.state == SegmentState::Used).collect();
    assert_eq!((used.len(), report.records), (2, 62), "56 or so values fit a segment");
    assert_eq!(used.iter().map(|segment| segment.dead).sum::<u32>(), 2);
    assert!(serde_json::to_string(&report).unwrap().contains("\"state\":\"used\""));
    assert!(*medium.borrow_mut().bytes() == before, "inspection must not write");
}

#[test]
fn a_damaged_page_costs_its_records_and_nothing_else() {
    let medium = filled(140).crash();
    // The first home of the first segment holds its first 63 records, if they fill it.
    let used = look(&medium).segments.iter().position(|segment| segment.records > 0).unwrap();
    let draft = |slot| medium.borrow_mut().bytes()[page_at(used, slot)..][..4] == *b"KVPG";
    assert!(draft(2) && draft(3));
    for slot in [2, 3] {
        medium.borrow_mut().bytes()[page_at(used, slot) + 100] ^= 1;
    }
    assert_eq!(look(&medium).segments[used].damaged_pages, 2);
    let mut world = World::open(&medium);
    world.recover();
    let stats = world.shard.stats();
    assert_eq!(stats.recovery.damaged_pages, 2);
    assert!(stats.blocks > 50 && stats.blocks < 140, "{stats:?}");
    for number in 0..140 {
        if let Some(found) = world.find(&id(number)) {
            assert_eq!(world.read(&found), Some(value_of(&id(number), number, 1000)));
        }
    }
}

#[test]
fn a_torn_open_header_is_made_up_for_by_the_pages() {
    let medium = filled(20).crash();
    let used = look(&medium).segments.iter().position(|segment| segment.records > 0).unwrap();
    medium.borrow_mut().bytes()[page_at(used, 0)..][..4096].fill(0x55);
    let mut world = World::open(&medium);
    world.recover();
    assert_eq!(world.shard.stats().blocks, 20);
    let medium = world.crash();
    // Without both headers the segment is set aside, neither served nor written over.
    medium.borrow_mut().bytes()[page_at(used, 1)..][..4096].fill(0x55);
    assert_eq!(look(&medium).segments[used].state, SegmentState::Damaged);
    let mut world = World::open(&medium);
    world.recover();
    let stats = world.shard.stats();
    assert_eq!((stats.blocks, stats.recovery.quarantined, stats.segments_retired), (0, 1, 1));
    for number in 200..500 {
        assert!(world.put(id(number), number, 20_000, Class::Cache));
    }
    let medium = world.crash();
    assert_eq!(look(&medium).segments[used].state, SegmentState::Damaged, "still as it was");
}

#[test]
fn a_page_written_to_the_wrong_place_is_not_believed() {
    let medium = filled(20).crash();
    let report = look(&medium);
    let used = report.segments.iter().position(|segment| segment.records > 0).unwrap();
    let other = report.segments.iter().position(|segment| segment.state == SegmentState::Blank).unwrap();
    let mut bytes = medium.borrow_mut().bytes().clone();
    for slot in 0..6 {
        bytes.copy_within(page_at(used, slot)..page_at(used, slot) + 4096, page_at(other, slot));
    }
    *medium.borrow_mut().bytes() = bytes;
    assert!(look(&medium).segments[other].damaged_pages > 0);
    let mut world = World::open(&medium);
    world.recover();
    let stats = world.shard.stats();
    assert_eq!((stats.blocks, stats.recovery.segments), (20, 1));
}

#[test]
fn pages_that_cannot_be_written_fail_the_tickets_and_close_the_segment() {
    let mut world = filled(5);
    let refused =
        |io: &dataplane::nvme::BlockIo| matches!(io.op, BlockOp::Write { .. }) && io.blocks == 8 && io.token >= 1 << 56;
    world.medium.borrow_mut().fails = Some(Box::new(refused));
    assert!(!world.put(id(100), 100, 30_000, Class::Durable), "the ticket must say so");
    assert!(world.shard.stats().lost_records > 0);
    world.medium.borrow_mut().fails = None;
    assert!(world.put(id(101), 101, 1000, Class::Durable), "the next segment takes over");
    let found = world.find(&id(3)).unwrap();
    assert_eq!(world.read(&found), Some(value_of(&id(3), 3, 1000)));
    let mut world = World::open(&world.crash());
    world.recover();
    assert!(world.find(&id(101)).is_some() && world.find(&id(4)).is_some());
}

#[test]
fn metadata_that_cannot_be_read_at_eviction_costs_blocks_but_never_gives_wrong_ones() {
    let mut world = World::new(8, true, 3);
    world.recover();
    let refused = |io: &dataplane::nvme::BlockIo| io.op == BlockOp::Read && io.token >= 1 << 56;
    world.medium.borrow_mut().fails = Some(Box::new(refused));
    let mut versions = HashMap::new();
    for number in 0..200 {
        let key = number % 90;
        assert!(world.put(id(key), number, 20_000, Class::Cache));
        versions.insert(key, number);
    }
    let stats = world.shard.stats();
    assert!(stats.evicted_segments > 5 && stats.lost_blocks > 20, "{stats:?}");
    for (key, version) in versions {
        if let Some(found) = world.find(&id(key)) {
            assert_eq!(world.read(&found), Some(value_of(&id(key), version, 20_000)));
        }
    }
}

/// Commands of the shard's own of one kind fail: pages of records, or headers that free a segment.
fn fail(world: &World, ops: std::ops::Range<u64>) {
    let refused = move |io: &dataplane::nvme::BlockIo| {
        matches!(io.op, BlockOp::Write { .. }) && io.token >= 1 << 56 && ops.contains(&(io.token & 0xFF))
    };
    world.medium.borrow_mut().fails = Some(Box::new(refused));
}

pub(super) const RECORD_PAGES: std::ops::Range<u64> = 8..24;
const FREE_HEADERS: std::ops::Range<u64> = 4..5;

#[test]
fn blocks_whose_new_records_cannot_be_written_do_not_lose_the_old_ones() {
    let mut world = World::new(10, true, 3);
    world.recover();
    for number in 0..24 {
        assert!(world.put(id(number), number, 20_000, Class::Durable));
    }
    let (mut moved, mut failures, mut lost, mut number) = (0, 0, 0, 1000);
    world.until("some failures in the middle of evictions", |world| {
        if world.begin(id(number), number, 9000, Class::Cache).is_ok() {
            number += 1;
        }
        while world.publish().is_some() {}
        let before = world.shard.stats();
        if !world.shard.evict.is_idle() && before.moved_blocks > moved {
            moved = before.moved_blocks;
            fail(world, RECORD_PAGES);
            for _ in 0..100 {
                world.turn();
            }
            failures += u32::from(world.shard.stats().device_errors > before.device_errors);
            lost += world.shard.stats().lost_records - before.lost_records;
            world.medium.borrow_mut().fails = None;
        }
        failures >= 8
    });
    assert!(lost > 0, "some records were given up");
    let evicted = world.shard.stats().evicted_segments;
    world.until("evictions that succeed", |world| {
        if world.begin(id(number), number, 9000, Class::Cache).is_ok() {
            number += 1;
        }
        while world.publish().is_some() {}
        world.shard.stats().evicted_segments > evicted + 2
    });
    // Blocks of the cache class that were published into a segment that failed may be lost, no others.
    let mut world = World::open(&world.crash());
    world.recover();
    for number in 0..24 {
        let found = world.find(&id(number)).expect("durable");
        assert_eq!(world.read(&found), Some(value_of(&id(number), number, 20_000)));
    }
}

#[test]
fn a_purge_whose_record_cannot_be_written_is_recorded_anew() {
    let mut world = filled(20);
    fail(&world, RECORD_PAGES);
    assert!(world.shard.purge(super::world::NAMESPACE));
    world.until("the failure", |world| world.shard.stats().lost_records > 0);
    assert!(world.shard.is_purging(super::world::NAMESPACE));
    world.medium.borrow_mut().fails = None;
    world.until("the purge", |world| !world.shard.is_purging(super::world::NAMESPACE));
    let mut world = World::open(&world.crash());
    world.recover();
    assert_eq!(world.shard.stats().blocks, 0);
}

#[test]
fn a_segment_that_cannot_be_freed_holds_up_younger_ones_until_it_can() {
    let mut world = World::new(8, true, 3);
    world.recover();
    let mut number = 0;
    world.until("an eviction", |world| {
        if world.begin(id(number), number, 9000, Class::Cache).is_ok() {
            number += 1;
        }
        while world.publish().is_some() {}
        world.shard.stats().evicted_segments > 2
    });
    fail(&world, FREE_HEADERS);
    world.until("the store to be full", |world| {
        let refused = world.begin(id(number), number, 9000, Class::Cache);
        number += u64::from(refused.is_ok());
        while world.publish().is_some() {}
        refused == Err(crate::store::Refusal::NoSpace)
    });
    let before = world.shard.stats();
    assert!(before.stalled_evictions > 0 && before.segments_retired == 0, "{before:?}");
    for _ in 0..1000 {
        world.turn();
    }
    let stats = world.shard.stats();
    assert_eq!(stats.evicted_segments, before.evicted_segments, "no younger one goes first");
    assert!(stats.stalled_evictions > before.stalled_evictions, "it is tried again");
    world.medium.borrow_mut().fails = None;
    assert!(world.put(id(number), number, 9000, Class::Cache), "the device came round");
    assert_eq!(world.shard.stats().lost_blocks, 0);
    world.crash();
}

#[test]
fn a_shutdown_does_not_wait_for_a_segment_that_cannot_be_freed() {
    let mut world = World::new(8, true, 3);
    world.recover();
    fail(&world, FREE_HEADERS);
    let mut number = 0;
    world.until("a stalled eviction", |world| {
        if world.begin(id(number), number, 9000, Class::Cache).is_ok() {
            number += 1;
        }
        while world.publish().is_some() {}
        world.storing.is_empty() && world.shard.stats().stalled_evictions > 0
    });
    let mut world = World::open(&world.shut_down());
    world.medium.borrow_mut().fails = None;
    world.recover();
    assert!(world.shard.stats().recovery.clean);
}

/// Commands of the shard's own for which a moved block is read and written, and the one that reads metadata back.
pub(super) const MOVES: std::ops::Range<u64> = 24..32;
pub(super) const EVICT_META: std::ops::Range<u64> = 2..3;

pub(super) fn is_own(io: &dataplane::nvme::BlockIo, ops: &std::ops::Range<u64>) -> bool {
    io.token >= 1 << 56 && ops.contains(&(io.token & 0xFF))
}

/// 20 durable blocks and the first values of a flood behind them.
pub(super) fn durable_and_flood() -> (World, u64) {
    let mut world = World::new(10, true, 3);
    world.recover();
    for number in 0..20 {
        assert!(world.put(id(number), number, 20_000, Class::Durable));
    }
    (world, 1000)
}

/// Goes on storing blocks of the cache class until something is reached.
pub(super) fn flood(world: &mut World, number: &mut u64, what: &str, reached: impl Fn(&World) -> bool) {
    world.until(what, |world| {
        *number += u64::from(world.begin(id(*number), *number, 9000, Class::Cache).is_ok());
        while world.publish().is_some() {}
        reached(world)
    });
}

pub(super) fn freed(world: &World) -> u64 {
    world.shard.stats().evicted_segments
}

/// Every one of the durable blocks is there, now and after a power cut.
fn all_durable(world: World) {
    all_durable_but(&[], world);
}

pub(super) fn all_durable_but(lost: &[u64], mut world: World) {
    for restarted in [false, true] {
        for number in (0..20).filter(|number| !lost.contains(number)) {
            let found = world.find(&id(number)).unwrap_or_else(|| panic!("{number} is gone, restarted: {restarted}"));
            assert_eq!((found.class, found.checksum), (Class::Durable, number));
            assert_eq!(world.read(&found), Some(value_of(&id(number), number, 20_000)));
        }
        world = World::open(&world.crash());
        world.recover();
    }
    world.crash();
}

#[test]
fn durable_blocks_outlive_errors_that_pass_in_the_middle_of_their_eviction() {
    type Refused = fn(&dataplane::nvme::BlockIo) -> bool;
    let kinds: [(Refused, &str); 3] = [
        (|io| io.op == BlockOp::Read && (is_own(io, &MOVES) || is_own(io, &EVICT_META)), "reads"),
        (|io| io.op == BlockOp::Read && is_own(io, &MOVES), "reads of blocks"),
        (|io| io.op != BlockOp::Read && is_own(io, &MOVES), "writes"),
    ];
    for (refused, what) in kinds {
        let (mut world, mut number) = durable_and_flood();
        let mut bouts = 0;
        while bouts < 12 {
            let before = freed(&world);
            flood(&mut world, &mut number, "an eviction", |world| !world.shard.evict.is_idle());
            let stats = world.shard.stats();
            world.medium.borrow_mut().fails = Some(Box::new(refused));
            (0..600).for_each(|_| world.turn());
            world.medium.borrow_mut().fails = None;
            let after = world.shard.stats();
            bouts += u32::from(after.stalled_evictions > stats.stalled_evictions);
            // Eight moves with three attempts each in a commit interval, at most; and the pages of a segment.
            let failed = after.device_errors - stats.device_errors;
            assert!(failed < 8 * 3 * (600 / 50 + 1) + 200, "{what}: {failed} commands in vain");
            flood(&mut world, &mut number, "the end of the eviction", |world| freed(world) > before);
        }
        all_durable(world);
    }
}

#[test]
fn what_is_leased_waits_likewise_and_what_may_go_is_dropped() {
    let mut world = World::new(10, true, 3);
    world.recover();
    for block in [50, 51] {
        assert!(world.put(id(block), block, 20_000, Class::Cache));
        let found = world.find(&id(block)).unwrap();
        // Often retrieved, so that eviction would move either.
        (0..3).for_each(|_| world.shard.touch(&found));
    }
    let leased = world.find(&id(50)).unwrap();
    assert!(world.shard.lease(&leased, 1, dataplane::core::Ticks(u64::MAX)));
    world.medium.borrow_mut().fails = Some(Box::new(|io| is_own(io, &MOVES)));
    let mut number = 1000;
    flood(&mut world, &mut number, "a stall", |world| world.shard.is_stalled());
    assert!(world.find(&id(50)).is_some_and(|found| found.unit == leased.unit) && world.find(&id(51)).is_none());
    assert_eq!(world.shard.stats().lost_blocks, 1);
    world.medium.borrow_mut().fails = None;
    flood(&mut world, &mut number, "evictions", |world| freed(world) > 12);
    let found = world.find(&id(50)).expect("leased");
    assert_eq!(world.read(&found), Some(value_of(&id(50), 50, 20_000)));
    world.crash();
}

#[test]
fn a_durable_block_is_lost_only_if_the_medium_does_not_give_it_back() {
    let (mut world, mut number) = durable_and_flood();
    let found = world.find(&id(3)).unwrap();
    let bad = move |io: &dataplane::nvme::BlockIo| io.op == BlockOp::Read && io.lba == found.lba();
    world.medium.borrow_mut().error = ENODATA;
    world.medium.borrow_mut().fails = Some(Box::new(bad));
    flood(&mut world, &mut number, "evictions", |world| freed(world) > 2);
    assert_eq!((world.find(&id(3)), world.shard.stats().lost_blocks), (None, 1));
    world.medium.borrow_mut().fails = None;
    all_durable_but(&[3], world);
}

#[test]
fn durable_blocks_outlive_their_metadata() {
    let (mut world, mut number) = durable_and_flood();
    world.medium.borrow_mut().error = ENODATA;
    world.medium.borrow_mut().fails = Some(Box::new(|io| io.op == BlockOp::Read && is_own(io, &EVICT_META)));
    flood(&mut world, &mut number, "evictions", |world| freed(world) > 15);
    let stats = world.shard.stats();
    assert!(stats.moved_blocks >= 20 && stats.damaged_pages > 0, "{stats:?}");
    world.medium.borrow_mut().fails = None;
    all_durable(world);
}

#[test]
fn a_moved_block_goes_to_another_segment_if_one_does_not_take_it() {
    let (mut world, mut number) = durable_and_flood();
    flood(&mut world, &mut number, "an eviction", |world| !world.shard.evict.is_idle());
    let open = world.shard.open.and_then(|open| world.shard.tails[open].segment).unwrap();
    let first = world.shard.layout().page_lba(open, 0);
    let segment = first..first + (256 << 10) / 512;
    world.medium.borrow_mut().fails =
        Some(Box::new(move |io| io.op != BlockOp::Read && is_own(io, &MOVES) && segment.contains(&io.lba)));
    flood(&mut world, &mut number, "evictions", |world| freed(world) > 5);
    assert!(world.shard.stats().stalled_evictions > 0);
    world.medium.borrow_mut().fails = None;
    all_durable(world);
}

#[test]
fn neither_stores_nor_a_shutdown_wait_for_a_block_that_cannot_be_moved() {
    let (mut world, mut number) = durable_and_flood();
    world.medium.borrow_mut().fails = Some(Box::new(|io| is_own(io, &MOVES)));
    flood(&mut world, &mut number, "a stall", |world| world.shard.is_stalled() && world.storing.is_empty());
    world.until("a store to be refused", |world| {
        let refused = world.begin(id(number), number, 9000, Class::Cache);
        number += u64::from(refused.is_ok());
        while world.publish().is_some() {}
        refused == Err(crate::store::Refusal::NoSpace)
    });
    world.until("the writes", |world| {
        while world.publish().is_some() {}
        world.storing.is_empty()
    });
    let mut world = World::open(&world.shut_down());
    world.medium.borrow_mut().fails = None;
    world.recover();
    assert!(world.shard.stats().recovery.clean);
    all_durable(world);
}

#[test]
fn recovery_reads_around_a_chunk_that_fails() {
    let medium = filled(140).crash();
    let refused = |io: &dataplane::nvme::BlockIo| io.op == BlockOp::Read && io.blocks > 8;
    medium.borrow_mut().fails = Some(Box::new(refused));
    let mut world = World::open(&medium);
    world.recover();
    assert_eq!((world.shard.stats().blocks, world.shard.stats().recovery.damaged_pages), (140, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..8000)) {
        fuzz_recover(&bytes);
    }

    #[test]
    fn arbitrary_pages_with_good_checksums_are_survived(
        pages in proptest::collection::vec((any::<[u8; 6]>(), 0u64..6, 0u64..100, proptest::collection::vec(
            (0u8..4, any::<u16>(), 0u32..40, 0u32..20_000, 0u8..6, 0u8..3, 0u64..100), 0..20)), 0..30)
    ) {
        let mut bytes = vec![2];
        for (head, generation, sequence, records) in pages {
            let page = if head[5] & 1 == 0 { u32::from(head[4] % 20) } else { u32::from(head[4]) << 24 };
            bytes.extend([head[0], head[1], head[2], records.len() as u8]);
            bytes.extend(page.to_le_bytes());
            bytes.extend(generation.to_le_bytes());
            bytes.extend(sequence.to_le_bytes());
            bytes.extend([0; 8]);
            for (key, space, offset, length, kind, class, sequence) in records {
                let mut record = [0; 64];
                record[0] = key;
                record[16..18].copy_from_slice(&(space % 64).to_le_bytes());
                record[20..24].copy_from_slice(&length.to_le_bytes());
                record[24..28].copy_from_slice(&offset.to_le_bytes());
                record[28] = kind;
                record[29] = class;
                record[48..56].copy_from_slice(&sequence.to_le_bytes());
                bytes.extend(record);
            }
        }
        fuzz_recover(&bytes);
    }
}
