//! One I/O queue of a host over TCP: what comes in, and what goes out.
//!
//! An area of staging memory holds what comes in (up to one capsule with its data) and the headers that go out. Data of
//! H2CData PDUs is received into the command's buffer, but for what came with the header; data that goes out is sent from
//! the buffer.

use std::collections::VecDeque;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::super::wire::{
    C2hData, COMMON_BYTES, CapsuleResp, DIGEST_BYTES, DataDigest, Decoder, End, FatalStatus, Framing, H2cData,
    HEAD_BYTES, Padded, Payload, Pdu, PduFault, R2t, TermReq, field,
};
use super::desk::Desk;
use super::exchange::{Phase, Route};
use super::streams::{MAX_PARTS, Streams};
use crate::fabric::message::{Area, HostLink, Staging};
use crate::fabric::{Completion, QueuePairInfo, SessionId};
use crate::memory::{DmaSlice, SlotId};
use crate::nvme::spec::{Cqe, Sqe, Status};

/// Bytes of an area: what comes in, then what goes out.
pub(super) const AREA_BYTES: u32 = 32 << 10;
/// Bytes for what comes in: a capsule with 8 KiB of data, digests and padding, and as much again.
const INBOX_BYTES: u32 = 20 << 10;
/// Commands that one send may answer.
pub(super) const BATCH: usize = 40;
/// Data that one send carries before no more is added, so that buffers come free in good time.
const BATCH_BYTES: u32 = 1 << 20;
/// Data that one receive takes at most, so that it is seen to move.
const RECEIVE_BYTES: u32 = 1 << 20;
/// A host that moves at least so much from one sweep to the next goes on.
const SWEEP_BYTES: u64 = 64 << 10;
/// The longest header with its digest that a host sends.
const MAX_HEADER: usize = 128 + DIGEST_BYTES;
/// Opcode of the Fabrics commands (base, "Fabrics Command Set").
const FABRICS: u8 = 0x7F;
/// Its command type Disconnect.
const DISCONNECT: u8 = 0x08;

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

/// Data of an H2CData PDU that has not all come yet.
#[derive(Clone, Copy, Debug)]
struct Body {
    exchange: SlotId,
    /// Where the PDU's data begins in the command's data, how long it is, and how much has come.
    begin: u32,
    length: u32,
    come: u32,
    digest: bool,
}

/// Something to send.
#[derive(Clone, Copy, Debug)]
enum Outgoing {
    R2t(SlotId),
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
    /// The socket is shut down; waits for what is under way.
    Closed,
}

/// One I/O queue.
pub(super) struct Connection<T> {
    id: SlotId,
    pub queue: NewTcpQueue<T>,
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
    outgoing: VecDeque<Outgoing>,
    /// What is being sent, and whom it answers.
    parts: ArrayVec<DmaSlice, MAX_PARTS>,
    answered: ArrayVec<SlotId, BATCH>,
    sending: bool,
    /// Whether its end was asked for: by the host (Disconnect), or by the control side.
    asked: bool,
    /// A last word before the connection ends.
    farewell: Option<PduFault>,
    /// Commands taken in whose answer was not sent.
    pub in_use: u32,
    /// Whether it stands in the line of those to be looked after.
    pub due: bool,
    commands: u64,
    completions: u64,
    /// Bytes that moved, and times that something begun was brought to its end; and how many there were of both at the
    /// last sweep: to tell a slow host from one that does nothing.
    progress: (u64, u64),
    swept: (u64, u64),
    /// Whether the control side was told of the end, and idle commands were forgotten.
    reported: bool,
    abandoned: bool,
    /// Whether it is among those that are counted as moving.
    pub counted: bool,
}

impl<T> Connection<T> {
    pub fn new(queue: NewTcpQueue<T>, area: Area) -> Self {
        let line = VecDeque::with_capacity((queue.entries as usize + BATCH) * 2);
        Self {
            id: SlotId::from_bits(0),
            queue,
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
            outgoing: line,
            parts: ArrayVec::new(),
            answered: ArrayVec::new(),
            sending: false,
            asked: false,
            farewell: None,
            in_use: 0,
            due: false,
            commands: 0,
            completions: 0,
            progress: (0, 0),
            swept: (0, 0),
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
        self.sending || self.body.is_some() || self.owed > 0 || !self.outgoing.is_empty()
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

    /// Whether the host did next to nothing since the last sweep although it was its turn. While its next capsule waits for
    /// a buffer, only what is being sent to it is its turn.
    pub fn sweep(&mut self) -> bool {
        let ((bytes, ends), (bytes_then, ends_then)) = (self.progress, self.swept);
        self.swept = self.progress;
        let idle = ends == ends_then && bytes - bytes_then < SWEEP_BYTES;
        let owes = self.body.is_some() || self.owed > 0 || self.seen < self.have;
        idle && (self.sending || owes && !self.stalled || self.state == State::Leaving)
    }

    // ---- what comes in ----

    /// Begins to receive, if it is time to.
    pub fn receive<S: Streams<Stream = T>>(&mut self, streams: &mut S, desk: &Desk, staging: &Staging) {
        if self.receiving || self.stalled || self.state != State::Running {
            return;
        }
        let direct = self.direct_slice(desk, staging);
        let (into, all) = match direct {
            Some(slice) => (Some(slice), true),
            None => {
                let room = INBOX_BYTES - self.have;
                // While data is owed, no further than its header: then the data goes where it belongs at once.
                let header = 24 + if self.queue.decoder.framing.digests.header { DIGEST_BYTES as u32 } else { 0 };
                let most = if self.owed > 0 && self.have == 0 { header.min(room) } else { room };
                (staging.area_slice(&self.area, self.have, most), false)
            }
        };
        if let Some(into) = into.filter(|into| into.bytes() > 0) {
            self.receiving = true;
            streams.receive(self.id.index() as u16, &self.queue.stream, into, all);
        }
    }

    /// Where the data that comes next belongs, if nothing of it is in the inbox.
    fn direct_slice(&self, desk: &Desk, staging: &Staging) -> Option<DmaSlice> {
        let body = self.body.filter(|body| body.come < body.length && self.have == 0 && self.skip == 0)?;
        let buffer = desk.exchanges.get(body.exchange)?.buffer.as_ref()?;
        staging.slice(buffer, body.begin + body.come, (body.length - body.come).min(RECEIVE_BYTES))
    }

    /// Bytes have come, or the stream has ended.
    pub fn received(&mut self, result: Result<u32, i32>, desk: &mut Desk, staging: &mut Staging) {
        self.receiving = false;
        match result {
            Ok(0) => self.host_left(),
            Ok(bytes) => {
                self.progress.0 += u64::from(bytes);
                match &mut self.body {
                    Some(body) if body.come < body.length && self.have == 0 && self.skip == 0 => body.come += bytes,
                    _ => self.have += bytes,
                }
                self.take_in(desk, staging);
            }
            Err(libc::EINTR | libc::EAGAIN) => {}
            Err(_) => self.host_left(),
        }
    }

    /// Looks at what is in the inbox.
    pub fn take_in(&mut self, desk: &mut Desk, staging: &mut Staging) {
        self.stalled = false;
        while self.state == State::Running {
            match self.step(desk, staging) {
                Ok(true) => {}
                Ok(false) => break,
                Err(fault) => {
                    self.leave(fault);
                    break;
                }
            }
        }
        let rest = self.have - self.seen;
        if self.seen > 0 && staging.area_to_front(&self.area, self.seen, rest).is_some() {
            (self.have, self.seen) = (rest, 0);
        }
    }

    /// One step further into the inbox; `false` if more has to come first.
    fn step(&mut self, desk: &mut Desk, staging: &mut Staging) -> Result<bool, PduFault> {
        let here = self.have - self.seen;
        if self.skip > 0 {
            let skipped = self.skip.min(here);
            self.skip -= skipped;
            self.seen += skipped;
            return Ok(self.skip == 0);
        }
        if let Some(body) = self.body {
            return self.step_body(body, desk, staging);
        }
        let mut first = [0; COMMON_BYTES];
        if here < COMMON_BYTES as u32 || staging.area_read(&self.area, self.seen, &mut first).is_none() {
            return Ok(false);
        }
        let length = self.queue.decoder.header_length(&first)?;
        let mut header = [0; MAX_HEADER];
        let header = &mut header[..length.min(MAX_HEADER)];
        if (here as usize) < length || staging.area_read(&self.area, self.seen, header).is_none() {
            return Ok(false);
        }
        let received = self.queue.decoder.decode(header)?;
        let payload = received.payload;
        match received.pdu {
            Pdu::CapsuleCmd(capsule) => {
                if (here as usize) < length + payload.bytes() {
                    return Ok(false);
                }
                self.capsule(&capsule.sqe, length as u32, payload, desk, staging)
            }
            Pdu::H2cData(data) => {
                self.begin_body(&data, payload, desk)?;
                self.seen += length as u32;
                Ok(true)
            }
            Pdu::TermReq(_) => {
                self.host_left();
                Ok(false)
            }
            _ => Err(PduFault::SEQUENCE),
        }
    }

    fn begin_body(&mut self, data: &H2cData, payload: Payload, desk: &Desk) -> Result<(), PduFault> {
        let id = desk.of_tag(data.tag).ok_or(PduFault::invalid(field::TRANSFER_TAG))?;
        let exchange = desk.exchanges.get(id).filter(|exchange| exchange.connection == self.id);
        let exchange = exchange.filter(|exchange| exchange.phase == Phase::Receiving);
        let exchange = exchange.ok_or(PduFault::invalid(field::TRANSFER_TAG))?;
        if exchange.cid != data.cid {
            return Err(PduFault::invalid(field::COMMAND_ID));
        }
        let end = u64::from(data.offset) + u64::from(data.length);
        if end > u64::from(exchange.route.bytes) {
            return Err(PduFault::plain(FatalStatus::DATA_OUT_OF_RANGE));
        }
        // Data comes in order (section 3.3.2.2).
        if data.offset != exchange.received {
            return Err(PduFault::SEQUENCE);
        }
        if data.last != (end == u64::from(exchange.route.bytes)) {
            return Err(PduFault::invalid(field::FLAGS));
        }
        self.skip = u32::from(payload.padding);
        self.body =
            Some(Body { exchange: id, begin: data.offset, length: data.length, come: 0, digest: payload.digest });
        Ok(())
    }

    /// Takes what is in the inbox of a PDU's data, and its digest.
    fn step_body(&mut self, mut body: Body, desk: &mut Desk, staging: &mut Staging) -> Result<bool, PduFault> {
        let here = self.have - self.seen;
        let buffer = desk.exchanges.get(body.exchange).and_then(|exchange| exchange.buffer.as_ref());
        let Some(buffer) = buffer else { return Err(PduFault::SEQUENCE) };
        let bytes = here.min(body.length - body.come);
        if bytes > 0 {
            let at = body.begin + body.come;
            staging.area_to_buffer(&self.area, self.seen, buffer, at, bytes).ok_or(PduFault::SEQUENCE)?;
            desk.copied += u64::from(bytes);
            self.seen += bytes;
            body.come += bytes;
            self.body = Some(body);
        }
        if body.come < body.length {
            return Ok(false);
        }
        let mut intact = true;
        if body.digest {
            let mut digest = [0; DIGEST_BYTES];
            let left = self.have - self.seen;
            if left < DIGEST_BYTES as u32 || staging.area_read(&self.area, self.seen, &mut digest).is_none() {
                return Ok(false);
            }
            self.seen += DIGEST_BYTES as u32;
            let taken = digest_of(body.begin, body.length, |at, into| staging.read(buffer, at, into));
            intact = taken.check(u32::from_le_bytes(digest)).is_some();
        }
        self.body = None;
        self.end_body(body, intact, desk, staging);
        Ok(true)
    }

    fn end_body(&mut self, body: Body, intact: bool, desk: &mut Desk, staging: &mut Staging) {
        let Some(exchange) = desk.exchanges.get_mut(body.exchange) else { return };
        exchange.received += body.length;
        // NVMe/TCP, section 3.3.1.1: an error of the data is one of the command, not of the connection; the rest of its
        // data comes all the same.
        exchange.spoilt |= !intact;
        let (all, spoilt) = (exchange.received == exchange.route.bytes, exchange.spoilt);
        if all {
            self.owed -= 1;
            self.progress.1 += 1;
        }
        match (all, spoilt) {
            (false, _) => {}
            (true, false) => desk.make_ready(body.exchange),
            (true, true) => {
                self.answer(body.exchange, Completion::failed(Status::TRANSIENT_TRANSPORT_ERROR), desk, staging);
            }
        }
    }

    /// Takes a capsule that is in the inbox as a whole; `false` if its data lacks a buffer.
    fn capsule(
        &mut self,
        sqe: &Sqe,
        header: u32,
        payload: Payload,
        desk: &mut Desk,
        staging: &mut Staging,
    ) -> Result<bool, PduFault> {
        // Of what is being sent, the host may have read the answers already.
        if self.in_use - self.answered.len() as u32 >= self.queue.entries {
            return Err(PduFault::SEQUENCE);
        }
        let data_at = self.seen + header + u32::from(payload.padding);
        let consumed = header + payload.bytes() as u32;
        let route = match self.judge(sqe, data_at, payload, staging) {
            Ok(route) => route,
            Err(status) => {
                self.consume(consumed);
                self.outgoing.push_back(Outgoing::Refusal { cid: sqe.cid(), status });
                self.in_use += 1;
                return Ok(true);
            }
        };
        let in_capsule = match route.in_capsule {
            Some(offset) => match staging.take(route.bytes) {
                Some(buffer) => Some((offset, buffer)),
                None => {
                    self.stalled = true;
                    return Ok(false);
                }
            },
            None => None,
        };
        self.consume(consumed);
        self.in_use += 1;
        let Some(id) = desk.open(self.id, self.queue.session, *sqe, route) else {
            self.outgoing.push_back(Outgoing::Refusal { cid: sqe.cid(), status: Status::INTERNAL_ERROR });
            return Ok(true);
        };
        if let Some((offset, buffer)) = in_capsule {
            let copied = staging.area_to_buffer(&self.area, data_at + offset, &buffer, 0, route.bytes);
            desk.copied += u64::from(route.bytes);
            if let Some(exchange) = desk.exchanges.get_mut(id) {
                exchange.buffer = Some(buffer);
            }
            match copied {
                Some(()) => desk.make_ready(id),
                None => self.answer(id, Completion::failed(Status::DATA_TRANSFER_ERROR), desk, staging),
            }
        } else if route.bytes == 0 {
            desk.make_ready(id);
        } else if desk.seek_buffer(id, staging) {
            self.fed(id, desk);
        }
        Ok(true)
    }

    fn consume(&mut self, bytes: u32) {
        self.seen += bytes;
        self.commands += 1;
    }

    /// Checks a command before anything is done for it.
    fn judge(&mut self, sqe: &Sqe, data_at: u32, payload: Payload, staging: &Staging) -> Result<Route, Status> {
        if payload.digest {
            let mut received = [0; DIGEST_BYTES];
            let read = staging.area_read(&self.area, data_at + payload.data, &mut received);
            let taken = digest_of(data_at, payload.data, |at, into| staging.area_read(&self.area, at, into));
            if read.is_none() || taken.check(u32::from_le_bytes(received)).is_none() {
                return Err(Status::TRANSIENT_TRANSPORT_ERROR);
            }
        }
        if sqe.opcode() == FABRICS {
            let kind = (sqe.dword(1) & 0xFF) as u8;
            return Err(match kind {
                DISCONNECT => {
                    self.state = State::Leaving;
                    self.asked = true;
                    Status::SUCCESS
                }
                // Connect, on a queue that is connected.
                0x01 => Status::COMMAND_SEQUENCE_ERROR,
                _ => Status::INVALID_FIELD,
            });
        }
        Route::of(sqe, payload.data, self.queue.max_transfer_bytes)
    }

    /// A command has its buffer: on with it.
    pub fn fed(&mut self, id: SlotId, desk: &mut Desk) {
        let Some(exchange) = desk.exchanges.get_mut(id) else { return };
        if exchange.route.from_host {
            exchange.phase = Phase::Receiving;
            self.owed += 1;
            self.outgoing.push_back(Outgoing::R2t(id));
        } else {
            desk.make_ready(id);
        }
    }

    // ---- what goes out ----

    /// Ends a command of this connection.
    pub fn answer(&mut self, id: SlotId, completion: Completion, desk: &mut Desk, staging: &mut Staging) {
        desk.answer(id, completion, staging);
        self.outgoing.push_back(Outgoing::Answer(id));
    }

    /// Sends what there is to send, if nothing is under way.
    pub fn send<S: Streams<Stream = T>>(&mut self, streams: &mut S, desk: &mut Desk, staging: &Staging) {
        if self.sending || self.state == State::Closed {
            return;
        }
        let mut writer = HeadWriter { at: INBOX_BYTES, area: &self.area, staging, parts: &mut self.parts };
        let (framing, mut bytes) = (self.queue.framing, 0);
        while let Some(&next) = self.outgoing.front()
            && !self.answered.is_full()
            && bytes < BATCH_BYTES
            && writer.has_room()
        {
            self.outgoing.pop_front();
            // The head moves with each answer: so many entries the host may use again.
            let sq_head = ((u32::from(self.sq_head) + 1) % self.queue.entries) as u16;
            let response = |cid, completion: Completion| {
                let Completion { dword0, dword1, status } = completion;
                CapsuleResp { cqe: Cqe { dword0, dword1, sq_head, sq_id: 0, cid, status } }
            };
            match next {
                Outgoing::R2t(id) => {
                    let Some(exchange) = desk.exchanges.get(id) else { continue };
                    let r2t =
                        R2t { cid: exchange.cid, tag: id.index() as u16, offset: 0, length: exchange.route.bytes };
                    writer.put(|head| r2t.encode(framing, head));
                }
                Outgoing::Refusal { cid, status } => {
                    writer.put(|head| response(cid, Completion::failed(status)).encode(framing, head));
                    self.sq_head = sq_head;
                    self.in_use -= 1;
                    self.completions += 1;
                }
                Outgoing::Answer(id) => {
                    let Some(exchange) = desk.exchanges.get(id) else { continue };
                    let Phase::Answered(completion) = exchange.phase else { continue };
                    if exchange.route.to_host
                        && completion.status.is_success()
                        && let Some(buffer) = &exchange.buffer
                    {
                        let length = staging.filled(buffer).min(exchange.route.bytes);
                        bytes += length;
                        writer.data(exchange.cid, buffer, length, framing);
                    }
                    writer.put(|head| response(exchange.cid, completion).encode(framing, head));
                    self.sq_head = sq_head;
                    self.answered.push(id);
                }
            }
        }
        if self.parts.is_empty() && self.outgoing.is_empty() && self.state == State::Leaving {
            self.say_farewell(staging);
        }
        if !self.parts.is_empty() {
            self.sending = true;
            streams.send(self.id.index() as u16, &self.queue.stream, &self.parts);
        }
    }

    /// The last word; without one, the end.
    fn say_farewell(&mut self, staging: &Staging) {
        match self.farewell.take().filter(PduFault::is_answered) {
            Some(fault) => {
                let mut writer = HeadWriter { at: INBOX_BYTES, area: &self.area, staging, parts: &mut self.parts };
                let request = TermReq { fes: fault.fes, fei: fault.fei };
                writer.put(|head| request.encode(End::Controller, &[], head));
            }
            None => self.close(),
        }
    }

    /// Bytes were sent, or could not be.
    pub fn sent<S: Streams<Stream = T>>(
        &mut self,
        result: Result<u32, i32>,
        streams: &mut S,
        desk: &mut Desk,
        staging: &mut Staging,
    ) {
        self.sending = false;
        let mut left = match result {
            Ok(0) => return self.fail_send(desk, staging),
            Ok(bytes) => bytes,
            Err(libc::EINTR | libc::EAGAIN) => 0,
            Err(_) => return self.fail_send(desk, staging),
        };
        self.progress.0 += u64::from(left);
        let mut whole = 0;
        while let Some(part) = self.parts.get_mut(whole)
            && left > 0
        {
            if left < part.bytes() {
                *part = part.split_at(left).1;
                break;
            }
            left -= part.bytes();
            whole += 1;
        }
        self.parts.drain(..whole);
        if self.parts.is_empty() {
            self.completions += self.answered.len() as u64;
            self.progress.1 += 1;
            self.end_answered(desk, staging);
        } else if self.state != State::Closed {
            self.sending = true;
            streams.send(self.id.index() as u16, &self.queue.stream, &self.parts);
        } else {
            self.fail_send(desk, staging);
        }
    }

    fn fail_send(&mut self, desk: &mut Desk, staging: &mut Staging) {
        self.parts.clear();
        self.end_answered(desk, staging);
        self.host_left();
    }

    fn end_answered(&mut self, desk: &mut Desk, staging: &mut Staging) {
        for id in self.answered.drain(..) {
            desk.close(id, staging);
            self.in_use -= 1;
        }
    }

    // ---- the end ----

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
        self.in_use -= desk.abandon(self.id, staging);
    }
}

/// The digest of a range that is read piece by piece.
fn digest_of(from: u32, bytes: u32, read: impl Fn(u32, &mut [u8]) -> Option<()>) -> DataDigest {
    let mut digest = DataDigest::new();
    let mut piece = [0; 4096];
    let mut done = 0;
    while done < bytes {
        let part = &mut piece[..(bytes - done).min(4096) as usize];
        if read(from + done, part).is_none() {
            break;
        }
        digest.update(part);
        done += part.len() as u32;
    }
    digest
}

/// Writes headers one after another into the outgoing half of an area, and lines them up with data.
struct HeadWriter<'a> {
    at: u32,
    area: &'a Area,
    staging: &'a Staging,
    parts: &'a mut ArrayVec<DmaSlice, MAX_PARTS>,
}

impl HeadWriter<'_> {
    /// Whether one more answer with data fits.
    fn has_room(&self) -> bool {
        self.at + 2 * HEAD_BYTES as u32 + DIGEST_BYTES as u32 <= AREA_BYTES && self.parts.remaining_capacity() >= 4
    }

    fn put(&mut self, encode: impl FnOnce(&mut [u8; HEAD_BYTES]) -> usize) {
        let mut head = [0; HEAD_BYTES];
        let bytes = encode(&mut head);
        self.put_bytes(&head[..bytes]);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        let slice = self.staging.area_slice(self.area, self.at, bytes.len() as u32);
        let Some((slice, ())) = slice.zip(self.staging.area_write(self.area, self.at, bytes)) else { return };
        self.at += bytes.len() as u32;
        match self.parts.last_mut() {
            Some(last) if last.join(slice).is_some() => *last = last.join(slice).unwrap_or(*last),
            _ => self.parts.push(slice),
        }
    }

    /// A PDU with the first `length` bytes of a buffer.
    fn data(&mut self, cid: u16, buffer: &crate::fabric::message::Buffer, length: u32, framing: Framing) {
        let Some(slice) = self.staging.slice(buffer, 0, length).filter(|slice| slice.bytes() > 0) else { return };
        let pdu = C2hData { cid, offset: 0, length, last: true, success: false };
        self.put(|head| pdu.encode(framing, head));
        self.parts.push(slice);
        if framing.digests.data {
            let digest = digest_of(0, length, |at, into| self.staging.read(buffer, at, into));
            self.put_bytes(&digest.finish(Padded::No).to_le_bytes());
        }
    }
}
