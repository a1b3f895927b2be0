//! A target that writes anything at all into its completion queues.

use std::collections::HashSet;

use dataplane::nvme::spec::{Cqe, Status};
use proptest::prelude::*;

use super::*;
use crate::{Checksum, Keys};

/// Words that are often in range, often at an edge, and else anything.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![0..16u32, Just(u32::MAX), Just(1 << 20), any::<u32>()]
}

fn completion() -> impl Strategy<Value = Cqe> {
    let status = prop_oneof![3 => Just(Status::SUCCESS), 1 => any::<u16>().prop_map(Status::from_bits)];
    let cid = prop_oneof![3 => 0..8u16, 1 => any::<u16>()];
    (word(), word(), cid, any::<(u16, u16)>(), status).prop_map(|(dword0, dword1, cid, (sq_head, sq_id), status)| Cqe {
        dword0,
        dword1,
        sq_head,
        sq_id,
        cid,
        status,
    })
}

fn submit_each_kind(client: &mut Client, memory: &Memory) -> HashSet<Ticket> {
    let keys = [key(1), key(2)];
    let keys = Keys::Copied(&keys);
    let buffer = memory.slice(0, 48).unwrap();
    let requests = [
        Request::Store { key: key(1), buffer, options: StoreOptions::default() },
        Request::Retrieve { key: key(1), buffer },
        Request::Exist { key: key(1) },
        Request::Delete { key: key(1) },
        Request::LookupPrefix { keys, lease: Some(LONG) },
        Request::LookupState { buffer },
        Request::Hint { keys, kind: crate::HintKind::Prefetch, argument: 0 },
    ];
    requests.into_iter().map(|request| client.submit(request, 9).unwrap()).collect()
}

fn check(event: &Event, tickets: &mut HashSet<Ticket>) {
    assert!(tickets.remove(&event.ticket), "{event:?} ends nothing, or ends it twice");
    assert_eq!(event.user, 9);
    match event.outcome {
        Outcome::Retrieved { bytes, .. } => assert!(bytes <= 48),
        Outcome::Prefix { hits, .. } => assert!(hits <= 2),
        Outcome::States { present } => assert!(present <= 3),
        Outcome::Hinted { taken } => assert!(taken <= 2),
        _ => {}
    }
}

proptest! {
    #[test]
    fn every_command_still_ends_once(completions in prop::collection::vec(completion(), 0..40)) {
        let target = FakeTarget::new(1, 1);
        let options = ConnectOptions { queue_depth: 8, checksum: Checksum::Verify, ..ConnectOptions::default() };
        let mut client = connect(&target, options);
        let memory = client.register(4096).unwrap();
        target.lock().hold = true;
        let mut tickets = submit_each_kind(&mut client, &memory);
        client.ring();
        target.lock().completed[0].extend(completions);
        let mut burst = Burst::new();
        while !target.lock().completed[0].is_empty() {
            client.poll(&mut burst);
            burst.drain(..).for_each(|event| check(&event, &mut tickets));
            if client.outstanding() == 0 {
                break;
            }
        }
        target.lock().dead = true;
        while client.outstanding() > 0 {
            client.poll(&mut burst);
            burst.drain(..).for_each(|event| check(&event, &mut tickets));
        }
        prop_assert!(tickets.is_empty());
        // Nothing that was lent to a command got lost on the way.
        target.lock().dead = false;
        client.reconnect().unwrap();
        prop_assert_eq!(submit_each_kind(&mut client, &memory).len(), 7);
    }
}
