//! How the process ends.

use std::fmt;

/// The exit codes, besides 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Something failed that has no code of its own.
    Failure = 1,
    /// The command line is not valid.
    Usage = 2,
    /// The store or its device is not there, not ours, damaged, of another version or too small. It was not changed.
    Store = 3,
    /// The store or its device is in use by another process.
    Locked = 4,
    /// The cores cannot be used.
    Cores = 5,
    /// There is not enough memory that devices can use.
    Memory = 6,
    /// The RPC socket cannot be made.
    Socket = 7,
    /// The configuration file is not valid, or one of its calls failed.
    Config = 8,
    /// A second signal cut the drain short.
    Forced = 9,
}

/// Why the daemon does not run: one clear line, and the exit code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    /// The exit code.
    pub exit: Exit,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl StartError {
    /// An error with its exit code.
    pub fn new(exit: Exit, what: impl fmt::Display) -> Self {
        Self { exit, message: what.to_string() }
    }
}
