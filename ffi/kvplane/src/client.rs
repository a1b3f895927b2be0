//! The client.

use std::time::Duration;

use dataplane::Burst;
use dataplane::fabric::NamespaceInfo;
use dataplane::nvme::spec::kv::Key;
use dataplane::nvme::spec::vendor::{KeyState, OwnerMap};

use crate::{Address, Buffer, ConnectOptions, Error, Event, Lease, Memory, Request, SubmitError, Ticket};

/// What the target says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The subsystem's NQN.
    pub subsystem_nqn: String,
    /// Serial number.
    pub serial: String,
    /// Model number.
    pub model: String,
    /// Firmware revision.
    pub firmware: String,
    /// The most bytes one command may move.
    pub max_transfer_bytes: u32,
    /// How keys map to cores; `None` for a target that is not kvplane's.
    pub owners: Option<OwnerMap>,
}

/// Counts since the client was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commands taken.
    pub submitted: u64,
    /// Commands ended, in whatever way.
    pub completed: u64,
    /// Commands that ended in [`Outcome::Failed`](crate::Outcome::Failed).
    pub failed: u64,
    /// Commands sent again because of a passing failure.
    pub retries: u64,
    /// Values that did not match their checksum.
    pub corrupt: u64,
    /// Completions that named no command in flight. Not zero means that the target is broken.
    pub unknown_completions: u64,
    /// Connections lost.
    pub disconnects: u64,
    /// Connections made again.
    pub reconnects: u64,
}

/// A connection to a target, for one namespace.
///
/// A client belongs to one thread at a time (it may move between threads); for more threads, connect more clients.
pub struct Client {}

// The signatures that others build on; what they do follows in the next commits.
#[allow(unused_variables, clippy::missing_errors_doc, clippy::unused_self)]
impl Client {
    pub fn connect(address: &Address, options: ConnectOptions) -> Result<Self, Error> {
        Err(Error::Protocol("not written yet"))
    }
    pub fn identity(&self) -> &Identity {
        unreachable!()
    }
    pub fn namespaces(&mut self) -> Result<Vec<NamespaceInfo>, Error> {
        unreachable!()
    }
    /// The namespace that commands address.
    pub fn namespace(&self) -> &NamespaceInfo {
        unreachable!()
    }
    pub fn options(&self) -> &ConnectOptions {
        unreachable!()
    }
    pub fn stats(&self) -> Stats {
        unreachable!()
    }
    pub fn register(&mut self, bytes: usize) -> Result<Memory, Error> {
        unreachable!()
    }
    pub fn unregister(&mut self, memory: &Memory) -> Result<(), Error> {
        unreachable!()
    }
    /// Commands taken whose events were not handed out yet.
    pub fn outstanding(&self) -> usize {
        unreachable!()
    }
    pub fn is_connected(&self) -> bool {
        unreachable!()
    }
    /// Index (from 0) of the queue pair, and with it of the core, that a key's commands go to.
    pub fn queue_of(&self, key: &Key) -> usize {
        unreachable!()
    }
    pub fn queues(&self) -> usize {
        unreachable!()
    }
    #[allow(clippy::result_large_err)]
    pub fn submit<'a>(&mut self, request: Request<'a>, user: u64) -> Result<Ticket, (Request<'a>, SubmitError)> {
        unreachable!()
    }
    /// Publishes what was submitted. `poll` and `wait` do it too.
    pub fn ring(&mut self) {
        unreachable!()
    }
    /// Adds events to the burst until it is full or there are none; returns how many were added. Never waits.
    pub fn poll(&mut self, events: &mut Burst<Event>) -> usize {
        unreachable!()
    }
    /// Waits until `poll` has something to hand out: true; or until the time is over: false.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, Error> {
        unreachable!()
    }
    pub fn reconnect(&mut self) -> Result<(), Error> {
        unreachable!()
    }

    pub fn put(&mut self, key: Key, value: &[u8]) -> Result<(), Error> {
        unreachable!()
    }
    pub fn get(&mut self, key: Key) -> Result<Option<Vec<u8>>, Error> {
        unreachable!()
    }
    pub fn exists(&mut self, key: Key) -> Result<bool, Error> {
        unreachable!()
    }
    pub fn delete(&mut self, key: Key) -> Result<bool, Error> {
        unreachable!()
    }
    pub fn lookup_prefix(&mut self, keys: &[Key]) -> Result<usize, Error> {
        unreachable!()
    }
    pub fn lookup_prefix_leased(&mut self, keys: &[Key], time: Duration) -> Result<(usize, Option<Lease>), Error> {
        unreachable!()
    }
    pub fn lookup_state(&mut self, keys: &[Key]) -> Result<Vec<KeyState>, Error> {
        unreachable!()
    }
    pub fn release(&mut self, lease: Lease) -> Result<(), Error> {
        unreachable!()
    }
}
