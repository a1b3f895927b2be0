//! How queues come in: Connect and what else a stranger may send first.

use super::world::{ENTRIES, World, connect_command, exist, keyed, store_along};
use crate::fabric::SessionId;
use crate::fabric::message::CoreError;
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
            world.lose(host);
        }
        world.settle();
        world.respond(host, Status::SUCCESS);
        world.settle();
        assert!(!world.end.serves(SessionId(3)));
        world.assert_empty();
    }
}

#[test]
fn who_is_not_let_in_yet_takes_no_room_of_others() {
    let mut world = World::new();
    // Beyond what a core's queues may have open, if each counted for what it asks for.
    let strangers: Vec<_> = (0..64).map(|_| world.expect(1024).unwrap()).collect();
    let host = world.connect(3);
    assert_eq!(world.end.entries(), 64 + ENTRIES);
    for stranger in strangers {
        world.lose(stranger);
    }
    world.settle();
    assert_eq!((world.end.queues(), world.end.entries()), (1, ENTRIES));
    world.lose(host);
    world.settle();
    world.assert_empty();
}

#[test]
fn a_session_has_a_share_of_a_core() {
    let mut world = World::new();
    let long: Vec<_> = (0..4).map(|_| world.expect(1024).unwrap()).collect();
    for host in &long[..3] {
        world.take(*host, 3, 1024).unwrap();
    }
    assert_eq!(world.take(long[3], 3, 1024), Err(CoreError::NoRoom), "half of the commands of a core");
    world.take(long[3], 4, 1024).unwrap();
    assert_eq!(world.take(long[3], 5, 1024), Err(CoreError::NotOpen), "it is somebody's");
    let many: Vec<_> = (0..65).map(|_| world.expect(2).unwrap()).collect();
    for host in &many[..64] {
        world.take(*host, 6, 2).unwrap();
    }
    assert_eq!(world.take(many[64], 6, 2), Err(CoreError::NoRoom), "64 queues");
    for session in [3, 4, 6] {
        world.end.close_session(SessionId(session));
    }
    world.lose(many[64]);
    world.settle();
    world.assert_empty();
}

#[test]
fn nothing_may_follow_connect_before_its_answer() {
    for keyed in [false, true] {
        let mut world = World::new();
        let host = world.expect(64).unwrap();
        let sgl = if keyed { SglDescriptor::keyed(0, 1024, 1, false) } else { SglDescriptor::in_capsule(0, 1024) };
        let data = if keyed { vec![] } else { vec![0; 1024] };
        assert!(world.send(host, &connect_command(sgl), &data));
        assert!(world.send(host, &connect_command(sgl), &data));
        world.settle();
        // Whether or not the first was delivered, the queue is not to be had.
        assert_eq!(world.take(host, 3, 64), Err(CoreError::NotOpen));
        assert_eq!((world.running.len(), world.buried()), (0, 1));
        world.assert_empty();
    }
}

#[test]
fn a_queue_has_no_more_outstanding_than_it_counts_for() {
    let mut world = World::new();
    // Its queue pair is made for 1024 entries, and then it connects with two.
    let host = world.expect(1024).unwrap();
    assert!(world.send(host, &connect_command(SglDescriptor::in_capsule(0, 1024)), &[9; 1024]));
    world.settle();
    world.take(host, 3, 2).unwrap();
    world.respond(host, Status::SUCCESS);
    world.settle();
    assert_eq!((world.responses(host).len(), world.end.entries()), (1, 2));
    // Nothing is acknowledged, but its next command comes as soon as an answer was posted.
    world.hosts[host].pair.silent.set(true);
    let (mut sent, posted) = (0, |world: &World| world.hosts[host].pair.posted.borrow().len());
    for _ in 0..16 {
        if usize::from(sent) < posted(&world) + 2 {
            assert!(world.send(host, &exist(sent), &[]));
            sent += 1;
        }
        world.settle();
        world.complete_all();
        world.settle();
    }
    assert!(world.end.serves(SessionId(3)), "it keeps to its entries");
    assert!((3..=4).contains(&posted(&world)), "two work requests an entry, not {}", posted(&world));
    world.hosts[host].pair.silent.set(false);
    world.settle();
    assert_eq!(world.responses(host).len(), usize::from(sent), "the rest goes when there is room");
    world.lose(host);
    world.settle();
    world.assert_empty();
}
