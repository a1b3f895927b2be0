//! Who may see what, and how much of it.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use e2e::nvme::{Command, Controller, kv};
use e2e::{Daemon, Setup, key};
use kvplane::{Address, Client, ConnectOptions, Error, Status};
use serde_json::{Value, json};

const OTHER: &str = "nqn.2026-01.io.kvplane:other";
const HOST: &str = "nqn.2026-01.io.kvplane:somebody";

/// A second subsystem with a listener of its own, to which nobody is attached yet.
fn other_subsystem(daemon: &Daemon) -> Address {
    let folder = daemon.home.listen().with_file_name("other");
    std::fs::create_dir_all(&folder).unwrap();
    daemon.rpc("nvmf_create_subsystem", json!({ "nqn": OTHER }));
    daemon.rpc("namespace_create", json!({ "name": "others", "nqn": OTHER, "auto_visible": true }));
    let address = json!({ "trtype": "VFIOUSER", "traddr": folder.to_str().unwrap() });
    daemon.rpc("nvmf_subsystem_add_listener", json!({ "nqn": OTHER, "listen_address": address }));
    Address::parse(&format!("vfio-user:{}", folder.display())).unwrap()
}

fn own_uid() -> Value {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid().into()
}

#[test]
fn a_host_that_is_not_attached_is_refused() {
    let daemon = Daemon::start(Setup::default());
    let address = other_subsystem(&daemon);
    let options = ConnectOptions::default();
    let refused = Client::connect(&address, options.clone()).expect_err("default is to deny");
    assert!(matches!(refused, Error::Connect { .. }), "{refused}");
    // A host of another user does not open the door for this one.
    let host = json!({ "nqn": OTHER, "host": HOST, "uid": own_uid().as_u64().unwrap() + 1 });
    daemon.rpc("nvmf_subsystem_add_host", host);
    Client::connect(&address, options.clone()).expect_err("the host is another user's");
    daemon.rpc("nvmf_subsystem_remove_host", json!({ "nqn": OTHER, "host": HOST }));
    daemon.rpc("nvmf_subsystem_add_host", json!({ "nqn": OTHER, "host": HOST, "uid": own_uid() }));
    let mut client = Client::connect(&address, options).expect("this host is attached now");
    client.put(key(1), b"mine").unwrap();
    // The same key of the other tenant's namespace is another key.
    assert_eq!(daemon.client().get(key(1)).unwrap(), None);
}

#[test]
fn a_namespace_that_is_not_attached_cannot_be_seen_or_used() {
    let daemon = Daemon::start(Setup::default());
    daemon.rpc("nvmf_create_subsystem", json!({ "nqn": OTHER }));
    daemon.rpc(
        "namespace_create",
        json!({ "name": "secret", "nqn": e2e::daemon::DEFAULT_NQN, "auto_visible": false, "hosts": [] }),
    );
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
    let options = ConnectOptions { namespace: 2, ..ConnectOptions::default() };
    assert!(matches!(daemon.try_client(options), Err(Error::Namespace { .. })));
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
