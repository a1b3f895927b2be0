//! Durable stores over an older value that fail: the older value is served as before.

use std::collections::HashMap;

use dataplane::nvme::{BlockIo, BlockOp};

use super::world::{TOKEN_BASE, World, id, value_of};
use crate::store::{Class, Published, Refusal};

fn records_fail(world: &World, fail: bool) {
    let refused = |io: &BlockIo| {
        matches!(io.op, BlockOp::Write { .. }) && io.token >= TOKEN_BASE && (8..24).contains(&(io.token & 0xFF))
    };
    world.medium.borrow_mut().fails = fail.then(|| Box::new(refused) as _);
}

fn holds(world: &mut World, number: u64, version: u64, bytes: u32) {
    let found = world.find(&id(number)).unwrap_or_else(|| panic!("{number} is gone"));
    assert_eq!(found.checksum, version);
    assert_eq!(world.read(&found), Some(value_of(&id(number), version, bytes)));
}

/// Writes blocks of the cache class until `segments` were freed.
fn churn(world: &mut World, segments: u64) {
    let goal = world.shard.stats().evicted_segments + segments;
    let mut number = 1 << 20;
    world.until("evictions", |world| {
        number += u64::from(world.begin(id(number), number, 9000, Class::Cache).is_ok());
        while world.publish().is_some() {}
        world.storing.is_empty() && world.shard.stats().evicted_segments >= goal
    });
}

fn restarted(world: World) -> World {
    let mut world = World::open(&world.crash());
    world.recover();
    world
}

#[test]
fn an_overwrite_whose_value_cannot_be_written_leaves_the_older_value() {
    let mut world = World::new(10, true, 3);
    world.recover();
    assert!(world.put(id(1), 1, 5000, Class::Durable));
    let used = world.shard.used_bytes(super::world::NAMESPACE);
    world.medium.borrow_mut().fails = Some(Box::new(|io: &BlockIo| io.token < TOKEN_BASE));
    assert!(!world.put(id(1), 2, 9000, Class::Durable));
    world.medium.borrow_mut().fails = None;
    assert_eq!(world.shard.used_bytes(super::world::NAMESPACE), used);
    holds(&mut world, 1, 1, 5000);
    churn(&mut world, 12);
    holds(&mut world, 1, 1, 5000);
    holds(&mut restarted(world), 1, 1, 5000);
}

#[test]
fn an_overwrite_whose_record_cannot_be_written_leaves_the_older_value() {
    for class in [Class::Durable, Class::Cache] {
        let mut world = World::new(10, true, 3);
        world.recover();
        assert!(world.put(id(1), 1, 5000, class));
        world.until("the record", |world| world.shard.tails.iter().all(|tail| tail.uncommitted() == 0));
        let before = world.shard.stats();
        let (used, durable) = (world.shard.used_bytes(super::world::NAMESPACE), world.shard.durable_bytes);
        records_fail(&world, true);
        assert!(!world.put(id(1), 2, 9000, Class::Durable), "the ticket must say so");
        records_fail(&world, false);
        let stats = world.shard.stats();
        assert_eq!((stats.blocks, stats.live_bytes), (before.blocks, before.live_bytes));
        assert_eq!((world.shard.used_bytes(super::world::NAMESPACE), world.shard.durable_bytes), (used, durable));
        holds(&mut world, 1, 1, 5000);
        world = restarted(world);
        // A device may write a page and report an error all the same. Then the new value holds, whole.
        let version = world.find(&id(1)).expect("either of them").checksum;
        holds(&mut world, 1, version, if version == 1 { 5000 } else { 9000 });
    }
}

#[test]
fn the_older_value_outlives_its_segment_after_a_failed_overwrite() {
    let mut world = World::new(10, true, 3);
    world.recover();
    assert!(world.put(id(1), 1, 5000, Class::Durable));
    records_fail(&world, true);
    assert!(!world.put(id(1), 2, 9000, Class::Durable));
    records_fail(&world, false);
    churn(&mut world, 25);
    holds(&mut world, 1, 1, 5000);
    holds(&mut restarted(world), 1, 1, 5000);
}

#[test]
fn several_failed_overwrites_lead_back_to_the_value_before_them_all() {
    let mut world = World::new(10, true, 3);
    world.recover();
    assert!(world.put(id(1), 1, 5000, Class::Durable));
    records_fail(&world, true);
    for version in [2, 3, 4] {
        world.until("room", |world| world.begin(id(1), version, 6000, Class::Durable).is_ok());
    }
    let mut told = 0;
    world.until("the tickets", |world| {
        while let Some((.., published)) = world.publish() {
            assert_eq!(published, Some(Published::Pending));
            told += 1;
        }
        told == 3 && [2, 3, 4].iter().all(|&version| world.ended.contains(&(version, false)))
    });
    records_fail(&world, false);
    holds(&mut world, 1, 1, 5000);
    assert!(world.put(id(1), 5, 7000, Class::Durable));
    holds(&mut restarted(world), 1, 5, 7000);
}

#[test]
fn an_overwrite_that_arrives_in_a_segment_that_failed_leaves_the_older_value() {
    let mut world = World::new(10, true, 3);
    world.recover();
    assert!(world.put(id(1), 1, 5000, Class::Durable));
    let extent = world.shard.reserve(super::world::NAMESPACE, 100, Class::Durable, None).unwrap();
    records_fail(&world, true);
    assert!(!world.put(id(2), 2, 100, Class::Durable));
    records_fail(&world, false);
    let block = crate::store::NewBlock {
        id: id(1),
        hash: world.shard.hash(&id(1)),
        bytes: 100,
        checksum: 9,
        parent: 0,
        class: Class::Durable,
        condition: Default::default(),
    };
    assert_eq!(world.shard.publish(extent, block, 9), Published::Pending);
    assert!(!world.ticket(9));
    holds(&mut world, 1, 1, 5000);
    churn(&mut world, 12);
    holds(&mut restarted(world), 1, 1, 5000);
}

/// What the tickets said of each key's stores, in the order in which they were published.
#[derive(Default)]
struct Told {
    stores: HashMap<u64, Vec<u64>>,
    next: u64,
}

const KEYS: u64 = 20;

impl Told {
    fn begin(&mut self, world: &mut World, key: u64, bytes: u32) -> Result<(), Refusal> {
        // The version carries the key, so that publishing in another order is no trouble.
        let version = self.next * 1000 + key;
        world.begin(id(key), version, bytes, Class::Durable)?;
        self.next += 1;
        Ok(())
    }

    fn publish(&mut self, world: &mut World) {
        while let Some((block, version, class, published)) = world.publish() {
            if class == Class::Durable && published.is_some() {
                let key = version % 1000;
                assert_eq!((published, block), (Some(Published::Pending), id(key)));
                self.stores.entry(key).or_default().push(version);
            }
        }
    }

    /// The version that must be served once every ticket is out, and those that failed after it.
    fn expected(&self, world: &World, key: u64) -> Option<(u64, Vec<u64>)> {
        let told: HashMap<u64, bool> = world.ended.iter().copied().collect();
        let stores = self.stores.get(&key)?;
        let last = stores.iter().rposition(|version| told[version])?;
        Some((stores[last], stores[last + 1..].to_vec()))
    }
}

/// Overwrites of a few durable keys, between blocks of the cache class that drive eviction, on a device that often
/// refuses records for a while.
fn overwrites_under_failures(seed: u64) {
    let mut world = World::new(9, true, seed);
    world.recover();
    let mut told = Told::default();
    let (mut state, mut number) = (seed | 1, 1 << 20);
    let mut dice = move |sides: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % sides
    };
    let mut failures = 0;
    for round in 0..60 {
        for _ in 0..150 + dice(200) {
            let fresh = dice(3) == 0;
            if fresh {
                let _ = told.begin(&mut world, dice(KEYS), 3000 + dice(9000) as u32);
            } else {
                number += u64::from(world.begin(id(number), number, 9000, Class::Cache).is_ok());
            }
            if dice(4) > 0 {
                told.publish(&mut world);
            }
            world.turn();
        }
        records_fail(&world, round % 2 == 0);
        if round % 3 == 2 {
            records_fail(&world, false);
            world.until("every ticket", |world| {
                told.publish(world);
                let pending = told.stores.values().map(Vec::len).sum::<usize>();
                world.storing.is_empty() && world.ended.len() == pending
            });
            for key in 0..KEYS {
                let Some((version, _)) = told.expected(&world, key) else { continue };
                let found = world.find(&id(key)).unwrap_or_else(|| panic!("seed {seed}: {key} is gone"));
                assert_eq!(found.checksum, version, "seed {seed}, key {key}");
                assert_eq!(world.read(&found), Some(value_of(&id(key), version, found.bytes)));
            }
            failures = world.ended.iter().filter(|ended| !ended.1).count();
        }
    }
    assert!(failures > 10, "seed {seed}: only {failures} stores failed");
    assert!(world.shard.stats().evicted_segments > 10);
    let expected: Vec<_> = (0..KEYS).filter_map(|key| Some((key, told.expected(&world, key)?))).collect();
    let mut world = restarted(world);
    for (key, (version, failed)) in expected {
        let found = world.find(&id(key)).unwrap_or_else(|| panic!("seed {seed}: {key} is gone after the restart"));
        // Pages that were written before others of the same commit failed may bring a later one.
        assert!(found.checksum == version || failed.contains(&found.checksum), "seed {seed}, key {key}");
        assert_eq!(world.read(&found), Some(value_of(&id(key), found.checksum, found.bytes)));
    }
}

#[test]
fn failed_overwrites_in_the_middle_of_evictions_lose_nothing() {
    super::seeds(1..25).for_each(overwrites_under_failures);
}
