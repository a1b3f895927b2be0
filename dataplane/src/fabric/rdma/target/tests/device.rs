//! An RDMA device in software: it carries out what is posted when a test lets it, and breaks what a test breaks.
#![expect(clippy::arc_with_non_send_sync, reason = "cores and control threads share these; here one thread is both")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use zerocopy::IntoBytes;

use super::super::core_end::Remains;
use super::super::device_table::{Condition, Wear};
use super::super::nic::{PortDevice, QueuePair};
use crate::fabric::rdma::verbs::{
    EndpointId, Piece, ReceiveList, RemotePlace, Seen, SendList, VerbsError, Work, WorkDone,
};
use crate::memory::{DmaSlice, Region, RegionSlot};
use crate::nvme::spec::{Cqe, Sqe};

/// Status of what a failed queue pair did not carry out.
pub const FLUSHED: u32 = 5;
pub const RECEIVES: u32 = 16;
pub const IN_CAPSULE: u32 = 8192;

/// Where bytes go, and how many there is room for.
type Places = Vec<(u64, u32)>;

/// What the ports and queue pairs of a device share.
#[derive(Debug)]
pub struct Wires {
    pub done: RefCell<VecDeque<WorkDone>>,
    /// Whether polling fails.
    pub broken: Cell<bool>,
    pub polls: Cell<usize>,
    /// Receives that are posted: identifier, and where their bytes go.
    pub receives: RefCell<VecDeque<(u64, Places)>>,
    staging: Arc<Region>,
}

/// A core's part of the device.
#[derive(Debug)]
pub struct FakePort {
    pub wires: Rc<Wires>,
    commands: Arc<Region>,
    remains: Remains<FakePair>,
    pub wear: Wear,
}

/// A queue pair, and the host at its other end.
#[derive(Debug)]
pub struct FakePair {
    id: u64,
    number: u32,
    wires: Rc<Wires>,
    pub failed: Cell<bool>,
    /// How often it was made to fail.
    pub fails: Cell<usize>,
    /// Whether work requests are refused.
    pub refuses: Cell<bool>,
    /// Whether the host takes and answers nothing.
    pub silent: Cell<bool>,
    /// What was posted and has not ended.
    pub posted: RefCell<VecDeque<Seen>>,
    /// Responses that the host has.
    pub responses: RefCell<Vec<Cqe>>,
    /// The host's memory, from address 0 on.
    pub memory: RefCell<Vec<u8>>,
    /// What the host's end carried out, in order.
    pub carried: RefCell<Vec<Carried>>,
}

/// What was done to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// Bytes of its memory were read.
    Read { place: RemotePlace, bytes: u32 },
    /// Bytes were written to its memory.
    Written { place: RemotePlace, bytes: u32 },
    /// It was sent the response to this command, and a key of its memory was made invalid.
    Told { cid: u16, invalidated: Option<u32> },
}

impl Wires {
    pub fn new(staging: &Arc<Region>) -> Rc<Self> {
        Rc::new(Self {
            done: RefCell::default(),
            broken: Cell::new(false),
            polls: Cell::new(0),
            receives: RefCell::default(),
            staging: Arc::clone(staging),
        })
    }

    fn tell(&self, done: WorkDone) {
        self.done.borrow_mut().push_back(done);
    }
}

impl FakePort {
    pub fn new(wires: &Rc<Wires>) -> Arc<Self> {
        let commands = Region::anonymous(64 * RECEIVES as usize, RegionSlot(2)).unwrap();
        let remains = Arc::new(ArrayQueue::new(1024));
        Arc::new(Self { wires: Rc::clone(wires), commands: Arc::new(commands), remains, wear: Wear::default() })
    }
}

impl FakePair {
    pub fn new(wires: &Rc<Wires>, id: u64, number: u32) -> Arc<Self> {
        Arc::new(Self {
            id,
            number,
            wires: Rc::clone(wires),
            failed: Cell::new(false),
            fails: Cell::new(0),
            refuses: Cell::new(false),
            silent: Cell::new(false),
            posted: RefCell::default(),
            responses: RefCell::default(),
            memory: RefCell::new(vec![id as u8; 1 << 20]),
            carried: RefCell::default(),
        })
    }

    /// The host sends a command, with data along. False if there is no receive for it.
    pub fn send(&self, port: &FakePort, sqe: &Sqe, data: &[u8]) -> bool {
        self.send_bytes(port, &[sqe.as_bytes(), data].concat())
    }

    /// The host sends any bytes.
    pub fn send_bytes(&self, port: &FakePort, bytes: &[u8]) -> bool {
        if self.failed.get() {
            return true;
        }
        let Some((id, pieces)) = self.wires.receives.borrow_mut().pop_front() else { return false };
        let (command, data) = bytes.split_at(bytes.len().min(64));
        port.commands.write(pieces[0].0 - port.commands.base(), command).unwrap();
        if let Some((address, room)) = pieces.get(1) {
            assert!(data.len() <= *room as usize);
            self.wires.staging.write(address - self.wires.staging.base(), data).unwrap();
        }
        self.wires.tell(WorkDone::told(id, self.number, 0, Some(bytes.len() as u32)));
        true
    }

    /// The host has a response.
    fn respond(&self, bytes: &[u8], invalidated: Option<u32>) {
        let words = std::array::from_fn(|at| u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().unwrap()));
        let cqe = Cqe::from_quadwords(words).0;
        self.carried.borrow_mut().push(Carried::Told { cid: cqe.cid, invalidated });
        self.responses.borrow_mut().push(cqe);
    }

    /// The device does what was posted. A failed queue pair's flushes also reach those who are silent.
    pub fn carry_out(&self) {
        if self.silent.get() && !self.failed.get() {
            return;
        }
        for seen in self.posted.take() {
            if self.failed.get() {
                self.wires.tell(WorkDone::told(seen.id, self.number, FLUSHED, None));
                continue;
            }
            match seen.work {
                Work::Read(place) => {
                    let (to, bytes) = seen.pieces[0];
                    let memory = self.memory.borrow();
                    let from = &memory[place.address as usize..][..bytes as usize];
                    self.wires.staging.write(to - self.wires.staging.base(), from).unwrap();
                    self.carried.borrow_mut().push(Carried::Read { place, bytes });
                }
                Work::Write(place) => {
                    let (from, bytes) = seen.pieces[0];
                    let mut memory = self.memory.borrow_mut();
                    let to = &mut memory[place.address as usize..][..bytes as usize];
                    self.wires.staging.read(from - self.wires.staging.base(), to).unwrap();
                    self.carried.borrow_mut().push(Carried::Written { place, bytes });
                }
                Work::Send => self.respond(&seen.inline, None),
                Work::SendAndInvalidate(key) => self.respond(&seen.inline, Some(key)),
            }
            if seen.signaled {
                self.wires.tell(WorkDone::told(seen.id, self.number, 0, None));
            }
        }
    }
}

impl QueuePair for FakePair {
    fn id(&self) -> EndpointId {
        EndpointId(self.id)
    }

    fn number(&self) -> Option<u32> {
        Some(self.number)
    }

    fn fail(&self) {
        self.failed.set(true);
        self.fails.set(self.fails.get() + 1);
    }

    fn post(&self, list: &mut SendList) -> Result<(), VerbsError> {
        let seen = list.take_seen();
        if self.refuses.get() {
            return Err(VerbsError::Unsupported("posting in a test"));
        }
        self.posted.borrow_mut().extend(seen);
        Ok(())
    }
}

impl PortDevice for FakePort {
    type Pair = FakePair;

    fn poll(&self, into: &mut [WorkDone]) -> Result<usize, VerbsError> {
        self.wires.polls.set(self.wires.polls.get() + 1);
        if self.wires.broken.get() {
            return Err(VerbsError::Unsupported("polling in a test"));
        }
        let mut done = self.wires.done.borrow_mut();
        let count = into.len().min(done.len());
        for (into, done) in into.iter_mut().zip(done.drain(..count)) {
            *into = done;
        }
        Ok(count)
    }

    fn post_receives(&self, list: &mut ReceiveList) -> Result<(), VerbsError> {
        self.wires.receives.borrow_mut().extend(list.take_seen());
        Ok(())
    }

    fn receives(&self) -> u32 {
        RECEIVES
    }

    fn in_capsule_bytes(&self) -> u32 {
        IN_CAPSULE
    }

    fn command_piece(&self, index: u16) -> Option<Piece> {
        Some(Piece::at(self.commands.base() + u64::from(index) * 64, 64))
    }

    fn command(&self, index: u16) -> Option<Sqe> {
        let mut words = [0u64; 8];
        self.commands.read_words(u64::from(index) * 64, &mut words)?;
        Some(zerocopy::transmute!(words))
    }

    fn staging_piece(&self, slice: DmaSlice) -> Option<Piece> {
        Some(Piece::at(slice.address(), slice.bytes()))
    }

    fn remains(&self) -> &Remains<FakePair> {
        &self.remains
    }

    fn note(&self, condition: Condition) {
        self.wear.note(condition);
    }
}
