//! The admin queue of an initiator. One command at a time.

use std::net::SocketAddr;
use std::sync::Arc;

use super::dial::Dial;
use super::queue::InitiatorQueue;
use super::{ConnectError, ConnectOptions, connect_data};
use crate::Burst;
use crate::fabric::host::{AdminData, AdminPort, Deadline};
use crate::fabric::rdma::verbs::{Access, Domain, RegisteredMemory};
use crate::fabric::rdma::wire::ADMIN_ENTRIES;
use crate::memory::{Region, RegionSlot};
use crate::nvme::spec::fabrics::{ConnectData, ConnectFields, DYNAMIC_CONTROLLER, FabricsCommand};
use crate::nvme::spec::{Cqe, SglDescriptor, Sqe, Status};

/// Bytes that an admin command may move.
const DATA_BYTES: usize = 8192;
/// How long to wait for a notice before looking at the clock.
const LOOK_MS: i32 = 20;

/// The admin queue, and memory for what its commands move.
pub(super) struct AdminQueue {
    queue: InitiatorQueue,
    region: Arc<Region>,
    data: RegisteredMemory,
    timeout: std::time::Duration,
    /// Bounds all that is done until the connection is there; then each command has the timeout for itself.
    until: Option<Deadline>,
    controller_id: u16,
}

impl AdminQueue {
    /// Connects to a controller that the target chooses.
    pub fn connect(
        target: SocketAddr,
        options: &ConnectOptions,
        until: Deadline,
    ) -> Result<(Self, Arc<Domain>), ConnectError> {
        let dial = Dial { target, options, domain: None, deadline: until };
        let mut queue = InitiatorQueue::dial(&dial, 0, DYNAMIC_CONTROLLER, ADMIN_ENTRIES - 1, true)?;
        let domain = Arc::clone(&queue.link().domain);
        let region =
            Region::anonymous(DATA_BYTES, RegionSlot(0)).map_err(|_| ConnectError::Invalid("there is no memory"))?;
        let region = Arc::new(region);
        let data = RegisteredMemory::new(&domain, &region, Access::Remote)?;
        let fields = Self::fields(&queue, options.keep_alive_ms);
        let mut admin = Self { queue, region, data, timeout: options.timeout, until: Some(until), controller_id: 0 };
        let connect = connect_data(options, DYNAMIC_CONTROLLER).encode();
        let sqe = FabricsCommand::Connect(fields).encode(0);
        let cqe = admin.admin_checked("Connect (admin queue)", sqe, AdminData::Out(&connect))?;
        admin.controller_id = cqe.dword0 as u16;
        Ok((admin, domain))
    }

    fn fields(queue: &InitiatorQueue, keep_alive_ms: u32) -> ConnectFields {
        ConnectFields { record_format: 0, qid: queue.qid(), sqsize: queue.depth(), attributes: 0, keep_alive_ms }
    }

    pub fn controller_id(&self) -> u16 {
        self.controller_id
    }

    pub fn is_alive(&mut self) -> bool {
        self.queue.is_alive()
    }

    /// When what is begun now has to be done.
    pub fn deadline(&self) -> Deadline {
        self.until.unwrap_or_else(|| Deadline::after(self.timeout))
    }

    /// The connection is there.
    pub fn connected(&mut self) {
        self.until = None;
    }

    /// Sends Connect on an I/O queue.
    pub fn connect_queue(
        &mut self,
        queue: &mut InitiatorQueue,
        data: &ConnectData,
        keep_alive_ms: u32,
    ) -> Result<(), ConnectError> {
        let sqe = FabricsCommand::Connect(Self::fields(queue, keep_alive_ms)).encode(0);
        let cqe = self.run(Some(queue), sqe, AdminData::Out(&data.encode()))?;
        if cqe.status.is_success() { Ok(()) } else { Err(Self::refused("Connect (I/O queue)", cqe.status)) }
    }

    /// Carries out a command on the admin queue or on another, with the data in the memory of the admin queue.
    fn run(
        &mut self,
        other: Option<&mut InitiatorQueue>,
        mut sqe: Sqe,
        data: AdminData<'_>,
    ) -> Result<Cqe, ConnectError> {
        let bytes = match &data {
            AdminData::None => 0,
            AdminData::In(into) => into.len(),
            AdminData::Out(from) => from.len(),
        };
        let lost = ConnectError::Invalid("an admin command may move 8192 bytes at most");
        if bytes > DATA_BYTES {
            return Err(lost);
        }
        match &data {
            AdminData::Out(from) => self.region.write(0, from),
            AdminData::In(_) => self.region.fill(0, DATA_BYTES, 0),
            AdminData::None => Some(()),
        }
        .ok_or(lost)?;
        let (address, key) = if bytes > 0 { (self.data.address(), self.data.remote_key()) } else { (0, 0) };
        sqe.set_sgl(SglDescriptor::keyed(address, bytes as u32, key, false));
        let deadline = self.deadline();
        let cqe = carry_out(other.unwrap_or(&mut self.queue), sqe, deadline)?;
        if let AdminData::In(into) = data {
            self.region.read(0, into).ok_or(ConnectError::Invalid("an admin command may move 8192 bytes at most"))?;
        }
        Ok(cqe)
    }
}

fn carry_out(queue: &mut InitiatorQueue, sqe: Sqe, deadline: Deadline) -> Result<Cqe, ConnectError> {
    let cid = queue.push(sqe, None).map_err(|_| ConnectError::Invalid("too many commands got no answer"))?;
    queue.ring();
    loop {
        // Asked first: what the target sent before it closed the connection is found yet.
        let alive = queue.is_alive();
        let mut done = Burst::new();
        queue.poll(&mut done);
        if let Some(cqe) = done.iter().find(|cqe| cqe.cid == cid) {
            return Ok(*cqe);
        }
        if !alive && done.is_empty() {
            return Err(ConnectError::Closed);
        }
        if deadline.has_passed() {
            // Or the answer might come yet, into the memory of the next command.
            queue.link().lose();
            return Err(ConnectError::TimedOut { what: "complete a command", waited: deadline.waited });
        }
        if queue.link().completions.wait(LOOK_MS).is_err() {
            return Err(ConnectError::Closed);
        }
        if queue.descriptor().is_none() {
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }
}

impl AdminPort for AdminQueue {
    type Error = ConnectError;

    fn admin(&mut self, sqe: Sqe, data: AdminData<'_>) -> Result<Cqe, ConnectError> {
        self.run(None, sqe, data)
    }

    fn refused(command: &'static str, status: Status) -> ConnectError {
        ConnectError::Admin { command, status }
    }
}
