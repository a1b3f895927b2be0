//! Who gets staging memory, and when.

use super::super::super::wire::Digests;
use super::world::World;

#[test]
fn a_buffer_that_another_carrier_gives_back_feeds_those_in_line() {
    let mut world = World::new(11, 8 << 20);
    world.connect(Digests::NONE, 8);
    let elsewhere = world.staging.take(8 << 20).unwrap();
    world.with_host(0, |host, pipe, _| host.store(pipe, 1, vec![7; 100_000], false));
    for _ in 0..200 {
        world.turn();
    }
    assert!(world.told.is_empty() && world.hosts[0].under_way() == 1, "there is no memory for it");
    assert!(!world.end.is_moving(&world.staging), "a core without work may rest");
    world.staging.give_back(elsewhere);
    assert!(world.end.is_moving(&world.staging), "now it may not");
    world.settle();
    assert!(world.told[0].cqe.status.is_success());
    world.end_all();
}
