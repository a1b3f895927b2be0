//! Clients that send nonsense. None of it may disturb another client.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dataplane::fabric::vfio_user::initiator::{PrpList, set_prps, set_sgl};
use dataplane::fabric::vfio_user::wire::{Message, capabilities, command as message};
use dataplane::fabric::vfio_user::{ClientMemory, Iova};
use dataplane::nvme::spec::kv::opcode;
use dataplane::nvme::spec::{SglDescriptor, Sqe, Status};
use vfio_user::Client;

use crate::harness::{Rig, wait_until};
use crate::initiator::{command, connect, run};
use crate::mapping::{Mapping, memfd};

/// A small generator (xorshift, Marsaglia), so that failures repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn negotiated(rig: &Rig) -> UnixStream {
    let mut stream = UnixStream::connect(rig.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let hello = Message::command(1, message::VERSION).u16(0).u16(1).bytes(&capabilities(10)).finish();
    stream.write_all(&hello).unwrap();
    assert_eq!(reply(&mut stream), 0);
    stream
}

/// Reads a reply and gives its errno.
fn reply(stream: &mut UnixStream) -> u32 {
    let mut header = [0; 16];
    stream.read_exact(&mut header).unwrap();
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let mut payload = vec![0; word(4) as usize - 16];
    stream.read_exact(&mut payload).unwrap();
    if word(8) & 0x20 != 0 { word(12) } else { 0 }
}

#[test]
fn random_bytes_end_only_the_connection_that_sent_them() {
    let rig = Rig::new(1);
    let mut good = connect(&rig);
    let mut queue = good.create_queue(4, false).unwrap();
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    for _ in 0..50 {
        let mut stream = UnixStream::connect(rig.socket()).unwrap();
        let bytes: Vec<u8> = (0..512).map(|_| random.next() as u8).collect();
        let _ = stream.write_all(&bytes);
        let mut stream = negotiated(&rig);
        // Whole messages with a good header and random fields: each gets an answer.
        for _ in 0..20 {
            let number = (random.next() % 20) as u16;
            let body: Vec<u8> = (0..random.next() % 64).map(|_| random.next() as u8).collect();
            stream.write_all(&Message::command(7, number).bytes(&body).finish()).unwrap();
            let _ = reply(&mut stream);
        }
        assert!(run(&mut queue, Sqe::new(0xC0, 0)).status.is_success());
    }
    drop((good, queue));
    rig.wait_clean();
}

#[test]
fn messages_out_of_order_oversize_or_cut_short_are_refused() {
    let rig = Rig::new(1);
    let mut early = UnixStream::connect(rig.socket()).unwrap();
    early.write_all(&Message::command(1, message::DEVICE_RESET).finish()).unwrap();
    assert_eq!(reply(&mut early), libc::EINVAL as u32);
    let mut stream = negotiated(&rig);
    for (number, errno) in [(14, libc::EOPNOTSUPP), (11, libc::EOPNOTSUPP), (6, libc::EOPNOTSUPP), (5, libc::EINVAL)] {
        stream.write_all(&Message::command(9, number).finish()).unwrap();
        assert_eq!(reply(&mut stream), errno as u32);
    }
    // No reply wanted, so the next reply belongs to the next message.
    let mut quiet = Message::command(3, message::DEVICE_RESET).finish();
    quiet[8] = 0x10;
    stream.write_all(&quiet).unwrap();
    let mut long = Message::command(4, message::REGION_READ).u64(0).u32(0).u32(4).finish();
    stream.write_all(&long).unwrap();
    assert_eq!(reply(&mut stream), 0);
    long[4..8].copy_from_slice(&(1u32 << 20).to_le_bytes());
    stream.write_all(&long).unwrap();
    // Hung up: either an end, or a reset because bytes were left unread.
    assert!(!matches!(stream.read(&mut [0; 16]), Ok(1..)));
    drop((early, stream));
    rig.wait_clean();
}

#[test]
fn memory_maps_that_make_no_sense_are_refused_and_leak_nothing() {
    let rig = Rig::new(2);
    let file = memfd(1 << 20);
    let fd = file.as_raw_fd();
    let mut client = Client::new(&rig.socket()).unwrap();
    client.dma_map(0, 0x10_0000, 1 << 20, fd).unwrap();
    wait_until("the cores know the region", || rig.cores.iter().all(|core| core.regions.load(Ordering::Acquire) == 1));
    // Overlaps, empty, unaligned, beyond the file, wrapping around.
    for (offset, address, size) in [
        (0, 0x10_0000, 1 << 20),
        (0, 0x1F_F000, 0x2000),
        (0, 0x40_0000, 0),
        (0, 0x40_0001, 0x1000),
        (1, 0x40_0000, 0x1000),
        (0, 0x40_0000, 2 << 20),
        (1 << 20, 0x40_0000, 0x1000),
        (0, u64::MAX - 0xFFF, 0x1000),
        (u64::MAX - 0xFFF, 0x40_0000, 0x1000),
        (0, 0x40_0000, 1 << 60),
    ] {
        client.dma_map(offset, address, size, fd).unwrap();
        assert!(rig.cores.iter().all(|core| core.regions.load(Ordering::Acquire) == 1), "{offset:#x} {address:#x}");
    }
    let (socket, _other) = UnixStream::pair().unwrap();
    client.dma_map(0, 0x40_0000, 0x1000, socket.as_raw_fd()).unwrap();
    assert!(rig.cores.iter().all(|core| core.regions.load(Ordering::Acquire) == 1));
    // A file whose pages a file system brings, perhaps one of the client's own.
    let on_disk = tempfile::tempfile_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    on_disk.set_len(0x1000).unwrap();
    client.dma_map(0, 0x40_0000, 0x1000, on_disk.as_raw_fd()).unwrap();
    assert!(rig.cores.iter().all(|core| core.regions.load(Ordering::Acquire) == 1));
    // As many as one client may have.
    for index in 0..300u64 {
        client.dma_map(0, 0x100_0000 + index * 0x1000, 0x1000, fd).unwrap();
    }
    assert!(rig.cores.iter().all(|core| core.regions.load(Ordering::Acquire) == 256));
    client.shutdown().unwrap();
    rig.wait_clean();
}

#[test]
fn wild_data_pointers_get_a_status() {
    let rig = Rig::new(1);
    let mut initiator = connect(&rig);
    let memory = ClientMemory::new(2 << 20, false).unwrap();
    let iova = initiator.register(&memory).unwrap();
    let mut queue = initiator.create_queue(4, false).unwrap();
    let mut expect = |sqe: Sqe, status: Status| assert_eq!(run(&mut queue, sqe).status, status);
    let store = |bytes| command(opcode::STORE, b"key", bytes);
    let with_prp = |bytes, first, second| {
        let mut sqe = store(bytes);
        sqe.set_prp(first, second);
        sqe
    };
    expect(with_prp(4096, 0, 0), Status::DATA_TRANSFER_ERROR);
    expect(with_prp(4096, u64::MAX - 3, 0), Status::DATA_TRANSFER_ERROR);
    expect(with_prp(4096, iova.0 + 1, 0), Status::PRP_OFFSET_INVALID);
    expect(with_prp(8192, iova.0, iova.0 + 8), Status::PRP_OFFSET_INVALID);
    expect(with_prp(16384, iova.0, iova.0 + 4), Status::PRP_OFFSET_INVALID);
    expect(with_prp(16384, iova.0, 0x1000), Status::DATA_TRANSFER_ERROR);
    // A list whose entries lead nowhere, and one that leads to itself for ever: it ends with the data.
    memory.write(0, &0xDEAD_B000u64.to_le_bytes()).unwrap();
    expect(with_prp(16384, iova.0, iova.0), Status::DATA_TRANSFER_ERROR);
    memory.write(0, &iova.0.to_le_bytes().repeat(512)).unwrap();
    expect(with_prp(1 << 20, iova.0, iova.0), Status::SUCCESS);
    let with_sgl = |bytes, descriptor| {
        let mut sqe = store(bytes);
        sqe.set_sgl(descriptor);
        sqe
    };
    expect(with_sgl(4096, SglDescriptor::data_block(iova.0, 4095)), Status::DATA_SGL_LENGTH_INVALID);
    expect(with_sgl(4096, SglDescriptor::data_block(iova.0 + (2 << 20) - 1, 4096)), Status::DATA_TRANSFER_ERROR);
    let kind = |identifier, address, length| SglDescriptor { address, length, middle: 0, identifier };
    expect(with_sgl(4096, kind(0x10, iova.0, 4096)), Status::SGL_TYPE_INVALID);
    expect(with_sgl(4096, kind(0x50, iova.0, 4096)), Status::SGL_TYPE_INVALID);
    expect(with_sgl(4096, kind(0x20, iova.0, 8)), Status::INVALID_SGL_SEGMENT);
    expect(with_sgl(4096, kind(0x20, iova.0, 0)), Status::INVALID_SGL_SEGMENT);
    // A segment that leads to itself: the number of descriptors is bounded.
    let (low, high) = kind(0x20, iova.0, 16).to_quadwords();
    memory.write(0, &[low.to_le_bytes(), high.to_le_bytes()].concat()).unwrap();
    expect(with_sgl(4096, kind(0x20, iova.0, 16)), Status::INVALID_SGL_COUNT);
    expect(with_sgl(4096, kind(0x30, iova.0, 16)), Status::INVALID_SGL_SEGMENT);
    let mut reserved = store(4096);
    reserved.set_dword(0, reserved.dword(0) | (0b11 << 14));
    expect(reserved, Status::INVALID_FIELD);
    let mut random = Random(99);
    for _ in 0..2000 {
        let junk: Vec<u8> = (0..64).map(|_| random.next() as u8).collect();
        memory.write(random.next() % 64, &junk).unwrap();
        let mut sqe = store((random.next() % (2 << 20)) as u32);
        let near = |value: u64| iova.0 + value % (4 << 20);
        let (first, second) = (near(random.next()), near(random.next()));
        match random.next() % 3 {
            0 => sqe.set_prp(first & !3, second & !7),
            1 => sqe.set_prp(random.next(), random.next()),
            _ => sqe.set_sgl(kind(random.next() as u8 & 0x70, first, random.next() as u32 & 0xFF_FFF0)),
        }
        run(&mut queue, sqe);
    }
    let list = PrpList { memory: &memory, iova, offset: 0, pages: 1 };
    let mut good = store(1 << 20);
    set_prps(&mut good, Iova(iova.0 + (1 << 20)), 1 << 20, Some(list)).unwrap();
    assert!(run(&mut queue, good).status.is_success());
}

#[test]
fn a_wild_doorbell_fails_its_queue_and_no_other() {
    let rig = Rig::new(1);
    let mut good = connect(&rig);
    let mut working = good.create_queue(4, false).unwrap();
    let mut bad = connect(&rig);
    let mut broken = bad.create_queue(4, false).unwrap();
    assert!(run(&mut broken, Sqe::new(0xC0, 0)).status.is_success());
    bad.write_doorbell(1, 9999).unwrap();
    broken.push(Sqe::new(0xC0, 0)).unwrap();
    for _ in 0..100 {
        assert!(run(&mut working, Sqe::new(0xC0, 0)).status.is_success());
    }
    let pairs = rig.cores[0].queue_pairs.lock().unwrap().clone();
    let failed = pairs.iter().find(|pair| pair.depth == 5 && pair.commands == 1);
    assert!(failed.is_some(), "{pairs:?}");
    drop((bad, broken));
    drop((good, working));
    rig.wait_clean();
}

#[test]
fn truncated_memory_harms_only_its_owner() {
    let rig = Rig::new(1);
    let mut good = connect(&rig);
    let mut working = good.create_queue(4, false).unwrap();
    let file = memfd(1 << 20);
    let mut client = Client::new(&rig.socket()).unwrap();
    client.dma_map(0, 0x10_0000, 1 << 20, file.as_raw_fd()).unwrap();
    let memory = Mapping::new(&file, 0, 4096);
    memory.write(0, &[1]);
    client.region_write(7, 4, &6u32.to_le_bytes()).unwrap();
    client.region_write(0, 0x24, &(15u32 | (15 << 16)).to_le_bytes()).unwrap();
    client.region_write(0, 0x28, &0x10_0000u64.to_le_bytes()).unwrap();
    client.region_write(0, 0x30, &0x10_1000u64.to_le_bytes()).unwrap();
    client.region_write(0, 0x14, &((4u32 << 20) | (6 << 16) | (0b110 << 4) | 1).to_le_bytes()).unwrap();
    drop(memory);
    file.set_len(0).unwrap();
    // The admin queue is gone from under the target, which reads zeros there, and then ends the connection.
    client.region_write(0, 0x1000, &5u32.to_le_bytes()).unwrap();
    for _ in 0..100 {
        assert!(run(&mut working, Sqe::new(0xC0, 0)).status.is_success());
    }
    wait_until("the session is over", || rig.shared.open.load(Ordering::Acquire) == 1);
    assert!(client.region_read(0, 0x1C, &mut [0; 4]).is_err());
    assert!(run(&mut working, Sqe::new(0xC0, 0)).status.is_success());
    drop((good, working));
    rig.wait_clean();
}

#[test]
fn a_data_block_of_the_wrong_client_is_not_reachable() {
    let rig = Rig::new(1);
    let (mut one, mut two) = (connect(&rig), connect(&rig));
    let memory = ClientMemory::new(4 << 20, false).unwrap();
    let iova = one.register(&memory).unwrap();
    let mut queue = two.create_queue(4, false).unwrap();
    let mut sqe = command(opcode::STORE, b"key", 4096);
    // An address that only the first client has registered.
    set_sgl(&mut sqe, Iova(iova.0 + (3 << 20)), 4096);
    let cqe = run(&mut queue, sqe);
    assert_eq!(cqe.status, Status::DATA_TRANSFER_ERROR);
}
