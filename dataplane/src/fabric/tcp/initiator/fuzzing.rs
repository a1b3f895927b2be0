//! A queue without a socket, for tests and fuzzing: what it sends is kept, what it receives is made up.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;

use super::super::wire::{Alignment, C2hData, CapsuleResp, Decoder, Digests, End, Framing, HEAD_BYTES, R2t, TermReq};
use super::inbox::Inbox;
use super::outbox::Outbox;
use super::pieces::{Incoming, Outgoing};
use super::queue::{InitiatorQueue, QueueTerms};
use super::stream::ByteStream;
use crate::Burst;
use crate::memory::{Region, RegionSlot};
use crate::nvme::spec::{Cqe, SglDescriptor, Sqe, Status};

/// A byte stream in memory.
#[derive(Debug)]
pub struct Tape {
    /// What was sent.
    pub sent: Vec<u8>,
    /// What is to be received.
    pub coming: VecDeque<u8>,
    /// Bytes that one call sends at the most; 0 for a stream that takes none.
    pub takes: usize,
    /// Bytes that one call receives at the most.
    pub gives: usize,
    /// Whether this end was closed.
    pub closed: bool,
    /// Whether the other end was.
    pub ended: bool,
}

impl Default for Tape {
    fn default() -> Self {
        Self {
            sent: Vec::new(),
            coming: VecDeque::new(),
            takes: usize::MAX,
            gives: usize::MAX,
            closed: false,
            ended: false,
        }
    }
}

impl ByteStream for Tape {
    fn send(&mut self, pieces: &Outgoing<'_>) -> io::Result<usize> {
        let bytes = pieces.bytes().min(self.takes);
        if bytes == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let from = self.sent.len();
        self.sent.resize(from + bytes, 0);
        Ok(pieces.gather(&mut self.sent[from..]))
    }

    fn receive(&mut self, pieces: &mut Incoming<'_>) -> io::Result<usize> {
        if self.coming.is_empty() {
            return if self.ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let most = pieces.bytes().min(self.gives).min(self.coming.len());
        let bytes: Vec<u8> = self.coming.drain(..most).collect();
        Ok(pieces.scatter(&bytes))
    }

    fn wants_to_send(&mut self, _waiting: bool) {}

    fn close(&mut self) {
        self.closed = true;
    }
}

/// A queue over a tape, on which the controller asked for the given alignment and takes so much data in a PDU.
#[must_use]
pub fn queue_on_tape(
    depth: u16,
    digests: Digests,
    alignment: Alignment,
    max_data: u32,
    capsule_data: u32,
) -> InitiatorQueue<Tape> {
    let terms = QueueTerms { qid: 1, depth, core: 0, capsule_data };
    queue_over(Tape::default(), terms, digests, alignment, max_data)
}

/// As [`queue_on_tape`], over any stream.
#[must_use]
pub fn queue_over<S: ByteStream>(
    stream: S,
    terms: QueueTerms,
    digests: Digests,
    alignment: Alignment,
    max_data: u32,
) -> InitiatorQueue<S> {
    let framing = Framing { digests, alignment: Alignment::DWORD };
    let decoder = Decoder { initialized: true, framing, ..Decoder::new(End::Host) };
    let outbox = Outbox::new(terms.depth, Framing { digests, alignment }, max_data);
    InitiatorQueue::new(stream, Inbox::new(decoder), outbox, terms)
}

/// Memory of the commands: a place of so many bytes for each, and as much between them that nobody may touch.
const PLACE: u64 = 256;
const DEPTH: u16 = 8;
const UNTOUCHED: u8 = 0xA5;

/// Interprets the bytes as what a client and a lying target do, one after the other. Panics if the queue writes where it
/// may not, or ends a command that it does not have.
pub fn drive(program: &[u8]) {
    let Some((&[setting, alignment], mut rest)) = program.split_first_chunk::<2>() else { return };
    let digests = Digests { header: setting & 1 != 0, data: setting & 2 != 0 };
    let alignment = Alignment::from_field(alignment & 31).unwrap_or_default();
    let mut queue = queue_on_tape(DEPTH, digests, alignment, 4096, if setting & 4 != 0 { 64 } else { 0 });
    let Ok(region) = Region::anonymous(2 * PLACE as usize * usize::from(DEPTH), RegionSlot(u16::MAX)) else { return };
    let region = Arc::new(region);
    assert!(region.fill(0, region.bytes(), UNTOUCHED).is_some());
    assert!(queue.attach(&region));
    let mut outstanding = HashSet::new();
    // Which places hold data of a command that may be written to, by identifier, and those of commands that ended.
    let mut writable = vec![false; usize::from(DEPTH)];
    while let Some((&[what, a, b, c], more)) = rest.split_first_chunk::<4>() {
        rest = more;
        let framing = Framing { digests, alignment: Alignment::DWORD };
        let mut head = [0; HEAD_BYTES];
        let cid = u16::from(a % (DEPTH + 1) as u8);
        let (offset, length) = (u32::from(b) * 4, u32::from(c) + 1);
        let (last, success) = (what & 64 != 0, what & 192 == 192);
        let written = match what & 7 {
            0 => {
                // Identifiers are given out from the top of a stack, so the place is found by who gets which.
                let opcode = [0x01, 0x02, 0x14, 0xC3, 0xC1, 0x02, 0x7F, 0x06][usize::from(a & 7)];
                let place = u64::from(b % DEPTH as u8);
                if !writable[place as usize] {
                    let mut sqe = Sqe::new(opcode, 0);
                    let bytes = u32::from(c).min(PLACE as u32);
                    sqe.set_sgl(SglDescriptor::data_block(region.base() + 2 * PLACE * place, bytes));
                    if let Ok(cid) = queue.push(sqe) {
                        assert!(outstanding.insert(cid), "identifier {cid} was given out twice");
                        writable[place as usize] = opcode & 2 != 0 && opcode != 0x7F;
                    }
                }
                0
            }
            1 => CapsuleResp { cqe: Cqe { dword0: 1, dword1: 2, sq_head: 3, sq_id: 4, cid, status: Status::SUCCESS } }
                .encode(framing, &mut head),
            2 => R2t { cid, tag: 7, offset, length }.encode(framing, &mut head),
            3 => C2hData { cid, offset, length, last, success }.encode(framing, &mut head),
            4 => TermReq { fes: super::super::wire::FatalStatus(u16::from(a)), fei: 0 }.encode(
                End::Controller,
                &[],
                &mut head,
            ),
            5 => {
                queue.stream_mut().takes = usize::from(b);
                queue.stream_mut().gives = usize::from(c) + 1;
                queue.ring();
                0
            }
            6 => {
                // Any bytes at all.
                let bytes = usize::from(c).min(rest.len());
                let (raw, more) = rest.split_at(bytes);
                rest = more;
                queue.stream_mut().coming.extend(raw);
                0
            }
            _ => {
                let mut done = Burst::new();
                queue.poll(&mut done);
                for cqe in &done {
                    assert!(outstanding.remove(&cqe.cid), "command {} is not outstanding", cqe.cid);
                }
                0
            }
        };
        // A header that may be spoilt, and as many bytes of data as it says or as there are.
        if written > 0 {
            if what & 32 != 0 {
                head[usize::from(b) % written] ^= c;
            }
            queue.stream_mut().coming.extend(&head[..written]);
            if what & 7 == 3 {
                queue
                    .stream_mut()
                    .coming
                    .extend(std::iter::repeat_n(b, length as usize + usize::from(digests.data) * 4));
            }
        }
        assert!(queue.in_flight() >= outstanding.len());
        queue.stream_mut().sent.clear();
    }
    check_untouched(&region, &writable);
}

/// Nothing was written between the places, nor to a place that was never lent.
fn check_untouched(region: &Region, writable: &[bool]) {
    let mut bytes = [0; PLACE as usize];
    for (place, lent) in (0..).zip(writable) {
        for (part, may_change) in [(0, *lent), (1, false)] {
            let at = (2 * place + part) * PLACE;
            let read = region.read(at, &mut bytes);
            assert!(read.is_some() && (may_change || bytes.iter().all(|byte| *byte == UNTOUCHED)), "at {at}");
        }
    }
}
