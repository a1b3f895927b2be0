//! Hosts that do not keep to the protocol: their connection ends at worst, others go on.

use super::super::super::wire::{CapsuleCmd, Digests, Framing, H2cData, HEAD_BYTES};
use super::world::World;
use crate::fabric::message::HostLink;
use crate::nvme::spec::fabrics::FabricsCommand;
use crate::nvme::spec::kv::KeyFields;
use crate::nvme::spec::{SglDescriptor, Sqe, Status, kv};

/// One host that misbehaves, one that does not.
fn spoilt(spoil: impl FnOnce(&mut World)) -> World {
    let mut world = World::new(7, 32 << 20);
    let (bad, good) = (world.connect(Digests::NONE, 8), world.connect(Digests::NONE, 8));
    assert_eq!((bad, good), (0, 1));
    spoil(&mut world);
    world.with_host(1, |host, pipe, _| {
        host.store(pipe, 1, vec![7; 100_000], false);
        host.store(pipe, 2, vec![8; 100], true);
    });
    world.settle();
    assert_eq!(world.told.iter().filter(|told| told.cqe.status.is_success()).count(), 2, "the other host goes on");
    assert!(!world.links[1].is_lost());
    world
}

fn raw(world: &mut World, bytes: &[u8]) {
    world.pipe(0).to_target.extend(bytes);
    for _ in 0..200 {
        world.turn();
    }
}

fn ended(world: &World) -> bool {
    world.links.first().is_some_and(|link: &std::sync::Arc<HostLink>| link.is_lost())
}

#[test]
fn garbage_ends_its_connection_only() {
    for garbage in [vec![0xFF; 64], vec![0; 200], b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let mut world = spoilt(|world| raw(world, &garbage));
        assert!(world.hosts[0].terminated, "it is told why");
        assert!(garbage.starts_with(&world.hosts[0].repeated) && world.hosts[0].repeated.len() >= 8, "and of what");
        assert!(world.pipe(0).ended, "and the end comes after that");
        assert!(ended(&world));
        world.end_all();
    }
}

#[test]
fn data_that_nobody_asked_for_ends_the_connection() {
    for (tag, offset, length) in [(0, 0, 4), (9999, 0, 4), (u16::MAX, 4, 4096)] {
        let mut head = [0; HEAD_BYTES];
        let pdu = H2cData { cid: 0, tag, offset, length, last: true };
        let bytes = pdu.encode(Framing::INITIAL, &mut head);
        let mut whole = head[..bytes].to_vec();
        whole.resize(bytes + length as usize, 0xEE);
        let mut world = spoilt(|world| raw(world, &whole));
        assert!(ended(&world) && world.hosts[0].terminated);
        world.end_all();
    }
}

#[test]
fn data_that_comes_before_it_is_asked_for_ends_the_connection() {
    let mut sqe = Sqe::new(kv::opcode::STORE, 0);
    sqe.set_key(&[1; 16]);
    sqe.set_dword(10, 8);
    sqe.set_sgl(SglDescriptor::transport(8));
    let (mut command, mut data) = ([0; HEAD_BYTES], [0; HEAD_BYTES]);
    let command_bytes = CapsuleCmd { sqe, data: 0 }.encode(Framing::INITIAL, &mut command);
    let pdu = H2cData { cid: 0, tag: 0, offset: 0, length: 8, last: true };
    let data_bytes = pdu.encode(Framing::INITIAL, &mut data);
    // The first tag is no secret; and all of it comes at once, so that none of it was asked for.
    let whole = [&command[..command_bytes], &data[..data_bytes], &[0xEE; 8]].concat();
    let mut world = World::new(20, 32 << 20);
    world.connect(Digests::NONE, 8);
    world.pipe(0).to_target.extend(&whole);
    for _ in 0..300 {
        world.end.harvest(&mut world.staging);
    }
    assert!(world.pipe(0).to_target.len() < 8, "it was looked at");
    let mut capsules = crate::Burst::new();
    world.end.poll(&mut capsules);
    assert!(capsules.is_empty(), "nothing is stored of it");
    world.turn_until(ended);
    assert!(world.hosts[0].terminated, "it is told why");
    world.end_all();
}

#[test]
fn data_beyond_what_was_asked_for_ends_the_connection() {
    // A Store of 16,384 bytes, then data for it at the wrong place, too long, or for another command.
    for (cid, offset, length, last) in
        [(0, 4, 16_384, true), (0, 0, 16_388, true), (1, 0, 16_384, true), (0, 0, 8, true)]
    {
        let mut world = World::new(3, 32 << 20);
        world.connect(Digests::NONE, 8);
        let mut sqe = Sqe::new(kv::opcode::STORE, 0);
        sqe.set_key(&[1; 16]);
        sqe.set_dword(10, 16_384);
        sqe.set_sgl(SglDescriptor::transport(16_384));
        let mut head = [0; HEAD_BYTES];
        let bytes = CapsuleCmd { sqe, data: 0 }.encode(Framing::INITIAL, &mut head);
        world.pipe(0).to_target.extend(&head[..bytes]);
        // Until it has been asked for; the host of this test cannot answer, for it did not send the command.
        while world.pipe(0).to_host.is_empty() {
            let mut capsules = crate::Burst::new();
            world.end.harvest(&mut world.staging);
            world.end.poll(&mut capsules);
            world.end.flush(&mut world.staging);
        }
        let r2t: Vec<u8> = world.pipe(0).to_host.drain(..).collect();
        assert!(r2t.len() <= 24);
        world.pipe(0).to_host.clear();
        let bytes = H2cData { cid, tag: 0, offset, length, last }.encode(Framing::INITIAL, &mut head);
        world.pipe(0).to_target.extend(&head[..bytes]);
        for _ in 0..300 {
            let mut capsules = crate::Burst::new();
            world.end.harvest(&mut world.staging);
            world.end.poll(&mut capsules);
            assert!(capsules.is_empty(), "nothing is stored of it");
            world.end.flush(&mut world.staging);
            let pipe = world.pipe(0);
            pipe.to_host.clear();
            pipe.cut |= pipe.ended;
        }
        assert!(ended(&world));
        world.end_all();
    }
}

#[test]
fn a_data_digest_that_does_not_match_fails_the_command_only() {
    let mut world = World::new(5, 32 << 20);
    world.connect(Digests { header: false, data: true }, 8);
    world.with_host(0, |host, pipe, _| {
        host.store(pipe, 1, vec![1; 1000], true);
        // The last byte of the data, just before the digest.
        let at = pipe.to_target.len() - 5;
        pipe.to_target[at] ^= 1;
        host.store(pipe, 2, vec![2; 1000], true);
    });
    world.settle();
    let statuses: Vec<_> = world.told.iter().map(|told| told.cqe.status).collect();
    assert!(statuses.contains(&Status::TRANSIENT_TRANSPORT_ERROR) && statuses.contains(&Status::SUCCESS));
    world.end_all();
}

#[test]
fn a_header_digest_that_does_not_match_ends_the_connection() {
    let mut world = World::new(6, 32 << 20);
    world.connect(Digests { header: true, data: false }, 8);
    world.with_host(0, |host, pipe, _| {
        host.exist(pipe, 1);
        pipe.to_target[20] ^= 1;
    });
    world.turn_until(ended);
    assert!(world.hosts[0].terminated);
    world.end_all();
}

#[test]
fn more_commands_than_the_queue_has_entries_end_the_connection() {
    let mut world = World::new(8, 32 << 20);
    world.connect(Digests::NONE, 4);
    world.with_host(0, |host, pipe, _| (0..100).for_each(|key| host.exist(pipe, key)));
    for _ in 0..2000 {
        world.turn();
    }
    assert!(ended(&world));
    world.end_all();
}

#[test]
fn disconnect_is_answered_and_is_no_loss() {
    let mut world = World::new(9, 32 << 20);
    world.connect(Digests::NONE, 8);
    let mut head = [0; HEAD_BYTES];
    let bytes = CapsuleCmd { sqe: FabricsCommand::Disconnect.encode(0), data: 0 }.encode(Framing::INITIAL, &mut head);
    world.pipe(0).to_target.extend(&head[..bytes]);
    for _ in 0..300 {
        let mut capsules = crate::Burst::new();
        world.end.harvest(&mut world.staging);
        world.end.poll(&mut capsules);
        world.end.flush(&mut world.staging);
    }
    assert_eq!(world.pipe(0).to_host.len(), 24);
    assert_eq!((world.end.connections(), world.links[0].take_ended().collect::<Vec<_>>()), (0, vec![1]));
    assert!(!ended(&world));
    world.pipe(0).to_host.clear();
    world.end_all();
}

#[test]
fn who_does_not_go_on_is_swept_away() {
    let mut world = spoilt(|world| {
        // A capsule that never ends.
        let mut head = [0; HEAD_BYTES];
        let bytes = CapsuleCmd { sqe: Sqe::new(kv::opcode::EXIST, 0), data: 0 }.encode(Framing::INITIAL, &mut head);
        raw(world, &head[..bytes - 1]);
    });
    assert!(!ended(&world));
    world.end.sweep(&mut world.staging);
    world.end.sweep(&mut world.staging);
    for _ in 0..100 {
        world.turn();
    }
    assert!(ended(&world) && !world.links[1].is_lost(), "one who has begun nothing may be silent");
    world.end_all();
}

#[test]
fn what_comes_after_the_last_word_is_read_until_the_host_closes() {
    let mut world = World::new(16, 32 << 20);
    world.connect(Digests::NONE, 8);
    world.pipe(0).to_target.extend([0xFF; 64]);
    // Not the world's turn, in which the host would close.
    let turn = |world: &mut World| {
        let mut capsules = crate::Burst::new();
        world.end.harvest(&mut world.staging);
        world.end.poll(&mut capsules);
        assert!(capsules.is_empty());
        world.end.flush(&mut world.staging);
    };
    (0..200).for_each(|_| turn(&mut world));
    assert!(world.pipe(0).ended && !world.pipe(0).cut);
    world.pipe(0).to_target.extend(vec![0xAB; 100_000]);
    (0..2000).for_each(|_| turn(&mut world));
    assert!(
        world.pipe(0).to_target.is_empty() && !world.pipe(0).cut,
        "nothing is left that would reset the connection"
    );
    assert!(!world.end.is_moving(&world.staging) && !ended(&world));
    // A host that does not close it has its time, and no more.
    world.end.sweep(&mut world.staging);
    (0..10).for_each(|_| turn(&mut world));
    assert_eq!(world.end.connections(), 1);
    world.end.sweep(&mut world.staging);
    (0..100).for_each(|_| turn(&mut world));
    assert_eq!(world.end.connections(), 0);
    assert!(ended(&world));
    world.pipe(0).to_host.clear();
    world.end_all();
}

#[test]
fn a_trickle_of_answers_does_not_keep_owed_data_alive() {
    let mut world = World::new(17, 32 << 20);
    assert_eq!((world.connect(Digests::NONE, 8), world.connect(Digests::NONE, 8)), (0, 1));
    world.with_host(0, |host, pipe, _| {
        host.keeps_data = true;
        host.store(pipe, 1, vec![1; 1 << 20], false);
    });
    // The other host stores all the time, each time something that is asked for anew.
    let round = |world: &mut World| {
        world.with_host(0, |host, pipe, _| host.exist(pipe, 9));
        world.with_host(1, |host, pipe, _| host.store(pipe, 2, vec![2; 100_000], false));
        (0..300).for_each(|_| world.turn());
        world.end.sweep(&mut world.staging);
        (0..100).for_each(|_| world.turn());
    };
    round(&mut world);
    assert!(!ended(&world), "it was asked for a moment ago");
    round(&mut world);
    assert!(ended(&world), "its answers are no excuse");
    round(&mut world);
    round(&mut world);
    assert!(!world.links[1].is_lost());
    world.end_all();
}

#[test]
fn data_that_comes_slowly_comes() {
    let mut world = World::new(22, 32 << 20);
    world.connect(Digests::NONE, 8);
    world.with_host(0, |host, pipe, _| {
        host.keeps_data = true;
        host.store(pipe, 1, vec![1; 1 << 20], false);
    });
    (0..300).for_each(|_| world.turn());
    let mut head = [0; HEAD_BYTES];
    let pdu = H2cData { cid: 0, tag: 0, offset: 0, length: 1 << 20, last: true };
    let bytes = pdu.encode(Framing::INITIAL, &mut head);
    world.pipe(0).to_target.extend(&head[..bytes]);
    while !world.pipe(0).is_filling() {
        world.turn();
    }
    world.pipe(0).slow.0 = true;
    let round = |world: &mut World, bytes| {
        world.pipe(0).to_target.extend(vec![1; bytes]);
        world.end.sweep(&mut world.staging);
        (0..100).for_each(|_| world.turn());
    };
    for _ in 0..4 {
        round(&mut world, 64 << 10);
        assert!(!ended(&world), "it goes on");
    }
    round(&mut world, (64 << 10) - 1);
    assert!(ended(&world), "too slowly");
    world.end_all();
}

#[test]
fn an_answer_that_goes_slowly_goes() {
    let mut world = World::new(23, 32 << 20);
    world.connect(Digests::NONE, 8);
    world.with_host(0, |host, pipe, _| host.store(pipe, 1, vec![1; 1 << 20], false));
    world.settle();
    world.pipe(0).slow.1 = true;
    world.with_host(0, |host, pipe, _| host.retrieve(pipe, 1, 1 << 20));
    (0..100).for_each(|_| world.turn());
    let round = |world: &mut World, bytes| {
        world.pipe(0).acked += bytes;
        world.end.sweep(&mut world.staging);
        (0..100).for_each(|_| world.turn());
    };
    for _ in 0..4 {
        round(&mut world, 64 << 10);
        assert!(!ended(&world), "it goes on");
    }
    round(&mut world, (64 << 10) - 1);
    assert!(ended(&world), "too slowly");
    world.end_all();
}

#[test]
fn a_long_answer_moves_in_pieces() {
    let mut world = World::new(18, 32 << 20);
    world.connect(Digests::NONE, 8);
    world.with_host(0, |host, pipe, _| host.store(pipe, 1, vec![1; 1 << 20], false));
    world.settle();
    world.with_host(0, |host, pipe, _| (0..4).for_each(|_| host.retrieve(pipe, 1, 1 << 20)));
    world.settle();
    assert_eq!(world.told.iter().filter(|told| told.value.len() == 1 << 20).count(), 5);
    let longest = world.pipe(0).longest;
    assert!(longest > 0 && longest <= 1 << 20, "{longest} bytes in one send");
    world.end_all();
}
