//! Evictions that have to wait for the device, and what becomes of their blocks meanwhile.

use dataplane::nvme::{BlockIo, BlockOp};

use super::faults::{EVICT_META, MOVES, RECORD_PAGES, all_durable_but, durable_and_flood, flood, freed, is_own};
use super::world::{World, id};
use crate::store::{Class, Deleted};

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
