//! What comes from peers over RDMA: private data of connections, and commands with their data pointers.
#![no_main]

use dataplane::fabric::rdma::target::fuzzing;
use dataplane::fabric::rdma::wire::{ConnectAnswer, ConnectQuery, Rejection};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(query) = ConnectQuery::decode(bytes) {
        assert_eq!(ConnectQuery::decode(&query.encode()), Ok(query));
        assert!(query.host_sends > 0 && query.host_receives > 0);
    }
    if let Some(answer) = ConnectAnswer::decode(bytes) {
        assert_eq!(ConnectAnswer::decode(&answer.encode()), Some(answer));
    }
    if let Some(rejection) = Rejection::decode(bytes) {
        assert_eq!(Rejection::decode(&rejection.encode()), Some(rejection));
    }
    // The first bytes say what was agreed.
    let Some((head, command)) = bytes.split_first_chunk::<4>() else { return };
    let [low, high, most, _] = *head;
    if let Some(command) = command.first_chunk() {
        fuzzing::route(command, u32::from(u16::from_le_bytes([low, high])), 1 << (u32::from(most) % 25));
    }
});
