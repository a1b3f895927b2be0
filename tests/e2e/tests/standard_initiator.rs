//! A driver that knows the NVMe specifications and nothing of kvplane.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use e2e::nvme::{Command, Controller, PAGE, Queue, kv};
use e2e::values::{Dice, first_difference};
use e2e::{Daemon, Setup};

const KV: u8 = 1;

fn open(daemon: &Daemon) -> (Controller, Queue) {
    let mut controller = Controller::open(&daemon.home.controller_socket(), 64 << 20);
    let queue = controller.create_queue(1, 32);
    (controller, queue)
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut value = vec![0; bytes];
    Dice::new(seed).noise(&mut value);
    value
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[test]
fn config_space_tells_an_nvme_controller() {
    let daemon = Daemon::start(Setup::default());
    let mut device = vfio_user::Client::new(&daemon.home.controller_socket()).unwrap();
    let mut config = [0; 256];
    device.region_read(7, 0, &mut config).unwrap();
    assert_eq!(config[9..12], [0x02, 0x08, 0x01], "class code: NVM Express I/O controller");
    assert_ne!(u16::from_le_bytes([config[0], config[1]]), 0xFFFF, "vendor");
    assert_ne!(config[6] & 0x10, 0, "a list of capabilities");
    let (mut at, mut found) = (usize::from(config[0x34]), Vec::new());
    while at != 0 {
        assert!(at >= 0x40 && found.len() < 16, "the list of capabilities goes astray");
        found.push(config[at]);
        at = usize::from(config[at + 1]);
    }
    assert!(found.contains(&0x11), "MSI-X among {found:x?}");
    device.region_write(7, 4, &0x0006u16.to_le_bytes()).unwrap();
    device.region_read(7, 4, &mut config[..2]).unwrap();
    assert_eq!(config[0] & 0b110, 0b110, "memory space and bus master stay enabled");
    // The size of BAR0 by writing ones, as every firmware does.
    device.region_write(7, 0x10, &u32::MAX.to_le_bytes()).unwrap();
    device.region_read(7, 0x10, &mut config[..4]).unwrap();
    let size = !(word(&config, 0) & !0xF) + 1;
    assert!(size.is_power_of_two() && size >= 0x2000, "BAR0 of {size:#x} bytes");
    assert_eq!(u64::from(size), device.region(0).unwrap().size);
}

#[test]
fn identify_tells_a_key_value_namespace() {
    let daemon = Daemon::start(Setup::default().namespace("tests,max-value=1M"));
    let (mut controller, _queue) = open(&daemon);
    let identity = controller.identify(0x01, 0, 0);
    assert_eq!(identity[512] & 0xF, 6, "SQES");
    assert_eq!(identity[513] & 0xF, 4, "CQES");
    assert!(word(&identity, 516) >= 1, "NN");
    let nqn = String::from_utf8(identity[768..1024].iter().copied().take_while(|byte| *byte != 0).collect()).unwrap();
    assert_eq!(nqn, e2e::daemon::DEFAULT_NQN);
    assert!(identity[4..24].iter().all(|byte| (0x20..0x7F).contains(byte)), "serial number");

    assert_eq!(word(&controller.identify(0x02, 0, 0), 0), 1, "active namespaces");
    assert_eq!(word(&controller.identify(0x07, KV, 0), 0), 1, "active key value namespaces");
    assert_eq!(word(&controller.identify(0x07, 0, 0), 0), 0, "no namespaces of blocks");
    let descriptors = controller.identify(0x03, 0, 1);
    let (mut at, mut sets) = (0, Vec::new());
    while descriptors[at] != 0 {
        let (kind, length) = (descriptors[at], usize::from(descriptors[at + 1]));
        if kind == 4 {
            sets.push(descriptors[at + 4]);
        }
        at += 4 + length;
    }
    assert_eq!(sets, [KV], "command set identifier among the descriptors");
    let namespace = controller.identify(0x05, KV, 1);
    assert!(u64::from_le_bytes(namespace[..8].try_into().unwrap()) > 0, "NSZE");
    assert_ne!(namespace[48..64], [0; 16], "NGUID");
    let independent = controller.identify(0x08, 0, 1);
    assert_eq!(independent[14] & 1, 1, "NSTAT: ready");
    let (answer, bytes) = controller.try_identify(0x05, KV, 2);
    assert!(answer.status != 0 || bytes.iter().all(|byte| *byte == 0), "a namespace that is not there is told of");
    let (answer, _) = controller.try_identify(0x05, KV, 1 << 20);
    assert_eq!(answer.status, 0x0B, "a namespace that cannot be");
    let (answer, _) = controller.try_identify(0xFE, 0, 0);
    assert_eq!(answer.status, 0x02, "an unknown CNS is an invalid field");
}

#[test]
fn admin_commands_that_linux_sends_are_answered() {
    let daemon = Daemon::start(Setup::default());
    let mut controller = Controller::open(&daemon.home.controller_socket(), 16 << 20);
    // Set Features, number of queues: as many as there are, at least one.
    let answer = controller.admin(Command::new(0x09, 0).dword(10, 0x07).dword(11, 0x001F_001F));
    assert_eq!(answer.status, 0);
    let mut queue = controller.create_queue(1, 16);
    let late = controller.admin(Command::new(0x09, 0).dword(10, 0x07).dword(11, 0x001F_001F));
    assert_eq!(late.status, 0x0C, "too late once there are queues");
    assert_eq!(controller.run(&mut queue, Command::of_key(kv::EXIST, 1, b"nothing")).status, 0x87);
    let answer = controller.admin(Command::new(0x0A, 0).dword(10, 0x07));
    assert_eq!(answer.status, 0);
    // Log pages: error, health, effects of the key value command set.
    for (page, set) in [(0x01, 0u32), (0x02, 0), (0x05, 1 << 24)] {
        let place = controller.allocate(PAGE);
        let (first, second) = controller.prp(place, if page == 5 { 4096 } else { 512 });
        let dwords = if page == 5 { 1023 } else { 127 };
        let log = Command::new(0x02, 0xFFFF_FFFF).dword(10, page | dwords << 16).dword(14, set).prp(first, second);
        assert_eq!(controller.admin(log).status, 0, "log page {page:#x}");
        if page == 5 {
            let mut effects = vec![0; 4096];
            controller.memory.read(place, &mut effects);
            for opcode in [kv::STORE, kv::RETRIEVE, kv::DELETE, kv::EXIST, kv::LIST] {
                assert_eq!(word(&effects, 1024 + 4 * usize::from(opcode)) & 1, 1, "opcode {opcode:#x} is supported");
            }
        }
    }
    assert_eq!(controller.admin(Command::new(0x18, 0)).status, 0, "Keep Alive");
    assert_eq!(controller.admin(Command::new(0x7F, 0)).status, 0x01, "an unknown opcode");
    let answer = controller.admin(Command::new(0x08, 0).dword(10, 0x0001 | 0x1234 << 16));
    assert_eq!((answer.status, answer.dword0 & 1), (0, 1), "Abort of a command that is not there aborts nothing");
}

#[test]
fn values_go_in_and_out_by_prp_lists_of_every_shape() {
    let daemon = Daemon::start(Setup::default());
    let (mut controller, mut queue) = open(&daemon);
    let base = controller.allocate(8 << 20);
    let mut number = 0;
    for offset in [0, 4, 64, 4092] {
        for bytes in [1, 512, 4096, 4097, 8192, 8193, 65_536, 1 << 20, (1 << 20) + 12, 2_200_000] {
            number += 1;
            let key = [&b"sixteen bytes"[..], &[number, 0, 1]].concat();
            let stored = noise(number.into(), bytes);
            controller.memory.write(base + offset, &stored);
            let (first, second) = controller.prp(base + offset, bytes);
            let store = Command::of_key(kv::STORE, 1, &key).dword(10, bytes as u32).prp(first, second);
            assert_eq!(controller.run(&mut queue, store).status, 0, "{bytes} bytes at offset {offset}");
            let into = base + (4 << 20) + (4096 - offset) % 4096;
            controller.memory.write(into, &vec![0; bytes]);
            let (first, second) = controller.prp(into, bytes);
            let retrieve = Command::of_key(kv::RETRIEVE, 1, &key).dword(10, bytes as u32).prp(first, second);
            let answer = controller.run(&mut queue, retrieve);
            assert_eq!((answer.status, answer.dword0), (0, bytes as u32), "{bytes} bytes at offset {offset}");
            let mut found = vec![0; bytes];
            controller.memory.read(into, &mut found);
            assert_eq!(first_difference(&found, &stored), None, "{bytes} bytes at offset {offset}");
        }
    }
}

#[test]
fn values_go_in_and_out_by_sgl() {
    let daemon = Daemon::start(Setup::default());
    let (mut controller, mut queue) = open(&daemon);
    let base = controller.allocate(2 << 20);
    let list = controller.allocate(PAGE);
    let stored = noise(5, 100_000);
    controller.memory.write(base, &stored);
    let store =
        Command::of_key(kv::STORE, 1, b"by one block").dword(10, 100_000).sgl(controller.address(base), 100_000, 0x00);
    assert_eq!(controller.run(&mut queue, store).status, 0);
    // Three data blocks of odd lengths, in a last segment.
    let blocks = [(1 << 20, 30_001u32), ((1 << 20) + 40_000, 60_000), ((1 << 20) + 110_000, 9_999)];
    for (index, (offset, bytes)) in blocks.iter().enumerate() {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&controller.address(base + offset).to_le_bytes());
        descriptor[8..12].copy_from_slice(&bytes.to_le_bytes());
        controller.memory.write(list + 16 * index, &descriptor);
    }
    let retrieve =
        Command::of_key(kv::RETRIEVE, 1, b"by one block").dword(10, 100_000).sgl(controller.address(list), 48, 0x30);
    let answer = controller.run(&mut queue, retrieve);
    assert_eq!((answer.status, answer.dword0), (0, 100_000));
    let mut found = Vec::new();
    for (offset, bytes) in blocks {
        let mut piece = vec![0; bytes as usize];
        controller.memory.read(base + offset, &mut piece);
        found.extend(piece);
    }
    assert_eq!(first_difference(&found, &stored), None);
}

#[test]
fn keys_of_every_length_are_keys_of_their_own() {
    let daemon = Daemon::start(Setup::default());
    let (mut controller, mut queue) = open(&daemon);
    let place = controller.allocate(PAGE);
    let (first, _) = controller.prp(place, 100);
    // "abcde", "abcde\0", ... are told apart although their padded bytes are equal.
    let mut key = b"abcde".to_vec();
    let mut keys = Vec::new();
    while key.len() <= 16 {
        keys.push(key.clone());
        key.push(0);
    }
    keys.extend([b"x".to_vec(), b"sixteen byte key".to_vec()]);
    for key in &keys {
        let exist = Command::of_key(kv::EXIST, 1, key);
        assert_eq!(controller.run(&mut queue, exist).status, 0x87, "{key:?} before it was stored");
        controller.memory.write(place, &[key.len() as u8; 100]);
        let store = Command::of_key(kv::STORE, 1, key).dword(10, 100).prp(first, 0);
        assert_eq!(controller.run(&mut queue, store).status, 0, "{key:?}");
    }
    for key in &keys {
        let retrieve = Command::of_key(kv::RETRIEVE, 1, key).dword(10, 100).prp(first, 0);
        let answer = controller.run(&mut queue, retrieve);
        assert_eq!((answer.status, answer.dword0), (0, 100), "{key:?}");
        let mut found = [0; 100];
        controller.memory.read(place, &mut found);
        assert_eq!(found, [key.len() as u8; 100], "{key:?}");
    }
    let five = Command::of_key(kv::DELETE, 1, b"abcde");
    assert_eq!(controller.run(&mut queue, five).status, 0);
    assert_eq!(controller.run(&mut queue, five).status, 0x87);
    assert_eq!(controller.run(&mut queue, Command::of_key(kv::EXIST, 1, b"abcde\0")).status, 0);
    let empty = Command::new(kv::EXIST, 1);
    assert_eq!(controller.run(&mut queue, empty).status, 0x86, "a key of no bytes");
    let long = empty.dword(11, 17);
    assert_eq!(controller.run(&mut queue, long).status, 0x86, "a key of 17 bytes");
}

#[test]
fn statuses_are_those_of_the_specification() {
    let daemon = Daemon::start(Setup::default().namespace("tests,max-value=64K"));
    let (mut controller, mut queue) = open(&daemon);
    let place = controller.allocate(128 << 10);
    let (first, second) = controller.prp(place, 65_537);
    let too_long = Command::of_key(kv::STORE, 1, b"k").dword(10, 65_537).prp(first, second);
    assert_eq!(controller.run(&mut queue, too_long).status, 0x85);
    let (first, _) = controller.prp(place, 100);
    let store = Command::of_key(kv::STORE, 1, b"k").dword(10, 100).prp(first, 0);
    assert_eq!(controller.run(&mut queue, store.options(0b01)).status, 0x87, "must exist, and does not");
    assert_eq!(controller.run(&mut queue, store.options(0b10)).status, 0);
    assert_eq!(controller.run(&mut queue, store.options(0b10)).status, 0x89, "must not exist, and does");
    assert_eq!(controller.run(&mut queue, store.options(0b01)).status, 0);
    assert_eq!(controller.run(&mut queue, store.options(0b11)).status, 0x02, "both conditions contradict");
    assert_eq!(controller.run(&mut queue, Command::of_key(kv::EXIST, 7, b"k")).status, 0x0B, "wrong namespace");
    assert_eq!(controller.run(&mut queue, Command::of_key(kv::EXIST, 0, b"k")).status, 0x0B, "no namespace");
    assert_eq!(controller.run(&mut queue, Command::of_key(0x7E, 1, b"k")).status, 0x01, "unknown opcode");
    let short = Command::of_key(kv::RETRIEVE, 1, b"k").dword(10, 10).prp(first, 0);
    let answer = controller.run(&mut queue, short);
    assert_eq!((answer.status, answer.dword0), (0, 100), "the whole length, though the buffer holds 10 bytes");
}

#[test]
fn queues_can_be_deleted_and_made_again_and_the_controller_reset() {
    let daemon = Daemon::start(Setup::default());
    let (mut controller, queue) = open(&daemon);
    assert_eq!(controller.delete_queue(&queue), (0, 0));
    let mut queue = controller.create_queue(1, 8);
    let exist = Command::of_key(kv::EXIST, 1, b"nothing");
    for _ in 0..50 {
        assert_eq!(controller.run(&mut queue, exist).status, 0x87);
    }
    // CC.EN to 0, then the same device from the start.
    controller.device.region_write(0, 0x14, &0u32.to_le_bytes()).unwrap();
    e2e::await_that("CSTS.RDY goes", || controller.status().unwrap() & 1 == 0);
    drop(controller);
    let (mut controller, mut queue) = open(&daemon);
    assert_eq!(controller.run(&mut queue, exist).status, 0x87);
}

#[test]
fn interrupts_come_by_eventfd() {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    let daemon = Daemon::start(Setup::default());
    let mut controller = Controller::open(&daemon.home.controller_socket(), 16 << 20);
    let mut events: Vec<_> = (0..2).map(|_| e2e::memory::eventfd()).collect();
    let fds: Vec<_> = events.iter().map(AsRawFd::as_raw_fd).collect();
    // MSI-X (index 2): eventfds (4), trigger (32).
    controller.device.set_irqs(2, 4 | 32, 0, 2, &fds).unwrap();
    let mut queue = controller.create_queue_with_interrupt(1, 16, 1);
    assert_eq!(controller.run(&mut queue, Command::of_key(kv::EXIST, 1, b"nothing")).status, 0x87);
    let mut count = [0; 8];
    e2e::await_that("the eventfd is written", || events[1].read(&mut count).is_ok());
    assert!(u64::from_ne_bytes(count) >= 1);
}
