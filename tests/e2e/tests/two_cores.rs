//! Two reactors: keys of both, commands at the wrong one, and lists that span them.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use e2e::carrier;
use e2e::nvme::{Command, Controller, Queue, kv};
use e2e::values::first_difference;
use e2e::{Daemon, Setup, key, value};
use kvplane::Key;

const VENDOR_LOOKUP_PREFIX: u8 = 0xC1;
const VENDOR_RELEASE: u8 = 0xC0;

fn start() -> Daemon {
    Daemon::start(Setup::default().cpumask("0x3").store("file:{store},size=512M,segment=16M,shards=2"))
}

struct Driver {
    controller: Controller,
    queues: Vec<Queue>,
    value: usize,
}

impl Driver {
    fn new(daemon: &Daemon) -> Self {
        let mut controller = Controller::open(&daemon.home.controller_socket(), 64 << 20);
        let queues = vec![controller.create_queue(1, 64), controller.create_queue(2, 64)];
        let value = controller.allocate(1 << 20);
        Self { controller, queues, value }
    }

    fn store(&mut self, queue: usize, key: &Key, bytes: &[u8]) -> u16 {
        self.controller.memory.write(self.value, bytes);
        let (first, second) = self.controller.prp(self.value, bytes.len());
        let store = Command::of_key(kv::STORE, 1, key.bytes())
            .dword(10, u32::try_from(bytes.len()).unwrap())
            .prp(first, second);
        self.controller.run(&mut self.queues[queue], store).status
    }

    fn retrieve(&mut self, queue: usize, key: &Key, room: usize) -> Result<Vec<u8>, u16> {
        self.controller.memory.write(self.value, &vec![0; room]);
        let (first, second) = self.controller.prp(self.value, room);
        let retrieve =
            Command::of_key(kv::RETRIEVE, 1, key.bytes()).dword(10, u32::try_from(room).unwrap()).prp(first, second);
        let answer = self.controller.run(&mut self.queues[queue], retrieve);
        if answer.status != 0 {
            return Err(answer.status);
        }
        let mut found = vec![0; answer.dword0 as usize];
        self.controller.memory.read(self.value, &mut found);
        Ok(found)
    }

    fn simple(&mut self, queue: usize, opcode: u8, key: &Key) -> u16 {
        self.controller.run(&mut self.queues[queue], Command::of_key(opcode, 1, key.bytes())).status
    }
}

#[test]
fn a_client_spreads_keys_over_both_cores_and_finds_all() {
    let daemon = start();
    let mut client = daemon.client();
    assert_eq!(client.queues(), 2);
    let keys: Vec<Key> = (0..200).map(key).collect();
    let on_second = keys.iter().filter(|key| client.queue_of(key) == 1).count();
    assert!((50..150).contains(&on_second), "{on_second} of 200 keys belong to the second core");
    for key in &keys {
        client.put(*key, &value(key, 1, 10_000)).unwrap();
    }
    for key in &keys {
        assert!(client.get(*key).unwrap() == Some(value(key, 1, 10_000)), "key {key}");
    }
}

#[test]
fn any_queue_carries_any_key() {
    if !carrier::is_vfio_user("any_queue_carries_any_key") {
        return;
    }
    let daemon = start();
    let mut driver = Driver::new(&daemon);
    for number in 0..64 {
        let key = key(number);
        let (near, far) = ((number % 2) as usize, ((number + 1) % 2) as usize);
        let stored = value(&key, 1, [4096, 65_536, 100, 20_001][number as usize % 4]);
        assert_eq!(driver.simple(near, kv::EXIST, &key), 0x87);
        assert_eq!(driver.store(near, &key, &stored), 0, "key {number}");
        for queue in [near, far] {
            let found = driver.retrieve(queue, &key, 128 << 10).unwrap();
            assert_eq!(first_difference(&found, &stored), None, "key {number} by queue {queue}");
            assert_eq!(driver.simple(queue, kv::EXIST, &key), 0);
        }
        let replaced = value(&key, 2, 8192);
        assert_eq!(driver.store(far, &key, &replaced), 0);
        assert_eq!(driver.retrieve(near, &key, 8192).unwrap(), replaced);
        assert_eq!(driver.simple(far, kv::DELETE, &key), 0);
        assert_eq!(driver.retrieve(near, &key, 8192), Err(0x87));
        assert_eq!(driver.simple(near, kv::DELETE, &key), 0x87);
    }
}

#[test]
fn many_commands_at_the_wrong_core_are_each_answered_once() {
    if !carrier::is_vfio_user("many_commands_at_the_wrong_core_are_each_answered_once") {
        return;
    }
    let daemon = start();
    let mut driver = Driver::new(&daemon);
    for number in 0..32 {
        assert_eq!(driver.store(0, &key(number), &value(&key(number), 1, 4096)), 0);
    }
    for queue in [0, 1] {
        let mut expected = std::collections::BTreeMap::new();
        let mut done = 0;
        for turn in 0..2000u64 {
            let number = turn % 48;
            if expected.len() == 48 {
                e2e::await_that("a command completes", || collect(&mut driver, queue, &mut expected, &mut done));
            }
            let exist = Command::of_key(kv::EXIST, 1, key(number).bytes());
            let cid = driver.controller.submit(&mut driver.queues[queue], exist);
            assert!(expected.insert(cid, if number < 32 { 0 } else { 0x87 }).is_none());
        }
        e2e::await_that("all commands complete", || {
            collect(&mut driver, queue, &mut expected, &mut done);
            expected.is_empty()
        });
        assert_eq!(done, 2000);
        assert_eq!(driver.controller.poll(&mut driver.queues[queue]), None, "a command completed twice");
    }
}

fn collect(
    driver: &mut Driver,
    queue: usize,
    expected: &mut std::collections::BTreeMap<u16, u16>,
    done: &mut u32,
) -> bool {
    let before = *done;
    while let Some(answer) = driver.controller.poll(&mut driver.queues[queue]) {
        assert_eq!(expected.remove(&answer.cid), Some(answer.status), "{answer:?}");
        *done += 1;
    }
    *done > before
}

#[test]
fn lookups_and_leases_span_both_cores() {
    let daemon = start();
    let mut client = daemon.client();
    let keys: Vec<Key> = (0..100).map(key).collect();
    assert!(keys.iter().any(|key| client.queue_of(key) == 0) && keys.iter().any(|key| client.queue_of(key) == 1));
    for key in &keys[..70] {
        client.put(*key, &value(key, 1, 5000)).unwrap();
    }
    client.put(keys[90], &value(&keys[90], 1, 5000)).unwrap();
    assert_eq!(client.lookup_prefix(&keys).unwrap(), 70);
    let states = client.lookup_state(&keys).unwrap();
    let present: Vec<usize> = (0..100).filter(|place| states[*place].present).collect();
    assert_eq!(present, (0..70).chain([90]).collect::<Vec<_>>());
    let (found, lease) = client.lookup_prefix_leased(&keys, e2e::PATIENCE).unwrap();
    assert_eq!(found, 70);
    client.release(lease.expect("a lease on what is there")).unwrap();
}

/// A driver that asks one core for the other's keys, and gives the lease back at neither.
#[test]
fn either_core_answers_for_both_and_takes_leases_back() {
    if !carrier::is_vfio_user("either_core_answers_for_both_and_takes_leases_back") {
        return;
    }
    let daemon = start();
    let mut driver = Driver::new(&daemon);
    let keys: Vec<Key> = (0..100).map(key).collect();
    for key in &keys[..70] {
        assert_eq!(driver.store(0, key, &value(key, 1, 5000)), 0);
    }
    let list: Vec<u8> = keys.iter().flat_map(|key| *key.bytes()).collect();
    for queue in [0, 1] {
        driver.controller.memory.write(driver.value, &list);
        let (first, second) = driver.controller.prp(driver.value, list.len());
        let lookup = Command::new(VENDOR_LOOKUP_PREFIX, 1)
            .dword(10, u32::try_from(list.len()).unwrap())
            .dword(11, 1)
            .dword(12, 30_000)
            .prp(first, second);
        let answer = driver.controller.run(&mut driver.queues[queue], lookup);
        assert_eq!((answer.status, answer.dword0), (0, 70), "by queue {queue}");
        assert_ne!(answer.dword1, 0, "no lease");
        let release = Command::new(VENDOR_RELEASE, 1).dword(10, answer.dword1);
        assert_eq!(
            driver.controller.run(&mut driver.queues[1 - queue], release).status,
            0,
            "release at the other core"
        );
        assert_ne!(driver.controller.run(&mut driver.queues[queue], release).status, 0, "released twice");
    }
}

#[test]
fn list_names_the_keys_of_both_cores() {
    if !carrier::is_vfio_user("list_names_the_keys_of_both_cores") {
        return;
    }
    let daemon = start();
    let mut driver = Driver::new(&daemon);
    let keys: std::collections::BTreeSet<[u8; 16]> = (0..40).map(|number| *key(number).bytes()).collect();
    for number in 0..40 {
        assert_eq!(driver.store(0, &key(number), &value(&key(number), 1, 100)), 0);
    }
    for queue in [0, 1] {
        let (first, second) = driver.controller.prp(driver.value, 4096);
        let list = Command::new(kv::LIST, 1).dword(10, 4096).prp(first, second);
        let answer = driver.controller.run(&mut driver.queues[queue], list);
        assert_eq!(answer.status, 0);
        let mut bytes = vec![0; 4096];
        driver.controller.memory.read(driver.value, &mut bytes);
        let count = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        let mut at = 4;
        let mut listed = std::collections::BTreeSet::new();
        for _ in 0..count {
            let length = usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()));
            assert_eq!(length, 16);
            listed.insert(<[u8; 16]>::try_from(&bytes[at + 2..at + 18]).unwrap());
            at += (2 + length).next_multiple_of(4);
        }
        assert_eq!(listed.len(), count as usize, "a key is listed twice");
        assert_eq!(listed, keys, "by queue {queue}");
    }
}
