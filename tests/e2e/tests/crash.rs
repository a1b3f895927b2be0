//! The daemon is killed in the middle of its work, again and again.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::values::{Dice, fill, version_of};
use e2e::{Daemon, Setup, key};
use kvplane::{Burst, Client, ConnectOptions, Memory, Outcome, Request, RetryPolicy, StoreOptions};

const KEYS: u64 = 160;
const DEPTH: u64 = 24;
const PLACE: u64 = 128 << 10;
/// Commands that are acknowledged in each round, at the least.
const ACKNOWLEDGED: u64 = 40;

/// What a key may hold after a crash.
#[derive(Clone, Debug, Default)]
struct Held {
    /// What was acknowledged last: a version, or nothing.
    acknowledged: Option<u64>,
    /// What was asked for after that and not acknowledged: it may have happened or not.
    asked: Option<Option<u64>>,
}

/// What every key may hold, and every version that was ever asked for.
#[derive(Default)]
struct Model {
    keys: HashMap<u64, Held>,
    ever: HashSet<(u64, u64)>,
    version: u64,
    /// Commands that were acknowledged.
    acknowledged: Arc<AtomicU64>,
}

/// Loads the daemon until it dies, which another thread brings about after some time.
fn load(client: &mut Client, memory: &Memory, model: &mut Model, dice: &mut Dice, budget: u64) {
    let mut places: Vec<u64> = (0..DEPTH).collect();
    let mut flying: HashMap<u64, (u64, Option<u64>)> = HashMap::new();
    let mut written = 0;
    let deadline = Instant::now() + e2e::PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the daemon was not killed");
        while let Some(place) = places.pop() {
            let number = dice.below(KEYS);
            if flying.values().any(|(busy, _)| *busy == number) || written > budget {
                places.push(place);
                break;
            }
            let asked = submit(client, memory, model, dice, number, place, &mut written);
            let Some(asked) = asked else { return };
            flying.insert(place, (number, asked));
        }
        let mut events = Burst::new();
        client.poll(&mut events);
        for event in events {
            let (number, asked) = flying.remove(&event.user).expect("an event of a command in flight");
            places.push(event.user);
            match event.outcome {
                Outcome::Stored | Outcome::Deleted(_) => {
                    model.keys.insert(number, Held { acknowledged: asked, asked: None });
                    model.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Outcome::Failed(kvplane::Error::Disconnected | kvplane::Error::TimedOut) => return,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Sends a Store or a Delete; what the key will hold, or nothing if the daemon is gone.
fn submit(
    client: &mut Client,
    memory: &Memory,
    model: &mut Model,
    dice: &mut Dice,
    number: u64,
    place: u64,
    written: &mut u64,
) -> Option<Option<u64>> {
    let key = key(number);
    let (request, asked) = if dice.below(10) == 0 {
        (Request::Delete { key }, None)
    } else {
        model.version += 1;
        let bytes = if dice.below(4) == 0 { 24 + dice.below(100_000) } else { 4096 * (1 + dice.below(8)) };
        let mut value = vec![0; bytes as usize];
        fill(&key, model.version, &mut value);
        memory.write(place * PLACE, &value).unwrap();
        model.ever.insert((number, model.version));
        *written += bytes;
        let buffer = memory.slice(place * PLACE, bytes as u32).unwrap();
        (Request::Store { key, buffer, options: StoreOptions::default() }, Some(model.version))
    };
    model.keys.entry(number).or_default().asked = Some(asked);
    match client.submit(request, place) {
        Ok(_) => Some(asked),
        Err((_, kvplane::SubmitError::Disconnected)) => None,
        Err((_, error)) => panic!("{error}"),
    }
}

/// Reads every key and compares; what is there becomes what is held.
fn verify(daemon: &Daemon, model: &mut Model, round: u64, may_forget: bool) -> u64 {
    let mut client = daemon.client();
    let mut present = 0;
    for number in 0..KEYS {
        let held = model.keys.entry(number).or_default();
        let found = client.get(key(number)).unwrap();
        let version = found.map(|bytes| {
            version_of(&key(number), &bytes).unwrap_or_else(|wrong| panic!("round {round}, key {number}: {wrong}"))
        });
        if let Some(version) = version {
            present += 1;
            assert!(model.ever.contains(&(number, version)), "key {number}: version {version} was never stored");
        }
        let expected = version == held.acknowledged || held.asked.is_some_and(|asked| version == asked);
        assert!(may_forget || expected, "round {round}, key {number}: found version {version:?}, held: {held:?}");
        *held = Held { acknowledged: version, asked: None };
    }
    present
}

/// Never repeats a command by itself, so that an answer belongs to one attempt.
fn options() -> ConnectOptions {
    ConnectOptions { retry: RetryPolicy::NEVER, ..ConnectOptions::default() }
}

/// As many rounds as `KVPLANE_KILL_ROUNDS` asks for.
fn rounds(default: u64) -> u64 {
    std::env::var("KVPLANE_KILL_ROUNDS").map_or(default, |rounds| rounds.parse().expect("a number of rounds"))
}

fn crash_rounds(setup: Setup, rounds: u64, seed: u64, budget: u64, may_forget: bool) -> u64 {
    let mut daemon = Daemon::start(setup);
    let (mut model, mut dice) = (Model::default(), Dice::new(seed));
    let mut present = 0;
    for round in 0..rounds {
        let mut client = daemon.client_with(options());
        let memory = client.register((DEPTH * PLACE) as usize).unwrap();
        let pid = daemon.pid();
        let delay = Duration::from_millis(dice.below(200));
        let acknowledged = Arc::clone(&model.acknowledged);
        let enough = acknowledged.load(Ordering::Relaxed) + ACKNOWLEDGED;
        let killer = std::thread::spawn(move || {
            let deadline = Instant::now() + e2e::PATIENCE;
            while acknowledged.load(Ordering::Relaxed) < enough && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            // The moment of the crash: any will do from here on.
            std::thread::sleep(delay);
            e2e::memory::send_signal(pid, 9);
        });
        load(&mut client, &memory, &mut model, &mut dice, budget);
        killer.join().unwrap();
        drop(client);
        daemon.await_end();
        daemon.start_again();
        present = verify(&daemon, &mut model, round, may_forget);
    }
    present
}

/// The store is large enough for all that is written, so nothing is evicted and every acknowledged value must be there.
#[test]
fn every_acknowledged_durable_value_survives_kill_9() {
    let rounds = rounds(20);
    // 48 MiB a round, and as much again for what segments lose to padding and metadata.
    let store = format!("file:{{store}},size={}M,segment=16M", 96 * rounds + 128);
    let setup = Setup::default().store(&store).namespace("tests,class=durable");
    let present = crash_rounds(setup, rounds, 11, 48 << 20, false);
    assert!(present > KEYS / 2, "only {present} keys hold a value: the load was too light to prove anything");
}

/// The store is so small that segments are evicted all the time. Values may be gone, never wrong.
#[test]
fn a_small_store_of_the_cache_class_never_serves_torn_values_after_kill_9() {
    let setup = Setup::default().store("file:{store},size=128M,segment=4M");
    crash_rounds(setup, rounds(6).min(6), 12, 512 << 20, true);
}

/// The crash comes while the daemon still recovers from the one before.
#[test]
fn kill_9_during_recovery_loses_nothing() {
    let mut daemon =
        Daemon::start(Setup::default().store("file:{store},size=512M,segment=16M").namespace("tests,class=durable"));
    let mut client = daemon.client();
    for number in 0..KEYS {
        client.put(key(number), &e2e::value(&key(number), 1, 50_000)).unwrap();
    }
    drop(client);
    daemon.kill9();
    for delay in [0, 3, 10, 20] {
        daemon.launch_again();
        // Any moment of the recovery will do.
        std::thread::sleep(Duration::from_millis(delay));
        daemon.kill9();
    }
    daemon.start_again();
    let mut client = daemon.client();
    for number in 0..KEYS {
        assert!(client.get(key(number)).unwrap() == Some(e2e::value(&key(number), 1, 50_000)), "key {number}");
    }
}
