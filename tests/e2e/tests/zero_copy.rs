//! The CPU copies no value that is aligned: counted, not believed.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use e2e::carrier::{self, Carrier};
use e2e::rpc::sum_of;
use e2e::skip::skipped;
use e2e::{Daemon, Setup, key, value};
use kvplane::{Burst, Client, Outcome, Request, StoreOptions};
use serde_json::json;

const VALUE: u32 = 1 << 20;

/// Bytes that went through a staging buffer or were copied by the CPU since the counters were reset.
fn copied(daemon: &Daemon) -> (u64, u64) {
    let stats = daemon.rpc("pipeline_get_stats", json!({}));
    (sum_of(&stats, "copied_bytes"), sum_of(&stats, "staged_bytes"))
}

fn run(client: &mut Client, request: Request<'_>) -> Outcome {
    client.submit(request, 0).expect("a queue with room");
    let mut events = Burst::new();
    while client.poll(&mut events) == 0 {
        client.wait(e2e::PATIENCE).unwrap();
    }
    events.remove(0).outcome
}

#[test]
fn aligned_values_are_never_copied_and_others_are_counted() {
    if carrier::chosen() == Carrier::Tcp {
        return skipped(
            "aligned_values_are_never_copied_and_others_are_counted",
            "over TCP values are copied: by the kernel, and by the daemon what came along with a header",
        );
    }
    // A NIC in software moves a few MiB a second in the guest.
    let values = if carrier::chosen() == Carrier::VfioUser { 128 } else { 32 };
    let daemon = Daemon::start(Setup::default());
    let mut client = daemon.client();
    let memory = client.register(8 << 20).unwrap();
    let before = copied(&daemon);
    let mut moved = 0;
    for number in 0..values {
        let key = key(number);
        let place = (number % 4) << 20;
        memory.write(place, &value(&key, 1, VALUE as usize)).unwrap();
        let buffer = memory.slice(place, VALUE).unwrap();
        let stored = run(&mut client, Request::Store { key, buffer, options: StoreOptions::default() });
        assert!(matches!(stored, Outcome::Stored), "{stored:?}");
        let buffer = memory.slice(place + (4 << 20), VALUE).unwrap();
        let read = run(&mut client, Request::Retrieve { key, buffer });
        assert!(matches!(read, Outcome::Retrieved { bytes: VALUE, .. }), "{read:?}");
        let mut found = vec![0; VALUE as usize];
        memory.read(place + (4 << 20), &mut found).unwrap();
        assert_eq!(e2e::values::version_of(&key, &found), Ok(1));
        moved += 2 * u64::from(VALUE);
    }
    assert_eq!(moved, values << 21);
    assert_eq!(copied(&daemon), before, "the CPU copied aligned values");

    let key = key(1000);
    let buffer = memory.slice(1, 10_001).unwrap();
    let stored = run(&mut client, Request::Store { key, buffer, options: StoreOptions::default() });
    assert!(matches!(stored, Outcome::Stored), "{stored:?}");
    let buffer = memory.slice(20_003, 10_001).unwrap();
    let read = run(&mut client, Request::Retrieve { key, buffer });
    assert!(matches!(read, Outcome::Retrieved { bytes: 10_001, .. }), "{read:?}");
    let after = copied(&daemon);
    if matches!(carrier::chosen(), Carrier::Rdma(_)) {
        // The NIC reaches any byte of the client's memory. The device does not: what is beyond the last whole block is copied.
        let tails = 2 * 4096;
        assert!(after.0 - before.0 < tails, "more than tails was copied: {before:?}, then {after:?}");
        return;
    }
    assert!(
        after.0 + after.1 >= before.0 + before.1 + 2 * 10_001,
        "values that are not aligned were not counted: {before:?}, then {after:?}"
    );
}
