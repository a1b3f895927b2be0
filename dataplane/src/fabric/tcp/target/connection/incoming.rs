//! What comes in: PDUs out of the inbox, data into buffers.

use super::super::super::wire::{COMMON_BYTES, DIGEST_BYTES, FatalStatus, H2cData, Payload, Pdu, PduFault, field};
use super::super::desk::{Desk, Hungry};
use super::super::exchange::{Phase, Route};
use super::super::streams::Streams;
use super::heads::digest_of;
use super::{Connection, INBOX_BYTES, Outgoing, State};
use crate::fabric::Completion;
use crate::fabric::message::{Lines, NO_MEMORY, Served, Staging};
use crate::memory::{DmaSlice, SlotId};
use crate::nvme::spec::fabrics::{FABRICS_OPCODE, fctype};
use crate::nvme::spec::{Sqe, Status};

/// Data that one receive takes at most, so that it is seen to move.
const RECEIVE_BYTES: u32 = 1 << 20;
/// The longest header with its digest that a host sends.
const MAX_HEADER: usize = 128 + DIGEST_BYTES;

/// Data of an H2CData PDU that has not all come yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body {
    exchange: SlotId,
    /// Where the PDU's data begins in the command's data, how long it is, and how much has come.
    begin: u32,
    length: u32,
    come: u32,
    digest: bool,
    /// When it was asked for.
    pub(super) asked: u32,
}

impl<T> Connection<T> {
    /// Begins to receive, if it is time to.
    pub fn receive<S: Streams<Stream = T>>(&mut self, streams: &mut S, desk: &Desk, staging: &Staging) {
        if self.receiving || self.stalled || !matches!(self.state, State::Running | State::Parting) {
            return;
        }
        let direct = self.direct_slice(desk, staging);
        let (into, all) = match direct {
            Some(slice) => (Some(slice), true),
            None if self.state == State::Parting => (staging.area_slice(&self.area, 0, INBOX_BYTES), false),
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
        let running = self.body.filter(|_| self.state == State::Running);
        let body = running.filter(|body| body.come < body.length && self.have == 0 && self.skip == 0)?;
        let buffer = desk.exchanges.get(body.exchange)?.buffer.as_ref()?;
        staging.slice(buffer, body.begin + body.come, (body.length - body.come).min(RECEIVE_BYTES))
    }

    /// Bytes have come, or the stream has ended.
    pub fn received(&mut self, result: Result<u32, i32>, desk: &mut Desk, staging: &mut Staging) {
        self.receiving = false;
        match result {
            Ok(0) => self.host_left(),
            Ok(_) if self.state == State::Parting => {}
            Ok(bytes) => {
                self.pace.read(bytes);
                match &mut self.body {
                    Some(body) if body.come < body.length && self.have == 0 && self.skip == 0 => {
                        body.come += bytes;
                        self.pace.data(body.asked, bytes);
                    }
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
        if std::mem::take(&mut self.stalled) {
            self.pace.excuse();
        }
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
        let exchange = match exchange.map(|exchange| (exchange, exchange.phase)) {
            Some((exchange, Phase::Receiving)) => exchange,
            // The host guessed the tag: it was told none yet.
            Some((_, Phase::Asking)) => return Err(PduFault::SEQUENCE),
            _ => return Err(PduFault::invalid(field::TRANSFER_TAG)),
        };
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
        let (begin, length, digest, asked) = (data.offset, data.length, payload.digest, exchange.asked);
        self.body = Some(Body { exchange: id, begin, length, come: 0, digest, asked });
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
            self.pace.data(body.asked, bytes);
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
        self.pace.pdu_over();
        let Some(exchange) = desk.exchanges.get_mut(body.exchange) else { return };
        exchange.received += body.length;
        // NVMe/TCP, section 3.3.1.1: an error of the data is one of the command, not of the connection; the rest of its
        // data comes all the same.
        exchange.spoilt |= !intact;
        let (all, spoilt) = (exchange.received == exchange.route.bytes, exchange.spoilt);
        if all {
            self.owed -= 1;
            self.pace.has_all(body.asked);
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
                self.refuse(sqe, consumed, status);
                return Ok(true);
            }
        };
        let in_capsule = match route.in_capsule {
            Some(offset) => match desk.buffer_along(self.account, route.bytes, staging) {
                Ok(buffer) => Some((offset, buffer)),
                // Were it to wait for buffers of its own host's commands, the data of those might lie behind it.
                Err(Hungry::HasItsShare) => {
                    self.refuse(sqe, consumed, Status::NAMESPACE_NOT_READY);
                    return Ok(true);
                }
                Err(Hungry::NothingLeft) => {
                    self.stalled = true;
                    return Ok(false);
                }
                Err(Hungry::Never) => {
                    self.warn_of_too_little(route.bytes);
                    self.refuse(sqe, consumed, NO_MEMORY);
                    return Ok(true);
                }
            },
            None => None,
        };
        let Some(id) = desk.open((self.id, self.queue.session, self.account), *sqe, route) else {
            if let Some((_, buffer)) = in_capsule {
                desk.give_back_along(buffer, self.account, route.bytes, staging);
            }
            self.refuse(sqe, consumed, Status::INTERNAL_ERROR);
            return Ok(true);
        };
        self.consume(consumed);
        self.in_use += 1;
        if let Some((offset, buffer)) = in_capsule {
            let copied = staging.area_to_buffer(&self.area, data_at + offset, &buffer, 0, route.bytes);
            desk.copied += u64::from(route.bytes);
            if let Some(exchange) = desk.exchanges.get_mut(id) {
                exchange.held = Lines::size_of(route.bytes);
                exchange.buffer = Some(buffer);
            }
            match copied {
                Some(()) => desk.make_ready(id),
                None => self.answer(id, Completion::failed(Status::DATA_TRANSFER_ERROR), desk, staging),
            }
        } else if route.bytes == 0 {
            desk.make_ready(id);
        } else if let Some(served) = desk.seek_buffer(id, staging) {
            self.served(served, desk, staging);
        }
        Ok(true)
    }

    /// Ends a command that becomes no exchange.
    fn refuse(&mut self, sqe: &Sqe, consumed: u32, status: Status) {
        self.consume(consumed);
        self.outgoing.push_back(Outgoing::Refusal { cid: sqe.cid(), status });
        self.in_use += 1;
    }

    fn consume(&mut self, bytes: u32) {
        self.seen += bytes;
        self.commands += 1;
        self.pace.pdu_over();
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
        if sqe.opcode() == FABRICS_OPCODE {
            let kind = (sqe.dword(1) & 0xFF) as u8;
            return Err(match kind {
                fctype::DISCONNECT => {
                    self.state = State::Leaving;
                    self.asked = true;
                    Status::SUCCESS
                }
                // On a queue that is connected.
                fctype::CONNECT => Status::COMMAND_SEQUENCE_ERROR,
                _ => Status::INVALID_FIELD,
            });
        }
        Route::of(sqe, payload.data, self.queue.max_transfer_bytes)
    }

    /// A command has its buffer, or never will: on with it.
    pub fn served(&mut self, served: Served, desk: &mut Desk, staging: &mut Staging) {
        match served {
            Served::Fed(id) => self.fed(id, desk),
            Served::Never(id) => {
                self.warn_of_too_little(desk.exchanges.get(id).map_or(0, |exchange| exchange.route.bytes));
                self.answer(id, Completion::failed(NO_MEMORY), desk, staging);
            }
        }
    }

    /// Says, once a connection, why a command is refused.
    #[cold]
    fn warn_of_too_little(&mut self, bytes: u32) {
        if !std::mem::replace(&mut self.has_warned, true) {
            let (session, qid) = (self.queue.session.0, self.queue.qid);
            tracing::warn!(
                session,
                qid,
                bytes,
                "a core's RDMA ports keep so much staging memory that a command of this size never gets a buffer, and is \
                 refused; listen on fewer RDMA devices, or have hosts use shorter commands"
            );
        }
    }

    fn fed(&mut self, id: SlotId, desk: &mut Desk) {
        let Some(exchange) = desk.exchanges.get_mut(id) else { return };
        if exchange.route.from_host {
            exchange.phase = Phase::Asking;
            self.owed += 1;
            self.r2ts.push_back(id);
        } else {
            desk.make_ready(id);
        }
    }
}
