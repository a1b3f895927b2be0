//! What can go wrong between a program and a device.

use std::io;

use super::library::NoLibrary;

/// A call of the libraries failed, or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VerbsError {
    /// The libraries are not installed.
    #[error(transparent)]
    NoLibrary(#[from] NoLibrary),
    /// A call failed.
    #[error("cannot {what}: {cause}{}", hint(cause))]
    Call {
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// The device or its library cannot do what was asked.
    #[error("{0}")]
    Unsupported(&'static str),
}

impl VerbsError {
    /// A call that told its error in `errno`.
    pub(super) fn last(what: &'static str) -> Self {
        Self::Call { what, cause: io::Error::last_os_error() }
    }

    /// A call that answered with an error number.
    pub(super) fn code(what: &'static str, code: i32) -> Self {
        Self::Call { what, cause: io::Error::from_raw_os_error(code.saturating_abs()) }
    }
}

/// What usually helps.
fn hint(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::ENODEV) => {
            "; no RDMA device has this address (`rdma link` lists them; module rdma_ucm must be loaded)"
        }
        Some(libc::ENOENT) => "; is the kernel module rdma_ucm loaded?",
        Some(libc::ENOMEM | libc::EAGAIN) => "; raise the limit of locked memory (ulimit -l, LimitMEMLOCK=)",
        Some(libc::EADDRINUSE) => "; somebody listens there already",
        _ => "",
    }
}
