//! Peers over TCP that break the protocol, or use connections up: each is told and sent away, and nobody else suffers.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use dataplane::fabric::tcp::wire::{
    Alignment, Digests, FatalStatus, H2cData, HEAD_BYTES, IcReq, Pdu, PduFault, TermReq, field,
};
use dataplane::nvme::spec::fabrics::{DYNAMIC_CONTROLLER, FabricsCommand};
use dataplane::nvme::spec::kv::{KeyFields, opcode};
use dataplane::nvme::spec::{SglDescriptor, Sqe, Status};
use e2e::tcp::{self, HOST_NQN, RawHost};
use e2e::{Daemon, await_that, key, value};

const BOTH: Digests = Digests { header: true, data: true };

fn start() -> (Daemon, u16) {
    let port = tcp::free_port();
    (Daemon::start(tcp::setup(port)), port)
}

/// Somebody else is served all the same.
fn serves(port: u16, round: u64) {
    let mut client = tcp::client(port);
    client.put(key(round), &value(&key(round), round, 20_000)).unwrap();
    assert_eq!(client.get(key(round)).unwrap().unwrap(), value(&key(round), round, 20_000));
}

fn ic_req() -> [u8; 128] {
    let mut head = [0; HEAD_BYTES];
    IcReq { alignment: Alignment::DWORD, digests: Digests::NONE, max_r2t: 0 }.encode(&mut head);
    *head.first_chunk().unwrap()
}

fn store(bytes: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode::STORE, 9);
    sqe.set_nsid(1);
    sqe.set_dword(10, bytes);
    sqe.set_key(key(77).bytes());
    sqe
}

#[test]
fn what_is_wrong_with_the_first_bytes_is_told() {
    let (mut daemon, port) = start();
    let spoilt = |at: usize, with: &[u8]| {
        let mut bytes = ic_req();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let mut web = [b' '; 128];
    web[..16].copy_from_slice(b"GET / HTTP/1.1\r\n");
    let cases = [
        (web, Some(PduFault::invalid(field::TYPE))),
        (spoilt(0, &[4]), Some(PduFault::SEQUENCE)),
        (spoilt(2, &[24]), Some(PduFault::invalid(field::HEADER_LENGTH))),
        (spoilt(4, &[0xFF; 4]), Some(PduFault::invalid(field::PDU_LENGTH))),
        (spoilt(8, &[1]), Some(PduFault::unsupported(field::FORMAT_VERSION))),
        (spoilt(10, &[32]), Some(PduFault::invalid(field::ALIGNMENT))),
        // A termination of a wrong length is not answered.
        (spoilt(0, &[2]), None),
    ];
    for (number, (bytes, fault)) in cases.into_iter().enumerate() {
        let mut host = RawHost::dial(port, Digests::NONE).unwrap();
        let mut bytes = bytes;
        if fault.is_none() {
            bytes[4] = 153;
        }
        host.send(&bytes).unwrap();
        assert_eq!(host.terminated(), fault.map(TermReq::from), "case {number}");
    }
    assert!(daemon.is_running());
    serves(port, 1);
}

#[test]
fn connections_that_say_nothing_or_little_are_closed_and_hold_nobody_up() {
    let (_daemon, port) = start();
    // Nothing at all, half of an ICReq, and an ICReq that drips.
    let mut silent = RawHost::dial(port, Digests::NONE).unwrap();
    let mut half = RawHost::dial(port, Digests::NONE).unwrap();
    half.send(&ic_req()[..64]).unwrap();
    let mut connected = RawHost::initialized(port, Digests::NONE);
    let dripping = std::thread::spawn(move || {
        let mut host = RawHost::dial(port, Digests::NONE).unwrap();
        // It has more bytes than the target has patience.
        for byte in ic_req() {
            if host.send(&[byte]).is_err() {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(250));
        }
        host.terminated().is_none()
    });
    for round in 0..3 {
        serves(port, round);
    }
    assert_eq!(silent.terminated(), None);
    assert_eq!(half.terminated(), None);
    assert_eq!(connected.terminated(), None);
    assert!(dripping.join().unwrap(), "an ICReq that takes half a minute is answered");
    serves(port, 9);
}

#[test]
fn a_flood_of_connections_passes() {
    let (mut daemon, port) = start();
    let flood: Vec<_> = (0..700).filter_map(|_| RawHost::dial(port, Digests::NONE).ok()).collect();
    assert!(flood.len() > 512, "{} connections", flood.len());
    drop(flood);
    await_that("there is room again", || {
        kvplane::Client::connect(&tcp::address(port), tcp::options(false, false)).is_ok()
    });
    serves(port, 1);
    assert!(daemon.is_running());
}

#[test]
fn queues_belong_to_whoever_has_the_controller() {
    let (daemon, port) = start();
    let (admin, controller) = RawHost::admin(port, Digests::NONE, 0);
    let invalid = |cqe: dataplane::nvme::spec::Cqe| {
        assert_eq!(cqe.status, Status::CONNECT_INVALID_PARAMETERS, "{}", cqe.status);
    };
    // Before any: a queue of no controller, of another's, of another host; no admin queue of a controller that is there.
    invalid(RawHost::initialized(port, Digests::NONE).connect(1, controller.wrapping_add(1), HOST_NQN, 0));
    let stranger = RawHost::initialized(port, Digests::NONE).connect(1, controller, "nqn.2026-01.io.kvplane:x", 0);
    assert!(!stranger.status.is_success());
    invalid(RawHost::initialized(port, Digests::NONE).connect(0, controller, HOST_NQN, 0));
    assert_ne!(
        RawHost::initialized(port, Digests::NONE).connect(1, DYNAMIC_CONTROLLER, HOST_NQN, 0).status,
        Status::SUCCESS
    );
    let mut queue = RawHost::io(port, Digests::NONE, 1, controller);
    // The same once more, while it lives.
    let twice = RawHost::initialized(port, Digests::NONE).connect(1, controller, HOST_NQN, 0);
    assert!(!twice.status.is_success());
    let mut exist = Sqe::new(opcode::EXIST, 3);
    exist.set_nsid(1);
    exist.set_key(key(5).bytes());
    assert_eq!(queue.run(exist).status, Status::KEY_DOES_NOT_EXIST);
    // The loss of the admin queue is that of the others.
    drop(admin);
    assert_eq!(queue.terminated(), None);
    await_that("the queue is gone", || daemon.queue_pairs() == 0);
}

#[test]
fn lies_on_a_queue_end_its_host_alone() {
    let (daemon, port) = start();
    let mut witness = tcp::client(port);
    witness.put(key(1), b"right").unwrap();
    let data = H2cData { cid: 9, tag: 0, offset: 0, length: 4096, last: true };
    type Lie = fn(&mut RawHost, H2cData, u16);
    let cases: [(Lie, FatalStatus); 6] = [
        // Data of a command that is not there.
        (|host, data, _| host.data(H2cData { cid: 100, ..data }, &[0; 4096], 0), FatalStatus::INVALID_HEADER_FIELD),
        // Another tag than was asked for.
        (
            |host, data, tag| host.data(H2cData { tag: tag ^ 0x4000, ..data }, &[0; 4096], 0),
            FatalStatus::INVALID_HEADER_FIELD,
        ),
        // Behind what was asked for.
        (
            |host, data, tag| host.data(H2cData { tag, offset: 65_536, ..data }, &[0; 4096], 0),
            FatalStatus::DATA_OUT_OF_RANGE,
        ),
        // More than was asked for.
        (
            |host, data, tag| host.data(H2cData { tag, length: 65_540, ..data }, &[0; 65_540], 0),
            FatalStatus::DATA_OUT_OF_RANGE,
        ),
        // A header that is not what its digest was taken of.
        (
            |host, _, _| {
                let mut head = [0; HEAD_BYTES];
                let bytes = dataplane::fabric::tcp::wire::CapsuleCmd { sqe: store(0), data: 0 }
                    .encode(host.framing(), &mut head);
                head[20] ^= 1;
                host.send(&head[..bytes]).unwrap();
            },
            FatalStatus::HEADER_DIGEST_ERROR,
        ),
        // A second ICReq.
        (|host, _, _| host.send(&ic_req()).unwrap(), FatalStatus::SEQUENCE_ERROR),
    ];
    for (number, (lie, fes)) in cases.into_iter().enumerate() {
        let (_admin, controller) = RawHost::admin(port, BOTH, 0);
        let mut queue = RawHost::io(port, BOTH, 1, controller);
        let mut sqe = store(65_536);
        sqe.set_sgl(SglDescriptor::transport(65_536));
        queue.capsule(sqe, &[], 0);
        let Some((Pdu::R2t(r2t), _)) = queue.receive() else { panic!("no R2T") };
        assert_eq!((r2t.cid, r2t.offset), (9, 0));
        lie(&mut queue, data, r2t.tag);
        let why = queue.terminated().unwrap_or_else(|| panic!("lie {number}: no termination"));
        assert_eq!(why.fes, fes, "lie {number}");
        assert_eq!(witness.get(key(1)).unwrap().as_deref(), Some(&b"right"[..]));
    }
    // Nothing of them is left.
    assert!(!witness.exists(key(77)).unwrap());
    await_that("their queues are gone", || daemon.queue_pairs() == 1);
}

#[test]
fn data_that_does_not_match_its_digest_fails_its_command_and_no_other() {
    let (_daemon, port) = start();
    let (_admin, controller) = RawHost::admin(port, BOTH, 0);
    let mut queue = RawHost::io(port, BOTH, 1, controller);
    for (spoil, expected) in [(1, Status::TRANSIENT_TRANSPORT_ERROR), (0, Status::SUCCESS)] {
        // In the capsule.
        let mut sqe = store(1000);
        sqe.set_sgl(SglDescriptor::in_capsule(0, 1000));
        queue.capsule(sqe, &[7; 1000], spoil);
        assert_eq!(queue.completion().status, expected);
        // And as it was asked for.
        let mut sqe = store(100_000);
        sqe.set_sgl(SglDescriptor::transport(100_000));
        queue.capsule(sqe, &[], 0);
        let mut sent = 0;
        while sent < 100_000 {
            let Some((Pdu::R2t(r2t), _)) = queue.receive() else { panic!("no R2T") };
            let data = H2cData { cid: 9, tag: r2t.tag, offset: r2t.offset, length: r2t.length, last: true };
            queue.data(data, &vec![8; r2t.length as usize], spoil);
            sent += r2t.length;
        }
        assert_eq!(queue.completion().status, expected);
    }
    assert_eq!(tcp::client(port).get(key(77)).unwrap().unwrap(), [8; 100_000]);
}

#[test]
fn a_host_that_goes_in_the_middle_of_a_value_leaves_nothing_behind() {
    let (daemon, port) = start();
    for _ in 0..20 {
        let (admin, controller) = RawHost::admin(port, Digests::NONE, 0);
        let mut queue = RawHost::io(port, Digests::NONE, 1, controller);
        let mut sqe = store(500_000);
        sqe.set_sgl(SglDescriptor::transport(500_000));
        queue.capsule(sqe, &[], 0);
        let Some((Pdu::R2t(r2t), _)) = queue.receive() else { panic!("no R2T") };
        let data = H2cData { cid: 9, tag: r2t.tag, offset: 0, length: r2t.length, last: true };
        let mut head = [0; HEAD_BYTES];
        let bytes = data.encode(queue.framing(), &mut head);
        queue.send(&head[..bytes]).unwrap();
        queue.send(&[1; 10_000]).unwrap();
        drop((queue, admin));
    }
    await_that("every queue is gone", || daemon.queue_pairs() == 0);
    assert!(!tcp::client(port).exists(key(77)).unwrap());
    serves(port, 1);
}

#[test]
fn other_commands_come_after_connect_only() {
    let (_daemon, port) = start();
    let mut host = RawHost::initialized(port, Digests::NONE);
    let get = FabricsCommand::PropertyGet { offset: 0, size8: true };
    assert!(!host.run(get.encode(1)).status.is_success());
    assert_eq!(host.terminated(), None);
    // In-capsule data as long as never was agreed.
    let (_admin, controller) = RawHost::admin(port, Digests::NONE, 0);
    let mut queue = RawHost::io(port, Digests::NONE, 1, controller);
    let mut sqe = store(1 << 20);
    sqe.set_sgl(SglDescriptor::in_capsule(0, 1 << 20));
    queue.capsule(sqe, &vec![0; 1 << 20], 0);
    assert_eq!(queue.terminated().map(|why| why.fes), Some(FatalStatus::INVALID_HEADER_FIELD));
    serves(port, 1);
}

/// A value in memory is sent from where it lies, which nothing else can be written over until the host took it.
#[test]
fn a_host_that_takes_nothing_does_not_hold_up_everybodys_stores() {
    const VALUE: u32 = 4 << 20;
    let port = tcp::free_port();
    let daemon = Daemon::start(tcp::setup(port).store("ram:512M"));
    let mut client = tcp::client(port);
    client.put(key(77), &value(&key(77), 1, VALUE as usize)).unwrap();
    let (_admin, controller) = RawHost::admin(port, Digests::NONE, 0);
    let mut deaf = RawHost::io(port, Digests::NONE, 1, controller);
    // More than sockets hold, and not its host's whole share of buffers.
    for cid in 0..4 {
        let mut sqe = Sqe::new(opcode::RETRIEVE, cid);
        sqe.set_nsid(1);
        sqe.set_dword(10, VALUE);
        sqe.set_key(key(77).bytes());
        sqe.set_sgl(SglDescriptor::transport(VALUE));
        deaf.capsule(sqe, &[], 0);
    }
    assert_eq!(daemon.queue_pairs(), 2);
    // Twice what there is room for: the segment of that value is evicted, and used again.
    for number in 0..1024 {
        client.put(key(1000 + number), &value(&key(1000 + number), 1, 1 << 20)).unwrap();
    }
    await_that("the host that takes nothing has been ended", || daemon.queue_pairs() == 1);
    assert!(daemon.log().contains("does not take a value whose place is needed"), "{}", daemon.log());
    // It was read, so eviction may have found it worth moving.
    let stored = value(&key(77), 1, VALUE as usize);
    assert!(client.get(key(77)).unwrap().is_none_or(|found| found == stored));
    assert!(client.get(key(2023)).unwrap() == Some(value(&key(2023), 1, 1 << 20)));
    // What the host has been sent, it was sent right, up to where it ends.
    while let Some((pdu, data)) = deaf.receive() {
        if let Pdu::C2hData(place) = pdu {
            assert!(data == stored[place.offset as usize..][..data.len()]);
        }
    }
}
