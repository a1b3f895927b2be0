//! What goes out: answers, data out of buffers, and what asks for data.

use super::super::super::wire::{COMMON_BYTES, CapsuleResp, End, PduFault, R2t, TermReq};
use super::super::desk::Desk;
use super::super::exchange::Phase;
use super::super::streams::Streams;
use super::heads::HeadWriter;
use super::{BATCH, Connection, INBOX_BYTES, Outgoing, State};
use crate::fabric::Completion;
use crate::fabric::message::Staging;
use crate::memory::SlotId;
use crate::nvme::spec::Cqe;

/// Data that one send carries before no more is added, so that buffers come free in good time.
const BATCH_BYTES: u32 = 1 << 20;
/// Bytes that one send takes at most, so that they are seen to move.
const SEND_BYTES: u32 = 1 << 20;
/// Where a PDU says how long its header is (3.6.1).
const HLEN_AT: usize = 2;
/// The longest header that a farewell repeats (TCP transport, 3.6.2.5).
const MAX_REPEATED: u32 = 128;

/// The known bug that the simulator has to catch: more of a buffer is sent than the command filled.
const CANARY: bool = cfg!(feature = "canary");

impl<T> Connection<T> {
    /// Ends a command of this connection.
    pub fn answer(&mut self, id: SlotId, completion: Completion, desk: &mut Desk, staging: &mut Staging) {
        desk.answer(id, completion, staging);
        self.outgoing.push_back(Outgoing::Answer(id));
    }

    /// Sends what there is to send, if nothing is under way.
    pub fn send<S: Streams<Stream = T>>(&mut self, streams: &mut S, desk: &mut Desk, staging: &Staging) {
        if self.sending || matches!(self.state, State::Parting | State::Closed) {
            return;
        }
        let mut writer = HeadWriter { at: INBOX_BYTES, area: &self.area, staging, parts: &mut self.parts };
        let framing = self.queue.framing;
        for _ in 0..if self.state == State::Running { BATCH } else { 0 } {
            let Some(id) = self.r2ts.pop_front() else { break };
            let Some(exchange) = desk.exchanges.get_mut(id) else { continue };
            exchange.phase = Phase::Receiving;
            exchange.asked = self.pace.ask();
            let r2t = R2t { cid: exchange.cid, tag: id.index() as u16, offset: 0, length: exchange.route.bytes };
            writer.put(|head| r2t.encode(framing, head));
        }
        let (mut bytes, mut answers) = (0, 0);
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
                        bytes += match exchange.lent {
                            Some(lent) => writer.lent(exchange.cid, lent.bytes, framing),
                            None => {
                                let filled = if CANARY { u32::MAX } else { staging.filled(buffer) };
                                let length = filled.min(exchange.route.bytes);
                                writer.data(exchange.cid, buffer, length, framing);
                                length
                            }
                        };
                    }
                    writer.put(|head| response(exchange.cid, completion).encode(framing, head));
                    self.sq_head = sq_head;
                    self.answered.push(id);
                }
            }
            answers += 1;
        }
        if self.parts.is_empty() && self.outgoing.is_empty() && self.state == State::Leaving {
            self.say_farewell(streams, staging);
        }
        if !self.parts.is_empty() {
            self.sending = true;
            self.pace.send(answers);
            streams.send(self.id.index() as u16, &self.queue.stream, &self.parts, SEND_BYTES);
        }
        self.receive(streams, desk, staging);
    }

    /// The last word, and what follows it; without one, the end.
    fn say_farewell<S: Streams<Stream = T>>(&mut self, streams: &mut S, staging: &Staging) {
        match self.farewell.take().filter(PduFault::is_answered) {
            Some(fault) => {
                // Nothing was received since: what it is about is the first in the inbox, as far as it came.
                let mut header = [0; MAX_REPEATED as usize];
                let came = &mut header[..self.have.min(MAX_REPEATED) as usize];
                let read = staging.area_read(&self.area, 0, came).map_or(0, |()| came.len());
                let length = header.get(HLEN_AT).map_or(0, |length| usize::from(*length)).max(COMMON_BYTES);
                let mut writer = HeadWriter { at: INBOX_BYTES, area: &self.area, staging, parts: &mut self.parts };
                let request = TermReq { fes: fault.fes, fei: fault.fei };
                writer.put(|head| request.encode(End::Controller, &header[..read.min(length)], head));
                self.has_said_why = true;
            }
            None if self.has_said_why => {
                streams.end_sending(&self.queue.stream);
                self.state = State::Parting;
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
        self.pace.sent(left);
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
            self.pace.send_over();
            self.end_answered(desk, staging);
        } else if self.state != State::Closed {
            self.return_recalled(desk, staging);
            self.sending = true;
            streams.send(self.id.index() as u16, &self.queue.stream, &self.parts, SEND_BYTES);
        } else {
            self.fail_send(desk, staging);
        }
    }

    /// Whether a command's data may be on its way.
    pub fn is_sending(&self, id: SlotId) -> bool {
        self.sending && self.answered.contains(&id)
    }

    /// Between two sends: what is left of values that are wanted back is sent out of the commands' own buffers.
    fn return_recalled(&mut self, desk: &mut Desk, staging: &Staging) {
        for &id in &self.answered {
            let lent = desk.exchanges.get(id).and_then(|exchange| exchange.lent).filter(|lent| lent.recalled);
            let Some(lent) = lent else { continue };
            if desk.copy_lent(id, staging) == 0 {
                continue;
            }
            let Some(buffer) = desk.exchanges.get(id).and_then(|exchange| exchange.buffer.as_ref()) else { continue };
            for part in &mut self.parts {
                let at = part.address().wrapping_sub(lent.bytes.address());
                let inside = part.slot() == lent.bytes.slot()
                    && at <= u64::from(lent.bytes.bytes())
                    && at + u64::from(part.bytes()) <= u64::from(lent.bytes.bytes());
                if inside && let Some(own) = staging.slice(buffer, at as u32, part.bytes()) {
                    *part = own;
                }
            }
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
}
