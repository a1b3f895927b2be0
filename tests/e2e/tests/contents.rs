//! Whatever was stored comes back, byte for byte, or not at all.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use e2e::values::{Dice, first_difference, version_of};
use e2e::{Daemon, Setup, key, value};
use kvplane::{
    Burst, Checksum, Client, ConnectOptions, Error, Memory, Outcome, Request, Status, StoreOptions, SubmitError,
};

/// Lengths around every border: of a word, a block, a page, a burst of pages, and up to `max`.
fn lengths(max: usize) -> Vec<usize> {
    let mut all = vec![1, 2, 7, 8, 63, 100, 300_001, max - 4097, max - 1, max];
    for border in [512, 4096, 8192, 65_536, 131_072, 1 << 20] {
        all.extend([border - 1, border, border + 1]);
    }
    all.retain(|bytes| *bytes <= max);
    all
}

/// Submits one command and waits for its end.
fn run(client: &mut Client, request: Request<'_>) -> Outcome {
    client.submit(request, 1).expect("a queue with room");
    let mut events = Burst::new();
    while client.poll(&mut events) == 0 {
        client.wait(e2e::PATIENCE).unwrap();
    }
    events.remove(0).outcome
}

#[test]
fn values_of_every_length_come_back() {
    let daemon = Daemon::start(Setup::default().namespace("tests,max-value=4M"));
    let mut client = daemon.client_with(ConnectOptions { checksum: Checksum::Verify, ..ConnectOptions::default() });
    let max = client.namespace().max_value_bytes as usize;
    assert_eq!(max, 4 << 20);
    let lengths = lengths(max);
    for (number, bytes) in (0..).zip(&lengths) {
        client.put(key(number), &value(&key(number), 1, *bytes)).unwrap();
    }
    for (number, bytes) in (0..).zip(&lengths) {
        let found = client.get(key(number)).unwrap().unwrap_or_else(|| panic!("the value of {bytes} bytes is gone"));
        assert_eq!(first_difference(&found, &value(&key(number), 1, *bytes)), None, "{bytes} bytes");
    }
    assert_eq!(client.stats().corrupt, 0);
}

#[test]
fn values_in_memory_that_is_not_aligned_come_back_and_touch_nothing_beside() {
    let daemon = Daemon::start(Setup::default());
    let mut client = daemon.client();
    let memory = client.register(4 << 20).unwrap();
    let mut dice = Dice::new(2);
    for number in 0..200 {
        let bytes = 1 + dice.below(if number % 4 == 0 { 900_000 } else { 20_000 });
        let (from, into) = (dice.below(9000), (2 << 20) + 64 + dice.below(9000));
        let key = key(number);
        let stored = value(&key, number, bytes as usize);
        memory.write(from, &stored).unwrap();
        let buffer = memory.slice(from, bytes as u32).unwrap();
        assert!(matches!(
            run(&mut client, Request::Store { key, buffer, options: StoreOptions::default() }),
            Outcome::Stored
        ));
        memory.write(into - 64, &vec![0xEE; bytes as usize + 128]).unwrap();
        let buffer = memory.slice(into, bytes as u32).unwrap();
        let outcome = run(&mut client, Request::Retrieve { key, buffer });
        assert!(
            matches!(outcome, Outcome::Retrieved { bytes: got, value_bytes, .. }
                if u64::from(got) == bytes && u64::from(value_bytes) == bytes),
            "{outcome:?}"
        );
        let mut found = vec![0; bytes as usize + 128];
        memory.read(into - 64, &mut found).unwrap();
        let (before, rest) = found.split_at(64);
        let (found, after) = rest.split_at(bytes as usize);
        assert_eq!(first_difference(found, &stored), None, "{bytes} bytes from {from} into {into}");
        assert!(before.iter().chain(after).all(|byte| *byte == 0xEE), "bytes beside a buffer at {into} were touched");
    }
}

#[test]
fn a_buffer_that_is_too_short_gets_the_beginning_and_the_whole_length() {
    let daemon = Daemon::start(Setup::default());
    let mut client = daemon.client();
    let memory = client.register(1 << 20).unwrap();
    let key = key(1);
    let stored = value(&key, 1, 100_000);
    client.put(key, &stored).unwrap();
    for room in [1u32, 4096, 5000, 65_536, 99_999] {
        memory.write(0, &vec![0xEE; 200_000]).unwrap();
        let buffer = memory.slice(0, room).unwrap();
        let outcome = run(&mut client, Request::Retrieve { key, buffer });
        assert!(
            matches!(outcome, Outcome::Retrieved { bytes, value_bytes: 100_000, .. } if bytes == room),
            "{room} bytes: {outcome:?}"
        );
        let mut found = vec![0; 200_000];
        memory.read(0, &mut found).unwrap();
        assert_eq!(first_difference(&found[..room as usize], &stored[..room as usize]), None);
        assert!(found[room as usize..].iter().all(|byte| *byte == 0xEE), "bytes beyond {room} were written");
    }
}

#[test]
fn overwriting_deleting_and_conditions_do_what_they_say() {
    let daemon = Daemon::start(Setup::default());
    let mut client = daemon.client();
    let (key, other) = (key(1), key(2));
    let must_exist = StoreOptions { must_exist: true, ..StoreOptions::default() };
    let must_not_exist = StoreOptions { must_not_exist: true, ..StoreOptions::default() };
    assert!(!client.exists(key).unwrap());
    assert_eq!(client.get(key).unwrap(), None);
    assert!(!client.delete(key).unwrap());
    assert!(!client.put_with(key, b"first", must_exist).unwrap(), "there is nothing to replace");
    assert_eq!(client.get(key).unwrap(), None);
    assert!(client.put_with(key, b"first", must_not_exist).unwrap());
    assert!(!client.put_with(key, b"second", must_not_exist).unwrap(), "there is a value already");
    assert_eq!(client.get(key).unwrap().as_deref(), Some(&b"first"[..]));
    assert!(client.put_with(key, b"a longer third one", must_exist).unwrap());
    assert_eq!(client.get(key).unwrap().as_deref(), Some(&b"a longer third one"[..]));
    client.put(other, b"untouched").unwrap();
    assert!(client.exists(key).unwrap());
    assert!(client.delete(key).unwrap());
    assert!(!client.delete(key).unwrap());
    assert!(!client.exists(key).unwrap());
    assert_eq!(client.get(key).unwrap(), None);
    client.put(key, b"back").unwrap();
    assert_eq!(client.get(key).unwrap().as_deref(), Some(&b"back"[..]));
    assert_eq!(client.get(other).unwrap().as_deref(), Some(&b"untouched"[..]));
}

#[test]
fn lists_of_keys_are_answered_hole_by_hole() {
    let daemon = Daemon::start(Setup::default());
    let mut client = daemon.client();
    let keys: Vec<_> = (0..100).map(key).collect();
    for (number, key) in (0..).zip(&keys).filter(|(number, _)| *number != 40) {
        client.put(*key, &value(key, 1, 1000 + number)).unwrap();
    }
    assert_eq!(client.lookup_prefix(&keys).unwrap(), 40);
    assert_eq!(client.lookup_prefix(&keys[41..]).unwrap(), 59);
    assert_eq!(client.lookup_prefix(&keys[40..]).unwrap(), 0);
    let states = client.lookup_state(&keys).unwrap();
    for (number, state) in states.iter().enumerate() {
        assert_eq!(state.present, number != 40, "key {number}");
        assert_eq!(state.value_bytes as usize, if number == 40 { 0 } else { 1000 + number });
    }
    let (present, lease) = client.lookup_prefix_leased(&keys[..40], e2e::PATIENCE).unwrap();
    assert_eq!(present, 40);
    client.release(lease.expect("a lease on what is there")).unwrap();
    assert!(client.release(lease.expect("as above")).is_err(), "a lease can be given back once");
}

#[test]
fn a_value_above_the_maximum_is_refused_and_the_old_one_stays() {
    let daemon = Daemon::start(Setup::default().namespace("tests,max-value=64K"));
    let mut client = daemon.client();
    client.put(key(1), b"old").unwrap();
    let refused = client.put(key(1), &vec![1; 65_537]);
    let early = matches!(refused, Err(Error::Submit(SubmitError::ValueTooLong { max: 65_536, .. })));
    assert!(early || matches!(refused, Err(Error::Status(Status::INVALID_VALUE_SIZE))), "{refused:?}");
    assert_eq!(client.get(key(1)).unwrap().as_deref(), Some(&b"old"[..]));
}

/// Several times the store's size goes in, with everything that is read checked: what was evicted is missing, and
/// nothing is ever wrong.
#[test]
fn a_full_store_evicts_and_never_serves_wrong_bytes() {
    let daemon = Daemon::start(Setup::default().store("file:{store},size=192M,segment=8M"));
    let mut client = daemon.client();
    let memory = client.register(64 << 20).unwrap();
    let mut dice = Dice::new(7);
    let mut newest = vec![(0u64, 0usize); 4000];
    let (mut served, mut missed, mut stored) = (0u64, 0u64, 0u64);
    let mut version = 0;
    while stored < 500 << 20 {
        let batch: Vec<usize> = distinct(&mut dice, 16, newest.len());
        for (place, number) in (0..).zip(&batch) {
            version += 1;
            let bytes = 64 + dice.below(if version % 5 == 0 { 1 << 20 } else { 100_000 }) as usize;
            newest[*number] = (version, bytes);
            stored += bytes as u64;
            let key = key(*number as u64);
            memory.write(place << 21, &value(&key, version, bytes)).unwrap();
            let buffer = memory.slice(place << 21, bytes as u32).unwrap();
            client.submit(Request::Store { key, buffer, options: StoreOptions::default() }, place).unwrap();
        }
        drain(&mut client, |_, outcome| assert!(matches!(outcome, Outcome::Stored), "{outcome:?}"));
        let wanted = distinct(&mut dice, 16, newest.len());
        for (place, number) in (0..).zip(&wanted) {
            let buffer = memory.slice(place << 21, 2 << 20).unwrap();
            client.submit(Request::Retrieve { key: key(*number as u64), buffer }, place).unwrap();
        }
        drain(&mut client, |place, outcome| {
            let number = wanted[place as usize];
            match outcome {
                Outcome::Missing => missed += 1,
                Outcome::Retrieved { bytes, .. } => {
                    served += 1;
                    check(&memory, place << 21, bytes, number as u64, newest[number]);
                }
                other => panic!("{other:?}"),
            }
        });
    }
    assert!(served > 100 && missed > 100, "{served} served, {missed} missed: nothing was evicted, or everything");
    let newest_key = newest.iter().enumerate().max_by_key(|(_, newest)| newest.0).expect("there are keys").0;
    assert!(client.get(key(newest_key as u64)).unwrap().is_some(), "the newest value was evicted");
}

fn check(memory: &Memory, place: u64, bytes: u32, number: u64, (version, expected): (u64, usize)) {
    let mut found = vec![0; bytes as usize];
    memory.read(place, &mut found).unwrap();
    assert_eq!(found.len(), expected, "key {number}");
    assert_eq!(version_of(&key(number), &found), Ok(version), "key {number}");
}

fn distinct(dice: &mut Dice, count: usize, below: usize) -> Vec<usize> {
    let mut all = std::collections::BTreeSet::new();
    while all.len() < count {
        all.insert(dice.below(below as u64) as usize);
    }
    all.into_iter().collect()
}

/// Waits until nothing is in flight, and hands out every end.
fn drain(client: &mut Client, mut each: impl FnMut(u64, Outcome)) {
    while client.outstanding() > 0 {
        client.wait(e2e::PATIENCE).unwrap();
        let mut events = Burst::new();
        client.poll(&mut events);
        events.drain(..).for_each(|event| each(event.user, event.outcome));
    }
}
