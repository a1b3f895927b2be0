//! Who has staging memory: receives, commands, other carriers.

use super::device::{IN_CAPSULE, RECEIVES};
use super::world::{BUFFERS, World, keyed, store_along};
use crate::fabric::SessionId;
use crate::fabric::message::KEPT_FOR_CAPSULES;
use crate::nvme::spec::Status;

#[test]
fn receives_stay_where_they_are_so_that_large_buffers_are_left() {
    let mut world = World::new();
    let hosts = [world.connect(3), world.connect(4)];
    // Data comes along while large values move: whatever order they end in, nothing is scattered.
    for round in 0..40 {
        for (at, host) in hosts.into_iter().enumerate() {
            assert!(world.send(host, &store_along(round, 8192), &[1; 8192]));
            if (usize::from(round) + at).is_multiple_of(3) {
                assert!(world.send(host, &keyed(1, 100 + round, 100_000), &[]));
            }
        }
        world.settle();
        if round % 2 == 1 {
            world.running.reverse();
            world.complete_all();
            world.settle();
        }
    }
    assert_eq!(world.staging.free_bytes(), world.idle_bytes);
    assert_eq!(world.idle_bytes, BUFFERS - RECEIVES * IN_CAPSULE);
    // The buffers of the receives take one block of their size: of the rest, the largest is whole.
    let half = world.staging.take(BUFFERS / 2).expect("half is in one piece");
    let quarter = world.staging.take(BUFFERS / 4).expect("and a quarter");
    world.staging.give_back(half);
    world.staging.give_back(quarter);
    for session in [3, 4] {
        world.end.close_session(SessionId(session));
    }
    world.settle();
    world.assert_empty();
}

#[test]
fn data_that_came_along_is_where_the_command_says_and_its_receive_waits() {
    let mut world = World::new();
    let host = world.connect(3);
    for cid in 0..RECEIVES as u16 {
        assert!(world.send(host, &store_along(cid, 4096), &[cid as u8; 4096]));
    }
    assert!(!world.send(host, &store_along(99, 16), &[0; 16]), "every receive is in use");
    world.settle();
    assert_eq!(world.running.len(), RECEIVES as usize);
    let mut units = Vec::new();
    for (sqe, _) in &world.running {
        let (unit, bytes) = (sqe.quadword(6) as u32, sqe.quadword(8) as u32);
        let mut data = [0; 4096];
        world.staging.map().read(0, unit, 0, &mut data).unwrap();
        assert!(bytes == 4096 && data.iter().all(|byte| u16::from(*byte) == sqe.cid()));
        units.push(unit);
    }
    units.sort_unstable();
    let pieces = IN_CAPSULE / 4096;
    assert!(units.iter().copied().eq((0..RECEIVES).map(|index| units[0] + index * pieces)), "side by side");
    // A receive comes back with the completion, also if the host does not take the answer.
    world.hosts[host].pair.silent.set(true);
    world.complete_all();
    assert_eq!(world.wires.receives.borrow().len(), RECEIVES as usize);
    world.lose(host);
    world.settle();
    world.assert_empty();
}

#[test]
fn what_others_give_back_feeds_commands_and_some_is_left_for_capsules() {
    let mut world = World::new();
    let host = world.connect(3);
    let elsewhere = world.staging.take(BUFFERS / 2).unwrap();
    let mut held = Vec::new();
    while world.staging.free_bytes() >= KEPT_FOR_CAPSULES + (128 << 10) {
        held.push(world.staging.take(64 << 10).unwrap());
    }
    assert!(world.send(host, &keyed(2, 1, 1 << 20), &[]));
    world.settle();
    assert!(world.running.is_empty(), "what is free is kept for capsules");
    assert!(!world.end.is_moving(&world.staging));
    world.staging.give_back(elsewhere);
    assert!(world.end.is_moving(&world.staging));
    world.settle();
    assert_eq!(world.running.len(), 1);
    held.into_iter().for_each(|buffer| world.staging.give_back(buffer));
    world.lose(host);
    world.settle();
    world.assert_empty();
}

#[test]
fn a_host_leaves_buffers_for_others() {
    let mut world = World::new();
    let (greedy, other) = (world.connect(3), world.connect(4));
    for cid in 0..12 {
        assert!(world.send(greedy, &keyed(2, cid, 1 << 20), &[]));
    }
    world.settle();
    let share = (BUFFERS - KEPT_FOR_CAPSULES) / (2 << 20);
    assert_eq!(world.running.len(), share as usize);
    assert!(world.send(other, &keyed(2, 1, 1 << 20), &[]));
    world.settle();
    assert_eq!(world.running.len(), share as usize + 1, "it is not behind those who have their share");
    world.complete_all();
    world.settle();
    assert_eq!(world.responses(other).len(), 1);
    assert_eq!(world.running.len(), 12 - share as usize);
    for host in [greedy, other] {
        world.lose(host);
    }
    world.settle();
    world.assert_empty();
}

#[test]
fn commands_of_a_queue_that_ends_are_taken_out_of_every_line() {
    let mut world = World::new();
    let (host, other) = (world.connect(3), world.connect(4));
    let all = world.staging.take(BUFFERS / 2).unwrap();
    let rest = world.staging.take(BUFFERS / 4).unwrap();
    // In line for a buffer, being read, to be read, ready, running, answered.
    world.hosts[host].pair.silent.set(true);
    for (cid, command) in [keyed(2, 1, 1 << 20), keyed(1, 2, 4096), store_along(3, 64)].into_iter().enumerate() {
        let mut command = command;
        command.set_cid(cid as u16);
        assert!(world.send(host, &command, &[0; 64][..if cid == 2 { 64 } else { 0 }]));
    }
    assert!(world.send(other, &keyed(2, 1, 1 << 20), &[]));
    world.settle();
    world.lose(host);
    world.settle();
    assert!(world.end.serves(SessionId(3)), "one of its commands runs");
    world.staging.give_back(all);
    world.staging.give_back(rest);
    world.settle();
    assert_eq!(world.running.len(), 2, "the other's was next in line");
    world.complete_all();
    world.settle();
    assert!(!world.end.serves(SessionId(3)));
    assert_eq!(world.responses(other).len(), 1);
    world.lose(other);
    world.settle();
    world.assert_empty();
}

#[test]
fn a_command_that_can_never_have_a_buffer_is_refused() {
    let mut world = World::new();
    let host = world.connect(3);
    // Others keep so much for good that 1 MiB cannot be had, and what is there for the moment is in use.
    let passing = world.staging.take(4 << 20).unwrap();
    assert!(world.send(host, &keyed(2, 1, 8 << 10), &[]));
    assert!(world.send(host, &keyed(1, 2, 1 << 20), &[]));
    world.settle();
    assert_eq!(world.running.len(), 2, "there is enough");
    world.complete_all();
    world.settle();
    assert_eq!(world.responses(host).len(), 2);
    let other = world.staging.take(8 << 20).unwrap();
    assert!(world.send(host, &keyed(1, 3, 1 << 20), &[]));
    world.settle();
    assert!(world.running.is_empty() && world.responses(host).is_empty(), "it waits");
    world.staging.give_back(passing);
    world.staging.give_back(other);
    let kept = world.staging.take_beside(12, 1 << 20);
    world.settle();
    assert_eq!(world.responses(host), [(3, Status::INVALID_FIELD)], "what it waited for will not come back");
    assert!(world.send(host, &keyed(2, 4, 1 << 20), &[]));
    assert!(world.send(host, &store_along(5, 8192), &[1; 8192]));
    world.settle();
    assert_eq!(world.responses(host), [(4, Status::INVALID_FIELD)]);
    assert_eq!(world.running.len(), 1, "what came along has its place");
    world.complete_all();
    world.staging.give_back_kept(kept);
    assert!(world.send(host, &keyed(2, 6, 1 << 20), &[]));
    world.settle();
    assert_eq!(world.running.len(), 1);
    world.lose(host);
    world.settle();
    world.assert_empty();
}
