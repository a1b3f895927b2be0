//! How queues end: hosts that go silent, devices that fail.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use super::super::device_table::Condition;
use super::super::nic::{PortDevice, QueuePair};
use super::super::orders::RdmaOrder;
use super::device::{FakePort, IN_CAPSULE, RECEIVES};
use super::world::{BUFFERS, ENTRIES, World, connect_command, keyed, store_along};
use crate::fabric::SessionId;
use crate::fabric::message::CoreError;
use crate::nvme::spec::{SglDescriptor, Status};

#[test]
fn a_host_that_takes_or_answers_nothing_is_ended_by_the_second_sweep() {
    for opcode in [1, 2] {
        let mut world = World::new();
        let (host, other) = (world.connect(3), world.connect(4));
        world.hosts[host].pair.silent.set(true);
        // A Store whose data it does not let us read; a Retrieve of which it does not take the answer.
        assert!(world.send(host, &keyed(opcode, 1, 1 << 20), &[]));
        world.settle();
        world.complete_all();
        world.settle();
        assert!(world.end.is_moving(&world.staging));
        world.end.sweep(&mut world.staging);
        world.settle();
        assert!(world.end.serves(SessionId(3)), "it may have begun just now");
        assert!(!world.hosts[host].link.is_lost());
        world.end.sweep(&mut world.staging);
        world.settle();
        assert!(!world.end.serves(SessionId(3)) && world.hosts[host].link.is_lost());
        assert_eq!((world.buried(), world.staging.free_bytes()), (1, world.idle_bytes));
        // Those that have nothing to do are let be.
        assert!(world.end.serves(SessionId(4)));
        world.lose(other);
        world.settle();
        world.assert_empty();
    }
}

#[test]
fn a_host_that_goes_on_is_let_be() {
    let mut world = World::new();
    let host = world.connect(3);
    for round in 0..4 {
        for cid in 0..2 {
            assert!(world.send(host, &keyed(1, round * 2 + cid, 4096), &[]));
        }
        world.hosts[host].pair.silent.set(true);
        world.settle();
        world.end.sweep(&mut world.staging);
        world.hosts[host].pair.silent.set(false);
        world.settle();
        world.complete_all();
    }
    world.settle();
    assert_eq!(world.responses(host).len(), 8);
    world.lose(host);
    world.settle();
    world.assert_empty();
}

#[test]
fn a_stranger_that_answers_no_read_gives_its_buffer_back() {
    let mut world = World::new();
    let host = world.expect(64).unwrap();
    world.hosts[host].pair.silent.set(true);
    let connect = connect_command(SglDescriptor::keyed(0, 1024, 1, false));
    assert!(world.send(host, &connect, &[]));
    world.settle();
    assert_eq!(world.staging.free_bytes(), world.idle_bytes - 4096);
    world.end.sweep(&mut world.staging);
    world.end.sweep(&mut world.staging);
    world.settle();
    assert!(world.hosts[host].connect.try_recv().is_err());
    world.assert_empty();
}

/// The control side destroys the connections that it was handed, and says so.
fn destroy(world: &mut World) {
    while let Some(remain) = world.port.remains().pop() {
        let name = remain.endpoint.id();
        assert_eq!(remain.waiting, Some(0), "a core waits for it");
        assert_eq!(Arc::strong_count(&remain.endpoint), 2, "the test's, and the one to be destroyed");
        world.order(RdmaOrder::Gone(name));
    }
    world.settle();
}

#[test]
fn a_queue_pair_that_takes_nothing_once_it_failed_is_destroyed_instead_of_drained() {
    let mut world = World::new();
    let host = world.connect(3);
    world.hosts[host].pair.silent.set(true);
    assert!(world.send(host, &keyed(1, 1, 65536), &[]));
    assert!(world.send(host, &keyed(2, 2, 65536), &[]));
    world.settle();
    world.hosts[host].pair.refuses.set(true);
    world.end.close_session(SessionId(3));
    world.turn();
    world.turn();
    assert!(world.end.serves(SessionId(3)), "the device may still write to its buffers");
    assert!(world.staging.free_bytes() < world.idle_bytes);
    destroy(&mut world);
    world.complete_all();
    world.settle();
    assert!(!world.end.serves(SessionId(3)));
    world.assert_empty();
    assert_eq!(world.buried(), 0, "it is not handed back twice");
}

#[test]
fn the_queues_of_a_device_that_fails_end_and_no_more_come() {
    let mut world = World::new();
    let (host, other) = (world.connect(3), world.connect(4));
    world.hosts[host].pair.silent.set(true);
    assert!(world.send(host, &keyed(1, 1, 65536), &[]));
    world.settle();
    world.wires.broken.set(true);
    world.settle();
    assert!(world.hosts[host].link.is_lost() && world.hosts[other].link.is_lost());
    let polls = world.wires.polls.get();
    world.settle();
    assert_eq!(world.wires.polls.get(), polls, "a failed device is not polled");
    assert_eq!(world.hosts[host].pair.fails.get(), 1);
    assert_eq!(world.expect(ENTRIES), Err(CoreError::NotOpen));
    assert_eq!(world.port.wear.condition(), Condition::Useless, "the next host gets a port that is made anew");
    destroy(&mut world);
    assert!(!world.end.serves(SessionId(3)) && !world.end.serves(SessionId(4)));
    world.assert_empty();
}

#[test]
fn a_drain_that_never_ends_is_given_up() {
    let mut world = World::new();
    let host = world.connect(3);
    world.end.close_session(SessionId(3));
    world.end.flush(&mut world.staging);
    // The device forgets what was posted.
    world.hosts[host].pair.posted.take();
    world.end.sweep(&mut world.staging);
    world.settle();
    assert_eq!(world.buried(), 0);
    world.end.sweep(&mut world.staging);
    world.end.settle();
    assert_eq!(world.buried(), 1);
    destroy(&mut world);
    world.assert_empty();
}

#[test]
fn a_queue_pair_that_failed_by_itself_is_not_made_to_fail_by_the_core() {
    let mut world = World::new();
    let host = world.connect(3);
    world.lose(host);
    world.settle();
    assert_eq!(world.hosts[host].pair.fails.get(), 1, "by the control side");
    // Which does so before the queues of a session are ended.
    let ending = world.connect(5);
    world.hosts[ending].pair.fail();
    world.order(RdmaOrder::Lose(World::id(ending)));
    world.end.close_session(SessionId(5));
    world.settle();
    assert_eq!((world.hosts[ending].pair.fails.get(), world.end.serves(SessionId(5))), (1, false));
    // One whose work fails is no different.
    let other = world.connect(4);
    world.hosts[other].pair.failed.set(true);
    world.wires.done.borrow_mut().push_back(crate::fabric::rdma::verbs::WorkDone::told(0, 0, 5, None));
    world.respond(other, Status::SUCCESS);
    world.settle();
    assert_eq!(world.hosts[other].pair.fails.get(), 0);
    assert!(!world.end.serves(SessionId(4)));
    world.assert_empty();
}

#[test]
fn the_number_of_a_queue_pair_that_was_destroyed_is_free_for_another() {
    let mut world = World::new();
    let host = world.connect(3);
    // A command of its runs for long, and its queue pair cannot be drained.
    assert!(world.send(host, &keyed(2, 1, 4096), &[]));
    world.settle();
    assert_eq!(world.running.len(), 1);
    world.hosts[host].pair.refuses.set(true);
    world.lose(host);
    world.settle();
    let number = world.hosts[host].pair.number().unwrap();
    let doomed = world.port.remains().pop().unwrap().endpoint.id();
    // Whether or not the core heard of it, the queue pair is gone, and the device gives its number to the next.
    for heard in [false, true] {
        if heard {
            world.order(RdmaOrder::Gone(doomed));
        }
        assert!(world.end.serves(SessionId(3)), "its command runs");
        let other = world.expect_numbered(ENTRIES, number).unwrap();
        assert!(world.send(other, &connect_command(SglDescriptor::in_capsule(0, 1024)), &[9; 1024]));
        world.settle();
        assert!(world.hosts[other].connect.try_recv().is_ok(), "its first command is its own");
        world.lose(other);
        world.settle();
    }
    world.complete_all();
    world.settle();
    assert!(!world.end.serves(SessionId(3)));
    world.assert_empty();
}

#[test]
fn a_port_is_worn_before_its_queues_may_have_lost_all_of_its_receives() {
    let mut world = World::new();
    for ended in 0..RECEIVES {
        assert_eq!(world.port.wear.condition() == Condition::Sound, ended < RECEIVES / 4, "{ended} have ended");
        let host = world.connect(3);
        // A message begins to come in: the device takes a receive for it, and forgets it when the queue pair fails.
        world.wires.receives.borrow_mut().pop_back();
        world.lose(host);
        world.settle();
        if world.wires.receives.borrow().len() < 2 {
            break;
        }
    }
    assert_eq!(world.port.wear.condition(), Condition::Worn);
    assert!(!world.end.is_moving(&world.staging));
    // Whoever is on it goes on meanwhile. When nobody is, all of it comes back, the lost ones too.
    let (answer, answered) = sync_channel(1);
    world.order(RdmaOrder::Leave(world.device, answer));
    assert_eq!(answered.recv().unwrap(), Ok(()));
    world.order(RdmaOrder::Reclaim(world.device));
    assert_eq!(world.staging.free_bytes(), BUFFERS);
}

#[test]
fn a_device_that_was_removed_gives_the_buffers_of_its_receives_back() {
    let mut world = World::new();
    let leave = |world: &mut World| {
        let (answer, answered) = sync_channel(1);
        world.order(RdmaOrder::Leave(world.device, answer));
        answered.recv().unwrap()
    };
    // More often than there would be staging memory for.
    for device in 1..BUFFERS / (RECEIVES * IN_CAPSULE) + 2 {
        let host = world.connect(3);
        assert!(world.send(host, &store_along(1, 8192), &[1; 8192]));
        world.settle();
        assert_eq!(leave(&mut world), Err(CoreError::InUse), "there is a queue on it");
        world.lose(host);
        world.settle();
        assert_eq!(leave(&mut world), Err(CoreError::InUse), "a command has the buffer of a receive");
        world.complete_all();
        world.settle();
        assert_eq!(leave(&mut world), Ok(()));
        assert_eq!(leave(&mut world), Ok(()), "once more does no harm");
        assert_eq!(world.expect(ENTRIES), Err(CoreError::NotOpen));
        let polls = world.wires.polls.get();
        world.settle();
        assert_eq!(world.wires.polls.get(), polls, "it is not polled");
        assert_eq!(world.staging.free_bytes(), world.idle_bytes, "something of it may still write there");
        world.order(RdmaOrder::Reclaim(world.device));
        assert_eq!(world.staging.free_bytes(), BUFFERS);
        world.order(RdmaOrder::Reclaim(world.device));
        // It comes back as another.
        world.wires.receives.take();
        world.port = FakePort::new(&world.wires);
        world.device = device as usize;
        let (answer, answered) = sync_channel(1);
        world.order(RdmaOrder::Open(world.device, Arc::clone(&world.port), answer));
        answered.recv().unwrap().unwrap();
        assert_eq!(world.staging.free_bytes(), world.idle_bytes);
    }
    let host = world.connect(3);
    world.lose(host);
    world.settle();
    world.assert_empty();
}
