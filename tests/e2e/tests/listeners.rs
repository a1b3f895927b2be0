//! Listeners on a network: who shares one, when it ends, and what cannot be listened on.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use std::net::{SocketAddr, TcpListener, TcpStream};

use e2e::daemon::DEFAULT_NQN;
use e2e::{Daemon, Setup};
use serde_json::{Value, json};

const OTHER: &str = "nqn.2026-01.io.kvplane:other";

/// An address of this machine at which nobody listens.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn listener(nqn: &str, address: SocketAddr) -> Value {
    let address = json!({ "trtype": "TCP", "traddr": address.ip().to_string(), "trsvcid": address.port().to_string() });
    json!({ "nqn": nqn, "listen_address": address })
}

fn is_open(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

#[test]
fn a_shared_listener_ends_with_its_last_subsystem() {
    let address = free();
    let daemon = Daemon::start(Setup::default().argument("--listen").argument(format!("tcp://{address}")));
    assert!(is_open(address));
    daemon.rpc("nvmf_create_subsystem", json!({ "nqn": OTHER }));
    daemon.rpc("nvmf_subsystem_add_listener", listener(OTHER, address));
    daemon.rpc("nvmf_subsystem_remove_listener", listener(DEFAULT_NQN, address));
    assert!(is_open(address), "the other subsystem is reached there");
    daemon.rpc("nvmf_delete_subsystem", json!({ "nqn": OTHER }));
    e2e::await_that("nobody listens any more", || !is_open(address));
    daemon.rpc("nvmf_subsystem_add_listener", listener("discovery", address));
    assert!(is_open(address), "the discovery subsystem may listen alone");
    let listeners = daemon.rpc("nvmf_subsystem_get_listeners", json!({ "nqn": "discovery" }));
    assert_eq!(listeners[0]["address"]["trsvcid"], address.port().to_string());
}

#[test]
fn the_log_says_when_nobody_or_anybody_may_connect() {
    let addresses = [free(), free(), free()];
    for (address, more, told) in [
        (addresses[0], &[][..], Some("nobody may connect")),
        (addresses[1], &["--allow-any-host"], Some("anybody who can reach")),
        (addresses[2], &["--host", "nqn.2026-01.io.kvplane:gpu1"], None),
    ] {
        let setup = Setup::default().argument("--listen").argument(format!("tcp://{address}"));
        let daemon = Daemon::start(more.iter().fold(setup, |setup, argument| setup.argument(argument)));
        let log = daemon.log();
        for warning in ["nobody may connect", "anybody who can reach"] {
            assert_eq!(log.contains(warning), told == Some(warning), "{more:?}: {log}");
        }
    }
}

#[test]
fn what_cannot_be_listened_on_says_why() {
    let daemon = Daemon::start(Setup::default());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = |address| daemon.try_rpc("nvmf_subsystem_add_listener", listener(DEFAULT_NQN, address)).unwrap_err();
    let error = refused(taken.local_addr().unwrap());
    assert!(error.code == i64::from(-libc::EADDRINUSE) && error.message.contains("port free"), "{error:?}");
    // An address of documentation (RFC 5737), which no machine has.
    let error = refused("192.0.2.1:4420".parse().unwrap());
    assert_eq!(error.code, i64::from(-libc::EADDRNOTAVAIL), "{error:?}");
    let subsystem = daemon.rpc("nvmf_get_subsystems", json!({ "nqn": DEFAULT_NQN }));
    assert_eq!(subsystem[0]["listen_addresses"].as_array().unwrap().len(), 1, "only the folder: {subsystem}");
    let ended = e2e::daemon::Home::new()
        .run_to_end(&Setup::default().argument("--listen").argument(format!("tcp://{}", taken.local_addr().unwrap())));
    assert!(ended.code == Some(8) && ended.stderr.contains("port free"), "{ended:?}");
}
