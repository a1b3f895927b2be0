//! Stores that are no file serve too.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use e2e::{Daemon, Setup, key, value};

#[test]
fn a_store_in_memory_serves_and_is_cold_after_a_restart() {
    let mut daemon = Daemon::start(Setup::default().store("ram:256M"));
    let mut client = daemon.client();
    for number in 0..50 {
        client.put(key(number), &value(&key(number), 1, 1 + number as usize * 3001)).unwrap();
    }
    for number in 0..50 {
        let expected = value(&key(number), 1, 1 + number as usize * 3001);
        assert!(client.get(key(number)).unwrap() == Some(expected), "key {number}");
    }
    drop(client);
    daemon.restart();
    assert_eq!(daemon.client().get(key(1)).unwrap(), None);
}

#[test]
fn a_store_that_keeps_nothing_answers_every_command() {
    let daemon = Daemon::start(Setup::default().store("null:256M"));
    let mut client = daemon.client();
    for number in 0..50 {
        client.put(key(number), &value(&key(number), 1, 4096)).unwrap();
        assert!(client.exists(key(number)).unwrap());
        // The bytes are undefined: the device throws them away. The length is the store's business.
        assert_eq!(client.get(key(number)).unwrap().map(|found| found.len()), Some(4096));
    }
    assert!(client.delete(key(0)).unwrap());
    assert!(!client.exists(key(0)).unwrap());
}
