//! The admin queue: one command at a time that is waited for, beside event requests and aborts that are not.
#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::OpenError;
use super::barrier;
use super::dma_memory::DmaMemory;
use super::dma_space::DmaSpace;
use super::pci::PciFunction;
use super::registers::{ControllerStatus, offset};
use crate::nvme::spec::{Cqe, Sqe, Status, admin};

/// Entries of each of the two rings.
pub(super) const ENTRIES: u32 = 32;
const CQ_OFFSET: usize = 4096;
const DATA_OFFSET: usize = 8192;
/// Bytes that one command may move.
pub(super) const DATA_BYTES: usize = 4096;
/// Command identifiers are an index into the table of outstanding commands, and above it a generation.
const INDEX_BITS: u32 = 5;
/// Looks at the ring before the wait for a command begins to sleep in between.
const EAGER_LOOKS: u32 = 200;
const NAP: Duration = Duration::from_micros(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Waited,
    Event,
    /// Sent when, in the control side's milliseconds.
    Abort(u64),
}

pub(super) struct AdminQueue {
    function: Arc<dyn PciFunction>,
    memory: DmaMemory,
    timeout: Duration,
    stride: u32,
    tail: u32,
    head: u32,
    phase: bool,
    /// Command identifier and kind of what is outstanding, by index.
    outstanding: [Option<(u16, Kind)>; ENTRIES as usize - 1],
    generation: u16,
    answer: Option<Cqe>,
    events: Vec<u32>,
    /// Event requests that the controller takes, once it refused one, and how it did.
    event_limit: usize,
    event_refusal: Option<Status>,
    /// A command got no answer: its memory may still be written to, so nothing is sent before the next reset.
    stuck: bool,
    strays: u64,
}

impl AdminQueue {
    pub(super) fn new(function: Arc<dyn PciFunction>, timeout: Duration, space: &DmaSpace) -> io::Result<Self> {
        Ok(Self {
            function,
            memory: DmaMemory::new(DATA_OFFSET + DATA_BYTES, space)?,
            timeout,
            stride: 4,
            tail: 0,
            head: 0,
            phase: true,
            outstanding: [None; ENTRIES as usize - 1],
            generation: 0,
            answer: None,
            events: Vec::new(),
            event_limit: usize::MAX,
            event_refusal: None,
            stuck: false,
            strays: 0,
        })
    }

    /// Forgets everything, for a controller that was stopped.
    pub(super) fn restart(&mut self, stride: u64) {
        self.memory.clear();
        self.stride = stride as u32;
        (self.tail, self.head, self.phase) = (0, 0, true);
        self.outstanding = [None; ENTRIES as usize - 1];
        self.answer = None;
        self.events.clear();
        (self.event_limit, self.event_refusal) = (usize::MAX, None);
        self.stuck = false;
    }

    pub(super) fn sq_iova(&self) -> u64 {
        self.memory.iova()
    }

    pub(super) fn cq_iova(&self) -> u64 {
        self.memory.iova() + CQ_OFFSET as u64
    }

    /// Whether a command got no answer.
    pub(super) fn stuck(&self) -> bool {
        self.stuck
    }

    /// Completions that named no outstanding command.
    pub(super) fn strays(&self) -> u64 {
        self.strays
    }

    /// Carries a command out that moves nothing, or its own data pointer's.
    pub(super) fn run(&mut self, command: &'static str, sqe: Sqe) -> Result<Cqe, OpenError> {
        let cqe = self.exchange(sqe)?;
        if cqe.status.is_success() { Ok(cqe) } else { Err(OpenError::Admin { command, status: cqe.status }) }
    }

    /// Carries a command out that brings up to [`DATA_BYTES`] bytes.
    pub(super) fn fetch(&mut self, command: &'static str, mut sqe: Sqe, into: &mut [u8]) -> Result<Cqe, OpenError> {
        let _ = self.memory.region().fill(DATA_OFFSET as u64, DATA_BYTES, 0);
        sqe.set_prp(self.memory.iova() + DATA_OFFSET as u64, 0);
        let cqe = self.run(command, sqe)?;
        let read = self.memory.region().read(DATA_OFFSET as u64, into);
        read.map(|()| cqe).ok_or_else(|| OpenError::Unusable("an admin command moves 4096 bytes at most".into()))
    }

    /// Asks to be told of one event, unless the controller refused that before.
    pub(super) fn request_event(&mut self) -> bool {
        self.event_requests() < self.event_limit
            && self.submit(Sqe::new(admin::opcode::ASYNC_EVENT, 0), Kind::Event).is_some()
    }

    /// Asks for a command to be aborted. Whether it was shows in the command's own completion.
    pub(super) fn abort(&mut self, sqid: u16, cid: u16, now: u64) -> bool {
        self.submit(admin::abort(sqid, cid), Kind::Abort(now)).is_some()
    }

    /// How the controller refused an event request, once.
    pub(super) fn take_event_refusal(&mut self) -> Option<Status> {
        self.event_refusal.take()
    }

    /// Event requests outstanding.
    pub(super) fn event_requests(&self) -> usize {
        self.kinds().filter(|kind| *kind == Kind::Event).count()
    }

    /// When each abort that is outstanding was sent.
    pub(super) fn aborts(&self) -> impl Iterator<Item = u64> {
        self.kinds().filter_map(|kind| if let Kind::Abort(sent) = kind { Some(sent) } else { None })
    }

    fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.outstanding.iter().flatten().map(|(_, kind)| *kind)
    }

    /// Takes the events that came.
    pub(super) fn take_events(&mut self) -> Vec<u32> {
        self.gather();
        std::mem::take(&mut self.events)
    }

    fn submit(&mut self, mut sqe: Sqe, kind: Kind) -> Option<u16> {
        if self.stuck {
            return None;
        }
        let index = self.outstanding.iter().position(Option::is_none)?;
        self.generation = self.generation.wrapping_add(1);
        let cid = (self.generation << INDEX_BITS) | index as u16;
        self.outstanding[index] = Some((cid, kind));
        sqe.set_cid(cid);
        let entry = self.memory.at(self.tail as usize * Sqe::BYTES, Sqe::BYTES)?.cast::<[u64; 8]>();
        // SAFETY: the pointer leads to 64 bytes inside the mapping, aligned to 64; only the device reads them.
        unsafe { entry.write_volatile(sqe.to_quadwords()) };
        self.tail = (self.tail + 1) % ENTRIES;
        barrier::before_doorbell();
        self.function.write32(offset::DOORBELLS, self.tail);
        Some(cid)
    }

    /// Takes one completion off the ring.
    fn take(&mut self) -> Option<Cqe> {
        let entry = self.memory.at(CQ_OFFSET + self.head as usize * Cqe::BYTES, Cqe::BYTES)?.cast::<u64>();
        // SAFETY: the pointer leads to 16 bytes inside the mapping, aligned to 16; each half is read whole.
        let high = unsafe { entry.add(1).read_volatile() };
        barrier::after_phase();
        // SAFETY: as above.
        let low = unsafe { entry.read_volatile() };
        let (cqe, phase) = Cqe::from_quadwords([low, high]);
        if phase != self.phase {
            return None;
        }
        self.head = (self.head + 1) % ENTRIES;
        self.phase ^= self.head == 0;
        self.function.write32(offset::DOORBELLS + self.stride, self.head);
        Some(cqe)
    }

    /// Sorts what came. Not more than a ring full at once, whatever the controller writes.
    pub(super) fn gather(&mut self) {
        for _ in 0..ENTRIES {
            let Some(cqe) = self.take() else { return };
            let index = usize::from(cqe.cid & ((1 << INDEX_BITS) - 1));
            let held = self.outstanding.get_mut(index).and_then(|held| held.take_if(|(cid, _)| *cid == cqe.cid));
            match held {
                Some((_, Kind::Waited)) => self.answer = Some(cqe),
                Some((_, Kind::Event)) if cqe.status.is_success() => self.events.push(cqe.dword0),
                Some((_, Kind::Event)) => {
                    // It takes as many as it has now. Asking for more would go on for ever.
                    self.event_limit = self.event_requests();
                    self.event_refusal = Some(cqe.status);
                }
                Some((_, Kind::Abort(_))) => {}
                None => self.strays += 1,
            }
        }
    }

    fn exchange(&mut self, sqe: Sqe) -> Result<Cqe, OpenError> {
        let refused = || OpenError::Failed("an admin command got no answer; the controller must be reset".into());
        self.answer = None;
        self.submit(sqe, Kind::Waited).ok_or_else(refused)?;
        let deadline = Instant::now() + self.timeout;
        let mut looks = 0_u32;
        loop {
            self.gather();
            if let Some(cqe) = self.answer.take() {
                return Ok(cqe);
            }
            looks = looks.saturating_add(1);
            if looks <= EAGER_LOOKS {
                std::thread::yield_now();
                continue;
            }
            let status = ControllerStatus(self.function.read32(offset::CSTS));
            let ended = match () {
                () if status.gone() => Some(OpenError::lost(self.function.as_ref())),
                () if status.fatal() => Some(OpenError::Fatal),
                () if Instant::now() > deadline => {
                    let what = "complete an admin command";
                    Some(OpenError::TimedOut { what, waited: self.timeout, csts: status.0 })
                }
                () => None,
            };
            if let Some(error) = ended {
                self.stuck = true;
                return Err(error);
            }
            std::thread::sleep(NAP);
        }
    }
}
