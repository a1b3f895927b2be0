//! Who gets staging memory, and when.

use super::super::super::wire::Digests;
use super::world::{MAX_TRANSFER, World};
use crate::nvme::spec::Status;
use crate::nvme::spec::kv::KeyFields;

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

#[test]
fn hosts_that_wait_are_served_in_turns() {
    let mut world = World::new(12, 8 << 20);
    assert_eq!((world.connect(Digests::NONE, 32), world.connect(Digests::NONE, 32)), (0, 1));
    world.frozen = true;
    // All but what is kept for data in capsules.
    let mut elsewhere: Vec<_> = (0..4).map(|_| world.staging.take(1 << 20).unwrap()).collect();
    world.with_host(0, |host, pipe, _| (1..=6).for_each(|key| host.retrieve(pipe, key, 1 << 20)));
    (0..100).for_each(|_| world.turn());
    world.with_host(1, |host, pipe, _| host.retrieve(pipe, 99, 1 << 20));
    (0..100).for_each(|_| world.turn());
    assert!(world.running_keys().is_empty());
    for expected in [vec![1], vec![1, 99], vec![1, 99, 2]] {
        world.staging.give_back(elsewhere.pop().unwrap());
        world.turn_until(|world| world.running_keys().len() >= expected.len());
        assert_eq!(world.running_keys(), expected);
    }
    // The first host has its share: one more buffer is for nobody but others.
    world.staging.give_back(elsewhere.pop().unwrap());
    (0..100).for_each(|_| world.turn());
    assert_eq!(world.running_keys(), [1, 99, 2]);
    assert!(!world.end.is_moving(&world.staging), "and nobody looks again and again whether it is");
    world.with_host(1, |host, pipe, _| host.retrieve(pipe, 98, 1 << 20));
    world.turn_until(|world| world.running_keys() == [1, 99, 2, 98]);
    world.frozen = false;
    world.settle();
    assert_eq!(world.told.len(), 8);
    world.end_all();
}

#[test]
fn sessions_of_one_host_have_one_share() {
    let mut world = World::new(13, 8 << 20);
    (0..2).for_each(|host| assert_eq!(world.connect_as("nqn.2026-01.test:a", 32), host));
    world.connect_as("nqn.2026-01.test:b", 32);
    world.frozen = true;
    for host in 0..2 {
        world.with_host(host, |host, pipe, _| (1..=2).for_each(|key| host.retrieve(pipe, key, 1 << 20)));
    }
    (0..200).for_each(|_| world.turn());
    assert_eq!(world.running_keys().len(), 2, "half of the memory that there is for it");
    world.with_host(2, |host, pipe, _| (1..=2).for_each(|key| host.retrieve(pipe, key, 1 << 20)));
    world.turn_until(|world| world.running_keys().len() == 4);
    world.frozen = false;
    world.settle();
    world.end_all();
}

#[test]
fn data_in_capsules_counts_for_its_host() {
    let mut world = World::new(14, 8 << 20);
    assert_eq!((world.connect(Digests::NONE, 600), world.connect(Digests::NONE, 400)), (0, 1));
    world.frozen = true;
    // Its share is 2 MiB. What is free beyond what is kept for data in capsules, another 2 MiB, it may have while nobody
    // waits for it.
    world.with_host(0, |host, pipe, _| (0..556).for_each(|_| host.store(pipe, 1, vec![7; 8192], true)));
    world.turn_until(|world| world.told.len() == 44);
    assert!(world.told.iter().all(|told| told.cqe.status == Status::NAMESPACE_NOT_READY), "it may try again");
    assert_eq!(world.running_keys().len(), 512);
    world.with_host(1, |host, pipe, _| (0..256).for_each(|_| host.store(pipe, 2, vec![8; 8192], true)));
    world.turn_until(|world| world.running_keys().len() == 768);
    world.frozen = false;
    world.settle();
    world.with_host(0, |host, pipe, _| host.store(pipe, 1, vec![7; 8192], true));
    world.settle();
    let succeeded = world.told.iter().filter(|told| told.cqe.status.is_success()).count();
    assert_eq!((world.told.len(), succeeded), (44 + 768 + 1, 768 + 1));
    world.end_all();
}

#[test]
fn data_in_capsules_beyond_a_share_lets_others_go_first() {
    let mut world = World::new(21, 8 << 20);
    assert_eq!((world.connect(Digests::NONE, 600), world.connect(Digests::NONE, 8)), (0, 1));
    world.frozen = true;
    // Of the 4 MiB that are not kept for data in capsules, the first host's share and half a MiB; the rest elsewhere.
    world.with_host(0, |host, pipe, _| (0..256 + 64).for_each(|_| host.store(pipe, 1, vec![7; 8192], true)));
    world.turn_until(|world| world.running_keys().len() == 256 + 64);
    let elsewhere = world.staging.take(1 << 20).unwrap();
    world.with_host(1, |host, pipe, _| host.retrieve(pipe, 2, 1 << 20));
    (0..100).for_each(|_| world.turn());
    assert!(world.told.is_empty() && world.running_keys().len() == 256 + 64, "there is too little for it");
    world.with_host(0, |host, pipe, _| host.store(pipe, 1, vec![7; 8192], true));
    world.turn_until(|world| world.told.len() == 1);
    assert_eq!(world.told[0].cqe.status, Status::NAMESPACE_NOT_READY);
    world.staging.give_back(elsewhere);
    world.turn_until(|world| world.running_keys().contains(&2));
    world.frozen = false;
    world.settle();
    world.end_all();
}

#[test]
fn a_host_whose_share_is_held_still_stores_small_values() {
    let mut world = World::new(15, 8 << 20);
    world.connect(Digests::NONE, 400);
    world.frozen = true;
    world.with_host(0, |host, pipe, _| (0..8).for_each(|_| host.retrieve(pipe, 1, 1 << 20)));
    world.turn_until(|world| world.running_keys() == [1, 1]);
    world.with_host(0, |host, pipe, _| (0..20).for_each(|_| host.store(pipe, 2, vec![7; 8192], true)));
    world.turn_until(|world| world.running_keys().len() == 22);
    world.frozen = false;
    world.settle();
    world.end_all();
}

#[test]
fn what_was_refused_before_a_connection_stalled_again_is_told_at_once() {
    let mut world = World::new(19, 8 << 20);
    world.connect(Digests::NONE, 8);
    world.frozen = true;
    let mut elsewhere: Vec<_> = (0..1024).map(|_| world.staging.take(8192).unwrap()).collect();
    // There is memory for the first soon, for the last not; what is between them needs none, and is refused.
    world.with_host(0, |host, pipe, _| {
        host.store(pipe, 1, vec![7; 8192], true);
        host.store(pipe, 2, vec![8; MAX_TRANSFER as usize + 1], false);
        host.store(pipe, 3, vec![9; 8192], true);
    });
    (0..200).for_each(|_| world.turn());
    assert!(world.told.is_empty() && world.running_keys().is_empty());
    world.staging.give_back(elsewhere.pop().unwrap());
    world.turn_until(|world| world.told.len() == 1);
    assert_eq!((world.told[0].sqe.key_bytes()[0], world.told[0].cqe.status), (2, Status::INVALID_FIELD));
    assert_eq!(world.running_keys(), [1]);
    elsewhere.into_iter().for_each(|buffer| world.staging.give_back(buffer));
    world.frozen = false;
    world.settle();
    world.end_all();
}

#[test]
fn a_command_that_can_never_have_a_buffer_is_refused() {
    let mut world = World::new(24, 8 << 20);
    assert_eq!((world.connect(Digests::NONE, 8), world.connect(Digests::NONE, 8)), (0, 1));
    // A command in line for memory that is elsewhere for now, which a carrier then takes for good.
    let elsewhere = world.staging.take(4 << 20).unwrap();
    world.with_host(0, |host, pipe, _| host.store(pipe, 1, vec![1; 1 << 20], false));
    (0..200).for_each(|_| world.turn());
    assert!(world.told.is_empty(), "it waits");
    world.staging.give_back(elsewhere);
    let kept = world.staging.take_beside(7, 512 << 10);
    world.with_host(1, |host, pipe, _| {
        host.store(pipe, 2, vec![2; 1 << 20], false);
        host.store(pipe, 3, vec![3; 512 << 10], false);
        host.store(pipe, 4, vec![4; 8192], true);
    });
    world.settle();
    let mut ends: Vec<_> = world.told.iter().map(|told| (told.sqe.key_bytes()[0], told.cqe.status)).collect();
    ends.sort_unstable_by_key(|end| end.0);
    let refused = Status::INVALID_FIELD;
    assert_eq!(ends, [(1, refused), (2, refused), (3, Status::SUCCESS), (4, Status::SUCCESS)]);
    // With nothing left at all, data in capsules is refused too.
    let rest = world.staging.take_beside(1024, 4096);
    let more = world.staging.take_beside(1, 512 << 10);
    world.with_host(1, |host, pipe, _| host.store(pipe, 5, vec![5; 8192], true));
    world.settle();
    assert_eq!(world.told.last().map(|told| told.cqe.status), Some(refused));
    // What a carrier no longer keeps may be had again.
    kept.into_iter().chain(rest).chain(more).for_each(|buffer| world.staging.give_back(buffer));
    world.with_host(0, |host, pipe, _| host.store(pipe, 1, vec![1; 1 << 20], false));
    world.settle();
    assert_eq!(world.told.last().map(|told| told.cqe.status), Some(Status::SUCCESS));
    world.end_all();
}
