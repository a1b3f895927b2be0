//! The admin queue: one command at a time, and Keep Alive now and then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ConnectError;
use super::connect::left;
use super::queue::{InitiatorQueue, Lost};
use crate::Burst;
use crate::fabric::host::{AdminData, AdminPort, Deadline};
use crate::memory::{Region, RegionSlot};
use crate::nvme::spec::{Cqe, SglDescriptor, Sqe, Status};

/// Bytes that an admin command may move.
pub(super) const DATA_BYTES: usize = 8192;
/// Keep Alive (base, "Keep Alive command").
const KEEP_ALIVE: u8 = 0x18;
/// Keep Alives within the timeout, so that one may be late.
const BEATS: u32 = 3;

/// Memory for what commands of this end itself move.
pub(super) fn scratch() -> Result<Arc<Region>, ConnectError> {
    Ok(Arc::new(Region::anonymous(DATA_BYTES, RegionSlot(u16::MAX))?))
}

/// Runs one command on a queue that has no other, with data in `scratch`, which is attached.
pub(super) fn run(
    queue: &mut InitiatorQueue,
    scratch: &Region,
    mut sqe: Sqe,
    data: AdminData<'_>,
    deadline: Deadline,
) -> Result<Cqe, ConnectError> {
    let bytes = match &data {
        AdminData::None => 0,
        AdminData::In(into) => into.len(),
        AdminData::Out(from) => from.len(),
    };
    let too_long = ConnectError::Invalid("an admin command may move 8192 bytes at most");
    match &data {
        AdminData::Out(from) => scratch.write(0, from).ok_or(too_long)?,
        _ if bytes > DATA_BYTES => return Err(too_long),
        _ => scratch.fill(0, DATA_BYTES, 0).ok_or(too_long)?,
    }
    sqe.set_sgl(SglDescriptor::data_block(scratch.base(), bytes as u32));
    let Ok(cid) = queue.push(sqe) else {
        return Err(ConnectError::Lost(Lost::Closed));
    };
    queue.ring();
    let cqe = await_end(queue, cid, deadline)?;
    if let AdminData::In(into) = data {
        scratch.read(0, into).ok_or(ConnectError::Invalid("the admin data does not fit its memory"))?;
    }
    Ok(cqe)
}

fn await_end(queue: &mut InitiatorQueue, cid: u16, deadline: Deadline) -> Result<Cqe, ConnectError> {
    let mut done = Burst::new();
    loop {
        queue.poll(&mut done);
        // A Keep Alive may end meanwhile; that it did is all there is to know.
        if let Some(cqe) = done.iter().find(|cqe| cqe.cid == cid) {
            return Ok(*cqe);
        }
        done.clear();
        if let Some(lost) = queue.take_lost() {
            return Err(lost.into());
        }
        queue.wait(left(deadline, "complete a command")?);
    }
}

pub(super) struct AdminQueue {
    pub(super) queue: InitiatorQueue,
    scratch: Arc<Region>,
    timeout: Duration,
    /// While connecting: when that has to be done.
    until: Option<Deadline>,
    /// The Keep Alive Timeout that the controller was told; zero for none.
    keep_alive: Duration,
    beat: Instant,
    /// A Keep Alive that has not ended, and since when.
    beating: Option<Instant>,
}

impl AdminQueue {
    /// Over a queue to which `scratch` is attached.
    pub(super) fn new(queue: InitiatorQueue, scratch: Arc<Region>, timeout: Duration, keep_alive: Duration) -> Self {
        Self { queue, scratch, timeout, until: None, keep_alive, beat: Instant::now(), beating: None }
    }

    /// Bounds all that is done until the next call by one deadline; without one, each command has the timeout for itself.
    pub(super) fn bound(&mut self, until: Option<Deadline>) {
        self.until = until;
    }

    /// When what begins now has to be done.
    pub(super) fn deadline(&self) -> Deadline {
        self.until.unwrap_or_else(|| Deadline::after(self.timeout))
    }

    /// Whether the controller is there; sends a Keep Alive when one is due.
    pub(super) fn is_alive(&mut self) -> bool {
        let mut done = Burst::new();
        self.queue.poll(&mut done);
        if !done.is_empty() {
            self.beating = None;
        }
        if !self.keep_alive.is_zero() {
            let now = Instant::now();
            if self.beating.is_some_and(|since| now.duration_since(since) > self.keep_alive) {
                self.queue.lose(Lost::Closed);
            } else if self.beating.is_none() && now.duration_since(self.beat) >= self.keep_alive / BEATS {
                self.keep(now);
            }
        }
        self.queue.is_alive()
    }

    fn keep(&mut self, now: Instant) {
        if self.queue.push(Sqe::new(KEEP_ALIVE, 0)).is_ok() {
            self.queue.ring();
            self.beat = now;
            self.beating = Some(now);
        }
    }
}

impl AdminPort for AdminQueue {
    type Error = ConnectError;

    fn admin(&mut self, sqe: Sqe, data: AdminData<'_>) -> Result<Cqe, ConnectError> {
        let deadline = self.deadline();
        let ended = run(&mut self.queue, &self.scratch, sqe, data, deadline);
        if matches!(ended, Err(ConnectError::TimedOut { .. })) {
            // Its data may still come, and must not be taken for that of the next command.
            self.queue.lose(Lost::Closed);
        }
        let cqe = ended?;
        // Completions come in the order of the stream, so a Keep Alive that was sent before may have ended with it; if
        // not, it is seen later.
        self.beating = self.beating.filter(|_| self.queue.in_flight() > 0);
        Ok(cqe)
    }

    fn refused(command: &'static str, status: Status) -> ConnectError {
        ConnectError::Admin { command, status }
    }
}
