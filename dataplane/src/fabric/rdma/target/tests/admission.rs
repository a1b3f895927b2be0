//! How queues come in: Connect and what else a stranger may send first.

use super::world::{World, connect_command, keyed, store_along};
use crate::fabric::SessionId;
use crate::nvme::spec::{SglDescriptor, Status};

#[test]
fn commands_run_and_are_answered() {
    let mut world = World::new();
    let host = world.connect(3);
    assert!(world.send(host, &store_along(1, 4096), &[1; 4096]));
    assert!(world.send(host, &keyed(1, 2, 65536), &[]));
    assert!(world.send(host, &keyed(2, 3, 4096), &[]));
    world.settle();
    assert_eq!(world.running.len(), 3);
    world.complete_all();
    world.settle();
    let mut answered = world.responses(host);
    answered.sort_unstable_by_key(|(cid, _)| *cid);
    assert_eq!(answered, [(1, Status::SUCCESS), (2, Status::SUCCESS), (3, Status::SUCCESS)]);
    world.end.close_session(SessionId(3));
    world.settle();
    assert_eq!(world.buried(), 1);
    world.assert_empty();
}

#[test]
fn a_first_command_that_is_not_connect_ends_its_queue() {
    let mut world = World::new();
    let host = world.expect(1024).unwrap();
    assert!(world.send(host, &store_along(1, 64), &[0; 64]));
    world.settle();
    assert!(world.hosts[host].connect.try_recv().is_err());
    assert_eq!(world.buried(), 1);
    world.assert_empty();
}

#[test]
fn a_queue_that_ends_before_connect_is_answered_leaves_nothing() {
    for take_first in [false, true] {
        let mut world = World::new();
        let host = world.expect(64).unwrap();
        assert!(world.send(host, &connect_command(SglDescriptor::keyed(0, 1024, 1, false)), &[]));
        world.settle();
        assert_eq!(world.hosts[host].connect.try_recv().unwrap().data.len(), 1024);
        if take_first {
            world.take(host, 3, 64).unwrap();
            assert!(world.end.serves(SessionId(3)));
            world.end.close_session(SessionId(3));
        } else {
            world.order(super::super::RdmaOrder::Lose(World::id(host)));
        }
        world.settle();
        world.respond(host, Status::SUCCESS);
        world.settle();
        assert!(!world.end.serves(SessionId(3)));
        world.assert_empty();
    }
}
