//! How the process ends.

/// What the process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Done.
    Done = 0,
    /// What was asked about is not so: a key has no value, a store is not sound.
    Miss = 1,
    /// The command line is wrong. clap ends with this code too.
    Usage = 2,
    /// Anything else went wrong.
    Failed = 3,
}

/// The command line is wrong in a way that clap cannot see.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError(pub String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}
