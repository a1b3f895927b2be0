//! Clients that got as far as a queue pair, and then misbehave.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use e2e::nvme::{Command, Controller, Queue, kv};
use e2e::values::Dice;
use e2e::{Daemon, Setup, key, value};
use kvplane::{Client, ConnectOptions, Error};

fn start() -> (Daemon, Client) {
    let daemon = Daemon::start(Setup::default());
    let mut bystander = daemon.client();
    bystander.put(key(1), &value(&key(1), 1, 50_000)).unwrap();
    (daemon, bystander)
}

fn survives(daemon: &mut Daemon, bystander: &mut Client) {
    assert!(daemon.is_running(), "the daemon died:\n{}", daemon.log());
    let found = bystander.get(key(1)).unwrap();
    let what = found.as_ref().map_or("missed".to_owned(), |bytes| format!("{} bytes", bytes.len()));
    assert!(found == Some(value(&key(1), 1, 50_000)), "the bystander is harmed: its value is now {what}");
    bystander.put(key(2), b"goes on").unwrap();
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

fn open(daemon: &Daemon) -> (Controller, Queue) {
    let mut controller = Controller::open(&daemon.home.controller_socket(), 16 << 20);
    let queue = controller.create_queue(1, 64);
    (controller, queue)
}

#[test]
fn wild_data_pointers_are_answered_by_a_status() {
    let (mut daemon, mut bystander) = start();
    let (mut controller, mut queue) = open(&daemon);
    let good = controller.allocate(8192);
    let address = controller.address(good);
    let end = controller.address(16 << 20);
    let lists = controller.allocate(4096);
    for word in 0..512 {
        controller.memory.write(lists + 8 * word, &(u64::MAX - 4095).to_le_bytes());
    }
    let chain = controller.allocate(4096);
    // A list that points to itself for ever.
    for word in 0..512 {
        controller.memory.write(chain + 8 * word, &controller.address(chain).to_le_bytes());
    }
    let (lists, chain) = (controller.address(lists), controller.address(chain));
    for opcode in [kv::STORE, kv::RETRIEVE, kv::LIST, 0xC1, 0xC3, 0xC5] {
        for (first, second, bytes) in [
            (0, 0, 4096),
            (u64::MAX, 0, 4096),
            (u64::MAX - 4095, u64::MAX, 8192),
            (end, 0, 4096),
            (end - 4096, end, 8192),
            (address + 1, 0, 4096),
            (address, address + 1, 8192),
            (address, lists, 64 << 10),
            (address, lists + 4088, 64 << 10),
            (address, 0x10, 64 << 10),
            (address, chain, u32::MAX),
            (address, 0, 16 << 20),
        ] {
            let command = Command::of_key(opcode, 1, b"wild").dword(10, bytes).prp(first, second);
            let answer = controller.run(&mut queue, command);
            // A Retrieve of a key that is not there need not look at its pointer.
            let allowed = opcode == kv::RETRIEVE && answer.status == 0x87 || opcode == kv::LIST;
            assert!(answer.status != 0 || allowed, "opcode {opcode:#x}, PRP {first:#x}, {second:#x}, {bytes} bytes");
        }
    }
    // With a value that is there, Retrieve must look.
    let store = Command::of_key(kv::STORE, 1, b"there").dword(10, 8192).prp(address, address + 4096);
    assert_eq!(controller.run(&mut queue, store).status, 0);
    for (first, second) in [(0, 0), (u64::MAX - 4095, 0), (end - 4096, end), (address, 0)] {
        let retrieve = Command::of_key(kv::RETRIEVE, 1, b"there").dword(10, 8192).prp(first, second);
        assert_ne!(controller.run(&mut queue, retrieve).status, 0, "PRP {first:#x}, {second:#x}");
    }
    survives(&mut daemon, &mut bystander);
}

#[test]
fn wild_sgls_are_answered_by_a_status() {
    let (mut daemon, mut bystander) = start();
    let (mut controller, mut queue) = open(&daemon);
    let place = controller.allocate(4096);
    let list = controller.address(place);
    let mut dice = Dice::new(9);
    // A segment that describes itself as the next segment.
    let mut own = [0; 16];
    own[..8].copy_from_slice(&list.to_le_bytes());
    own[8..12].copy_from_slice(&16u32.to_le_bytes());
    own[15] = 0x20;
    controller.memory.write(place, &own);
    for (address, bytes, identifier) in [
        (list, 16, 0x20),
        (list, 16, 0x30),
        (list, 0, 0x30),
        (list, 15, 0x30),
        (list, u32::MAX, 0x30),
        (u64::MAX, 16, 0x30),
        (u64::MAX - 8, 4096, 0x00),
        (0, 4096, 0x00),
        (list, 1, 0x00),
        (list, 4096, 0x40),
        (list, 4096, 0x0F),
        (list, 4096, 0xF0),
    ] {
        let store = Command::of_key(kv::STORE, 1, b"wild").dword(10, 4096).sgl(address, bytes, identifier);
        let status = controller.run(&mut queue, store).status;
        assert_ne!(status, 0, "SGL {address:#x}, {bytes} bytes, {identifier:#x}");
    }
    for _ in 0..500 {
        let mut noise = [0; 256];
        dice.noise(&mut noise);
        controller.memory.write(place, &noise);
        let store = Command::of_key(kv::STORE, 1, b"wild").dword(10, 4096).sgl(list, 256, 0x30);
        controller.run(&mut queue, store);
    }
    survives(&mut daemon, &mut bystander);
}

#[test]
fn random_commands_are_each_answered_once() {
    let (mut daemon, mut bystander) = start();
    let (mut controller, mut queue) = open(&daemon);
    let mut dice = Dice::new(31);
    for _ in 0..5000 {
        let mut bytes = [0; 64];
        dice.noise(&mut bytes);
        if dice.below(2) == 0 {
            // Half of them get far enough to be believed.
            bytes[0] = [1, 2, 6, 0x10, 0x14, 0xC0, 0xC1, 0xC3, 0xC5][dice.below(9) as usize];
            bytes[1] = 0;
            bytes[4..8].copy_from_slice(&1u32.to_le_bytes());
            bytes[44] %= 20;
        }
        controller.run(&mut queue, Command(bytes));
    }
    assert_eq!(controller.poll(&mut queue), None, "a command completed twice");
    survives(&mut daemon, &mut bystander);
}

#[test]
fn random_admin_commands_are_each_answered_once() {
    let (mut daemon, mut bystander) = start();
    let (mut controller, _queue) = open(&daemon);
    let mut dice = Dice::new(32);
    let scratch = controller.allocate(1 << 20);
    for _ in 0..1500 {
        let mut bytes = [0; 64];
        dice.noise(&mut bytes);
        bytes[0] = [0, 1, 2, 4, 5, 6, 8, 9, 10, 0x0D, 0x11, 0x15, 0x18, 0x7F][dice.below(14) as usize];
        bytes[1] = 0;
        let queue = dice.below(70) as u32;
        let command = Command(bytes).dword(1, dice.below(3) as u32).dword(10, queue | (dice.below(300) as u32) << 16);
        let command = command.prp(controller.address(scratch), controller.address(scratch + 8192));
        // Deleting the queue pair in use, or aborting, is fair; an Async Event Request would wait, so it is left out.
        controller.admin(command);
    }
    survives(&mut daemon, &mut bystander);
}

#[test]
fn wild_doorbells_harm_only_their_owner() {
    let (mut daemon, mut bystander) = start();
    for seed in 0..10 {
        let (mut controller, mut queue) = open(&daemon);
        controller.submit(&mut queue, Command::of_key(kv::EXIST, 1, b"k"));
        let mut dice = Dice::new(seed);
        for _ in 0..200 {
            let wild = [u32::MAX, 64, 65, 0x8000_0000, dice.below(1 << 32) as u32][dice.below(5) as usize];
            controller.ring_wildly(dice.below(64) as usize, wild);
        }
        bystander.put(key(3), b"meanwhile").unwrap();
    }
    survives(&mut daemon, &mut bystander);
}

/// Stores with a full queue and never looks at completions. Only this client waits.
#[test]
fn a_client_that_never_reads_its_completions_stalls_only_itself() {
    let (mut daemon, mut bystander) = start();
    let (mut controller, mut queue) = open(&daemon);
    let place = controller.allocate(4096);
    let (first, second) = controller.prp(place, 4096);
    // More commands than completion entries: the submission queue wraps without a completion ever being taken.
    for number in 0..500u32 {
        let store = Command::of_key(kv::STORE, 1, &number.to_le_bytes()).dword(10, 4096).prp(first, second);
        controller.submit(&mut queue, store);
    }
    for number in 10..300 {
        bystander.put(key(number), &value(&key(number), 1, 4096)).unwrap();
        assert!(bystander.get(key(number)).unwrap() == Some(value(&key(number), 1, 4096)));
    }
    drop(controller);
    survives(&mut daemon, &mut bystander);
    no_queue_pairs_but(&daemon, &bystander);
}

/// Only the bystander's queue pairs are left (its admin queue may be counted or not).
fn no_queue_pairs_but(daemon: &Daemon, bystander: &Client) {
    let own = bystander.queues();
    e2e::await_that("the queue pairs of clients that are gone go too", || daemon.queue_pairs() <= own + 1);
}

/// The client's memory shrinks under the daemon while values move in and out of it.
#[test]
fn memory_that_is_cut_short_under_load_kills_nobody() {
    let (mut daemon, mut bystander) = start();
    for round in 0..4 {
        let (mut controller, mut queue) = open(&daemon);
        let place = controller.allocate(8 << 20);
        let odd = controller.address(place) + if round % 2 == 0 { 0 } else { 4 };
        let list = controller.prp(place + if round % 2 == 0 { 0 } else { 4 }, 1 << 20);
        let store =
            |number: u32| Command::of_key(kv::STORE, 1, &number.to_le_bytes()).dword(10, 1 << 20).prp(odd, list.1);
        for number in 0..8 {
            assert_eq!(controller.run(&mut queue, store(number)).status, 0);
        }
        for number in 0..32 {
            let command = if number % 2 == 0 {
                store(number)
            } else {
                Command::of_key(kv::RETRIEVE, 1, &(number % 8).to_le_bytes()).dword(10, 1 << 20).prp(odd, list.1)
            };
            controller.submit(&mut queue, command);
        }
        // The first pages, in which the queues lie, stay: or nothing stays, every other time.
        controller.memory.truncate(if round < 2 { place as u64 + 8192 } else { 0 });
        for number in 20..60 {
            bystander.put(key(number), &value(&key(number), 1, 30_000)).unwrap();
            assert!(bystander.get(key(number)).unwrap() == Some(value(&key(number), 1, 30_000)));
        }
        drop(controller);
        survives(&mut daemon, &mut bystander);
    }
    no_queue_pairs_but(&daemon, &bystander);
}

/// A client dies with many commands under way: everything it had is given back.
#[test]
fn clients_that_die_in_the_middle_leave_nothing_behind() {
    let (mut daemon, mut bystander) = start();
    let descriptors = |daemon: &Daemon| std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let before = descriptors(&daemon);
    // All of them together fill less than half of the store: the bystander's value must not be evicted for them.
    const BYTES: usize = 256 << 10;
    for round in 0..20u32 {
        let (mut controller, mut queue) = open(&daemon);
        let place = controller.allocate(BYTES);
        let (first, second) = controller.prp(place, BYTES);
        for number in 0..40u32 {
            let store = Command::of_key(kv::STORE, 1, &(round * 100 + number).to_le_bytes())
                .dword(10, BYTES as u32)
                .prp(first, second);
            controller.submit(&mut queue, store);
        }
        // The connection ends with the value, as it does when a process is killed.
        drop(controller);
    }
    no_queue_pairs_but(&daemon, &bystander);
    e2e::await_that("descriptors of clients that are gone are closed", || descriptors(&daemon) <= before);
    survives(&mut daemon, &mut bystander);
}

/// Two clients share nothing: what one stores into its own memory never shows in the other's.
#[test]
fn an_address_of_one_client_means_nothing_to_another() {
    let (mut daemon, mut bystander) = start();
    let (mut first, mut queue) = open(&daemon);
    let (mut second, mut other_queue) = open(&daemon);
    let place = first.allocate(4096);
    let other_place = second.allocate(4096);
    assert_eq!(first.address(place), second.address(other_place), "both use one address for their own memory");
    first.memory.write(place, &[0x11; 4096]);
    second.memory.write(other_place, &[0x22; 4096]);
    let address = first.address(place);
    let store = |name: &[u8]| Command::of_key(kv::STORE, 1, name).dword(10, 4096).prp(address, 0);
    assert_eq!(first.run(&mut queue, store(b"first")).status, 0);
    assert_eq!(second.run(&mut other_queue, store(b"second")).status, 0);
    let retrieve = |name: &[u8]| Command::of_key(kv::RETRIEVE, 1, name).dword(10, 4096).prp(address, 0);
    assert_eq!(first.run(&mut queue, retrieve(b"second")).status, 0);
    let mut found = [0; 4096];
    first.memory.read(place, &mut found);
    assert_eq!(found, [0x22; 4096]);
    second.memory.read(other_place, &mut found);
    assert_eq!(found, [0x22; 4096]);
    survives(&mut daemon, &mut bystander);
}

#[test]
fn a_daemon_that_stops_tells_its_clients() {
    let (mut daemon, mut bystander) = start();
    daemon.stop();
    let ended = bystander.get(key(1));
    assert!(matches!(ended, Err(Error::Disconnected | Error::TimedOut | Error::Submit(_))), "{ended:?}");
    daemon.start_again();
    bystander.reconnect().unwrap();
    assert!(bystander.get(key(1)).unwrap() == Some(value(&key(1), 1, 50_000)));
    let options = ConnectOptions { interrupt: true, ..ConnectOptions::default() };
    let mut sleeper = daemon.client_with(options);
    assert!(sleeper.get(key(1)).unwrap() == Some(value(&key(1), 1, 50_000)), "by interrupts");
}
