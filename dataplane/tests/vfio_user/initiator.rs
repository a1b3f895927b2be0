//! Our initiator against our target.

use std::time::{Duration, Instant};

use dataplane::Burst;
use dataplane::fabric::vfio_user::initiator::{PrpList, set_prps, set_sgl};
use dataplane::fabric::vfio_user::{ClientMemory, ConnectOptions, Initiator, InitiatorQueue, Iova};
use dataplane::nvme::spec::kv::{KeyFields, opcode};
use dataplane::nvme::spec::{Cqe, Sqe, Status};

use crate::harness::{Rig, namespace};

pub fn connect(rig: &Rig) -> Initiator {
    Initiator::connect(rig.dir(), &ConnectOptions::default()).unwrap()
}

/// Sends one command and waits for its completion.
pub fn run(queue: &mut InitiatorQueue, sqe: Sqe) -> Cqe {
    let cid = queue.push(sqe).unwrap();
    queue.ring();
    let mut done = Burst::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while done.is_empty() {
        assert!(Instant::now() < deadline, "no completion came");
        queue.poll(&mut done);
        std::thread::yield_now();
    }
    assert_eq!((done.len(), done[0].cid), (1, cid));
    done[0]
}

pub fn command(op: u8, key: &[u8], bytes: u32) -> Sqe {
    let mut sqe = Sqe::new(op, 0);
    sqe.set_nsid(1);
    sqe.set_dword(10, bytes);
    sqe.set_key(key);
    sqe
}

#[test]
fn identity_and_namespaces_arrive_as_the_session_told_them() {
    let rig = Rig::new(2);
    let mut initiator = connect(&rig);
    let identity = initiator.identity().clone();
    assert_eq!((identity.serial.as_str(), identity.model.as_str()), ("TEST0001", "kvplane test"));
    assert_eq!(identity.subsystem_nqn, "nqn.2026-01.io.kvplane:test");
    assert_eq!(identity.max_transfer_bytes, Some(1 << 20));
    assert_eq!(identity.owners.map(|owners| owners.cores), Some(2));
    assert_eq!(identity.io_queues, 64);
    assert_eq!(initiator.namespaces().unwrap(), [namespace(1), namespace(3)]);
    assert!(initiator.is_alive());
    drop(initiator);
    rig.wait_clean();
}

#[test]
fn values_travel_by_sgl_and_by_prp_lists() {
    let rig = Rig::new(2);
    let mut initiator = connect(&rig);
    let memory = ClientMemory::new(8 << 20, false).unwrap();
    let iova = initiator.register(&memory).unwrap();
    let value: Vec<u8> = (0..1_000_000u32).map(|index| (index * 7 + index / 255) as u8).collect();
    memory.write(4, &value).unwrap();
    for number in 0..2 {
        let mut queue = initiator.create_queue(16, false).unwrap();
        assert_eq!((queue.qid(), queue.core()), (number + 1, number));
        let list = PrpList { memory: &memory, iova, offset: 6 << 20, pages: 8 };
        let mut store = command(opcode::STORE, b"by sgl", 1_000_000);
        set_sgl(&mut store, Iova(iova.0 + 4), 1_000_000);
        assert_eq!(run(&mut queue, store).status, Status::SUCCESS);
        let mut store = command(opcode::STORE, b"by prp", 1_000_000);
        set_prps(&mut store, Iova(iova.0 + 4), 1_000_000, Some(list)).unwrap();
        assert_eq!(run(&mut queue, store).status, Status::SUCCESS);
        for key in [&b"by sgl"[..], b"by prp"] {
            memory.write(2 << 20, &vec![0; 2 << 20]).unwrap();
            let mut retrieve = command(opcode::RETRIEVE, key, 1 << 20);
            set_prps(&mut retrieve, Iova(iova.0 + (2 << 20)), 1 << 20, Some(list)).unwrap();
            let cqe = run(&mut queue, retrieve);
            assert_eq!((cqe.status, cqe.dword0), (Status::SUCCESS, 1_000_000));
            let mut seen = vec![0; value.len()];
            memory.read(2 << 20, &mut seen).unwrap();
            assert!(seen == value);
        }
        assert_eq!(run(&mut queue, command(opcode::EXIST, b"nothing", 0)).status, Status::KEY_DOES_NOT_EXIST);
    }
    drop(initiator);
    rig.wait_clean();
}
