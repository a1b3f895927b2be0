//! Which bytes go where.

use super::device::Carried;
use super::world::{World, command};
use crate::fabric::rdma::verbs::RemotePlace;
use crate::fabric::{Completion, SessionId};
use crate::nvme::spec::{SglDescriptor, Status};

/// What a host lets us reach.
const PLACE: RemotePlace = RemotePlace { address: 0x3000, key: 77 };

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

/// A command of `bytes` at `PLACE`, whose key is to be made invalid.
fn at_place(opcode: u8, cid: u16, bytes: u32) -> crate::nvme::spec::Sqe {
    command(opcode, cid, bytes, SglDescriptor::keyed(PLACE.address, bytes, PLACE.key, true))
}

/// A host's memory where it lets us reach it, with what lies around.
fn around(world: &World, host: usize, bytes: usize) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let memory = world.hosts[host].pair.memory.borrow();
    let from = PLACE.address as usize;
    (memory[..from].to_vec(), memory[from..from + bytes].to_vec(), memory[from + bytes..].to_vec())
}

#[test]
fn what_a_retrieve_filled_is_written_to_its_place_before_the_answer_goes() {
    let mut world = World::new();
    let host = world.connect(3);
    world.carried(host);
    // What others left in the buffer is none of this host's business.
    let buffer = world.staging.take(1 << 20).unwrap();
    world.staging.write(&buffer, 0, &vec![0xEE; 1 << 20]).unwrap();
    world.staging.give_back(buffer);
    for (cid, bytes) in [(1, 65536), (2, 5000), (3, 1)] {
        world.hosts[host].pair.memory.borrow_mut().fill(0xAA);
        assert!(world.send(host, &at_place(2, cid, 65536), &[]));
        world.settle();
        world.fill(0, &pattern(bytes));
        world.complete_all();
        world.settle();
        let told = Carried::Told { cid, invalidated: Some(PLACE.key) };
        assert_eq!(world.carried(host), [Carried::Written { place: PLACE, bytes: bytes as u32 }, told]);
        let (before, at, after) = around(&world, host, bytes);
        assert!(at == pattern(bytes), "{bytes} bytes as the device gave them");
        assert!(before.iter().chain(&after).all(|byte| *byte == 0xAA), "and nothing beside them");
    }
    world.end.close_session(SessionId(3));
    world.settle();
    world.assert_empty();
}

#[test]
fn what_failed_or_filled_nothing_writes_nothing() {
    let mut world = World::new();
    let host = world.connect(3);
    world.carried(host);
    assert!(world.send(host, &at_place(2, 1, 4096), &[]));
    world.settle();
    world.fill(0, &pattern(4096));
    let (_, permit) = world.running.pop().unwrap();
    world.end.complete(permit.redeem().0, Completion::failed(Status::INTERNAL_ERROR), &mut world.staging);
    assert!(world.send(host, &at_place(2, 2, 4096), &[]));
    world.settle();
    world.complete_all();
    world.settle();
    let told = |cid| Carried::Told { cid, invalidated: Some(PLACE.key) };
    assert_eq!(world.carried(host), [told(1), told(2)]);
    world.end.close_session(SessionId(3));
    world.settle();
    world.assert_empty();
}

#[test]
fn a_store_has_the_bytes_of_its_host_when_it_is_taken() {
    let mut world = World::new();
    let (host, other) = (world.connect(3), world.connect(4));
    for host in [host, other] {
        world.carried(host);
    }
    let bytes = pattern(70_000);
    world.hosts[other].pair.memory.borrow_mut()[PLACE.address as usize..][..bytes.len()].copy_from_slice(&bytes);
    assert!(world.send(other, &at_place(1, 1, bytes.len() as u32), &[]));
    world.settle();
    let (unit, length) = (world.running[0].0.quadword(6) as u32, world.running[0].0.quadword(8) as u32);
    let mut buffer = vec![0; length as usize];
    world.staging.map().read(0, unit, 0, &mut buffer).unwrap();
    assert!(buffer == bytes);
    assert_eq!(world.carried(other), [Carried::Read { place: PLACE, bytes: length }]);
    // What was read is not written back.
    world.complete_all();
    world.settle();
    assert_eq!(world.carried(other), [Carried::Told { cid: 1, invalidated: Some(PLACE.key) }]);
    assert_eq!(world.carried(host), [], "another host's memory is let alone");
    for session in [3, 4] {
        world.end.close_session(SessionId(session));
    }
    world.settle();
    world.assert_empty();
}

#[test]
fn what_goes_both_ways_is_read_and_then_written_to_the_same_place() {
    let mut world = World::new();
    let host = world.connect(3);
    world.carried(host);
    assert!(world.send(host, &at_place(0xC3, 1, 4096), &[]));
    world.settle();
    assert_eq!(world.carried(host), [Carried::Read { place: PLACE, bytes: 4096 }]);
    world.fill(0, &pattern(64));
    world.complete_all();
    world.settle();
    let told = Carried::Told { cid: 1, invalidated: Some(PLACE.key) };
    assert_eq!(world.carried(host), [Carried::Written { place: PLACE, bytes: 64 }, told]);
    assert!(around(&world, host, 64).1 == pattern(64));
    world.end.close_session(SessionId(3));
    world.settle();
    world.assert_empty();
}
