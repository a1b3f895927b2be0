//! Commands as a caller writes them, and their outcomes.

use std::time::Duration;

use dataplane::memory::SlotId;
use dataplane::nvme::spec::kv::Key;

use crate::{Buffer, Error};

pub use dataplane::nvme::spec::vendor::{HintKind, KeyState, Tier};

/// A command for [`Client::submit`](crate::Client::submit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Writes the buffer's bytes under a key.
    Store {
        /// The key.
        key: Key,
        /// The value.
        buffer: Buffer,
        /// Conditions and the chain's parent.
        options: StoreOptions,
    },
    /// Reads the value of a key into a buffer. What does not fit is left out, see [`Outcome::Retrieved`]; after any
    /// other outcome the bytes of the buffer mean nothing. A value that the medium does not give back any more ends with
    /// [`Status::UNRECOVERED_ERROR`](crate::Status::UNRECOVERED_ERROR) once, and is missing from then on.
    Retrieve {
        /// The key.
        key: Key,
        /// Where to.
        buffer: Buffer,
    },
    /// Asks whether a key has a value. There is no need to ask before a Retrieve: a miss is as cheap.
    Exist {
        /// The key.
        key: Key,
    },
    /// Removes a key and its value.
    Delete {
        /// The key.
        key: Key,
    },
    /// Asks how many leading keys of a chain are present, and optionally takes a lease that holds them in place.
    LookupPrefix {
        /// The chain, from its head on.
        keys: Keys<'a>,
        /// How long the lease lasts (whole milliseconds, rounded up); `None` for no lease.
        lease: Option<Duration>,
    },
    /// Asks for the state of every key of a list. The answer takes the list's place in the buffer, 16 bytes for
    /// each key: see [`Memory::key_state`](crate::Memory::key_state).
    LookupState {
        /// The list: keys of 16 bytes, as [`Memory::write_keys`](crate::Memory::write_keys) puts them.
        buffer: Buffer,
    },
    /// Gives a lease back.
    Release {
        /// The lease.
        lease: Lease,
    },
    /// Says what the engine expects to do with keys.
    Hint {
        /// The keys.
        keys: Keys<'a>,
        /// What it expects.
        kind: HintKind,
        /// The time of a [`HintKind::TimeToLive`] in milliseconds; 0 for the other kinds.
        argument: u32,
    },
}

/// A list of 1 to 4,096 keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys<'a> {
    /// Keys that the client copies into a scratch place when it takes the command.
    Copied(&'a [Key]),
    /// Keys of 16 bytes each that lie in registered memory already, and must stay there until the command is done.
    InPlace(Buffer),
}

/// Options of a Store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// Store only if the key has no value yet: otherwise [`Outcome::KeyExists`], and the value is not sent over.
    pub must_not_exist: bool,
    /// Store only if the key has a value already: otherwise [`Outcome::Missing`].
    pub must_exist: bool,
    /// The key before this one in its chain. The store drops blocks whose parent is gone first.
    pub parent: Option<Key>,
}

/// A hold on blocks that a prefix lookup found: they stay where they are until it is released or runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    pub(crate) id: u32,
    pub(crate) queue: u16,
}

impl Lease {
    /// The number under which the target knows it.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }
}

/// Names a command that was taken, until its event was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub(crate) SlotId);

/// The end of a command. Every command that was taken ends in exactly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which command.
    pub ticket: Ticket,
    /// The number given to [`Client::submit`](crate::Client::submit).
    pub user: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Store: the target acknowledged the value.
    Stored,
    /// Store with `must_not_exist`: the key has a value already, which stays as it is.
    KeyExists,
    /// Retrieve: here is the value.
    Retrieved {
        /// Bytes that lie in the buffer now; never more than its length.
        bytes: u32,
        /// The value's whole length. If it is more than `bytes` the buffer was too short.
        value_bytes: u32,
        /// Whether the bytes were compared with their checksum and found equal. False if checking is off, if the
        /// value was stored without one, or if the buffer was too short.
        checksum_ok: bool,
    },
    /// Retrieve, or Store with `must_exist`: the key has no value. A normal answer of a cache.
    Missing,
    /// Exist: whether the key has a value.
    Exists(bool),
    /// Delete: whether there was a value.
    Deleted(bool),
    /// Lookup prefix.
    Prefix {
        /// Leading keys that are present.
        hits: u32,
        /// The lease on them, if one was asked for and given.
        lease: Option<Lease>,
    },
    /// Lookup state: the states lie in the buffer.
    States {
        /// Keys that are present.
        present: u32,
    },
    /// Release.
    Released,
    /// Hint.
    Hinted {
        /// Keys that the target took note of.
        taken: u32,
    },
    /// The command failed, after the repetitions that the retry policy allows.
    Failed(Error),
}
