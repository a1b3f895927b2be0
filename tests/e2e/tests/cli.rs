//! `kvplane` in the hands of people and scripts.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

use e2e::carrier::HOST_NQN;
use e2e::{Daemon, Setup, key, value};

fn kvplane(daemon: &Daemon) -> Command {
    let mut command = Command::new(e2e::binaries::kvplane());
    command.env("KVPLANE_CONNECT", daemon.address().to_string()).env("KVPLANE_HOST_NQN", HOST_NQN);
    command.env("KVPLANE_RPC_SOCKET", daemon.home.rpc_socket());
    command
}

fn run(daemon: &Daemon, arguments: &[&str]) -> Output {
    kvplane(daemon).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

#[test]
fn values_by_hand() {
    let daemon = Daemon::start(Setup::default());
    let (from, into) = (daemon.home.file("from"), daemon.home.file("into"));
    let bytes = value(&key(1), 1, 300_001);
    std::fs::write(&from, &bytes).unwrap();
    assert_eq!(code(&run(&daemon, &["exists", "text:hello"])), 1);
    assert_eq!(code(&run(&daemon, &["get", "text:hello", "-o", into.to_str().unwrap()])), 1);
    assert!(!into.exists(), "a miss made a file");
    assert_eq!(code(&run(&daemon, &["put", "text:hello", from.to_str().unwrap(), "--checksum"])), 0);
    assert_eq!(code(&run(&daemon, &["exists", "text:hello"])), 0);
    assert_eq!(code(&run(&daemon, &["get", "text:hello", "-o", into.to_str().unwrap(), "--checksum"])), 0);
    assert!(std::fs::read(&into).unwrap() == bytes, "other bytes came back");
    let shown = run(&daemon, &["get", "68656c6c6f0000000000000000000000"]);
    assert!(code(&shown) == 0 && shown.stdout == bytes, "the same key in hexadecimal");
    assert_eq!(code(&run(&daemon, &["put", "text:hello", from.to_str().unwrap(), "--if-absent"])), 1);
    let mut put = kvplane(&daemon).args(["put", "text:world"]).stdin(Stdio::piped()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(b"from standard input").unwrap();
    assert!(put.wait().unwrap().success());
    assert_eq!(run(&daemon, &["get", "text:world"]).stdout, b"from standard input");
    assert_eq!(code(&run(&daemon, &["lookup", "text:hello", "text:world"])), 0);
    let lookup = run(&daemon, &["lookup", "--json", "text:hello", "text:nothing", "text:world"]);
    assert_eq!(code(&lookup), 1, "not all of the chain is there");
    let lookup: serde_json::Value = serde_json::from_slice(&lookup.stdout).unwrap();
    assert!(lookup.to_string().contains("300001"), "{lookup}");
    assert_eq!(code(&run(&daemon, &["rm", "text:hello"])), 0);
    assert_eq!(code(&run(&daemon, &["rm", "text:hello"])), 1);
}

#[test]
fn calls_of_the_control_socket() {
    let daemon = Daemon::start(Setup::default());
    let version = run(&daemon, &["rpc", "spdk_get_version"]);
    assert!(code(&version) == 0 && String::from_utf8_lossy(&version.stdout).contains("kvplane"), "{version:?}");
    let list = run(&daemon, &["rpc"]);
    assert!(code(&list) == 0 && String::from_utf8_lossy(&list.stdout).contains("framework_get_reactors"), "{list:?}");
    assert_eq!(code(&run(&daemon, &["rpc", "log_set_level", "--level", "DEBUG"])), 0);
    assert!(String::from_utf8_lossy(&run(&daemon, &["rpc", "log_get_level"]).stdout).contains("DEBUG"));
    let help = run(&daemon, &["rpc", "namespace_create", "--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("quota"), "{help:?}");
    let made = run(
        &daemon,
        &["rpc", "namespace_create", "--name", "more", "--nqn", e2e::daemon::DEFAULT_NQN, "--quota-bytes", "67108864"],
    );
    assert_eq!(code(&made), 0, "{made:?}");
    let refused = run(&daemon, &["rpc", "no_such_method"]);
    assert!([2, 3].contains(&code(&refused)) && !refused.stderr.is_empty(), "{refused:?}");
}

#[test]
fn mistakes_have_codes_and_clear_lines() {
    let daemon = Daemon::start(Setup::default());
    for (arguments, expected) in [
        (&["get", "not a key"][..], 2),
        (&["get", "text:seventeen bytes.."], 2),
        (&["fly"], 2),
        (&["get", "text:k", "--namespace", "0"], 2),
        (&["get", "text:k", "--namespace", "9"], 3),
        (&["get", "text:k", "--connect", "vfio-user:/nowhere/at/all"], 3),
        (&["rpc", "-s", "/nowhere/at/all", "spdk_get_version"], 3),
        (&["put", "text:k", "/no/such/file"], 3),
    ] {
        let ended = run(&daemon, arguments);
        assert_eq!(code(&ended), expected, "{arguments:?}: {ended:?}");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert!(!stderr.is_empty() && !stderr.contains("panicked"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_store_is_inspected_without_the_daemon() {
    let mut daemon = Daemon::start(Setup::default());
    let mut client = daemon.client();
    for number in 0..20 {
        client.put(key(number), &value(&key(number), 1, 10_000)).unwrap();
    }
    drop(client);
    daemon.stop();
    let store = daemon.home.store();
    let store = store.to_str().unwrap();
    let shown = run(&daemon, &["store", "inspect", store]);
    assert_eq!(code(&shown), 0, "{shown:?}");
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(text.to_lowercase().contains("superblock") || text.to_lowercase().contains("segment"), "{text}");
    let json = run(&daemon, &["store", "inspect", store, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(json.is_object(), "{json}");
    let other = daemon.home.file("other");
    std::fs::write(&other, vec![1; 1 << 20]).unwrap();
    let refused = run(&daemon, &["store", "inspect", other.to_str().unwrap()]);
    assert!(code(&refused) == 3 && !refused.stderr.is_empty(), "{refused:?}");
}
