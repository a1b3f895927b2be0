//! Partial pages of records, which go to two drafts in turn.

use super::world::{World, id};
use crate::store::{Class, Deleted};

/// Deletes a block of the cache class and waits until its record is written down. No value moves.
fn delete(world: &mut World, number: u64) {
    let commits = world.shard.stats().commits;
    let hash = world.shard.hash(&id(number));
    assert_eq!(world.shard.delete(hash, &id(number), Class::Cache, 0), Deleted::Done);
    world.until("the commit", |world| world.shard.stats().commits > commits);
}

#[test]
fn a_draft_is_not_written_over_before_the_other_is_durable() {
    for seed in 0..60 {
        let mut world = World::new(8, true, seed);
        world.recover();
        // Enough that a new record lies in another block of the page than its header: only then can a write be torn.
        for number in 10..40 {
            assert!(world.put(id(number), number, 1000, Class::Cache));
        }
        assert!(world.put(id(1), 1, 1000, Class::Durable));
        let flushes = world.shard.stats().flushes;
        delete(&mut world, 10);
        assert_eq!(world.shard.stats().flushes, flushes, "the last draft was written through");
        delete(&mut world, 11);
        assert_eq!(world.shard.stats().flushes, flushes + 1, "the last draft may be lost");
        let mut world = World::open(&world.crash());
        world.recover();
        assert!(world.find(&id(1)).is_some(), "a durable block went with a torn draft, seed {seed}");
    }
}

#[test]
fn one_flush_backs_the_pages_of_every_segment() {
    let mut world = World::new(16, true, 1);
    world.recover();
    let mut number = 100;
    let (flushes, mut segments) = (world.shard.stats().flushes, std::collections::BTreeSet::new());
    // Blocks in four segments, all in less time than the cache class waits.
    while segments.len() < 4 {
        assert!(world.put(id(number), number, 20_000, Class::Cache));
        segments.extend(world.find(&id(number)).map(|found| found.segment()));
        number += 1;
        world.now = 0;
    }
    world.until("the commits", |world| world.now > 200);
    let stats = world.shard.stats();
    assert!(stats.commits >= 4, "{stats:?}");
    assert_eq!(stats.flushes - flushes, 1, "{stats:?}");
}

#[test]
fn an_orderly_end_survives_a_power_cut() {
    for seed in 0..20 {
        let mut world = World::new(16, true, seed);
        world.recover();
        for number in 100..140 {
            assert!(world.put(id(number), number, 5000, Class::Cache));
        }
        let mut world = World::open(&world.shut_down());
        world.recover();
        assert!((100..140).all(|number| world.find(&id(number)).is_some()), "seed {seed}");
    }
}
