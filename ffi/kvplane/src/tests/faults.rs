//! What the client makes of a target that fails, lies or dies.

use std::time::Duration;

use dataplane::nvme::spec::{Cqe, Status};

use super::*;
use crate::{Checksum, Error, Keys, ReconnectPolicy, RetryPolicy, SubmitError};

fn verifying(target: &FakeTarget) -> Client {
    connect(target, ConnectOptions { checksum: Checksum::Verify, ..ConnectOptions::default() })
}

fn rewriting(target: &FakeTarget, rewrite: fn(&mut Cqe)) {
    target.lock().rewrite = Some(rewrite);
}

#[test]
fn passing_failures_are_retried_and_counted() {
    let target = FakeTarget::new(1, 1);
    let mut client = plain(&target);
    client.put(key(1), b"value").unwrap();
    target.lock().answers.extend([Status::NAMESPACE_NOT_READY, Status::INTERNAL_ERROR]);
    assert!(client.exists(key(1)).unwrap());
    assert_eq!((client.stats().retries, client.stats().failed), (2, 0));
}

#[test]
fn retries_end_and_final_statuses_are_not_retried() {
    let target = FakeTarget::new(1, 1);
    let mut client = plain(&target);
    target.lock().answers.extend([Status::INTERNAL_ERROR; 5]);
    assert_eq!(client.exists(key(1)), Err(Error::Status(Status::INTERNAL_ERROR)));
    assert_eq!(client.stats().retries, 4);
    target.lock().answers.push_back(Status::CAPACITY_EXCEEDED);
    assert_eq!(client.put(key(1), b"x"), Err(Error::Status(Status::CAPACITY_EXCEEDED)));
    assert_eq!(client.stats().retries, 4);
    let never = ConnectOptions { retry: RetryPolicy::NEVER, ..ConnectOptions::default() };
    let mut client = connect(&target, never);
    target.lock().answers.push_back(Status::NAMESPACE_NOT_READY);
    assert_eq!(client.exists(key(1)), Err(Error::Status(Status::NAMESPACE_NOT_READY)));
}

#[test]
fn a_command_that_waits_to_be_sent_again_holds_its_place() {
    let target = FakeTarget::new(1, 1);
    let patient =
        RetryPolicy { attempts: 1, first_delay: Duration::from_secs(3600), max_delay: Duration::from_secs(3600) };
    let mut client = connect(&target, ConnectOptions { queue_depth: 1, retry: patient, ..ConnectOptions::default() });
    target.lock().answers.push_back(Status::INTERNAL_ERROR);
    client.submit(Request::Exist { key: key(1) }, 0).unwrap();
    assert_eq!(client.poll(&mut Burst::new()), 0);
    assert_eq!(client.submit(Request::Exist { key: key(1) }, 0).unwrap_err().1, SubmitError::QueueFull);
    target.lock().dead = true;
    assert_eq!(events(&mut client, 1)[0].outcome, Outcome::Failed(Error::Disconnected));
}

#[test]
fn a_corrupt_value_never_reaches_the_caller() {
    let target = FakeTarget::new(1, 1);
    let mut client = verifying(&target);
    let memory = client.register(8192).unwrap();
    store(&mut client, &memory, 1, &[7; 5000]);
    events(&mut client, 1);
    let buffer = memory.slice(0, 8192).unwrap();
    let retrieve = Request::Retrieve { key: key(1), buffer };
    let good = outcome(&mut client, retrieve);
    assert_eq!(good, Outcome::Retrieved { bytes: 5000, value_bytes: 5000, checksum_ok: true });
    target.lock().store.values.get_mut(key(1).bytes()).unwrap().bytes[4321] ^= 1;
    assert!(matches!(outcome(&mut client, retrieve), Outcome::Failed(Error::Corrupt { .. })));
    let mut bytes = [1; 5000];
    memory.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 5000]);
    assert!(matches!(client.get(key(1)), Err(Error::Corrupt { .. })));
    assert_eq!(client.stats().corrupt, 2);
}

#[test]
fn a_value_without_a_checksum_is_served_as_unchecked() {
    let target = FakeTarget::new(1, 1);
    plain(&target).put(key(1), b"unchecked").unwrap();
    let mut client = verifying(&target);
    let memory = client.register(4096).unwrap();
    let got = outcome(&mut client, Request::Retrieve { key: key(1), buffer: memory.slice(0, 4096).unwrap() });
    assert_eq!(got, Outcome::Retrieved { bytes: 9, value_bytes: 9, checksum_ok: false });
}

#[test]
fn a_dead_target_fails_what_is_in_flight() {
    let target = FakeTarget::new(2, 2);
    let mut client = plain(&target);
    target.lock().dead = true;
    for number in 0..20 {
        client.submit(Request::Exist { key: key(number) }, number).unwrap();
    }
    let ended = events(&mut client, 20);
    assert!(ended.iter().all(|event| event.outcome == Outcome::Failed(Error::Disconnected)));
    assert!(!client.is_connected());
    assert_eq!(client.submit(Request::Exist { key: key(1) }, 0).unwrap_err().1, SubmitError::Disconnected);
    assert_eq!(client.wait(LONG), Err(Error::Disconnected));
    assert_eq!(client.exists(key(1)), Err(Error::Disconnected));
    assert_eq!((client.stats().disconnects, client.stats().failed), (1, 20));
}

#[test]
fn a_target_that_never_answers_is_given_up() {
    let target = FakeTarget::new(1, 1);
    let options = ConnectOptions { deadline: Duration::from_millis(20), ..ConnectOptions::default() };
    let mut client = connect(&target, options);
    target.lock().hold = true;
    client.submit(Request::Exist { key: key(1) }, 0).unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(events(&mut client, 1)[0].outcome, Outcome::Failed(Error::TimedOut));
    assert!(begun.elapsed() >= Duration::from_millis(20), "not before the deadline");
    assert!(!client.is_connected());
}

#[test]
fn memory_outlives_a_connection() {
    let target = FakeTarget::new(2, 2);
    let mut client = plain(&target);
    let memory = client.register(4096).unwrap();
    store(&mut client, &memory, 1, b"before");
    events(&mut client, 1);
    target.lock().dead = true;
    client.submit(Request::Exist { key: key(1) }, 0).unwrap();
    events(&mut client, 1);
    assert!(matches!(client.reconnect(), Err(Error::Connect { .. })));
    target.lock().dead = false;
    client.reconnect().unwrap();
    let got = outcome(&mut client, Request::Retrieve { key: key(1), buffer: memory.slice(0, 4096).unwrap() });
    assert_eq!(got, Outcome::Retrieved { bytes: 6, value_bytes: 6, checksum_ok: false });
    assert_eq!(client.lookup_prefix(&[key(1)]).unwrap(), 1);
    assert_eq!(client.stats().reconnects, 1);
}

#[test]
fn the_automatic_policy_connects_again_when_it_may() {
    let target = FakeTarget::new(1, 1);
    let policy = ReconnectPolicy::Automatic { first_delay: Duration::ZERO, max_delay: Duration::ZERO };
    let mut client = connect(&target, ConnectOptions { reconnect: policy, ..ConnectOptions::default() });
    target.lock().dead = true;
    client.submit(Request::Exist { key: key(1) }, 0).unwrap();
    events(&mut client, 1);
    assert_eq!(client.submit(Request::Exist { key: key(1) }, 0).unwrap_err().1, SubmitError::Disconnected);
    target.lock().dead = false;
    client.put(key(1), b"after").unwrap();
    assert!(client.is_connected());
    assert_eq!(client.stats().reconnects, 1);
}

#[test]
fn completions_that_name_no_command_are_counted_and_dropped() {
    let target = FakeTarget::new(1, 1);
    let mut client = plain(&target);
    target.lock().hold = true;
    client.submit(Request::Exist { key: key(1) }, 3).unwrap();
    client.ring();
    let stray = |cid| Cqe { dword0: 0, dword1: 0, sq_head: 9, sq_id: 9, cid, status: Status::SUCCESS };
    target.lock().completed[0].extend([stray(u16::MAX), stray(77)]);
    assert_eq!(client.poll(&mut Burst::new()), 0);
    assert_eq!(client.stats().unknown_completions, 2);
    target.run();
    // The same completion twice.
    let twice = target.lock().completed[0][0];
    client.submit(Request::Exist { key: key(2) }, 4).unwrap();
    target.lock().completed[0].push_back(twice);
    let ended = events(&mut client, 1);
    assert_eq!(ended[0].user, 3);
    assert_eq!(client.stats().unknown_completions, 3);
    target.run();
    assert_eq!(events(&mut client, 1)[0].user, 4);
}

#[test]
fn absurd_sizes_are_refused() {
    let target = FakeTarget::new(1, 1);
    let mut client = verifying(&target);
    client.put(key(1), b"value").unwrap();
    let memory = client.register(4096).unwrap();
    let retrieve = Request::Retrieve { key: key(1), buffer: memory.slice(0, 4096).unwrap() };
    rewriting(&target, |cqe| cqe.dword0 = u32::MAX);
    assert!(matches!(outcome(&mut client, retrieve), Outcome::Failed(Error::Protocol(_))));
    assert!(matches!(client.get(key(1)), Err(Error::Protocol(_))));
    let keys = [key(1), key(2)];
    let lookup = Request::LookupPrefix { keys: Keys::Copied(&keys), lease: None };
    assert!(matches!(outcome(&mut client, lookup), Outcome::Failed(Error::Protocol(_))));
    assert!(matches!(client.lookup_state(&keys), Err(Error::Protocol(_))));
    // Longer than the buffer but not than the namespace allows: no more than the buffer is ever looked at.
    rewriting(&target, |cqe| cqe.dword0 = 1 << 20);
    let got = outcome(&mut client, retrieve);
    assert_eq!(got, Outcome::Retrieved { bytes: 4096, value_bytes: 1 << 20, checksum_ok: false });
}

#[test]
fn a_lease_that_nobody_asked_for_is_not_taken() {
    let target = FakeTarget::new(1, 1);
    let mut client = plain(&target);
    rewriting(&target, |cqe| cqe.dword1 = 5);
    let keys = [key(1)];
    let got = outcome(&mut client, Request::LookupPrefix { keys: Keys::Copied(&keys), lease: None });
    assert_eq!(got, Outcome::Prefix { hits: 0, lease: None });
}

#[test]
fn connecting_names_what_is_wrong() {
    let target = FakeTarget::new(1, 1);
    let dial = |options| Client::dial(Dial::Fake(target.clone()), options).unwrap_err();
    let absent = dial(ConnectOptions { namespace: 4, ..ConnectOptions::default() });
    assert_eq!(absent, Error::Namespace { wanted: 4, attached: vec![1] });
    assert!(matches!(dial(ConnectOptions { queue_depth: 0, ..ConnectOptions::default() }), Error::Option { .. }));
    target.lock().refuse = true;
    assert!(matches!(dial(ConnectOptions::default()), Error::Connect { .. }));
}
