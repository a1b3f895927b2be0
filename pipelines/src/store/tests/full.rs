//! Stores that are full of blocks that must stay.

use super::world::{MAX_VALUE, NAMESPACE, World, id, id_in, options, value_of};
use crate::store::{Class, Deleted, FormatOptions, Refusal};

/// Stores durable blocks until one is refused for good; says how many there are.
fn fill(world: &mut World, bytes: u32) -> u64 {
    let mut stored = 0;
    for _ in 0..400_000 {
        match world.begin(id(stored), stored, bytes, Class::Durable) {
            Ok(()) => stored += 1,
            Err(Refusal::Wait) => world.turn(),
            Err(refusal) => {
                assert_eq!(refusal, Refusal::NoSpace);
                settle(world);
                return stored;
            }
        }
        while world.publish().is_some() {}
    }
    panic!("never refused: {:?}", world.shard.stats());
}

fn settle(world: &mut World) {
    world.until("writes", |world| {
        while world.publish().is_some() {}
        world.storing.is_empty()
    });
}

/// Eviction has come to rest, and everything is still there.
fn rests(world: &mut World, stored: u64, bytes: u32) {
    world.until("every ticket", |world| world.ended.len() as u64 >= stored);
    assert!(world.ended.iter().all(|ended| ended.1));
    let before = world.shard.stats();
    for _ in 0..2000 {
        world.turn();
    }
    let after = world.shard.stats();
    assert_eq!((after.evicted_segments, after.moved_bytes), (before.evicted_segments, before.moved_bytes));
    for number in (0..stored).step_by(7) {
        let found = world.find(&id(number)).expect("durable");
        assert_eq!(world.read(&found), Some(value_of(&id(number), number, bytes)));
    }
}

/// Short values: a segment has room for 126 records and for 1018 values of one unit.
fn short_values() -> FormatOptions {
    FormatOptions { segment_bytes: 4 << 20, mean_value_bytes: 64 << 10, ..options() }
}

#[test]
fn a_store_whose_records_run_out_before_its_room_says_that_it_is_full() {
    let mut world = World::with_options(9, &short_values(), true, 5);
    world.recover();
    assert!(world.shard.layout().max_records() * 4 < world.shard.layout().data_units());
    let stored = fill(&mut world, 4096);
    let per_segment = u64::from(world.shard.layout().max_records());
    assert!(stored >= 5 * per_segment, "{stored}");
    let evicted = world.shard.stats().evicted_segments;
    assert!(evicted < 40, "gave up after {evicted} rewrites");
    rests(&mut world, stored, 4096);
}

#[test]
fn a_full_store_can_be_emptied_block_by_block() {
    let mut world = World::with_options(9, &short_values(), true, 5);
    world.recover();
    let stored = fill(&mut world, 4096);
    rests(&mut world, stored, 4096);
    // From the middle outwards, so that it is not the oldest segment's that go first.
    for number in (0..stored).map(|at| (at + stored / 2) % stored) {
        let (block, ticket) = (id(number), 1_000_000 + number);
        world.until("a delete", |world| {
            match world.shard.delete(world.shard.hash(&block), &block, Class::Durable, ticket) {
                Deleted::Wait => false,
                other => {
                    assert_eq!(other, Deleted::Pending);
                    true
                }
            }
        });
    }
    world.until("the tickets", |world| world.ended.len() as u64 == 2 * stored);
    assert!(world.ended.iter().all(|ended| ended.1));
    assert!(world.put(id(1), 5_000_000, 4096, Class::Durable));
    let mut world = World::open(&world.crash());
    world.recover();
    assert_eq!(world.shard.stats().blocks, 1);
}

#[test]
fn a_store_of_the_longest_values_says_that_it_is_full() {
    let mut world = World::new(80, true, 5);
    world.recover();
    let stored = fill(&mut world, MAX_VALUE);
    assert!(stored >= 70 * 4, "{stored}");
    let next = world.shard.durable_bytes + u64::from(MAX_VALUE);
    assert!(next <= world.shard.durable_limit(), "the gap at each segment's end counts, not the limit");
    let evicted = world.shard.stats().evicted_segments;
    assert!(evicted < 200, "gave up after {evicted} rewrites");
    rests(&mut world, stored, MAX_VALUE);
}

#[test]
fn a_store_full_of_durable_blocks_still_takes_cache_blocks() {
    let mut world = World::new(12, true, 5);
    world.recover();
    let stored = fill(&mut world, 4096);
    rests(&mut world, stored, 4096);
    assert_eq!(world.begin(id(stored), stored, 4096, Class::Durable), Err(Refusal::NoSpace));
    for number in 10_000..10_300 {
        assert!(world.put(id(number), number, 4096, Class::Cache));
    }
    assert_eq!(world.begin(id(stored), stored, 4096, Class::Durable), Err(Refusal::NoSpace));
    assert!(world.shard.purge(NAMESPACE));
    world.until("the purge", |world| !world.shard.is_purging(NAMESPACE));
    assert!(world.put(id_in(3, 1), 1, 4096, Class::Durable), "there is room again");
}

#[test]
fn durable_reservations_count_against_the_limit_until_they_end() {
    let mut world = World::new(12, true, 5);
    world.recover();
    let mut extents = Vec::new();
    let limit = world.shard.durable_limit();
    // As much as a segment holds twice is kept back as long as no value arrives.
    while (extents.len() as u64 + 1) * u64::from(MAX_VALUE) <= limit {
        match world.shard.reserve(NAMESPACE, MAX_VALUE, Class::Durable, None) {
            Ok(extent) => extents.push(extent),
            Err(refusal) => {
                assert_eq!(refusal, Refusal::Wait, "no more segments may wait for values at once");
                break;
            }
        }
    }
    assert_eq!(world.shard.durable_reserved, extents.len() as u64 * u64::from(MAX_VALUE));
    extents.drain(..).for_each(|extent| world.shard.abandon(extent));
    assert_eq!(world.shard.durable_reserved, 0);
    assert!(world.put(id(1), 1, 100, Class::Durable));
    assert_eq!(world.shard.durable_reserved, 0);
}

/// Purges a namespace that holds nothing.
fn purge_nothing(world: &mut World, namespace: u32) {
    assert!(world.shard.purge(namespace));
    world.until("the purge", |world| !world.shard.is_purging(namespace));
}

#[test]
fn an_empty_namespace_can_be_purged_in_a_full_store() {
    for (options, bytes) in [(short_values(), 4096), (options(), 4096), (options(), MAX_VALUE)] {
        let mut world = World::with_options(9, &options, true, 5);
        world.recover();
        let stored = fill(&mut world, bytes);
        // More often than there is room for records anywhere.
        let rounds = 40 + u64::from(world.shard.layout().max_records());
        for _ in 0..rounds {
            purge_nothing(&mut world, 3);
        }
        rests(&mut world, stored, bytes);
        // What is in use is purged as before, and the store comes free again.
        assert!(world.shard.purge(NAMESPACE));
        world.until("the purge", |world| !world.shard.is_purging(NAMESPACE));
        assert!(world.put(id_in(3, 1), 1, bytes, Class::Durable));
        let mut world = World::open(&world.shut_down());
        world.recover();
        assert_eq!(world.shard.stats().blocks, 1);
    }
}

#[test]
fn a_namespace_of_one_block_can_be_purged_in_a_full_store() {
    let mut world = World::with_options(9, &short_values(), true, 5);
    world.recover();
    assert!(world.put(id_in(3, 1), 1 << 40, 4096, Class::Durable));
    let stored = fill(&mut world, 4096);
    purge_nothing(&mut world, 3);
    assert!(world.find(&id_in(3, 1)).is_none());
    world.until("every ticket", |world| world.ended.len() as u64 > stored);
    let mut world = World::open(&world.shut_down());
    world.recover();
    assert_eq!(world.shard.stats().blocks, stored);
    assert!(world.find(&id_in(3, 1)).is_none());
}

#[test]
fn a_shutdown_does_not_wait_for_a_purge_that_finds_no_room() {
    let mut world = World::with_options(9, &short_values(), true, 5);
    world.recover();
    fill(&mut world, 4096);
    world.until("commits", |world| world.shard.tails.iter().all(|tail| tail.uncommitted() == 0));
    // As if a tombstone had been lost: the purge may not do without its record.
    world.shard.stats.lost_records = 1;
    let mut purges = 0;
    while purges < 1000 {
        purges += 1;
        assert!(world.shard.purge(3));
        (0..500).for_each(|_| world.turn());
        if world.shard.is_purging(3) {
            break;
        }
    }
    assert!(world.shard.is_purging(3), "each of {purges} purges found room");
    world.shut_down();
}
