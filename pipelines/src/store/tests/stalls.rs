//! Evictions that have to wait, for the device or for room, and what becomes of their blocks meanwhile.

use dataplane::core::Ticks;
use dataplane::nvme::{BlockIo, BlockOp};

use super::faults::{EVICT_META, MOVES, RECORD_PAGES, all_durable_but, durable_and_flood, flood, freed, is_own};
use super::world::{NAMESPACE, World, id, options, value_of};
use crate::store::{Class, Deleted, FormatOptions, Refusal};

/// An eviction that knows its victim's blocks by the index alone, and has moved all but one, which cannot be read. Says where
/// the flood is.
fn all_moved_but(stuck: u64) -> (World, u64) {
    let (mut world, mut number) = durable_and_flood();
    let lba = world.find(&id(stuck)).unwrap().lba();
    world.medium.borrow_mut().fails = Some(Box::new(move |io| {
        io.op == BlockOp::Read && (is_own(io, &EVICT_META) || is_own(io, &MOVES) && io.lba == lba)
    }));
    flood(&mut world, &mut number, "an eviction", |world| left(world).is_some());
    // Nothing is stored any more, so that segments stay free.
    publish_until(&mut world, "the last block", |world| left(world) == Some(1));
    assert!(world.find(&id(stuck)).is_some_and(|found| found.lba() == lba));
    (world, number)
}

/// Goes on with what is being stored until something is reached.
fn publish_until(world: &mut World, what: &str, reached: impl Fn(&World) -> bool) {
    world.until(what, |world| {
        while world.publish().is_some() {}
        reached(world)
    });
}

/// Blocks in the victim of the eviction that runs.
fn left(world: &World) -> Option<u32> {
    let shard = &world.shard;
    (!shard.evict.is_idle()).then(|| shard.table.at(shard.evict.victim()).live_blocks)
}

fn delete(world: &mut World, number: u64) {
    let hash = world.shard.hash(&id(number));
    assert_eq!(world.shard.delete(hash, &id(number), Class::Durable, 1 << 30), Deleted::Pending);
}

/// A move that outlasts its eviction would never end, and hold its segment and the shutdown for ever.
#[test]
fn an_eviction_does_not_end_before_the_move_of_a_block_that_was_deleted() {
    let (mut world, mut number) = all_moved_but(3);
    let before = world.shard.stats().stalled_evictions;
    flood(&mut world, &mut number, "another attempt", |world| world.shard.stats().stalled_evictions > before);
    let before = freed(&world);
    delete(&mut world, 3);
    flood(&mut world, &mut number, "the end of the eviction", |world| freed(world) > before);
    assert!(world.shard.moves.is_idle());
    world.medium.borrow_mut().fails = None;
    publish_until(&mut world, "the writes", |world| world.storing.is_empty());
    let mut world = World::open(&world.shut_down());
    world.recover();
    assert!(world.shard.stats().recovery.clean);
    all_durable_but(&[3], world);
}

/// While that move waits, the records of the others may fail, so that their blocks lie in the victim again.
#[test]
fn blocks_whose_records_fail_meanwhile_do_not_go_with_the_victim() {
    for stuck in 0..11 {
        let (mut world, mut number) = all_moved_but(stuck);
        let refused = |io: &BlockIo| io.op != BlockOp::Read && is_own(io, &RECORD_PAGES) || is_own(io, &MOVES);
        world.medium.borrow_mut().fails = Some(Box::new(refused));
        let before = (world.shard.stats().lost_records, freed(&world));
        delete(&mut world, stuck);
        publish_until(&mut world, "records that are given up", |world| world.shard.stats().lost_records > before.0);
        world.medium.borrow_mut().fails = None;
        flood(&mut world, &mut number, "the end of the eviction", |world| freed(world) > before.1);
        flood(&mut world, &mut number, "other evictions", |world| freed(world) > before.1 + 12);
        all_durable_but(&[stuck], world);
    }
}

/// Eviction begins, and finds no room for what it has to move: as if errors had used up the segments that it counts on. They
/// go to the caller.
fn without_room(world: &mut World) -> Vec<u32> {
    world.shard.fill = world.shard.layout().units();
    world.shard.table.free.drain(..).collect()
}

/// Whether the eviction that runs cannot go on.
fn starved(world: &World) -> bool {
    !world.shard.evict.is_idle() && world.shard.evict.is_at_rest()
}

/// What a Store is told now.
fn told(world: &mut World) -> Result<(), Refusal> {
    world.shard.reserve(NAMESPACE, 20_000, Class::Cache, None).map(|extent| world.shard.abandon(extent))
}

#[test]
fn stores_wait_again_once_a_block_is_deleted_that_found_no_room() {
    let mut world = World::new(10, true, 3);
    world.recover();
    assert!(world.put(id(1), 1, 20_000, Class::Durable));
    let mut number = 1000;
    flood(&mut world, &mut number, "a store that is nearly full", |world| world.shard.table.free.len() == 3);
    assert!(world.shard.evict.is_idle());
    let spare = without_room(&mut world);
    flood(&mut world, &mut number, "a move without room", starved);
    assert_eq!(told(&mut world), Err(Refusal::NoSpace));
    delete(&mut world, 1);
    world.turn();
    assert_eq!(told(&mut world), Err(Refusal::Wait), "the eviction goes on");
    world.shard.table.free.extend(spare);
    flood(&mut world, &mut number, "evictions", |world| freed(world) > 3);
    publish_until(&mut world, "the writes", |world| world.storing.is_empty());
    world.shut_down();
}

#[test]
fn what_is_leased_or_pinned_is_not_dropped_for_want_of_room() {
    let mut world = World::new(10, true, 3);
    world.recover();
    for block in 50..53 {
        assert!(world.put(id(block), block, 20_000, Class::Cache));
        let found = world.find(&id(block)).unwrap();
        // Often retrieved, so that eviction would move any of them.
        (0..3).for_each(|_| world.shard.touch(&found));
    }
    let (leased, pinned) = (world.find(&id(50)).unwrap(), world.find(&id(51)).unwrap());
    assert!(world.shard.lease(&leased, 1, Ticks(u64::MAX)) && world.shard.pin(&pinned, true));
    let mut number = 1000;
    flood(&mut world, &mut number, "a store that is nearly full", |world| world.shard.table.free.len() == 3);
    assert!(world.shard.evict.is_idle());
    let spare = without_room(&mut world);
    flood(&mut world, &mut number, "moves without room", starved);
    (0..500).for_each(|_| world.turn());
    let there = |world: &World| [50, 51, 52].map(|block| world.find(&id(block)).is_some());
    assert_eq!(there(&world), [true, true, false]);
    assert_eq!((told(&mut world), world.shard.stats().lost_blocks), (Err(Refusal::NoSpace), 1));
    // They stay for as long as they are leased and pinned.
    world.shard.unlease(1);
    let pinned = world.find(&id(51)).unwrap();
    assert!(world.shard.pin(&pinned, false));
    let before = freed(&world);
    flood(&mut world, &mut number, "the end of the eviction", |world| freed(world) > before);
    assert_eq!(there(&world), [false; 3]);
    world.shard.table.free.extend(spare);
    flood(&mut world, &mut number, "evictions", |world| freed(world) > 3);
    publish_until(&mut world, "the writes", |world| world.storing.is_empty());
    world.shut_down();
}

/// A device that refuses all writes is asked for other places less and less often.
#[test]
fn a_device_that_refuses_everything_does_not_use_up_the_segments() {
    let options = FormatOptions { segment_bytes: 128 << 10, ..options() };
    let mut world = World::with_options(400, &options, true, 3);
    world.recover();
    assert!(world.put(id(1), 1, 20_000, Class::Durable));
    let mut number = 1000;
    while world.shard.evict.is_idle() {
        assert!(world.put(id(number), number, 40_000, Class::Cache));
        number += 1;
    }
    let before = world.shard.stats();
    world.medium.borrow_mut().fails = Some(Box::new(|io| matches!(io.op, BlockOp::Write { .. })));
    // A hundred commit intervals.
    (0..5000).for_each(|_| world.turn());
    let after = world.shard.stats();
    assert!(after.stalled_evictions > before.stalled_evictions + 20, "{after:?}");
    let used = before.segments_free - after.segments_free;
    assert!((2..=8).contains(&used), "{used} of {} free segments", before.segments_free);
    world.medium.borrow_mut().fails = None;
    flood(&mut world, &mut number, "evictions", |world| freed(world) > before.evicted_segments + 3);
    let found = world.find(&id(1)).expect("durable");
    assert_eq!(world.read(&found), Some(value_of(&id(1), 1, 20_000)));
    publish_until(&mut world, "the writes", |world| world.storing.is_empty());
    world.shut_down();
}

/// Whoever holds blocks of the segment that is to be freed can be asked to let go of them, and nobody else.
#[test]
fn an_eviction_that_waits_for_a_reader_says_for_whom() {
    let mut world = World::new(10, true, 3);
    world.recover();
    assert!(world.put(id(1), 1, 20_000, Class::Cache));
    let hold = world.shard.hold(&world.find(&id(1)).unwrap());
    let mut number = 1000;
    flood(&mut world, &mut number, "an eviction", |world| !world.shard.evict.is_idle());
    let other = world.shard.hold(&world.find(&id(number - 10)).unwrap());
    assert!(!world.shard.awaits_readers() && world.shard.awaits(&hold) == 0, "not for long yet");
    flood(&mut world, &mut number, "a long wait", |world| world.shard.awaits(&hold) >= 150);
    assert!(world.shard.awaits_readers() && world.shard.awaits(&other) == 0);
    world.shard.release(hold);
    flood(&mut world, &mut number, "the end of the eviction", |world| freed(world) > 0);
    assert!(!world.shard.awaits_readers());
    world.shard.release(other);
    world.crash();
}
