//! Who may see what, and how much of it.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use e2e::carrier::{self, Carrier, HOST_NQN};
use e2e::nvme::{Command, Controller, kv};
use e2e::{Daemon, Setup, key};
use kvplane::{Address, Client, ConnectOptions, Error, Status};
use serde_json::{Value, json};

const OTHER: &str = "nqn.2026-01.io.kvplane:other";
const HOST: &str = "nqn.2026-01.io.kvplane:somebody";

/// A second subsystem with a listener of its own, to which nobody is attached yet.
fn other_subsystem(daemon: &Daemon) -> Address {
    let place = daemon.home.another_place("other");
    daemon.rpc("nvmf_create_subsystem", json!({ "nqn": OTHER }));
    daemon.rpc("namespace_create", json!({ "name": "others", "nqn": OTHER, "auto_visible": true }));
    daemon.rpc("nvmf_subsystem_add_listener", json!({ "nqn": OTHER, "listen_address": place.listen_address() }));
    place.address(OTHER)
}

fn own_uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid()
}

/// Somebody else and this process, as a subsystem names its hosts: on this machine by user, over a network by NQN.
fn hosts() -> [Value; 2] {
    match carrier::chosen() {
        Carrier::VfioUser => [own_uid() + 1, own_uid()].map(|uid| json!({ "nqn": OTHER, "host": HOST, "uid": uid })),
        _ => [HOST, HOST_NQN].map(|host| json!({ "nqn": OTHER, "host": host })),
    }
}

#[test]
fn a_host_that_is_not_attached_is_refused() {
    let daemon = Daemon::start(Setup::default());
    let address = other_subsystem(&daemon);
    let options = carrier::introduce(ConnectOptions::default());
    let [stranger, own] = hosts();
    let refused = Client::connect(&address, options.clone()).expect_err("default is to deny");
    assert!(matches!(refused, Error::Connect { .. }), "{refused}");
    // Another host does not open the door for this one.
    daemon.rpc("nvmf_subsystem_add_host", stranger);
    Client::connect(&address, options.clone()).expect_err("it is another host that is attached");
    daemon.rpc("nvmf_subsystem_remove_host", json!({ "nqn": OTHER, "host": HOST }));
    daemon.rpc("nvmf_subsystem_add_host", own);
    let mut client = Client::connect(&address, options).expect("this host is attached now");
    client.put(key(1), b"mine").unwrap();
    // The same key of the other tenant's namespace is another key.
    assert_eq!(daemon.client().get(key(1)).unwrap(), None);
}

/// A daemon with a second namespace that no host may see.
fn with_a_secret() -> Daemon {
    let daemon = Daemon::start(Setup::default());
    daemon.rpc(
        "namespace_create",
        json!({ "name": "secret", "nqn": e2e::daemon::DEFAULT_NQN, "auto_visible": false, "hosts": [] }),
    );
    daemon
}

#[test]
fn a_client_is_not_shown_a_namespace_that_is_not_attached() {
    let daemon = with_a_secret();
    let mut client = daemon.client();
    assert_eq!(client.namespaces().unwrap().len(), 1);
    let options = ConnectOptions { namespace: 2, ..ConnectOptions::default() };
    assert!(matches!(daemon.try_client(options), Err(Error::Namespace { .. })));
}

#[test]
fn a_namespace_that_is_not_attached_cannot_be_seen_or_used() {
    if !carrier::is_vfio_user("a_namespace_that_is_not_attached_cannot_be_seen_or_used") {
        return;
    }
    let daemon = with_a_secret();
    let mut controller = Controller::open(&daemon.home.controller_socket(), 16 << 20);
    let mut queue = controller.create_queue(1, 16);
    let active = controller.identify(0x02, 0, 0);
    assert_eq!(active[..12], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "active namespaces");
    for opcode in [kv::STORE, kv::RETRIEVE, kv::EXIST, kv::DELETE, kv::LIST, 0xC1, 0xC3, 0xC5] {
        let place = controller.address(0x8000);
        let vendor = Command::new(opcode, 2).dword(11, u32::from(opcode == 0xC5));
        let command = if opcode < 0x80 { Command::of_key(opcode, 2, b"k") } else { vendor };
        let command = command.dword(10, 16).prp(place, 0);
        assert_eq!(controller.run(&mut queue, command).status, 0x0B, "opcode {opcode:#x}");
    }
}

#[test]
fn a_namespace_that_goes_takes_its_values_with_it() {
    let daemon = Daemon::start(Setup { namespaces: vec!["one".to_owned(), "two".to_owned()], ..Setup::default() });
    let mut one = daemon.client();
    let mut two = daemon.client_with(ConnectOptions { namespace: 2, ..ConnectOptions::default() });
    one.put(key(1), b"of one").unwrap();
    two.put(key(1), b"of two").unwrap();
    daemon.rpc("namespace_delete", json!({ "name": "two" }));
    assert!(matches!(two.get(key(1)), Err(Error::Status(Status::INVALID_NAMESPACE))), "it is gone at once");
    assert_eq!(one.get(key(1)).unwrap().as_deref(), Some(&b"of one"[..]));
    daemon.rpc(
        "namespace_create",
        json!({ "name": "two", "nqn": e2e::daemon::DEFAULT_NQN, "nsid": 2, "auto_visible": true }),
    );
    let mut two = daemon.client_with(ConnectOptions { namespace: 2, ..ConnectOptions::default() });
    assert_eq!(two.get(key(1)).unwrap(), None, "a namespace of the same name does not inherit what was deleted");
}

#[test]
fn a_quota_holds_and_says_81h() {
    const QUOTA: u64 = 16 << 20;
    let namespaces = vec!["small,quota=16M,max-value=1M".to_owned(), "large".to_owned()];
    let daemon = Daemon::start(Setup { namespaces, ..Setup::default() });
    let mut client = daemon.client();
    let value = vec![5; 1 << 20];
    let mut stored = 0;
    let refused = (0..100).find_map(|number| match client.put(key(number), &value) {
        Ok(()) => {
            stored += 1;
            None
        }
        Err(error) => Some(error),
    });
    let refused = refused.expect("the quota never refuses");
    assert!(matches!(refused, Error::Status(Status::CAPACITY_EXCEEDED)), "{refused}");
    assert!((8..=16).contains(&stored), "{stored} MiB of 16 were taken");
    assert!(client.namespaces().unwrap()[0].used_bytes <= QUOTA);
    assert!(client.get(key(0)).unwrap().is_some(), "what was taken stays");
    // Even a shorter value in place of a longer one needs room of its own first: the old one holds until the new one
    // is there.
    let refused = client.put(key(0), &[6; 100]).unwrap_err();
    assert!(matches!(refused, Error::Status(Status::CAPACITY_EXCEEDED)), "{refused}");
    assert!(client.get(key(0)).unwrap() == Some(value.clone()), "a Store that was refused changed the value");
    assert!(client.delete(key(1)).unwrap());
    client.put(key(0), &[6; 100]).expect("there is room");
    assert_eq!(client.get(key(0)).unwrap().as_deref(), Some(&[6; 100][..]));
    client.put(key(1), &value).expect("the longer value made room");
    let mut large = daemon.client_with(ConnectOptions { namespace: 2, ..ConnectOptions::default() });
    for number in 0..30 {
        large.put(key(number), &value).expect("another namespace's quota is its own affair");
    }
}
