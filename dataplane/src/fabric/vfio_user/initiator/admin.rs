//! The admin queue of an initiator. One command at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::fabric::host::{AdminPort, Deadline};
use crate::memory::Region;
use crate::nvme::spec::{Cqe, Sqe, Status};

use super::super::DOORBELL_OFFSET;
use super::super::ring::{CommandRing, CompletionRing, Doorbell};
use super::super::shared_memory::SharedMemory;
use super::super::wire::region;
use super::{AdminData, ConnectError, Initiator, Iova};

const SQ_OFFSET: u64 = 0;
const CQ_OFFSET: u64 = 4096;
const DATA_OFFSET: u64 = 8192;
/// Bytes that an admin command may move: two pages, so that no PRP list is needed.
const DATA_BYTES: usize = 8192;

pub(super) struct AdminRings {
    pub(super) memory: Arc<SharedMemory>,
    sq: CommandRing,
    cq: CompletionRing,
    head_doorbell: Doorbell,
    iova: u64,
    tail: u32,
    head: u32,
    phase: bool,
    cid: u16,
}

impl AdminRings {
    /// Entries of each admin queue.
    pub(super) const ENTRIES: u32 = 32;

    pub(super) fn new(doorbells: Arc<Region>) -> Result<Self, ConnectError> {
        let memory = SharedMemory::create("kvplane-admin", DATA_OFFSET + DATA_BYTES as u64, false)?;
        let missing = ConnectError::Invalid("the admin queue does not fit its memory");
        let sq = CommandRing::new(Arc::clone(memory.region()), SQ_OFFSET, Self::ENTRIES);
        let cq = CompletionRing::new(Arc::clone(memory.region()), CQ_OFFSET, Self::ENTRIES);
        let (Some(sq), Some(cq), Some(head_doorbell)) = (sq, cq, Doorbell::new(&doorbells, 4)) else {
            return Err(missing);
        };
        let memory = Arc::new(memory);
        Ok(Self { memory, sq, cq, head_doorbell, iova: 0, tail: 0, head: 0, phase: true, cid: 0 })
    }

    /// The memory was registered.
    pub(super) fn place(&mut self, iova: Iova, bytes: u64) {
        debug_assert!(bytes >= DATA_OFFSET + DATA_BYTES as u64);
        self.iova = iova.0;
    }

    pub(super) fn sq_iova(&self) -> u64 {
        self.iova + SQ_OFFSET
    }

    pub(super) fn cq_iova(&self) -> u64 {
        self.iova + CQ_OFFSET
    }

    fn take(&mut self) -> Option<Cqe> {
        let high = self.cq.load(self.head, 1, Ordering::Acquire);
        let low = self.cq.load(self.head, 0, Ordering::Relaxed);
        let (cqe, phase) = Cqe::from_quadwords([low, high]);
        if phase != self.phase {
            return None;
        }
        self.head = (self.head + 1) % Self::ENTRIES;
        self.phase ^= self.head == 0;
        self.head_doorbell.store(self.head);
        Some(cqe)
    }
}

impl Initiator {
    /// Carries out an admin command and waits for its completion, which may say that it failed. Command identifier
    /// and data pointer of `sqe` are filled in.
    ///
    /// # Errors
    /// If the target did not answer at all.
    pub fn admin(&mut self, mut sqe: Sqe, data: AdminData<'_>) -> Result<Cqe, ConnectError> {
        let bytes = match &data {
            AdminData::None => 0,
            AdminData::In(into) => into.len(),
            AdminData::Out(from) => from.len(),
        };
        if bytes > DATA_BYTES {
            return Err(ConnectError::Invalid("an admin command may move 8192 bytes at most"));
        }
        let lost = ConnectError::Invalid("the admin data does not fit its memory");
        let region = Arc::clone(self.admin.memory.region());
        match &data {
            AdminData::Out(from) => region.write(DATA_OFFSET, from).ok_or(lost)?,
            AdminData::In(_) => region.write(DATA_OFFSET, &[0; DATA_BYTES]).ok_or(lost)?,
            AdminData::None => {}
        }
        if bytes > 0 {
            let at = self.admin.iova + DATA_OFFSET;
            sqe.set_prp(at, if bytes > 4096 { at + 4096 } else { 0 });
        }
        let cqe = self.submit_admin(sqe)?;
        if let AdminData::In(into) = data {
            region.read(DATA_OFFSET, into).ok_or(ConnectError::Invalid("the admin data does not fit its memory"))?;
        }
        Ok(cqe)
    }

    fn submit_admin(&mut self, mut sqe: Sqe) -> Result<Cqe, ConnectError> {
        self.admin.cid = self.admin.cid.wrapping_add(1);
        let cid = self.admin.cid;
        sqe.set_cid(cid);
        self.admin.sq.store_entry(self.admin.tail, &sqe.to_quadwords());
        self.admin.tail = (self.admin.tail + 1) % AdminRings::ENTRIES;
        // By message rather than through the mapping: that also wakes a target that sleeps on its socket.
        self.channel.write32(region::BAR0, DOORBELL_OFFSET, self.admin.tail)?;
        let deadline = Deadline::after(self.timeout);
        loop {
            // A completion of an earlier command that was given up is skipped.
            match self.admin.take() {
                Some(cqe) if cqe.cid == cid => return Ok(cqe),
                Some(_) => continue,
                None => {}
            }
            if !self.channel.is_alive() {
                return Err(super::ChannelError::Closed.into());
            }
            if deadline.has_passed() {
                return Err(ConnectError::TimedOut { what: "complete an admin command", waited: self.timeout });
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

impl AdminPort for Initiator {
    type Error = ConnectError;

    fn admin(&mut self, sqe: Sqe, data: AdminData<'_>) -> Result<Cqe, ConnectError> {
        Self::admin(self, sqe, data)
    }

    fn refused(command: &'static str, status: Status) -> ConnectError {
        ConnectError::Admin { command, status }
    }
}
