//! The client over NVMe/TCP, on loopback, against a target that takes every liberty, and some that it has not.

use super::tcp_target::{Lie, NQN, OWNERS, Settings, TcpTarget};
use super::*;
use crate::fake::namespace;
use crate::{Address, Checksum, DmaBuf, Error, Keys, NetworkOptions, Tier};
use dataplane::fabric::tcp::wire::Digests;
use dataplane::nvme::spec::Status;
use std::time::Instant;

fn address(target: &TcpTarget) -> Address {
    Address::parse(&format!("tcp://{}/{NQN}", target.address)).unwrap()
}

fn connect_to(target: &TcpTarget, options: ConnectOptions) -> Client {
    Client::connect(&address(target), options).unwrap()
}

fn with_digests(header_digest: bool, data_digest: bool) -> ConnectOptions {
    let network = NetworkOptions { header_digest, data_digest, ..NetworkOptions::default() };
    ConnectOptions { checksum: Checksum::Verify, network, ..ConnectOptions::default() }
}

/// What targets choose.
fn settings() -> [Settings; 4] {
    let plain = Settings { digests: Digests::NONE, ..Settings::default() };
    let small = Settings { max_h2c_data: 4096, r2t_bytes: 8192, r2ts: 4, c2h_bytes: 4096, ..Settings::default() };
    let aligned = Settings { alignment: 31, capsule_data: 0, r2ts: 2, r2t_bytes: 12_288, ..Settings::default() };
    let flagged = Settings { success_flag: true, alignment: 2, c2h_bytes: 1000, ..Settings::default() };
    [plain, small, aligned, flagged]
}

#[test]
fn every_command_works_whatever_the_target_chooses() {
    for settings in settings() {
        println!("{settings:?}");
        let target = TcpTarget::start(settings);
        let mut client = connect_to(&target, with_digests(true, true));
        assert_eq!(client.identity().owners, Some(OWNERS));
        assert_eq!(client.identity().subsystem_nqn, NQN);
        assert_eq!(client.namespaces().unwrap(), [namespace()]);
        assert_eq!(client.queues(), 2);
        for number in 0..30u64 {
            let value: Vec<u8> = (0..1 + number * 20_001).map(|at| (at * 7 + number) as u8).collect();
            client.put(key(number), &value).unwrap();
            assert_eq!(client.get(key(number)).unwrap().unwrap(), value);
        }
        assert_eq!(client.get(key(99)).unwrap(), None);
        let chain = [key(0), key(1), key(99)];
        let (hits, lease) = client.lookup_prefix_leased(&chain, Duration::from_secs(1)).unwrap();
        assert_eq!(hits, 2);
        client.release(lease.unwrap()).unwrap();
        let states = client.lookup_state(&chain).unwrap();
        assert_eq!((states[1].tier, states[1].value_bytes, states[2].present), (Tier::Flash, 20_002, false));
        assert!(client.delete(key(0)).unwrap() && !client.exists(key(0)).unwrap());
        assert_eq!((client.stats().failed, client.stats().retries), (0, 0));
    }
}

#[test]
fn memory_of_a_device_needs_rdma() {
    let target = TcpTarget::start(Settings::default());
    let mut client = connect_to(&target, with_digests(false, false));
    let buffer = DmaBuf { file: tempfile::tempfile().unwrap().into(), offset: 0, bytes: 4096 };
    let Err(Error::Register { bytes: 4096, reason }) = client.register_dma_buf(buffer) else { panic!("it was taken") };
    assert!(reason.contains("RDMA"), "{reason}");
}

#[test]
fn digests_are_used_where_both_want_them() {
    for (header, data) in [(false, false), (true, false), (false, true)] {
        let target = TcpTarget::start(Settings::default());
        let mut client = connect_to(&target, with_digests(header, data));
        client.put(key(1), &[7; 50_000]).unwrap();
        assert_eq!(client.get(key(1)).unwrap().unwrap(), [7; 50_000]);
    }
}

#[test]
fn a_deep_pipeline_ends_every_command() {
    let target = TcpTarget::start(Settings { r2ts: 4, r2t_bytes: 4096, ..Settings::default() });
    for interrupt in [false, true] {
        let options = ConnectOptions { queue_depth: 16, interrupt, ..ConnectOptions::default() };
        let mut client = connect_to(&target, options);
        let memory = client.register(64 * 20_000).unwrap();
        let mut burst = Burst::new();
        let (mut next, mut ended) = (0u64, 0u64);
        while ended < 600 {
            while next < 600 {
                let buffer = memory.slice(next % 64 * 20_000, 20_000).unwrap();
                let request = match next % 3 {
                    0 => Request::Store { key: key(next), buffer, options: StoreOptions::default() },
                    1 => Request::Exist { key: key(next) },
                    _ => Request::Retrieve { key: key(next), buffer },
                };
                if client.submit(request, next).is_err() {
                    break;
                }
                next += 1;
            }
            assert!(client.wait(LONG).unwrap());
            client.poll(&mut burst);
            ended += burst.len() as u64;
            assert!(burst.drain(..).all(|event| !matches!(event.outcome, Outcome::Failed(_))));
        }
        assert_eq!((client.outstanding(), client.stats().unknown_completions), (0, 0));
    }
}

#[test]
fn a_client_survives_its_targets_restart() {
    let target = TcpTarget::start(Settings::default());
    let mut client = connect_to(&target, ConnectOptions::default());
    let memory = client.register(8192).unwrap();
    client.put(key(1), b"before").unwrap();
    let target = target.restart();
    client.submit(Request::Exist { key: key(1) }, 0).unwrap();
    assert_eq!(events(&mut client, 1)[0].outcome, Outcome::Failed(Error::Disconnected));
    client.reconnect().unwrap();
    let buffer = memory.slice(4096, 4096).unwrap();
    let got = outcome(&mut client, Request::Retrieve { key: key(1), buffer });
    assert_eq!(got, Outcome::Retrieved { bytes: 6, value_bytes: 6, checksum_ok: false });
    let mut bytes = [0; 6];
    memory.read(4096, &mut bytes).unwrap();
    assert_eq!(&bytes, b"before");
    client.unregister(&memory).unwrap();
    drop(target);
    assert!(matches!(client.reconnect(), Err(Error::Connect { .. })));
}

#[test]
fn a_host_says_who_it_is() {
    let target = TcpTarget::start(Settings::default());
    let network = NetworkOptions { host_nqn: Some("nqn.2026-01.io.kvplane:me".into()), ..NetworkOptions::default() };
    drop(connect_to(&target, ConnectOptions { network, ..ConnectOptions::default() }));
    let connects = target.connects();
    assert_eq!(connects.len(), 3, "the admin queue and one for each core");
    for data in connects {
        assert_eq!((data.host_nqn.as_str(), data.subsystem_nqn.as_str()), ("nqn.2026-01.io.kvplane:me", NQN));
        assert_ne!(data.host_id, [0; 16]);
    }
}

#[test]
fn targets_that_are_none_or_refuse_are_told_apart() {
    let refused = Lie::Refuses(Status::CONNECT_INVALID_HOST, 0);
    let unknown = Lie::Refuses(Status::CONNECT_INVALID_PARAMETERS, 0x0001_0100);
    let cases = [
        (Lie::Silent, "is this the port of an NVMe/TCP target?"),
        (Lie::Closes, "closed the connection"),
        (Lie::Terminates, "terminated the connection: unsupported parameter (06h), information 0xb"),
        (Lie::Greeting(0, 0x48), "broke the protocol: invalid PDU header field (01h), information 0x0"),
        (Lie::Greeting(0, 5), "PDU sequence error"),
        (Lie::Greeting(4, 127), "information 0x4"),
        (Lie::Greeting(8, 1), "unsupported parameter (06h), information 0x8"),
        (Lie::Greeting(10, 32), "information 0xa"),
        (Lie::Greeting(11, 1), "information 0xb"),
        (Lie::Greeting(14, 0), "information 0xc"),
        (refused, "add the host to the subsystem"),
        (unknown, "no subsystem nqn.2026-01.io.kvplane:fake"),
        (Lie::Refuses(Status::CONNECT_CONTROLLER_BUSY, 0), "try again later"),
    ];
    for (lie, expected) in cases {
        let target = TcpTarget::start(Settings { lie, max_h2c_data: 0x1_0000, ..Settings::default() });
        let deadline = Duration::from_millis(if lie == Lie::Silent { 50 } else { 10_000 });
        let options = ConnectOptions { deadline, ..ConnectOptions::default() };
        let error = Client::connect(&address(&target), options).unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{lie:?}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains(&target.address.to_string()), "{lie:?}: {text}");
    }
    let target = TcpTarget::start(Settings::default());
    let nobody = address(&target);
    drop(target);
    let text = Client::connect(&nobody, ConnectOptions::default()).unwrap_err().to_string();
    assert!(text.contains("is the daemon running"), "{text}");
    let rdma = Address::parse("rdma://127.0.0.1").unwrap();
    assert!(Client::connect(&rdma, ConnectOptions::default()).is_err());
}

#[test]
fn connecting_has_one_deadline_for_all_of_its_steps() {
    let deadline = Duration::from_millis(500);
    // Each step is in time; there are five of them at the least.
    let slow = Lie::Slow(Duration::from_millis(200));
    let target = TcpTarget::start(Settings { lie: slow, ..Settings::default() });
    let options = || ConnectOptions { deadline, ..ConnectOptions::default() };
    let text = Client::connect(&address(&target), options()).unwrap_err().to_string();
    assert!(text.contains("within 500ms"), "{text}");
    // Once connected, each step has the time for itself.
    target.set(Settings::default());
    let mut client = connect_to(&target, options());
    std::thread::sleep(deadline);
    assert_eq!(client.namespaces().unwrap().len(), 1);
}

#[test]
fn a_deadline_may_be_as_long_as_there_is_time() {
    let target = TcpTarget::start(Settings::default());
    let mut client = connect_to(&target, ConnectOptions { deadline: Duration::MAX, ..ConnectOptions::default() });
    client.put(key(1), &[3; 10_000]).unwrap();
    assert!(client.exists(key(1)).unwrap());
    assert_eq!(client.namespaces().unwrap().len(), 1);
}

#[test]
fn after_a_question_without_an_answer_there_is_no_other() {
    let target = TcpTarget::start(Settings { lie: Lie::ListsOnce, ..Settings::default() });
    let deadline = Duration::from_millis(300);
    let mut client = connect_to(&target, ConnectOptions { deadline, ..ConnectOptions::default() });
    assert_eq!(client.namespaces().unwrap_err(), Error::TimedOut);
    // Its answer may come at any time, into the memory of the next one.
    assert_eq!(client.namespaces().unwrap_err(), Error::Disconnected);
}

#[test]
fn data_that_was_spoilt_on_the_way_is_fetched_again() {
    let target = TcpTarget::start(Settings::default());
    connect_to(&target, with_digests(true, true)).put(key(1), &[3; 10_000]).unwrap();
    target.set(Settings { lie: Lie::SpoilsDigests, ..Settings::default() });
    let mut client = connect_to(&target, ConnectOptions { checksum: Checksum::Off, ..with_digests(false, true) });
    assert_eq!(client.get(key(1)).unwrap().unwrap(), [3; 10_000]);
    assert_eq!(client.stats().retries, 1);
    let never = ConnectOptions { retry: crate::RetryPolicy::NEVER, ..with_digests(false, true) };
    let mut client = connect_to(&target, never);
    assert_eq!(client.get(key(1)), Err(Error::Status(Status::TRANSIENT_TRANSPORT_ERROR)));
}

#[test]
fn a_target_that_writes_too_much_is_given_up_and_writes_nothing_beyond() {
    let target = TcpTarget::start(Settings::default());
    connect_to(&target, ConnectOptions::default()).put(key(1), &[3; 1000]).unwrap();
    for lie in [Lie::Overruns, Lie::Breaks] {
        target.set(Settings { lie, ..Settings::default() });
        let mut client = connect_to(&target, ConnectOptions::default());
        let memory = client.register(12_288).unwrap();
        memory.write(0, &[0x77; 12_288]).unwrap();
        let buffer = memory.slice(4096, 4096).unwrap();
        let outcome = outcome(&mut client, Request::Retrieve { key: key(1), buffer });
        assert_eq!(outcome, Outcome::Failed(Error::Disconnected), "{lie:?}");
        assert!(!client.is_connected());
        let mut around = [0; 4096];
        for offset in [0, 8192] {
            memory.read(offset, &mut around).unwrap();
            assert_eq!(around, [0x77; 4096], "{lie:?} at {offset}");
        }
    }
}

#[test]
fn keep_alives_are_sent_while_the_client_is_polled() {
    let keeping = |milliseconds| {
        let keep_alive = Duration::from_millis(milliseconds);
        let network = NetworkOptions { keep_alive, ..NetworkOptions::default() };
        ConnectOptions { network, ..ConnectOptions::default() }
    };
    let target = TcpTarget::start(Settings::default());
    let mut client = connect_to(&target, keeping(100));
    let begun = Instant::now();
    while target.keep_alives() < 3 {
        assert!(!client.exists(key(1)).unwrap());
        assert!(begun.elapsed() < LONG, "{} keep alives", target.keep_alives());
    }
    // One that is not answered is the end.
    target.set(Settings { lie: Lie::AdminStalls, ..Settings::default() });
    let mut client = connect_to(&target, keeping(100));
    let begun = Instant::now();
    while client.exists(key(1)).is_ok() {
        assert!(begun.elapsed() < LONG, "the silence is not noticed");
    }
    assert!(!client.is_connected());
}

#[test]
fn commands_allocate_nothing() {
    let target = TcpTarget::start(Settings { r2t_bytes: 4096, r2ts: 2, capsule_data: 0, ..Settings::default() });
    let mut client = connect_to(&target, with_digests(true, true));
    let memory = client.register(16_384).unwrap();
    let keys: Vec<Key> = (0..3).map(key).collect();
    let mut burst = Burst::new();
    let mut round = |client: &mut Client| {
        let buffer = memory.slice(0, 16_384).unwrap();
        let requests = [
            Request::Store { key: keys[0], buffer, options: StoreOptions::default() },
            Request::Retrieve { key: keys[0], buffer },
            Request::Exist { key: keys[2] },
            Request::LookupPrefix { keys: Keys::Copied(&keys), lease: None },
        ];
        for request in requests.iter().cycle().take(20) {
            client.submit(*request, 0).unwrap();
        }
        while client.outstanding() > 0 {
            client.poll(&mut burst);
            burst.clear();
        }
    };
    round(&mut client);
    let before = allocations::count();
    assert!(before > 0, "the counter counts");
    for _ in 0..20 {
        round(&mut client);
    }
    assert_eq!(allocations::count() - before, 0);
    assert_eq!(client.stats().completed, 21 * 20);
    assert!(target.store().lock().unwrap().values.len() == 1);
}
