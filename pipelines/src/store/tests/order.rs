//! Values that arrive late: published into a segment that is no longer the youngest.

use dataplane::nvme::spec::kv::StoreOptions;

use super::world::{NAMESPACE, World, id};
use crate::store::{Class, NewBlock, Published};

/// Block 1 has a younger value in an older segment than its older value: as when a slow write ends last.
fn with_a_late_value() -> World {
    let mut world = World::new(8, true, 9);
    world.recover();
    let extent = world.shard.reserve(NAMESPACE, 1000, Class::Cache, None).unwrap();
    for number in 100..112 {
        assert!(world.put(id(number), number, 20_000, Class::Cache));
    }
    assert!(world.put(id(1), 11, 1000, Class::Cache));
    let found = world.find(&id(1)).unwrap();
    assert_ne!(found.segment(), extent.segment());
    let block = NewBlock {
        id: id(1),
        hash: world.shard.hash(&id(1)),
        bytes: 1000,
        checksum: 12,
        parent: 0,
        class: Class::Cache,
        condition: StoreOptions::default(),
    };
    assert_eq!(world.shard.publish(extent, block, 12), Published::Visible);
    assert_eq!(world.find(&id(1)).unwrap().checksum, 12, "the last publish holds");
    world
}

fn restarted(mut world: World) -> World {
    world.until("the commits", |world| {
        world.shard.stats().records == world.shard.stats().blocks + 1 && world.now % 500 == 0
    });
    assert!(world.put(id(2), 2, 10, Class::Durable), "which flushes what was committed");
    let mut world = World::open(&world.crash());
    world.recover();
    world
}

/// Evicts the oldest segment and restarts: the older value must not come back.
fn evict_oldest(mut world: World) {
    let mut number = 200;
    while world.shard.stats().evicted_segments == 0 {
        assert!(world.put(id(number), number, 20_000, Class::Cache));
        number += 1;
    }
    assert_eq!(world.shard.stats().evicted_segments, 1, "the older value's segment is still there");
    assert_eq!(world.find(&id(1)), None);
    assert!(world.put(id(3), 3, 10, Class::Durable));
    let mut world = World::open(&world.crash());
    world.recover();
    assert_eq!(world.find(&id(1)), None, "a superseded value came back");
}

#[test]
fn the_last_publish_holds_over_a_restart_whatever_segment_it_lies_in() {
    let world = restarted(with_a_late_value());
    assert_eq!(world.find(&id(1)).unwrap().checksum, 12);
}

#[test]
fn a_superseded_value_in_a_younger_segment_does_not_come_back() {
    evict_oldest(with_a_late_value());
}

#[test]
fn nor_after_a_restart_in_between() {
    evict_oldest(restarted(with_a_late_value()));
}
