//! A drive with a block that cannot be read and one that cannot be written: whose value it hits is told, and nobody else
//! notices.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use e2e::{Daemon, Setup, key, value};
use kvplane::{Client, ConnectOptions, Error, RetryPolicy, Status};

const BYTES: usize = 512 << 10;
/// So much of the store that both blocks come to hold something, and so little that nothing is evicted.
const KEYS: u64 = 80;

/// Stores every value; the keys that could not be stored.
fn store_all(client: &mut Client) -> Vec<u64> {
    let failed = |number: &u64| match client.put(key(*number), &value(&key(*number), 1, BYTES)) {
        Ok(()) => false,
        Err(Error::Status(status)) if status == Status::INTERNAL_ERROR => true,
        Err(error) => panic!("key {number}: {error}"),
    };
    (0..KEYS).filter(failed).collect()
}

/// Reads every value but those; the keys whose values could not be read.
fn read_all(client: &mut Client, but: &[u64]) -> Vec<u64> {
    let failed = |number: &u64| match client.get(key(*number)) {
        Ok(found) => {
            let held = found.as_ref().map(Vec::len);
            assert!(found == Some(value(&key(*number), 1, BYTES)), "key {number} holds {held:?} bytes, not its own");
            false
        }
        Err(Error::Status(status)) if status == Status::UNRECOVERED_ERROR => true,
        Err(error) => panic!("key {number}: {error}"),
    };
    (0..KEYS).filter(|number| !but.contains(number)).filter(failed).collect()
}

#[test]
#[ignore = "needs KVPLANE_E2E_DEVICE with a drive of 64 MiB that has such blocks (tests/testbed/e2e.sh)"]
fn a_block_that_fails_is_told_to_whom_it_hits_and_harms_nobody_else() {
    let mut daemon = Daemon::start(Setup::default().store("file:{store},size=64M,segment=4M"));
    let options = || ConnectOptions { retry: RetryPolicy::NEVER, ..ConnectOptions::default() };
    let mut client = daemon.client_with(options());
    let not_stored = store_all(&mut client);
    let [not_stored] = not_stored[..] else {
        panic!("one value meets the block that cannot be written: {not_stored:?}")
    };
    assert_eq!(client.get(key(not_stored)).unwrap(), None, "what was not acknowledged is not there");
    let not_read = read_all(&mut client, &[not_stored]);
    let [not_read] = not_read[..] else { panic!("one value meets the block that cannot be read: {not_read:?}") };
    assert_eq!(client.get(key(not_read)).unwrap(), None, "what could not be read is a miss from then on");
    assert_eq!(read_all(&mut client, &[not_stored, not_read]), Vec::<u64>::new(), "its neighbours are there");
    // Elsewhere there is room for both.
    for number in [not_stored, not_read] {
        client.put(key(number), &value(&key(number), 1, BYTES)).unwrap();
    }
    assert_eq!(read_all(&mut client, &[]), Vec::<u64>::new());
    drop(client);
    daemon.restart();
    assert_eq!(read_all(&mut daemon.client_with(options()), &[]), Vec::<u64>::new());
}
