//! What `kvperf limit` reads in the store's file are the values that the daemon keeps there.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use std::os::unix::fs::FileExt;

use e2e::values::version_of;
use e2e::{Daemon, Setup, value};
use kvperf::limit::live_values;
use kvperf::load::Keys;

#[test]
fn live_values_lie_where_the_records_say() {
    const BYTES: u32 = 65_536;
    let daemon = Daemon::start(Setup::default());
    let mut client = daemon.client();
    let keys = Keys::new(100, 1);
    for number in 0..keys.count() {
        let key = keys.key(number);
        // Superseded values and those of another size must not be taken for live ones.
        client.put(key, &value(&key, 1, 4096)).unwrap();
        client.put(key, &value(&key, 2, BYTES as usize)).unwrap();
        client.put(key, &value(&key, 3, BYTES as usize)).unwrap();
    }
    let found = live_values(&daemon.home.store(), &keys, BYTES).unwrap();
    assert_eq!((found.bytes, found.offsets.len() as u64), (BYTES, keys.count()));
    let file = std::fs::File::open(daemon.home.store()).unwrap();
    let mut all = std::collections::HashSet::new();
    for offset in found.offsets {
        let mut bytes = vec![0; BYTES as usize];
        file.read_exact_at(&mut bytes, offset).unwrap();
        let key = (0..keys.count()).map(|number| keys.key(number)).find(|key| bytes.starts_with(key.bytes())).unwrap();
        assert_eq!(version_of(&key, &bytes), Ok(3));
        all.insert(key);
    }
    assert_eq!(all.len() as u64, keys.count());
}

#[test]
fn values_that_are_not_there_are_missed() {
    let daemon = Daemon::start(Setup::default());
    let mut client = daemon.client();
    let keys = Keys::new(2, 1);
    client.put(keys.key(0), &[1; 4096]).unwrap();
    let error = live_values(&daemon.home.store(), &keys, 4096).unwrap_err().to_string();
    assert!(error.contains("1 of the 2 values"), "{error}");
}
