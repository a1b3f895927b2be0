//! What the load generator drives: something that takes commands and hands out their ends.

mod client;
mod memory;
mod redis;

use dataplane::Burst;
use dataplane::nvme::spec::kv::Key;

pub use client::ClientTarget;
pub use memory::{Fault, MemoryTarget};
pub use redis::RedisTarget;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Reads a value.
    Retrieve,
    /// Writes a value.
    Store,
    /// Asks whether a key has a value.
    Exist,
    /// Removes a key.
    Delete,
    /// Asks how many leading keys of a list have values.
    Lookup,
}

impl Op {
    /// All of them, in the order in which reports name them.
    pub const ALL: [Self; 5] = [Self::Retrieve, Self::Store, Self::Exist, Self::Delete, Self::Lookup];

    /// Its place in [`Op::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name in options and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retrieve => "retrieve",
            Self::Store => "store",
            Self::Exist => "exist",
            Self::Delete => "delete",
            Self::Lookup => "lookup",
        }
    }
}

/// Bytes of the target's registered memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u32,
}

impl Span {
    /// No bytes.
    pub const EMPTY: Self = Self { offset: 0, bytes: 0 };
}

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// What to do.
    pub op: Op,
    /// The key; for [`Op::Lookup`] the first of the list.
    pub key: Key,
    /// The value's place, or the list of keys (16 bytes each).
    pub span: Span,
    /// Store: the key before this one in its chain.
    pub parent: Option<Key>,
    /// Handed back with the end.
    pub token: u32,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Store: acknowledged. Retrieve: the value of this many bytes is there. Exist and Delete: there was one.
    Hit(u32),
    /// There is no value.
    Miss,
    /// Lookup: leading keys present.
    Prefix(u32),
    /// It failed; [`Target::last_failure`] says more.
    Failed,
}

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The command's token.
    pub token: u32,
    /// How it ended.
    pub outcome: Outcome,
}

/// Why a target does not go on.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Its memory could not be had.
    #[error("cannot register {bytes} bytes of memory: {cause}")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// Why.
        cause: String,
    },
    /// The connection is lost.
    #[error("the target is gone: {0}; is kvplaned still running?")]
    Gone(String),
}

/// Something that takes commands.
pub trait Target {
    /// Makes `bytes` bytes of memory for values; earlier memory is given back, or serves again if it has that size.
    ///
    /// # Errors
    /// [`TargetError::Memory`].
    fn allocate(&mut self, bytes: usize) -> Result<(), TargetError>;

    /// Copies bytes into the memory. The range lies inside it.
    fn write(&mut self, offset: u64, from: &[u8]);

    /// Copies bytes out of the memory. The range lies inside it.
    fn read(&self, offset: u64, into: &mut [u8]);

    /// Takes a command; false if there is no room now.
    ///
    /// # Errors
    /// [`TargetError::Gone`].
    fn submit(&mut self, command: Command) -> Result<bool, TargetError>;

    /// Sends what was taken.
    fn ring(&mut self);

    /// Hands out ends into an empty burst until it is full or there are none. Never waits.
    ///
    /// # Errors
    /// [`TargetError::Gone`].
    fn poll(&mut self, done: &mut Burst<Done>) -> Result<(), TargetError>;

    /// What the last [`Outcome::Failed`] was, for people.
    fn last_failure(&self) -> Option<String>;
}
