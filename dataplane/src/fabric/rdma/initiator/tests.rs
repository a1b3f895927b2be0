//! The initiator against Linux's own target (nvmet-rdma): `tests/testbed/rdma.sh` sets it up in a virtual machine.
//!
//! `KVPLANE_TEST_RDMA` names two addresses; the target listens on the second, port 4420, with the subsystem
//! `nqn.2026-01.io.kvplane:linux`, whose namespace 1 is a block device whose block n is full of the byte n.

use std::net::SocketAddr;
use std::time::Instant;

use super::*;
use crate::Burst;
use crate::memory::RegionSlot;
use crate::nvme::spec::Cqe;

const BYTES: usize = 1 << 20;
const BLOCK: u32 = 4096;
const TIME: Duration = Duration::from_secs(30);

fn options(subsystem: &str) -> (SocketAddr, ConnectOptions) {
    let named = std::env::var("KVPLANE_TEST_RDMA").expect("KVPLANE_TEST_RDMA names two addresses");
    let (from, to) = named.split_once(',').unwrap();
    let options = ConnectOptions {
        timeout: TIME,
        subsystem_nqn: subsystem.to_owned(),
        host_nqn: "nqn.2026-01.io.kvplane:host".to_owned(),
        host_id: [7; 16],
        from: Some(from.parse().unwrap()),
        keep_alive_ms: 0,
    };
    (SocketAddr::new(to.parse().unwrap(), 4420), options)
}

/// Read (02h) or Write (01h) of the NVM command set.
fn block_command(opcode: u8, block: u64, blocks: u32, address: u64) -> Sqe {
    let mut sqe = Sqe::new(opcode, 0);
    sqe.set_nsid(1);
    sqe.set_quadword(10, block);
    sqe.set_dword(12, blocks - 1);
    sqe.set_sgl(SglDescriptor::data_block(address, blocks * BLOCK));
    sqe
}

fn finish(queue: &mut InitiatorQueue, count: usize) -> Vec<Cqe> {
    let (begin, mut all) = (Instant::now(), Vec::new());
    while all.len() < count {
        let mut done = Burst::new();
        queue.poll(&mut done);
        all.extend(done);
        assert!(queue.is_alive(), "the connection ended");
        assert!(begin.elapsed() < Duration::from_secs(60), "{} of {count}", all.len());
    }
    all
}

#[test]
#[ignore = "wants Linux's target on an RDMA device, see tests/testbed/rdma.sh"]
fn linux_is_read_from_and_written_to() {
    let (target, options) = options("nqn.2026-01.io.kvplane:linux");
    let mut initiator = Initiator::connect(target, options, TIME).unwrap();
    initiator.connected();
    let identity = initiator.identity().clone();
    assert_eq!((identity.subsystem_nqn.as_str(), identity.owners), ("nqn.2026-01.io.kvplane:linux", None));
    assert!(identity.io_queues >= 1 && identity.capsule_data_bytes >= 4096, "{identity:?}");
    let error = initiator.namespaces().unwrap_err();
    assert!(matches!(error, ConnectError::Admin { .. }), "it has no KV command set: {error}");

    let region = Arc::new(Region::anonymous(BYTES, RegionSlot(0)).unwrap());
    initiator.register(&region).unwrap();
    let mut queue = initiator.create_queue(64, false).unwrap();
    // 200 reads, more than fit at a time, of which each finds its own bytes.
    let (mut next, mut ended, mut places) = (0u64, 0, vec![0u64; 64]);
    while ended < 200 {
        while next < 200 && queue.room() > 0 {
            let mut sqe = block_command(2, next, 1, region.base() + (next % 256) * u64::from(BLOCK));
            let data = initiator.address(&mut sqe, 0).unwrap();
            let cid = queue.push(sqe, data).unwrap();
            places[usize::from(cid)] = next;
            next += 1;
        }
        queue.ring();
        for cqe in finish(&mut queue, 1) {
            assert!(cqe.status.is_success(), "{:?}", cqe.status);
            let block = places[usize::from(cqe.cid)];
            let mut bytes = [0; BLOCK as usize];
            region.read((block % 256) * u64::from(BLOCK), &mut bytes).unwrap();
            assert!(bytes.iter().all(|byte| *byte == block as u8), "block {block}");
            ended += 1;
        }
    }

    // What is written, in the capsule and by the target's READ, is read again.
    for (blocks, in_capsule, fill) in [(1, identity.capsule_data_bytes, 0xA1), (16, identity.capsule_data_bytes, 0xA2)]
    {
        let bytes = blocks * BLOCK;
        region.fill(0, bytes as usize, fill).unwrap();
        region.fill(512 << 10, bytes as usize, 0).unwrap();
        for (opcode, address) in [(1, region.base()), (2, region.base() + (512 << 10))] {
            let mut sqe = block_command(opcode, 300, blocks, address);
            let data = initiator.address(&mut sqe, in_capsule).unwrap();
            assert_eq!(data.is_some(), opcode == 1 && bytes <= in_capsule);
            queue.push(sqe, data).unwrap();
            queue.ring();
            assert!(finish(&mut queue, 1)[0].status.is_success());
        }
        let mut read = vec![0; bytes as usize];
        region.read(512 << 10, &mut read).unwrap();
        assert!(read.iter().all(|byte| *byte == fill));
    }
    assert_eq!(queue.stray_completions(), 0);

    // A key that names nothing: the target breaks the queue's connection, and the admin queue goes on or ends with it.
    let mut sqe = block_command(2, 0, 1, region.base());
    sqe.set_sgl(SglDescriptor::keyed(region.base(), BLOCK, 0xDEAD_BEEF, false));
    queue.push(sqe, None).unwrap();
    queue.ring();
    let begin = Instant::now();
    while queue.is_alive() {
        queue.poll(&mut Burst::new());
        assert!(begin.elapsed() < Duration::from_secs(60), "nothing tells of the broken connection");
    }
}

#[test]
#[ignore = "wants Linux's target on an RDMA device, see tests/testbed/rdma.sh"]
fn linux_refuses_what_it_does_not_have() {
    let (target, unknown) = options("nqn.2026-01.io.kvplane:nobody");
    let error = Initiator::connect(target, unknown, TIME).unwrap_err();
    assert!(matches!(error, ConnectError::Admin { command: "Connect (admin queue)", .. }), "{error}");
    let (mut nowhere, known) = options("nqn.2026-01.io.kvplane:linux");
    nowhere.set_port(4499);
    let error = Initiator::connect(nowhere, known, TIME).unwrap_err();
    assert!(error.to_string().contains("nobody listens there"), "{error}");
}

#[test]
fn a_queue_holds_no_more_commands_than_may_be_outstanding() {
    assert_eq!(entries_of(1024, None), 1024);
    assert_eq!(entries_of(1024, Some(127)), 128);
    assert_eq!(entries_of(128, Some(u16::MAX)), 128);
}
