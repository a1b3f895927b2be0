//! What a store does when nothing goes wrong.

use super::device::Medium;
use super::world::{MAX_VALUE, NAMESPACE, World, id, id_in, options, value_of};
use crate::store::{Class, Deleted, Published, Refusal, StoreError, load};
use dataplane::Burst;
use dataplane::core::Ticks;

fn ready(segments: u64) -> World {
    let mut world = World::new(segments, true, 5);
    world.recover();
    world
}

#[test]
fn a_block_is_found_with_its_bytes_and_survives_a_restart() {
    let mut world = ready(8);
    for (number, bytes) in [(1, 0), (2, 1), (3, 4096), (4, 4097), (5, MAX_VALUE)] {
        assert!(world.put(id(number), number + 10, bytes, Class::Durable));
    }
    for restart in 0..3 {
        for (number, bytes) in [(1, 0), (2, 1), (3, 4096), (4, 4097), (5, MAX_VALUE)] {
            let found = world.find(&id(number)).unwrap();
            assert_eq!((found.bytes, found.checksum, found.class), (bytes, number + 10, Class::Durable));
            assert_eq!(world.read(&found), Some(value_of(&id(number), number + 10, bytes)));
        }
        assert_eq!(world.find(&id(6)), None);
        let medium = if restart == 0 { world.shut_down() } else { world.crash() };
        world = World::open(&medium);
        assert_eq!(world.find(&id(1)), None, "nothing is found while recovery runs");
        world.recover();
        let recovery = world.shard.stats().recovery;
        assert_eq!((recovery.clean, recovery.damaged_pages, recovery.index_full), (true, 0, 0));
    }
}

#[test]
fn the_cache_class_is_written_down_after_its_interval() {
    let mut world = ready(8);
    assert!(world.put(id(1), 1, 100, Class::Cache));
    assert_eq!(world.shard.stats().commits, 0);
    world.until("the commit", |world| world.shard.stats().commits == 1);
    assert!(world.now > 50);
    // A durable block that follows carries the flush for both.
    assert!(world.put(id(2), 2, 100, Class::Durable));
    let medium = world.crash();
    let mut world = World::open(&medium);
    world.recover();
    assert!(world.find(&id(1)).is_some() && world.find(&id(2)).is_some());
}

#[test]
fn deletes_and_purges_hold_over_a_restart() {
    let mut world = ready(8);
    for number in 0..20 {
        assert!(world.put(id(number), 100 + number, 3000, Class::Durable));
        assert!(world.put(id_in(9, number), 200 + number, 3000, Class::Durable));
    }
    let gone = id(3);
    assert_eq!(world.shard.delete(world.shard.hash(&gone), &gone, Class::Durable, 1), Deleted::Pending);
    assert_eq!(world.find(&gone), None);
    assert!(world.ticket(1));
    assert_eq!(world.shard.delete(world.shard.hash(&gone), &gone, Class::Durable, 2), Deleted::Missing);
    assert!(world.shard.used_bytes(9) > 0);
    assert!(world.shard.purge(9));
    assert_eq!(world.find(&id_in(9, 5)), None);
    assert_eq!(world.shard.reserve(9, 1, Class::Cache, None).map(|_| ()), Err(Refusal::Wait));
    world.until("the purge", |world| !world.shard.is_purging(9));
    assert_eq!((world.shard.used_bytes(9), world.shard.stats().blocks), (0, 19));
    assert!(world.put(id_in(9, 4), 77, 10, Class::Durable), "the name may be used again");
    let medium = world.crash();
    let mut world = World::open(&medium);
    world.recover();
    assert_eq!(world.find(&gone), None);
    assert_eq!(world.find(&id_in(9, 4)).map(|found| found.checksum), Some(77));
    assert_eq!((0..20).filter(|&number| world.find(&id_in(9, number)).is_some()).count(), 1);
    assert_eq!((0..20).filter(|&number| world.find(&id(number)).is_some()).count(), 19);
    assert_eq!(world.shard.used_bytes(NAMESPACE), 19 * 4096);
}

#[test]
fn a_purge_takes_the_stores_that_were_under_way() {
    let mut world = ready(8);
    assert!(world.put(id_in(9, 1), 1, 100, Class::Cache));
    world.begin(id_in(9, 2), 2, 100, Class::Durable).unwrap();
    assert!(world.shard.purge(9) && world.shard.purge(3));
    world.until("the other purge", |world| !world.shard.is_purging(3));
    for _ in 0..1000 {
        world.turn();
    }
    assert!(world.shard.is_purging(9), "a store of it is under way");
    let (_, _, _, published) = world.publish().unwrap();
    assert_eq!(published, Some(Published::Visible), "nobody is there to be told");
    world.until("the purge", |world| !world.shard.is_purging(9));
    assert_eq!((world.find(&id_in(9, 1)), world.find(&id_in(9, 2))), (None, None));
    assert_eq!(world.shard.used_bytes(9), 0);
    let mut world = World::open(&world.crash());
    world.recover();
    assert_eq!((world.find(&id_in(9, 1)), world.find(&id_in(9, 2))), (None, None));
}

#[test]
fn a_purge_does_not_wait_for_other_namespaces() {
    let mut world = ready(8);
    assert!(world.shard.purge(9));
    let mut stored = 0;
    world.until("the purge under durable load", |world| {
        if world.begin(id(stored), stored, 100, Class::Durable).is_ok() {
            stored += 1;
        }
        while world.publish().is_some() {}
        !world.shard.is_purging(9)
    });
    // One more is published now, whose record waits: that is no purge of anybody.
    world.until("a store", |world| world.begin(id(9999), 9999, 100, Class::Durable).is_ok());
    world.until("its ticket to be pending", |world| {
        world.publish().is_some_and(|(id, ..)| id == super::world::id(9999))
    });
    assert!(!world.shard.is_purging(9) && !world.shard.is_purging(NAMESPACE));
    world.crash();
}

#[test]
fn conditions_and_limits_are_kept() {
    let mut world = ready(8);
    assert_eq!(world.shard.reserve(NAMESPACE, MAX_VALUE + 1, Class::Cache, None).map(|_| ()), Err(Refusal::TooLarge));
    assert_eq!(world.shard.reserve(NAMESPACE, 5000, Class::Cache, Some(8191)).map(|_| ()), Err(Refusal::OverQuota));
    let extent = world.shard.reserve(NAMESPACE, 5000, Class::Cache, Some(8192)).unwrap();
    assert_eq!(world.shard.used_bytes(NAMESPACE), 8192, "reservations count");
    world.shard.abandon(extent);
    assert_eq!(world.shard.used_bytes(NAMESPACE), 0);
}

#[test]
fn a_full_store_evicts_the_oldest_and_keeps_what_is_hot_or_leased() {
    let mut world = ready(8);
    let (hot, leased, cold) = (id(1), id(2), id(3));
    for (number, block) in [hot, leased, cold].into_iter().enumerate() {
        assert!(world.put(block, number as u64, 20_000, Class::Cache));
    }
    let found = world.find(&leased).unwrap();
    assert!(world.shard.lease(&found, 9, Ticks(u64::MAX)));
    for number in 100..400 {
        if let Some(found) = world.find(&hot) {
            world.shard.touch(&found);
        }
        assert!(world.put(id(number), number, 20_000, Class::Cache));
    }
    let stats = world.shard.stats();
    assert!(stats.evicted_segments > 20 && stats.trimmed_segments == stats.evicted_segments, "{stats:?}");
    assert!(stats.moved_blocks > 4 && stats.dropped_blocks > 200, "{stats:?}");
    assert_eq!(world.find(&cold), None);
    for (version, block) in [(0, hot), (1, leased)] {
        let found = world.find(&block).expect("kept");
        assert_eq!(world.read(&found), Some(value_of(&block, version, 20_000)));
    }
    world.shard.unlease(9);
    for number in 400..600 {
        assert!(world.put(id(number), number, 20_000, Class::Cache));
    }
    assert_eq!(world.find(&leased), None, "an ended lease keeps nothing");
}

#[test]
fn durable_blocks_fill_the_store_up_to_a_limit_and_are_never_evicted() {
    let mut world = ready(10);
    let mut stored = 0;
    let refusal = loop {
        match world.begin(id(stored), stored, 20_000, Class::Durable) {
            Ok(()) => stored += 1,
            Err(Refusal::Wait) => world.turn(),
            Err(refusal) => break refusal,
        }
        while world.publish().is_some() {}
    };
    assert_eq!(refusal, Refusal::NoSpace);
    assert!(stored > 40, "{stored}");
    world.until("writes", |world| {
        while world.publish().is_some() {}
        world.storing.is_empty()
    });
    world.until("tickets", |world| world.ended.len() as u64 == stored);
    assert!(world.ended.iter().all(|ended| ended.1));
    let medium = world.crash();
    let mut world = World::open(&medium);
    world.recover();
    for number in 0..stored {
        let found = world.find(&id(number)).expect("durable");
        assert_eq!(world.read(&found), Some(value_of(&id(number), number, 20_000)));
    }
}

#[test]
fn a_segment_with_readers_is_not_reused() {
    let mut world = ready(8);
    assert!(world.put(id(1), 1, 20_000, Class::Cache));
    let found = world.find(&id(1)).unwrap();
    let hold = world.shard.hold(&found);
    for number in 100..160 {
        assert!(world.put(id(number), number, 20_000, Class::Cache));
    }
    for _ in 0..2000 {
        world.turn();
    }
    assert_eq!(world.shard.stats().evicted_segments, 0, "the oldest segment is held");
    world.shard.release(hold);
    world.until("eviction", |world| world.shard.stats().evicted_segments > 0);
}

#[test]
fn listing_walks_each_key_of_a_namespace_once() {
    let mut world = ready(8);
    for number in 0..70 {
        assert!(world.put(id(number), number, 100, Class::Cache));
        assert!(world.put(id_in(3, number), number, 100, Class::Cache));
    }
    let mut keys = Vec::new();
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        let mut out = Burst::new();
        cursor = world.shard.list(NAMESPACE, at, 10, &mut out);
        keys.extend(out);
    }
    keys.sort_unstable();
    let expected: Vec<_> = {
        let mut all: Vec<_> = (0..70).map(|number| (id(number).key, 16)).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(keys, expected);
}

#[test]
fn a_fresh_store_reads_little_and_a_foreign_device_is_refused() {
    let world = ready(8);
    let stats = world.shard.stats();
    assert_eq!((stats.blocks, stats.segments_free, stats.recovery.quarantined), (0, 8, 0));
    let medium = world.crash();
    // The second copy stands in for a damaged first one, but not for what somebody else wrote there.
    medium.borrow_mut().bytes()[100] ^= 1;
    drop(World::open(&medium));
    medium.borrow_mut().bytes()[..8].copy_from_slice(b"NOT OURS");
    assert_eq!(load_only(&medium), Err(StoreError::Foreign));
    let small = Medium::new(1 << 20, true, 1);
    assert_eq!(load_only(&small), Err(StoreError::Blank));
    let need = options().min_device_bytes();
    assert_eq!(options().superblock(512, need - 1), Err(StoreError::TooSmall { have: need - 1, need }));
}

fn load_only(medium: &std::rc::Rc<std::cell::RefCell<Medium>>) -> Result<(), StoreError> {
    use dataplane::memory::{Arena, HugePages, RegionSlot};
    use dataplane::nvme::BlockQueue;
    let mut arena = Arena::new(4096, HugePages::Off, RegionSlot(0)).unwrap();
    let mut blocks = super::device::CrashQueue::new(medium);
    blocks.attach(arena.region().clone()).unwrap();
    load(&mut blocks, &arena.alloc(4096, 4096).unwrap()).map(|_| ())
}
