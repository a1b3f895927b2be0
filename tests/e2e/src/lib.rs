//! What the end-to-end tests stand on: the daemon as a child process, its control socket, values that prove whose
//! they are, and an NVMe driver that shares no code with kvplane's own.
//!
//! The tests themselves lie in `tests/`. They panic with the daemon's log at hand, so nothing here returns errors
//! that a test would only unwrap.
#![allow(clippy::unwrap_used, reason = "a test has no better way to fail")]

pub mod binaries;
pub mod carrier;
pub mod core_pair;
pub mod daemon;
pub mod device;
pub mod lone_core;
pub mod memory;
pub mod message;
pub mod nvme;
pub mod nvme_target;
pub mod rpc;
pub mod skip;
pub mod tcp;
pub mod values;

pub use daemon::{Daemon, Setup};
pub use values::{key, value};

use std::time::{Duration, Instant};

/// How long a test waits for something that should take milliseconds. Generous, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks at a condition before the waiting thread begins to sleep between them: what the daemon answers at once is not
/// to cost a millisecond.
const EAGER_LOOKS: u32 = 200;

/// Waits until a condition holds, looking every millisecond, and more often at first.
///
/// # Panics
/// If it does not hold within [`PATIENCE`].
pub fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    let mut looks = 0;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain until {what}");
        looks += 1;
        if looks < EAGER_LOOKS {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
