//! Blocks whose bytes the medium does not give back.

use dataplane::nvme::spec::kv::StoreOptions;
use dataplane::nvme::{BlockIo, BlockOp};

use super::world::{NAMESPACE, TOKEN_BASE, World, id, value_of};
use crate::store::{Class, Deleted, NewBlock, Published};

/// A store with a few blocks of a class, written down.
fn stored(class: Class) -> World {
    let mut world = World::new(8, true, 3);
    world.recover();
    for number in 0..6 {
        assert!(world.put(id(number), number, 9000, class));
    }
    settle(&mut world);
    world
}

/// Lets what waits for a commit be written down.
fn settle(world: &mut World) {
    let before = world.now;
    world.until("a commit", |world| world.now > before + 500);
}

/// Drops what was read of a block, whatever is stored meanwhile; whether it was dropped.
fn drop_after(world: &mut World, number: u64, meanwhile: impl FnOnce(&mut World)) -> bool {
    let found = world.find(&id(number)).unwrap();
    let hold = world.shard.hold(&found);
    meanwhile(world);
    let dropped = world.shard.drop_unreadable(&hold);
    world.shard.release(hold);
    dropped
}

fn holds(world: &mut World, number: u64, version: u64) {
    let found = world.find(&id(number)).unwrap();
    assert_eq!(world.read(&found), Some(value_of(&id(number), version, found.bytes)), "block {number}");
}

#[test]
fn a_block_that_cannot_be_read_is_a_miss_and_stays_one() {
    for class in [Class::Cache, Class::Durable] {
        let mut world = stored(class);
        let used = world.shard.used_bytes(super::world::NAMESPACE);
        assert!(drop_after(&mut world, 3, |_| {}));
        assert_eq!(world.find(&id(3)), None);
        let stats = world.shard.stats();
        assert_eq!((stats.blocks, stats.lost_blocks), (5, 1));
        assert_eq!(world.shard.used_bytes(super::world::NAMESPACE), used - 12288);
        settle(&mut world);
        let mut world = World::open(&world.crash());
        world.recover();
        assert_eq!(world.find(&id(3)), None, "{class:?}: back after a power cut");
        for number in [0, 1, 2, 4, 5] {
            holds(&mut world, number, number);
        }
        // It can be stored again, elsewhere.
        assert!(world.put(id(3), 33, 9000, class));
        settle(&mut world);
        let mut world = World::open(&world.crash());
        world.recover();
        holds(&mut world, 3, 33);
        world.crash();
    }
}

#[test]
fn a_value_that_was_stored_meanwhile_is_not_dropped_for_the_old_one() {
    for class in [Class::Cache, Class::Durable] {
        let mut world = stored(class);
        assert!(!drop_after(&mut world, 3, |world| assert!(world.put(id(3), 33, 9000, class))));
        holds(&mut world, 3, 33);
        // Nor one that was stored after a deletion, for which the index takes the same place.
        let deleted_and_stored = |world: &mut World| {
            let hash = world.shard.hash(&id(4));
            assert_ne!(world.shard.delete(hash, &id(4), class, 900), Deleted::Wait);
            assert!(world.put(id(9), 9, 9000, class));
        };
        assert!(!drop_after(&mut world, 4, deleted_and_stored));
        assert_eq!(world.find(&id(4)), None);
        holds(&mut world, 9, 9);
        // And nobody drops twice.
        assert!(!drop_after(&mut world, 5, |world| assert!(drop_after(world, 5, |_| {}))));
        assert_eq!(world.shard.stats().lost_blocks, 1);
        world.crash();
    }
}

#[test]
fn an_older_value_does_not_come_back_for_a_block_that_was_dropped() {
    let mut world = stored(Class::Durable);
    assert!(world.put(id(3), 33, 9000, Class::Durable));
    assert!(drop_after(&mut world, 3, |_| {}));
    settle(&mut world);
    let mut world = World::open(&world.crash());
    world.recover();
    assert_eq!(world.find(&id(3)), None);
    world.crash();
}

/// Records are not taken by the device, from now on or no more.
fn records_fail(world: &World, fail: bool) {
    let refused = |io: &BlockIo| {
        matches!(io.op, BlockOp::Write { .. }) && io.token >= TOKEN_BASE && (8..24).contains(&(io.token & 0xFF))
    };
    world.medium.borrow_mut().fails = fail.then(|| Box::new(refused) as _);
}

fn restarted(world: World) -> World {
    let mut world = World::open(&world.crash());
    world.recover();
    world
}

/// A durable store that fails leaves the older value. Had the new one been dropped meanwhile, there would be nothing to
/// point back to, and the tombstone would outlive the store that never was.
#[test]
fn a_value_that_may_yet_fail_is_not_dropped_in_place_of_the_older_one() {
    let mut world = stored(Class::Durable);
    records_fail(&world, true);
    world.until("room", |world| world.begin(id(3), 33, 9000, Class::Durable).is_ok());
    world.until("publish", |world| world.publish().is_some());
    assert_eq!(world.find(&id(3)).unwrap().checksum, 33, "visible before its record is durable");
    assert!(!drop_after(&mut world, 3, |_| {}));
    assert!(!world.ticket(33), "the store failed");
    records_fail(&world, false);
    holds(&mut world, 3, 3);
    settle(&mut world);
    let mut world = restarted(world);
    holds(&mut world, 3, 3);
    // That one can be dropped as any other.
    assert!(drop_after(&mut world, 3, |_| {}));
    world.crash();
}

/// Eviction may likewise have to take a move back, whose source can still be read.
#[test]
fn nor_is_a_moved_block_dropped_before_the_move_is_written_down() {
    let mut world = stored(Class::Durable);
    let (before, mut number) = (world.find(&id(3)).unwrap().unit, 1000);
    world.until("a move that is not written down", |world| {
        number += u64::from(world.begin(id(number), number, 9000, Class::Cache).is_ok());
        while world.publish().is_some() {}
        let found = world.find(&id(3)).unwrap();
        found.unit != before && world.shard.may_go_back(found.entry, found.unit)
    });
    assert!(!drop_after(&mut world, 3, |_| {}));
    world.until("the end of the eviction", |world| {
        while world.publish().is_some() {}
        world.shard.evict.is_idle()
    });
    assert!(drop_after(&mut world, 3, |_| {}));
    world.crash();
}

/// How a block goes whose tombstone is to be lost.
#[derive(Clone, Copy, Debug)]
enum Going {
    CannotBeRead,
    Deleted,
}

/// Has the tombstone of a block lost, whose record is written down.
fn lose_tombstone(world: &mut World, number: u64, class: Class, going: Going) {
    let before = world.shard.stats().lost_records;
    records_fail(world, true);
    match going {
        Going::CannotBeRead => assert!(drop_after(world, number, |_| {})),
        Going::Deleted => {
            let told = world.shard.delete(world.shard.hash(&id(number)), &id(number), class, 99);
            assert_eq!(told, if class == Class::Durable { Deleted::Pending } else { Deleted::Done });
        }
    }
    world.until("the tombstone to fail", |world| world.shard.stats().lost_records > before);
    records_fail(world, false);
    assert!(world.shard.evict.is_idle());
}

/// Every class, and every way to go.
fn for_each_way(check: impl Fn(Class, Going)) {
    for class in [Class::Cache, Class::Durable] {
        for going in [Going::CannotBeRead, Going::Deleted] {
            check(class, going);
        }
    }
}

/// The younger value of a key may lie in an older segment than its older value. If the younger is dropped, its segment
/// goes without another word of it; so the tombstone must be written down by then, whatever became of the first attempt.
#[test]
fn the_tombstone_of_a_late_value_is_written_before_its_segment_goes() {
    // A device that refuses a page often writes it all the same, as far as it matters.
    for seed in 1..=12 {
        for_each_way(|class, going| a_late_value_goes(seed, class, going));
    }
}

fn a_late_value_goes(seed: u64, class: Class, going: Going) {
    let mut world = World::new(8, true, seed);
    world.recover();
    let extent = world.shard.reserve(NAMESPACE, 1000, class, None).unwrap();
    for number in 100..112 {
        assert!(world.put(id(number), number, 20_000, Class::Cache));
    }
    assert!(world.put(id(1), 11, 1000, class));
    assert_ne!(world.find(&id(1)).unwrap().segment(), extent.segment());
    let block = NewBlock {
        id: id(1),
        hash: world.shard.hash(&id(1)),
        bytes: 1000,
        checksum: 12,
        parent: 0,
        class,
        condition: StoreOptions::default(),
    };
    assert_ne!(world.shard.publish(extent, block, 12), Published::IndexFull);
    settle(&mut world);
    lose_tombstone(&mut world, 1, class, going);
    assert_eq!(world.shard.stats().evicted_segments, 0);
    let mut number = 200;
    // Not a turn longer, or the older value may go as well.
    world.until("the end of the younger value's segment", |world| {
        number += u64::from(world.begin(id(number), number, 20_000, Class::Cache).is_ok());
        while world.publish().is_some() {}
        world.shard.stats().evicted_segments > 0
    });
    assert_eq!(world.shard.stats().evicted_segments, 1, "the older value's segment is still there");
    let world = restarted(world);
    assert_eq!(world.find(&id(1)), None, "{seed}, {class:?}, {going:?}: an older value came back");
    world.crash();
}

#[test]
fn a_lost_tombstone_is_written_anew_once_the_device_takes_records_again() {
    for_each_way(|class, going| {
        let mut world = stored(class);
        settle(&mut world);
        lose_tombstone(&mut world, 3, class, going);
        lose_tombstone(&mut world, 4, class, going);
        // A key that is stored anew meanwhile is not removed by what comes late.
        assert!(world.put(id(4), 44, 9000, class));
        settle(&mut world);
        assert_eq!(world.shard.stats().evicted_segments, 0);
        let mut world = restarted(world);
        assert_eq!(world.find(&id(3)), None, "{class:?}, {going:?}: it came back");
        holds(&mut world, 4, 44);
        world.crash();
    });
}
