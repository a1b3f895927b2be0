//! A drive that is reset by its operator again and again while it is written to and read from.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use e2e::values::version_of;
use e2e::{Daemon, Setup, await_that, key, value};
use serde_json::{Value, json};

/// Clients at once, each with keys of its own.
const CLIENTS: u64 = 2;
const KEYS: u64 = 16;
const RESETS: u64 = 8;
/// Commands that end between two resets, at the least: one that several resets hit is given up at last.
const BETWEEN: u64 = 2 * CLIENTS * KEYS;

/// Aligned and not, one device command and several.
fn length_of(number: u64) -> usize {
    [4096, 65_536, 200_001, 513][(number % 4) as usize]
}

fn check_all(daemon: &Daemon, client: u64, version: u64) {
    let mut session = daemon.client();
    for number in client * KEYS..(client + 1) * KEYS {
        let found = session.get(key(number)).unwrap().unwrap_or_else(|| panic!("key {number} of {version} is lost"));
        assert_eq!((found.len(), version_of(&key(number), &found)), (length_of(number), Ok(version)), "key {number}");
    }
}

fn controller(daemon: &Daemon) -> Value {
    daemon.rpc("bdev_nvme_get_controllers", json!({}))[0]["ctrlrs"][0].clone()
}

#[test]
#[ignore = "needs KVPLANE_E2E_DEVICE with a drive of 512 MiB (tests/testbed/e2e.sh)"]
fn resets_under_load_lose_nothing_acknowledged_and_mix_nothing_up() {
    let mut daemon = Daemon::start(Setup::default().namespace("tests,class=durable"));
    let (ended, enough) = (AtomicU64::new(0), AtomicBool::new(false));
    // Stores every value anew and reads them all back, round after round; the version stored last.
    let load = |client: u64| {
        let mut session = daemon.client();
        let keys = || client * KEYS..(client + 1) * KEYS;
        for version in 1.. {
            for number in keys() {
                session.put(key(number), &value(&key(number), version, length_of(number))).unwrap();
                ended.fetch_add(1, Ordering::Relaxed);
            }
            for number in keys() {
                let found = session.get(key(number)).unwrap().unwrap_or_else(|| panic!("key {number} is lost"));
                let seen = (found.len(), version_of(&key(number), &found));
                assert_eq!(seen, (length_of(number), Ok(version)), "key {number}");
                ended.fetch_add(1, Ordering::Relaxed);
            }
            if enough.load(Ordering::Relaxed) {
                return version;
            }
        }
        unreachable!("versions do not end")
    };
    let versions: Vec<u64> = std::thread::scope(|scope| {
        let load = &load;
        let loads: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || load(client))).collect();
        for _ in 0..RESETS {
            let before = ended.load(Ordering::Relaxed);
            let goes_on = || ended.load(Ordering::Relaxed) >= before + BETWEEN;
            await_that("the load went on", || goes_on() || loads.iter().any(|load| load.is_finished()));
            assert_eq!(daemon.rpc("bdev_nvme_reset_controller", json!({ "name": "Nvme0" })), json!(true));
        }
        enough.store(true, Ordering::Relaxed);
        loads.into_iter().map(|load| load.join().unwrap()).collect()
    });
    let after = controller(&daemon);
    assert_eq!((&after["state"], &after["stray_completions"]), (&json!("enabled"), &json!(0)), "{after:#}");
    assert!(after["resets"].as_u64() >= Some(RESETS), "{after:#}");
    daemon.kill9();
    daemon.start_again();
    for (client, version) in (0..).zip(versions) {
        check_all(&daemon, client, version);
    }
}
