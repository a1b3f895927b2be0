//! The client against a target in this process.

mod allocations;
mod device_memory;
mod faults;
mod garbage;
mod over_tcp;
mod over_vfio_user;
mod pipeline;
mod tcp_target;

use std::time::Duration;

use dataplane::Burst;

use crate::chain::block_hash;
use crate::fake::FakeTarget;
use crate::transport::Dial;
use crate::{Client, ConnectOptions, Event, Key, Memory, Outcome, Request, StoreOptions, Ticket};

const LONG: Duration = Duration::from_secs(30);

fn connect(target: &FakeTarget, options: ConnectOptions) -> Client {
    Client::dial(Dial::Fake(target.clone()), options).unwrap()
}

fn plain(target: &FakeTarget) -> Client {
    connect(target, ConnectOptions::default())
}

/// A key that no other number has.
fn key(number: u64) -> Key {
    let mut bytes = [0; 16];
    bytes[..12].copy_from_slice(&block_hash(b"tests", number));
    Key::new(bytes)
}

fn store(client: &mut Client, memory: &Memory, number: u64, value: &[u8]) -> Ticket {
    memory.write(0, value).unwrap();
    let buffer = memory.slice(0, value.len() as u32).unwrap();
    client.submit(Request::Store { key: key(number), buffer, options: StoreOptions::default() }, number).unwrap()
}

/// Events until there are `count`, in the order in which they came.
fn events(client: &mut Client, count: usize) -> Vec<Event> {
    let mut all = Vec::new();
    let mut burst = Burst::new();
    while all.len() < count {
        assert!(client.poll(&mut burst) > 0 || client.wait(LONG).unwrap(), "{} of {count} events came", all.len());
        all.extend(burst.drain(..));
    }
    all
}

fn outcome(client: &mut Client, request: Request<'_>) -> Outcome {
    let ticket = client.submit(request, 5).unwrap();
    let mut events = events(client, 1);
    let event = events.remove(0);
    assert_eq!((event.ticket, event.user), (ticket, 5));
    event.outcome
}
