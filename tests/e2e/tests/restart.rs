//! Stopping in order and starting again loses nothing, whatever the class.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use e2e::{Daemon, Setup, key, value};

fn lengths() -> impl Iterator<Item = (u64, usize)> {
    (0..600).map(|number| (number, 1 + (number as usize * 977) % 150_000))
}

fn everything_is_there_after(setup: Setup, again: Setup) {
    let mut daemon = Daemon::start(setup);
    let mut client = daemon.client();
    for (number, bytes) in lengths() {
        client.put(key(number), &value(&key(number), 1, bytes)).unwrap();
    }
    for number in (0..600).step_by(3) {
        client.put(key(number), &value(&key(number), 2, 5000)).unwrap();
    }
    for number in (0..600).step_by(5) {
        assert!(client.delete(key(number)).unwrap());
    }
    drop(client);
    daemon.stop();
    daemon.start_again_with(again);
    let mut client = daemon.client();
    for (number, bytes) in lengths() {
        let expected = match number {
            _ if number % 5 == 0 => None,
            _ if number % 3 == 0 => Some(value(&key(number), 2, 5000)),
            _ => Some(value(&key(number), 1, bytes)),
        };
        assert!(client.get(key(number)).unwrap() == expected, "key {number} is not what it was");
    }
    client.put(key(9999), b"and goes on").unwrap();
    assert_eq!(client.get(key(9999)).unwrap().as_deref(), Some(&b"and goes on"[..]));
}

#[test]
fn a_store_of_the_cache_class_is_warm() {
    everything_is_there_after(Setup::default(), Setup::default());
}

#[test]
fn a_store_of_the_durable_class_is_warm() {
    let setup = Setup::default().namespace("tests,class=durable");
    everything_is_there_after(setup.clone(), setup);
}

#[test]
fn a_store_of_two_shards_opens_on_fewer_cores() {
    let two = Setup::default().cpumask("0x3").store("file:{store},size=512M,segment=16M,shards=2");
    everything_is_there_after(two.clone(), two.cpumask("0x1"));
}

#[test]
fn a_second_restart_is_as_warm_as_the_first() {
    let mut daemon = Daemon::start(Setup::default());
    daemon.client().put(key(1), &value(&key(1), 1, 70_000)).unwrap();
    for round in 0..4 {
        daemon.restart();
        let mut client = daemon.client();
        assert!(client.get(key(1)).unwrap() == Some(value(&key(1), 1, 70_000)), "gone after restart {round}");
        client.put(key(100 + round), b"something to recover").unwrap();
    }
}
