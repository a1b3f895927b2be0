//! The daemon over NVMe/TCP, on loopback: values, queues, ends.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use std::time::Duration;

use e2e::tcp::{self, HOST_NQN};
use e2e::values::{Dice, first_difference, version_of};
use e2e::{Daemon, Setup, await_that, key, value};
use kvplane::{
    Address, Burst, Checksum, Client, ConnectOptions, Error, NetworkOptions, Outcome, ReconnectPolicy, Request,
    StoreOptions,
};
use serde_json::json;

fn start(setup: impl FnOnce(Setup) -> Setup) -> (Daemon, u16) {
    let port = tcp::free_port();
    (Daemon::start(setup(tcp::setup(port))), port)
}

/// Lengths around every border: of a dword, a block, the capsule's data, a page, and up to `max`.
fn lengths(max: usize) -> Vec<usize> {
    let mut all = vec![1, 2, 3, 5, 63, 100, 300_001, max - 4097, max - 1, max];
    for border in [512, 4096, 8192, 65_536, 1 << 20] {
        all.extend([border - 1, border, border + 1]);
    }
    all
}

#[test]
fn values_of_every_length_come_back_with_and_without_digests() {
    let (daemon, port) = start(|setup| setup.namespace("tests,max-value=4M"));
    for (round, (header, data)) in (0..).zip([(false, false), (true, false), (false, true), (true, true)]) {
        let options = ConnectOptions { checksum: Checksum::Verify, ..tcp::options(header, data) };
        let mut client = Client::connect(&tcp::address(port), options).unwrap();
        let lengths = lengths(client.namespace().max_value_bytes as usize);
        for (number, bytes) in (0..).zip(&lengths) {
            client.put(key(number), &value(&key(number), round, *bytes)).unwrap();
        }
        for (number, bytes) in (0..).zip(&lengths) {
            let found = client.get(key(number)).unwrap().unwrap_or_else(|| panic!("{bytes} bytes are gone"));
            assert_eq!(first_difference(&found, &value(&key(number), round, *bytes)), None, "{bytes} bytes");
        }
        assert_eq!((client.stats().corrupt, client.stats().retries), (0, 0));
    }
    // What came by one carrier goes by another.
    let mut local = daemon.client();
    let found = local.get(key(0)).unwrap().unwrap();
    assert_eq!(found, value(&key(0), 3, 1));
    local.put(key(0), &value(&key(0), 9, 70_000)).unwrap();
    assert_eq!(version_of(&key(0), &tcp::client(port).get(key(0)).unwrap().unwrap()), Ok(9));
}

#[test]
fn every_command_works() {
    let (_daemon, port) = start(|setup| setup);
    let mut client = tcp::client(port);
    for number in 0..50 {
        client.put(key(number), &value(&key(number), 1, 3000)).unwrap();
    }
    assert!(!client.put_with(key(1), b"x", StoreOptions { must_not_exist: true, ..StoreOptions::default() }).unwrap());
    assert_eq!(client.get(key(1000)).unwrap(), None);
    assert!(client.delete(key(7)).unwrap() && !client.delete(key(7)).unwrap() && !client.exists(key(7)).unwrap());
    let chain: Vec<_> = (0..50).map(key).collect();
    assert_eq!(client.lookup_prefix(&chain).unwrap(), 7);
    let states = client.lookup_state(&chain).unwrap();
    assert!(states.iter().enumerate().all(|(at, state)| state.present == (at != 7)));
    assert!(states.iter().enumerate().all(|(at, state)| at == 7 || state.value_bytes == 3000));
    let (hits, lease) = client.lookup_prefix_leased(&chain, Duration::from_secs(5)).unwrap();
    assert_eq!(hits, 7);
    client.release(lease.unwrap()).unwrap();
    assert_eq!((client.stats().failed, client.stats().unknown_completions), (0, 0));
}

/// Commands at depth over every queue, with values of any length; each says in the end whose bytes it holds.
fn storm(client: &mut Client, commands: u64, seed: u64) {
    const PLACES: u64 = 64;
    const ROOM: u64 = 128 << 10;
    let memory = client.register((PLACES * ROOM) as usize).unwrap();
    let mut dice = Dice::new(seed);
    let mut free: Vec<u64> = (0..PLACES).collect();
    let mut events = Burst::new();
    let (mut sent, mut ended, mut hits) = (0, 0, 0);
    while ended < commands {
        while sent < commands
            && let Some(place) = free.pop()
        {
            let (number, offset) = (dice.below(40), place * ROOM + dice.below(64));
            let key = key(number);
            let outcome = if dice.below(2) == 0 {
                let bytes = 24 + dice.below(100_000) as usize;
                memory.write(offset, &value(&key, sent, bytes)).unwrap();
                let buffer = memory.slice(offset, bytes as u32).unwrap();
                client.submit(Request::Store { key, buffer, options: StoreOptions::default() }, place << 32)
            } else {
                let buffer = memory.slice(offset, (ROOM - 64) as u32).unwrap();
                client.submit(Request::Retrieve { key, buffer }, (place << 32) | (offset % ROOM) << 8 | number | 128)
            };
            if outcome.is_err() {
                free.push(place);
                break;
            }
            sent += 1;
        }
        client.wait(e2e::PATIENCE).unwrap();
        client.poll(&mut events);
        for event in events.drain(..) {
            ended += 1;
            let place = event.user >> 32;
            free.push(place);
            match event.outcome {
                Outcome::Stored | Outcome::Missing => {}
                Outcome::Retrieved { bytes, value_bytes, .. } => {
                    assert_eq!(bytes, value_bytes);
                    let mut found = vec![0; bytes as usize];
                    let offset = (event.user >> 8) & 0xFF_FFFF;
                    memory.read(place * ROOM + offset, &mut found).unwrap();
                    version_of(&key(event.user & 127), &found).unwrap();
                    hits += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(hits > commands / 4, "{hits} hits");
    client.unregister(&memory).unwrap();
}

#[test]
fn two_cores_serve_a_queue_each_and_interleave_values_of_any_length() {
    let (daemon, port) = start(|setup| setup.cpumask("0x3"));
    for (seed, interrupt, digests) in [(1, false, false), (2, true, true)] {
        let options = ConnectOptions { interrupt, queue_depth: 64, ..tcp::options(digests, digests) };
        let mut client = Client::connect(&tcp::address(port), options).unwrap();
        assert_eq!(client.queues(), 2);
        assert_eq!(daemon.queue_pairs(), 2);
        storm(&mut client, 1500, seed);
        drop(client);
        await_that("the queues are gone", || daemon.queue_pairs() == 0);
    }
}

#[test]
fn a_client_finds_its_values_again_after_the_daemon_was_restarted_or_killed() {
    let (mut daemon, port) = start(|setup| setup.namespace("tests,class=durable"));
    let policy =
        ReconnectPolicy::Automatic { first_delay: Duration::from_millis(1), max_delay: Duration::from_millis(50) };
    let mut manual = tcp::client(port);
    let options = ConnectOptions { reconnect: policy, ..tcp::options(true, true) };
    let mut automatic = Client::connect(&tcp::address(port), options).unwrap();
    let memory = manual.register(1 << 20).unwrap();
    for round in 0..2 {
        let stored = value(&key(round), round, 200_000);
        automatic.put(key(round), &stored).unwrap();
        if round == 0 {
            daemon.restart()
        } else {
            (daemon.kill9(), daemon.start_again()).1
        }
        manual.submit(Request::Exist { key: key(round) }, 0).unwrap();
        let mut events = Burst::new();
        while manual.poll(&mut events) == 0 {
            let _ = manual.wait(e2e::PATIENCE);
        }
        assert_eq!(events[0].outcome, Outcome::Failed(Error::Disconnected));
        manual.reconnect().unwrap();
        let buffer = memory.slice(100, 300_000).unwrap();
        manual.submit(Request::Retrieve { key: key(round), buffer }, 1).unwrap();
        let mut events = Burst::new();
        while manual.poll(&mut events) == 0 {
            manual.wait(e2e::PATIENCE).unwrap();
        }
        assert!(matches!(events[0].outcome, Outcome::Retrieved { bytes: 200_000, .. }), "{:?}", events[0].outcome);
        let mut found = vec![0; 200_000];
        memory.read(100, &mut found).unwrap();
        assert_eq!(first_difference(&found, &stored), None);
        assert_eq!(automatic.get(key(round)).unwrap().as_deref(), Some(&stored[..]));
        assert!(automatic.stats().reconnects > round);
    }
}

#[test]
fn only_hosts_that_are_attached_come_in() {
    let (daemon, port) = start(|setup| setup);
    let as_host = |nqn: &str| {
        let network = NetworkOptions { host_nqn: Some(nqn.into()), ..NetworkOptions::default() };
        Client::connect(&tcp::address(port), ConnectOptions { network, ..ConnectOptions::default() })
    };
    let refused = as_host("nqn.2026-01.io.kvplane:stranger").unwrap_err().to_string();
    assert!(refused.contains("add the host to the subsystem"), "{refused}");
    let elsewhere = Address::Tcp { host: "localhost".into(), port, nqn: "nqn.2026-01.io.kvplane:none".into() };
    let refused = Client::connect(&elsewhere, tcp::options(false, false)).unwrap_err().to_string();
    assert!(refused.contains("no subsystem nqn.2026-01.io.kvplane:none"), "{refused}");
    let mut client = as_host(HOST_NQN).unwrap();
    client.put(key(1), b"mine").unwrap();
    let params = json!({ "nqn": e2e::daemon::DEFAULT_NQN, "host": HOST_NQN });
    daemon.rpc("nvmf_subsystem_remove_host", params);
    await_that("the host is sent away", || client.get(key(1)).is_err());
    assert!(as_host(HOST_NQN).is_err());
}

#[test]
fn a_host_that_falls_silent_is_sent_away_and_may_come_again() {
    let (daemon, port) = start(|setup| setup);
    let mut options = tcp::options(false, false);
    options.network.keep_alive = Duration::from_millis(300);
    let mut client = Client::connect(&tcp::address(port), options).unwrap();
    client.put(key(1), b"kept").unwrap();
    assert_eq!(daemon.queue_pairs(), 1);
    // A client that is not polled sends no Keep Alive.
    await_that("the keep alive timer expires", || daemon.queue_pairs() == 0);
    assert_eq!(client.get(key(1)), Err(Error::Disconnected));
    client.reconnect().unwrap();
    // One that is polled does, so that its timer, which the target rounds up to a second, never expires.
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        assert_eq!(client.get(key(1)).unwrap().as_deref(), Some(&b"kept"[..]));
    }
    assert_eq!(client.stats().disconnects, 1);
}

#[test]
fn the_programs_take_tcp_addresses() {
    let (_daemon, port) = start(|setup| setup);
    let address = format!("tcp://127.0.0.1:{port}");
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(e2e::binaries::kvplane());
        command.args(arguments).args(["--connect", &address, "--host-nqn", HOST_NQN, "--digests"]);
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), value(&key(1), 1, 123_457)).unwrap();
    assert_eq!(run(&["put", "text:a", file.path().to_str().unwrap()]).0, Some(0));
    let (code, stdout, stderr) = run(&["get", "text:a"]);
    assert_eq!((code, first_difference(&stdout, &value(&key(1), 1, 123_457))), (Some(0), None), "{stderr}");
    assert_eq!(run(&["rm", "text:a"]).0, Some(0));
    assert_eq!(run(&["exists", "text:a"]).0, Some(1));
}
