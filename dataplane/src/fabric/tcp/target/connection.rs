//! One I/O queue of a host over TCP: what comes in, and what goes out.
//!
//! An area of staging memory holds what comes in (up to one capsule with its data) and the headers that go out. Data of
//! H2CData PDUs is received into the command's buffer, but for what came with the header; data that goes out is sent from
//! the buffer.

mod heads;
mod incoming;
mod outgoing;
mod pace;

use std::collections::VecDeque;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::super::wire::{Decoder, Framing, PduFault};
use super::desk::Desk;
use super::streams::{MAX_PARTS, Streams};
use crate::fabric::message::{AccountId, Area, HostLink, Staging};
use crate::fabric::{QueuePairInfo, SessionId};
use crate::memory::{DmaSlice, SlotId};
use crate::nvme::spec::Status;
use incoming::Body;
use pace::{Found, Pace};

/// Bytes of an area: what comes in, then what goes out.
pub(super) const AREA_BYTES: u32 = 32 << 10;
/// Bytes for what comes in: a capsule with 8 KiB of data, digests and padding, and as much again.
const INBOX_BYTES: u32 = 20 << 10;
/// Commands that one send may answer.
pub(super) const BATCH: usize = 40;
/// An I/O queue that a host has connected, on its way to its core.
pub struct NewTcpQueue<T = std::net::TcpStream> {
    /// The socket. ICReq, ICResp and Connect have been exchanged; nothing was read beyond.
    pub stream: T,
    /// Whose it is.
    pub session: SessionId,
    /// Its identifier, from 1.
    pub qid: u16,
    /// Its entries.
    pub entries: u32,
    /// What was agreed, for PDUs that come in.
    pub decoder: Decoder,
    /// What was agreed, for PDUs that go out.
    pub framing: Framing,
    /// The most bytes that a command may move.
    pub max_transfer_bytes: u32,
    /// The control thread of the host.
    pub link: Arc<HostLink>,
}

impl<T> std::fmt::Debug for NewTcpQueue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewTcpQueue").field("session", &self.session).field("qid", &self.qid).finish_non_exhaustive()
    }
}

/// Something to send.
#[derive(Clone, Copy, Debug)]
enum Outgoing {
    Answer(SlotId),
    /// A command that never became an exchange.
    Refusal {
        cid: u16,
        status: Status,
    },
}

/// Why a connection is at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// Nothing is read any more; when all is sent, it is closed.
    Leaving,
    /// The last word is sent. What still comes is thrown away until the host closes the connection: were the socket
    /// closed with it, that would overtake the word.
    Parting,
    /// The socket is shut down; waits for what is under way.
    Closed,
}

/// One I/O queue.
pub(super) struct Connection<T> {
    id: SlotId,
    pub queue: NewTcpQueue<T>,
    /// Its host's account.
    pub account: AccountId,
    area: Area,
    state: State,
    sq_head: u16,
    /// Bytes in the inbox, and how many of them have been looked at.
    have: u32,
    seen: u32,
    /// Padding that is still to come, and to be thrown away.
    skip: u32,
    body: Option<Body>,
    receiving: bool,
    /// A capsule whose data lacks a buffer is at the head of the inbox.
    stalled: bool,
    /// Data PDUs that the host owes.
    owed: u32,
    /// Commands whose data is to be asked for: before all answers, so that the host can go on.
    r2ts: VecDeque<SlotId>,
    outgoing: VecDeque<Outgoing>,
    /// What is being sent, and whom it answers.
    parts: ArrayVec<DmaSlice, MAX_PARTS>,
    answered: ArrayVec<SlotId, BATCH>,
    sending: bool,
    /// Whether its end was asked for: by the host (Disconnect), or by the control side.
    asked: bool,
    /// A last word before the connection ends.
    farewell: Option<PduFault>,
    has_said_why: bool,
    /// Whether the log says that a command of it was too large for what is left of staging memory.
    has_warned: bool,
    /// Commands taken in whose answer was not sent.
    pub in_use: u32,
    /// Whether it stands in the line of those to be looked after.
    pub due: bool,
    commands: u64,
    completions: u64,
    /// To tell a slow host from one that does nothing.
    pace: Pace,
    /// Whether the control side was told of the end, and idle commands were forgotten.
    reported: bool,
    abandoned: bool,
    /// Whether it is among those that are counted as moving.
    pub counted: bool,
}

impl<T> Connection<T> {
    pub fn new(queue: NewTcpQueue<T>, account: AccountId, area: Area) -> Self {
        let queue_places = queue.entries as usize + BATCH;
        Self {
            id: SlotId::from_bits(0),
            queue,
            account,
            area,
            state: State::Running,
            // Connect was the first entry, and has its answer.
            sq_head: 1,
            have: 0,
            seen: 0,
            skip: 0,
            body: None,
            receiving: false,
            stalled: false,
            owed: 0,
            r2ts: VecDeque::with_capacity(queue_places),
            outgoing: VecDeque::with_capacity(queue_places),
            parts: ArrayVec::new(),
            answered: ArrayVec::new(),
            sending: false,
            asked: false,
            farewell: None,
            has_said_why: false,
            has_warned: false,
            in_use: 0,
            due: false,
            commands: 0,
            completions: 0,
            pace: Pace::default(),
            reported: false,
            abandoned: false,
            counted: false,
        }
    }

    pub fn set_id(&mut self, id: SlotId) {
        self.id = id;
    }

    pub fn area_back(self) -> (Area, NewTcpQueue<T>) {
        (self.area, self.queue)
    }

    /// Whether nothing of it is left anywhere.
    pub fn is_over(&self) -> bool {
        self.state == State::Closed && !self.receiving && !self.sending && self.in_use == 0
    }

    /// Whether bytes are on their way that the core should soon look after.
    pub fn is_moving(&self) -> bool {
        let reads = self.body.is_some() || self.owed > 0;
        match self.state {
            State::Running => self.sending || reads || !self.outgoing.is_empty(),
            State::Leaving => self.sending || !self.outgoing.is_empty(),
            State::Parting | State::Closed => self.sending,
        }
    }

    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    pub fn info(&self, core: u16) -> QueuePairInfo {
        QueuePairInfo {
            session: self.queue.session,
            qid: self.queue.qid,
            cqid: self.queue.qid,
            core,
            depth: self.queue.entries,
            outstanding: self.in_use,
            commands: self.commands,
            completions: self.completions,
        }
    }

    /// Whether the host did next to nothing since the last sweep although it was its turn.
    pub fn sweep<S: Streams<Stream = T>>(&mut self, streams: &S) -> bool {
        let waiting = if self.sending { self.answered.len() + self.outgoing.len() } else { 0 };
        let mut found = Found {
            unsent: waiting as u32,
            pdu: self.body.is_some() || self.seen < self.have,
            stalled: self.stalled,
            leaving: matches!(self.state, State::Leaving | State::Parting),
            body: self.body.map(|body| body.asked),
            progress: None,
        };
        if found.unsent > 0 || found.pdu || found.leaving || self.owed > 0 {
            found.progress = streams.progress(&self.queue.stream);
        }
        self.pace.sweep(found)
    }

    /// Ends the connection with a word on why.
    fn leave(&mut self, fault: PduFault) {
        if self.state == State::Running {
            tracing::debug!(session = self.queue.session.0, qid = self.queue.qid, %fault, "NVMe/TCP connection broke the protocol");
            self.state = State::Leaving;
            self.farewell = Some(fault);
        }
    }

    /// Ends the connection at once.
    pub fn close(&mut self) {
        self.state = State::Closed;
    }

    /// Ends the connection at once, because the control side wants it to.
    pub fn close_as_asked(&mut self) {
        self.asked = true;
        self.close();
    }

    /// The host closed the connection: its queue ends, and it may connect it again.
    fn host_left(&mut self) {
        // After a breach of the protocol it is the controller that ends.
        self.asked |= self.state == State::Running;
        self.close();
    }

    /// Tells the control thread of the end, once: of one that it need not end the controller for when nothing is left.
    pub fn report_end(&mut self) {
        let due = if self.asked { self.is_over() } else { true };
        if !due || std::mem::replace(&mut self.reported, true) {
            return;
        }
        if self.asked {
            self.queue.link.end_queue(self.queue.qid);
        } else {
            self.queue.link.lose();
        }
    }

    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Forgets the commands that nobody works on, once nothing is being sent.
    pub fn abandon(&mut self, desk: &mut Desk, staging: &mut Staging) {
        if self.sending || self.receiving || std::mem::replace(&mut self.abandoned, true) {
            return;
        }
        let refusals = self.outgoing.drain(..).filter(|out| matches!(out, Outgoing::Refusal { .. })).count();
        self.in_use -= refusals as u32;
        self.in_use -= desk.abandon(self.id, self.account, staging);
    }
}
