//! What works when all is well.

use std::collections::HashSet;
use std::time::Duration;

use dataplane::nvme::spec::vendor::parent_link;

use super::*;
use crate::{Checksum, HintKind, Keys, SubmitError, Tier};

#[test]
fn many_commands_in_flight_each_end_once() {
    let target = FakeTarget::new(1, 1);
    let mut client = plain(&target);
    let memory = client.register(128 * 4096).unwrap();
    for number in 0..128u64 {
        memory.write(number * 4096, &number.to_le_bytes()).unwrap();
        let buffer = memory.slice(number * 4096, 4096).unwrap();
        client.submit(Request::Store { key: key(number), buffer, options: StoreOptions::default() }, number).unwrap();
    }
    assert_eq!(client.outstanding(), 128);
    let ended = events(&mut client, 128);
    assert_eq!(ended.iter().map(|event| event.user).collect::<HashSet<_>>().len(), 128);
    assert!(ended.iter().all(|event| event.outcome == Outcome::Stored));
    for number in 0..128u64 {
        let buffer = memory.slice((127 - number) * 4096, 4096).unwrap();
        client.submit(Request::Retrieve { key: key(number), buffer }, number).unwrap();
    }
    for event in events(&mut client, 128) {
        assert_eq!(event.outcome, Outcome::Retrieved { bytes: 4096, value_bytes: 4096, checksum_ok: false });
        let mut first = [0; 8];
        memory.read((127 - event.user) * 4096, &mut first).unwrap();
        assert_eq!(u64::from_le_bytes(first), event.user);
    }
    assert_eq!((client.outstanding(), client.stats().submitted, client.stats().completed), (0, 256, 256));
}

#[test]
fn ends_may_come_in_any_order() {
    let target = FakeTarget::new(1, 1);
    let mut client = plain(&target);
    target.lock().newest_first = true;
    let tickets: Vec<_> = (0..10).map(|n| client.submit(Request::Exist { key: key(n) }, n).unwrap()).collect();
    let ended = events(&mut client, 10);
    assert_eq!(ended.iter().map(|event| event.user).collect::<Vec<_>>(), (0..10).rev().collect::<Vec<_>>());
    assert!(ended.iter().all(|event| event.ticket == tickets[event.user as usize]));
}

#[test]
fn a_full_queue_hands_the_request_back() {
    let target = FakeTarget::new(1, 1);
    let mut client = connect(&target, ConnectOptions { queue_depth: 2, ..ConnectOptions::default() });
    target.lock().hold = true;
    let request = |n| Request::Exist { key: key(n) };
    client.submit(request(1), 1).unwrap();
    client.submit(request(2), 2).unwrap();
    assert_eq!(client.submit(request(3), 3), Err((request(3), SubmitError::QueueFull)));
    client.ring();
    target.run();
    client.wait(LONG).unwrap();
    // Completed, but not handed out: what nobody takes is bounded too.
    assert_eq!(client.submit(request(3), 3), Err((request(3), SubmitError::QueueFull)));
    assert_eq!(events(&mut client, 2).len(), 2);
    assert!(client.submit(request(3), 3).is_ok());
}

#[test]
fn lists_that_are_copied_are_bounded_by_their_places() {
    let target = FakeTarget::new(1, 1);
    let mut client = connect(&target, ConnectOptions { list_places: 1, ..ConnectOptions::default() });
    let keys = [key(1)];
    let request = Request::LookupPrefix { keys: Keys::Copied(&keys), lease: None };
    client.submit(request, 0).unwrap();
    assert_eq!(client.submit(request, 0).unwrap_err().1, SubmitError::ListsFull);
    events(&mut client, 1);
    assert_eq!(outcome(&mut client, request), Outcome::Prefix { hits: 0, lease: None });
    let empty = Request::Hint { keys: Keys::Copied(&[]), kind: HintKind::Pin, argument: 0 };
    assert_eq!(client.submit(empty, 0).unwrap_err().1, SubmitError::BadList);
}

#[test]
fn each_key_goes_to_the_core_that_owns_it() {
    let target = FakeTarget::new(2, 5);
    let mut client = plain(&target);
    assert_eq!(client.queues(), 2);
    let owners = client.identity().owners.unwrap();
    for number in 0..64 {
        let key = key(number);
        outcome(&mut client, Request::Exist { key });
        let (queue, _) = target.lock().seen.pop().unwrap();
        assert_eq!(queue, owners.owner_core(key.tag()) as usize);
        assert_eq!(queue, client.queue_of(&key));
        outcome(&mut client, Request::LookupPrefix { keys: Keys::Copied(&[key]), lease: None });
        assert_eq!(target.lock().seen.pop().unwrap().0, queue);
    }
    assert_eq!((0..64).map(|n| client.queue_of(&key(n))).collect::<HashSet<_>>().len(), 2);
}

#[test]
fn a_target_without_owners_gets_everything_on_its_first_queue() {
    let target = FakeTarget::new(2, 2);
    target.lock().identity.owners = None;
    let mut client = plain(&target);
    for number in 0..16 {
        outcome(&mut client, Request::Exist { key: key(number) });
    }
    assert!(target.lock().seen.iter().all(|(queue, _)| *queue == 0));
}

#[test]
fn store_conditions_and_parents_reach_the_target() {
    let target = FakeTarget::new(1, 1);
    let mut client = plain(&target);
    let memory = client.register(4096).unwrap();
    let buffer = memory.slice(0, 100).unwrap();
    let with = |options| Request::Store { key: key(1), buffer, options };
    let must_exist = StoreOptions { must_exist: true, ..StoreOptions::default() };
    assert_eq!(outcome(&mut client, with(must_exist)), Outcome::Missing);
    let first = StoreOptions { must_not_exist: true, parent: Some(key(9)), ..StoreOptions::default() };
    assert_eq!(outcome(&mut client, with(first)), Outcome::Stored);
    assert_eq!(outcome(&mut client, with(first)), Outcome::KeyExists);
    assert_eq!(target.lock().store.values[key(1).bytes()].parent, parent_link(&key(9)));
    let both = StoreOptions { must_exist: true, must_not_exist: true, parent: None };
    assert_eq!(client.submit(with(both), 0).unwrap_err().1, SubmitError::Contradiction);
}

#[test]
fn a_buffer_that_is_too_short_gets_the_first_bytes_and_the_length() {
    let target = FakeTarget::new(1, 1);
    let mut client = plain(&target);
    let memory = client.register(8192).unwrap();
    store(&mut client, &memory, 1, &[7; 1000]);
    events(&mut client, 1);
    memory.write(0, &[0; 4096]).unwrap();
    let buffer = memory.slice(0, 600).unwrap();
    let got = outcome(&mut client, Request::Retrieve { key: key(1), buffer });
    assert_eq!(got, Outcome::Retrieved { bytes: 600, value_bytes: 1000, checksum_ok: false });
    let mut bytes = [1; 601];
    memory.read(0, &mut bytes).unwrap();
    assert_eq!((&bytes[..600], bytes[600]), (&[7; 600][..], 0));
}

#[test]
fn leases_are_taken_and_given_back() {
    let target = FakeTarget::new(2, 2);
    let mut client = plain(&target);
    client.put(key(1), b"one").unwrap();
    let (hits, lease) = client.lookup_prefix_leased(&[key(1), key(2)], Duration::from_secs(1)).unwrap();
    let lease = lease.unwrap();
    assert_eq!((hits, lease.id()), (1, 77));
    client.release(lease).unwrap();
    assert!(target.lock().store.leases.is_empty());
    assert!(client.release(lease).is_err());
}

#[test]
fn states_take_the_place_of_their_keys() {
    let target = FakeTarget::new(1, 1);
    let mut client = plain(&target);
    client.put(key(2), &[1; 50]).unwrap();
    let memory = client.register(4096).unwrap();
    memory.write_keys(160, &[key(1), key(2)]).unwrap();
    let buffer = memory.slice(160, 32).unwrap();
    assert_eq!(outcome(&mut client, Request::LookupState { buffer }), Outcome::States { present: 1 });
    assert!(!memory.key_state(160, 0).unwrap().present);
    let state = memory.key_state(160, 1).unwrap();
    assert_eq!((state.present, state.tier, state.value_bytes), (true, Tier::Flash, 50));
    let odd = memory.slice(160, 33).unwrap();
    assert_eq!(client.submit(Request::LookupState { buffer: odd }, 0).unwrap_err().1, SubmitError::BadList);
}

#[test]
fn the_blocking_face_does_the_same() {
    let target = FakeTarget::new(2, 2);
    let mut client = connect(&target, ConnectOptions { checksum: Checksum::Verify, ..ConnectOptions::default() });
    let value: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
    client.put(key(1), &value).unwrap();
    client.put(key(2), b"").unwrap();
    assert_eq!(client.get(key(1)).unwrap().unwrap(), value);
    assert_eq!(client.get(key(2)).unwrap().unwrap(), b"");
    assert_eq!(client.get(key(3)).unwrap(), None);
    assert!(client.exists(key(1)).unwrap());
    assert_eq!(client.lookup_prefix(&[key(1), key(2), key(3), key(1)]).unwrap(), 2);
    assert_eq!(client.lookup_prefix(&[]).unwrap(), 0);
    let states = client.lookup_state(&[key(3), key(1)]).unwrap();
    assert_eq!((states[0].present, states[1].value_bytes), (false, 300_000));
    assert!(client.delete(key(1)).unwrap());
    assert!(!client.delete(key(1)).unwrap());
    let too_long = client.put(key(1), &vec![0; (1 << 20) + 1]).unwrap_err();
    assert!(too_long.to_string().contains("1048576"), "{too_long}");
}

#[test]
fn a_short_scratch_grows_to_the_value() {
    let target = FakeTarget::new(1, 1);
    plain(&target).put(key(1), &[3; 200_000]).unwrap();
    assert_eq!(plain(&target).get(key(1)).unwrap().unwrap(), vec![3; 200_000]);
}

#[test]
fn blocking_calls_leave_the_events_of_others_alone() {
    let target = FakeTarget::new(1, 1);
    let mut client = plain(&target);
    let ticket = client.submit(Request::Exist { key: key(1) }, 11).unwrap();
    assert!(!client.exists(key(2)).unwrap());
    let ended = events(&mut client, 1);
    assert_eq!((ended[0].ticket, ended[0].user), (ticket, 11));
}

#[test]
fn a_sleeper_is_woken_by_its_interrupt() {
    let target = FakeTarget::new(2, 2);
    let mut client = connect(&target, ConnectOptions { interrupt: true, ..ConnectOptions::default() });
    target.lock().hold = true;
    client.submit(Request::Exist { key: key(1) }, 0).unwrap();
    client.ring();
    let other = target.clone();
    let thread = std::thread::spawn(move || other.run());
    assert!(client.wait(LONG).unwrap());
    thread.join().unwrap();
    events(&mut client, 1);
    assert!(!client.wait(LONG).unwrap(), "nothing is in flight, so there is nothing to wait for");
}

#[test]
fn memory_goes_only_when_no_command_names_it() {
    let target = FakeTarget::new(1, 1);
    let mut client = plain(&target);
    let memory = client.register(10).unwrap();
    assert_eq!(memory.len(), 4096);
    store(&mut client, &memory, 1, b"x");
    assert!(matches!(client.unregister(&memory), Err(crate::Error::MemoryBusy { commands: 1 })));
    events(&mut client, 1);
    client.unregister(&memory).unwrap();
    let buffer = memory.slice(0, 1).unwrap();
    let refused = client.submit(Request::Retrieve { key: key(1), buffer }, 0).unwrap_err();
    assert_eq!(refused.1, SubmitError::UnknownBuffer);
    let mut other = plain(&target);
    other.register(4096).unwrap();
    assert_eq!(other.unregister(&memory), Err(crate::Error::UnknownMemory));
}

#[test]
fn a_client_may_move_to_another_thread() {
    let target = FakeTarget::new(1, 1);
    let mut client = plain(&target);
    let there = std::thread::spawn(move || client.exists(key(1)));
    assert_eq!(there.join().unwrap(), Ok(false));
}
