//! A core that has no room for more work still does what it is told, and what waited for it is admitted by the policy of then.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use dataplane::nvme::spec::kv::{KeyFields, opcode};
use dataplane::nvme::spec::{Sqe, Status};
use e2e::core_pair::CorePair;
use kvplane::Key;
use pipelines::core_pipeline::{Mail, Snapshot, Wants};
use pipelines::policy::PolicyTable;

const VALUE: u32 = 4096;
/// More than a core takes in, with what fits its mailbox.
const COMMANDS: u16 = 3000;

fn command(opcode: u8, key: &Key, cid: u16) -> Sqe {
    let mut sqe = Sqe::new(opcode, cid);
    sqe.set_nsid(1);
    sqe.set_dword(10, VALUE);
    sqe.set_key(key.bytes());
    sqe
}

fn key_of_the_second() -> Key {
    (0..).map(e2e::key).find(|key| CorePair::owner(key) == 1).unwrap()
}

#[test]
fn a_core_without_room_takes_orders_and_admits_what_waited_by_the_policy_of_then() {
    let mut pair = CorePair::new();
    let key = key_of_the_second();
    pair.submit(0, command(opcode::STORE, &key, 0), VALUE);
    let mut stored = Vec::new();
    e2e::await_that("the value is stored", || {
        pair.turn(0);
        pair.turn(1);
        stored.extend(pair.take(0));
        !stored.is_empty()
    });
    assert!(stored[0].1.status.is_success());

    pair.stand_still(true);
    (0..COMMANDS).for_each(|cid| pair.submit(0, command(opcode::RETRIEVE, &key, cid), VALUE));
    for _ in 0..COMMANDS {
        pair.turn(0);
        pair.turn(1);
    }
    assert!(pair.take(0).is_empty(), "the device stands still");
    let nobody_may = Mail::Policy(Arc::new(PolicyTable::deny_all()));
    pair.postboxes[1].post(nobody_may).map_err(|_| "no room for an order").unwrap();
    let (answer, answered) = sync_channel(1);
    let asked = Mail::Snapshot(Snapshot::blank(Wants::default()), answer);
    pair.postboxes[1].post(asked).map_err(|_| "no room for an order").unwrap();
    pair.turn(1);
    assert!(answered.try_recv().is_ok(), "a core that is asked says how it is, also without room");

    pair.stand_still(false);
    let mut ends = Vec::new();
    e2e::await_that("every command has ended", || {
        pair.turn(0);
        pair.turn(1);
        ends.extend(pair.take(0));
        ends.len() == usize::from(COMMANDS)
    });
    let (served, refused): (Vec<_>, Vec<_>) = ends.iter().partition(|(_, end)| end.status.is_success());
    assert!(!served.is_empty(), "what the owner had begun with goes on");
    assert!(refused.len() > 64, "more waited than the mailbox holds: {}", refused.len());
    assert!(refused.iter().all(|(_, end)| end.status == Status::INVALID_NAMESPACE), "{:?}", refused[0]);
    let mut cids: Vec<u16> = ends.iter().map(|(cid, _)| *cid).collect();
    cids.sort_unstable();
    assert!(cids.into_iter().eq(0..COMMANDS), "each once");
}
