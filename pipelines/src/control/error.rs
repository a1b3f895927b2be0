//! Why a change was refused.

use super::EngineError;

/// A change or question that the control plane refuses. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// A value makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// What is named does not exist.
    #[error("No such device: {0}")]
    Missing(String),
    /// What is to be made exists already.
    #[error("File exists: {0}")]
    Exists(String),
    /// It is used by something else.
    #[error("Device or resource busy: {0}")]
    Busy(String),
    /// A fixed limit is reached.
    #[error("No space left: {0}")]
    Full(String),
    /// Known, but not built.
    #[error("Operation not supported: {0}")]
    Unsupported(String),
    /// The framework is not initialised.
    #[error("the framework is not initialized yet: call framework_start_init first")]
    NotReady,
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ControlError {
    /// The positive errno that says it best.
    #[must_use]
    pub const fn errno(&self) -> i32 {
        match self {
            Self::Invalid(_) => libc::EINVAL,
            Self::Missing(_) => libc::ENODEV,
            Self::Exists(_) => libc::EEXIST,
            Self::Busy(_) => libc::EBUSY,
            Self::Full(_) => libc::ENOSPC,
            Self::Unsupported(_) => libc::ENOTSUP,
            Self::NotReady => libc::EPERM,
            Self::Engine(error) => error.errno,
        }
    }
}
