//! What goes out: answers, data out of buffers, and what asks for data.

use super::super::super::wire::{CapsuleResp, End, PduFault, R2t, TermReq};
use super::super::desk::Desk;
use super::super::exchange::Phase;
use super::super::streams::Streams;
use super::heads::HeadWriter;
use super::{Connection, INBOX_BYTES, Outgoing, State};
use crate::fabric::Completion;
use crate::fabric::message::Staging;
use crate::memory::SlotId;
use crate::nvme::spec::Cqe;

/// Data that one send carries before no more is added, so that buffers come free in good time.
const BATCH_BYTES: u32 = 1 << 20;

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
                        let filled = if CANARY { u32::MAX } else { staging.filled(buffer) };
                        let length = filled.min(exchange.route.bytes);
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
}
