//! A small safe layer over libibverbs and librdmacm: all of RDMA that is `unsafe` is here.
//!
//! Why posting a work request is safe: a device reaches registered memory only; a [`RegisteredMemory`] keeps its region
//! mapped and is deregistered before that is unmapped; and a region is never behind a reference. So a wrong address, key
//! or length in a work request fails at the device and takes its queue pair along, and can do no other harm here.
//!
//! The libraries are opened at run time, so that the daemon is built and started without them: [`EventChannel::new`]
//! says so where they are missing.

mod abi;
mod completion;
mod connection;
mod device;
mod error;
mod event;
mod library;
mod memory;
mod receive;
mod send;
mod socket_address;

#[cfg(test)]
mod tests;

pub use completion::{CompletionQueue, WorkDone, WorkFault};
pub use connection::{Endpoint, QueuePairParts, Reads};
pub use device::{Device, DeviceLimits, Domain};
pub use error::VerbsError;
pub use event::{ConnectRequest, EndpointId, Event, EventChannel, EventKind, PRIVATE_BYTES};
pub use library::NoLibrary;
pub use memory::{Access, Piece, RegisteredMemory};
pub use receive::{ReceiveList, SharedReceiveQueue};
#[cfg(test)]
pub(crate) use send::Seen;
pub use send::{INLINE_BYTES, RemotePlace, SendList, Work};

use std::io;
use std::os::fd::RawFd;

/// Waits until a descriptor is readable; false if it was not for so long, or a signal came.
#[allow(unsafe_code)]
fn wait_readable(fd: RawFd, milliseconds: i32) -> io::Result<bool> {
    let mut one = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which is ours.
    let count = unsafe { libc::poll(&raw mut one, 1, milliseconds) };
    if count >= 0 {
        return Ok(count > 0);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(error) }
}
