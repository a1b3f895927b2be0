//! Blocks whose bytes the medium does not give back.

use super::world::{World, id, value_of};
use crate::store::Class;

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
            assert_ne!(world.shard.delete(hash, &id(4), class, 900), crate::store::Deleted::Wait);
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
