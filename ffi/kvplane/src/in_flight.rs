//! A command in flight: what must be known of it when it ends.

use dataplane::nvme::spec::{Cqe, Sqe, Status};

use crate::{Buffer, Error, Lease, Memory, Outcome};

/// What was asked, as far as its end depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Store,
    Retrieve { buffer: Buffer, max_value_bytes: u32 },
    Exist,
    Delete,
    Prefix { keys: u32, lease: bool },
    States { keys: u32 },
    Release,
    Hint { keys: u32 },
}

/// One command between its submission and its event.
pub(crate) struct InFlight {
    pub sqe: Sqe,
    pub user: u64,
    pub asked: Asked,
    pub queue: u16,
    /// Times it was sent again.
    pub attempt: u8,
    /// The liveness sweep in which it was last sent.
    pub sweep: u32,
    /// The memory it names.
    pub buffer: Option<Buffer>,
    /// The scratch place that holds its list.
    pub list_place: Option<u16>,
}

/// How a command ended, from its completion. `memory` is where the buffer of a Retrieve lies if its value is to be
/// compared with its checksum.
pub(crate) fn outcome(command: &InFlight, cqe: &Cqe, memory: Option<&Memory>) -> Outcome {
    if !cqe.status.is_success() {
        return failure(command.asked, cqe.status);
    }
    let at_most = |count: u32, keys: u32, outcome: Outcome| {
        if count <= keys {
            outcome
        } else {
            Outcome::Failed(Error::Protocol("it counted more keys than were asked about"))
        }
    };
    match command.asked {
        Asked::Store => Outcome::Stored,
        Asked::Exist => Outcome::Exists(true),
        Asked::Delete => Outcome::Deleted(true),
        Asked::Release => Outcome::Released,
        Asked::Retrieve { buffer, max_value_bytes } => retrieved(buffer, max_value_bytes, cqe, memory),
        Asked::Prefix { keys, lease } => {
            let lease = (lease && cqe.dword1 != 0).then_some(Lease { id: cqe.dword1, queue: command.queue });
            at_most(cqe.dword0, keys, Outcome::Prefix { hits: cqe.dword0, lease })
        }
        Asked::States { keys } => at_most(cqe.dword0, keys, Outcome::States { present: cqe.dword0 }),
        Asked::Hint { keys } => at_most(cqe.dword0, keys, Outcome::Hinted { taken: cqe.dword0 }),
    }
}

/// Misses and existing keys are answers; everything else failed.
fn failure(asked: Asked, status: Status) -> Outcome {
    let is = |known: Status| status.code_type() == known.code_type() && status.code() == known.code();
    match asked {
        Asked::Exist if is(Status::KEY_DOES_NOT_EXIST) => Outcome::Exists(false),
        Asked::Delete if is(Status::KEY_DOES_NOT_EXIST) => Outcome::Deleted(false),
        Asked::Store | Asked::Retrieve { .. } if is(Status::KEY_DOES_NOT_EXIST) => Outcome::Missing,
        Asked::Store if is(Status::KEY_EXISTS) => Outcome::KeyExists,
        _ => Outcome::Failed(Error::Status(status)),
    }
}

fn retrieved(buffer: Buffer, max_value_bytes: u32, cqe: &Cqe, memory: Option<&Memory>) -> Outcome {
    let value_bytes = cqe.dword0;
    if value_bytes > max_value_bytes {
        return Outcome::Failed(Error::Protocol("a value is longer than its namespace allows"));
    }
    let bytes = value_bytes.min(buffer.len());
    let mut checksum_ok = false;
    // A part of a value has no checksum of its own, and 0 stands for a value that was stored without one.
    if let Some(memory) = memory
        && bytes == value_bytes
        && cqe.dword1 != 0
    {
        match compare(memory, buffer.first(bytes), cqe.dword1) {
            Ok(()) => checksum_ok = true,
            Err(error) => return Outcome::Failed(error),
        }
    }
    Outcome::Retrieved { bytes, value_bytes, checksum_ok }
}

/// Compares a value with its checksum and wipes it if they differ.
fn compare(memory: &Memory, value: Buffer, expected: u32) -> Result<(), Error> {
    let outside = |_| Error::Protocol("a value lies outside its buffer");
    let found = memory.checksum(value.offset(), u64::from(value.len())).map_err(outside)? as u32;
    if found == expected {
        return Ok(());
    }
    memory.wipe(value.offset(), u64::from(value.len())).map_err(outside)?;
    Err(Error::Corrupt { expected, found })
}
