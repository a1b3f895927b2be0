//! A queue on a tape: what it sends for which command, and what it makes of what a target sends, lies among it.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::wire::*;
use super::fuzzing::{Tape, drive, queue_on_tape};
use super::*;
use crate::Burst;
use crate::memory::RegionSlot;
use crate::nvme::spec::fabrics::CapsuleData;
use crate::nvme::spec::{DataPointer, SglDescriptor};

const STORE: u8 = 0x01;
const RETRIEVE: u8 = 0x02;
const EXIST: u8 = 0x14;
const LOOKUP_STATE: u8 = 0xC3;
const BOTH: Digests = Digests { header: true, data: true };
/// Around the command's data.
const GUARD: u64 = 4096;
const ROOM: u64 = 64 << 10;

struct Rig {
    queue: InitiatorQueue<Tape>,
    memory: Arc<Region>,
    digests: Digests,
    alignment: Alignment,
}

/// What the queue sent: a PDU with its data.
type Sent = (Pdu, Vec<u8>);

impl Rig {
    fn new(digests: Digests, alignment: u8, max_data: u32, capsule_data: u32) -> Self {
        let alignment = Alignment::from_field(alignment).unwrap();
        let mut queue = queue_on_tape(4, digests, alignment, max_data, capsule_data);
        let memory = Arc::new(Region::anonymous((2 * GUARD + ROOM) as usize, RegionSlot(9)).unwrap());
        let bytes: Vec<u8> = (0..2 * GUARD + ROOM).map(|at| (at % 251) as u8).collect();
        memory.write(0, &bytes).unwrap();
        assert!(queue.attach(&memory));
        Self { queue, memory, digests, alignment }
    }

    fn plain() -> Self {
        Self::new(Digests::NONE, 0, 4096, 0)
    }

    fn push(&mut self, opcode: u8, bytes: u32) -> u16 {
        let mut sqe = Sqe::new(opcode, 0);
        sqe.set_dword(10, bytes);
        sqe.set_sgl(SglDescriptor::data_block(self.memory.base() + GUARD, bytes));
        let cid = self.queue.push(sqe).unwrap();
        self.queue.ring();
        cid
    }

    /// Everything that was sent, as the controller reads it.
    fn sent(&mut self) -> Vec<Sent> {
        let bytes = std::mem::take(&mut self.queue.stream_mut().sent);
        let framing = Framing { digests: self.digests, alignment: self.alignment };
        let limits = Limits { capsule_data: 8192, h2c_data: 1 << 20 };
        let decoder = Decoder { initialized: true, framing, limits, ..Decoder::new(End::Controller) };
        let (mut at, mut all) = (0, Vec::new());
        while at < bytes.len() {
            let length = decoder.header_length(bytes[at..].first_chunk().unwrap()).unwrap();
            let Received { pdu, payload } = decoder.decode(&bytes[at..at + length]).unwrap();
            let data = at + length + usize::from(payload.padding);
            let end = data + payload.data as usize;
            if payload.digest {
                let mut digest = DataDigest::new();
                digest.update(&bytes[data..end]);
                let found = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap());
                assert_eq!(digest.check(found), Some(Padded::No));
            }
            all.push((pdu, bytes[data..end].to_vec()));
            at += length + payload.bytes();
        }
        all
    }

    fn framing(&self) -> Framing {
        Framing { digests: self.digests, alignment: Alignment::DWORD }
    }

    fn comes(&mut self, bytes: &[u8]) {
        self.queue.stream_mut().coming.extend(bytes);
    }

    fn respond(&mut self, cid: u16, status: Status) {
        self.respond_with(cid, 77, status);
    }

    fn respond_with(&mut self, cid: u16, dword0: u32, status: Status) {
        let cqe = Cqe { dword0, dword1: 78, sq_head: 0, sq_id: 0, cid, status };
        let mut head = [0; HEAD_BYTES];
        let bytes = CapsuleResp { cqe }.encode(self.framing(), &mut head);
        self.comes(&head[..bytes]);
    }

    fn ask(&mut self, cid: u16, tag: u16, offset: u32, length: u32) {
        let mut head = [0; HEAD_BYTES];
        let bytes = R2t { cid, tag, offset, length }.encode(self.framing(), &mut head);
        self.comes(&head[..bytes]);
    }

    fn data(&mut self, data: C2hData, fill: u8, spoil: bool) {
        let mut head = [0; HEAD_BYTES];
        let bytes = data.encode(self.framing(), &mut head);
        let content = vec![fill; data.length as usize];
        self.comes(&head[..bytes]);
        self.comes(&content);
        if self.digests.data {
            let mut digest = DataDigest::new();
            digest.update(&content);
            let digest = digest.finish(Padded::No) ^ u32::from(spoil);
            self.comes(&digest.to_le_bytes());
        }
    }

    fn poll(&mut self) -> Vec<Cqe> {
        let mut done = Burst::new();
        self.queue.poll(&mut done);
        done.to_vec()
    }

    fn read(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut into = vec![0; bytes];
        self.memory.read(offset, &mut into).unwrap();
        into
    }

    /// The connection ended for this fault, and the target was told.
    fn refused(&mut self, fault: PduFault) {
        assert!(self.poll().is_empty());
        match self.queue.lost() {
            Some(Lost::Protocol(found)) => assert_eq!(*found, fault),
            other => panic!("{other:?} instead of {fault}"),
        }
        assert!(self.queue.stream_mut().closed);
        let (pdu, _) = self.sent().pop().unwrap();
        assert_eq!(pdu, Pdu::TermReq(TermReq { fes: fault.fes, fei: fault.fei }));
        assert_eq!(self.queue.room(), 0);
    }
}

fn c2h(cid: u16, offset: u32, length: u32) -> C2hData {
    C2hData { cid, offset, length, last: false, success: false }
}

fn capsule_data(pdu: &Pdu) -> (Option<CapsuleData>, u32) {
    let Pdu::CapsuleCmd(capsule) = pdu else { panic!("{pdu:?} is no capsule") };
    let Some(DataPointer::Sgl(descriptor)) = capsule.sqe.data_pointer() else { panic!("no SGL") };
    (descriptor.capsule_data(), capsule.data)
}

#[test]
fn short_values_go_in_the_capsule() {
    for (digests, alignment) in [(Digests::NONE, 0), (BOTH, 31), (BOTH, 2)] {
        let mut rig = Rig::new(digests, alignment, 4096, 1000);
        let cid = rig.push(STORE, 1000);
        let sent = rig.sent();
        assert_eq!(sent.len(), 1);
        let inside = Some(CapsuleData::InCapsule { offset: 0, length: 1000 });
        assert_eq!(capsule_data(&sent[0].0), (inside, 1000));
        assert_eq!(sent[0].1, rig.read(GUARD, 1000));
        rig.respond(cid, Status::SUCCESS);
        assert_eq!(rig.poll()[0].cid, cid);
        assert_eq!(rig.queue.in_flight(), 0);
        // One byte more, and it is asked for.
        rig.push(STORE, 1001);
        let sent = rig.sent();
        assert_eq!(capsule_data(&sent[0].0), (Some(CapsuleData::Transport { length: 1001 }), 0));
    }
}

#[test]
fn a_retrieve_with_less_data_than_its_value_has_failed() {
    let short = Status::TRANSIENT_TRANSPORT_ERROR;
    for (came, value, expected) in [
        (4096, 8192, short),
        (0, 1, short),
        (4096, 100_000, short),
        (4096, 4096, Status::SUCCESS),
        (8192, 100_000, Status::SUCCESS),
        (0, 0, Status::SUCCESS),
    ] {
        let mut rig = Rig::plain();
        let cid = rig.push(RETRIEVE, 8192);
        rig.sent();
        if came > 0 {
            rig.data(c2h(cid, 0, came), 5, false);
        }
        rig.respond_with(cid, value, Status::SUCCESS);
        assert_eq!(rig.poll()[0].status, expected, "{came} bytes of {value}");
        // A failure is told as it is.
        let cid = rig.push(RETRIEVE, 8192);
        rig.respond_with(cid, value, Status::KEY_DOES_NOT_EXIST);
        assert_eq!(rig.poll()[0].status, Status::KEY_DOES_NOT_EXIST);
    }
}

#[test]
fn commands_without_data_name_an_empty_buffer() {
    let mut rig = Rig::plain();
    let cid = rig.push(EXIST, 0);
    let sent = rig.sent();
    assert_eq!(capsule_data(&sent[0].0), (Some(CapsuleData::Transport { length: 0 }), 0));
    rig.respond(cid, Status::KEY_DOES_NOT_EXIST);
    let done = rig.poll();
    assert_eq!((done[0].status, done[0].dword0, done[0].dword1), (Status::KEY_DOES_NOT_EXIST, 77, 78));
}

#[test]
fn data_that_is_asked_for_is_sent_in_the_order_asked_and_in_pieces_that_are_taken() {
    for digests in [Digests::NONE, BOTH] {
        let mut rig = Rig::new(digests, 3, 4096, 0);
        let cid = rig.push(STORE, 10_001);
        rig.sent();
        rig.ask(cid, 5, 0, 8000);
        rig.ask(cid, 6, 8000, 2001);
        assert!(rig.poll().is_empty());
        let sent = rig.sent();
        let expected = [(5, 0, 4096, false), (5, 4096, 3904, true), (6, 8000, 2001, true)];
        assert_eq!(sent.len(), expected.len());
        for ((pdu, data), (tag, offset, length, last)) in sent.into_iter().zip(expected) {
            assert_eq!(pdu, Pdu::H2cData(H2cData { cid, tag, offset, length, last }));
            assert_eq!(data, rig.read(GUARD + u64::from(offset), length as usize));
        }
        rig.respond(cid, Status::SUCCESS);
        assert_eq!(rig.poll().len(), 1);
    }
}

#[test]
fn data_that_comes_lies_where_it_belongs() {
    for (digests, gives) in [(Digests::NONE, usize::MAX), (BOTH, usize::MAX), (BOTH, 1), (Digests::NONE, 7)] {
        let mut rig = Rig::new(digests, 0, 4096, 0);
        rig.queue.stream_mut().gives = gives;
        let before = rig.read(0, GUARD as usize);
        let (one, two) = (rig.push(RETRIEVE, 8000), rig.push(EXIST, 0));
        rig.data(c2h(one, 0, 4000), 0xAA, false);
        rig.respond(two, Status::SUCCESS);
        rig.data(C2hData { last: true, ..c2h(one, 4000, 3997) }, 0xBB, false);
        rig.respond(one, Status::SUCCESS);
        let mut done = Vec::new();
        while done.len() < 2 {
            done.extend(rig.poll());
            assert!(rig.queue.lost().is_none(), "{:?}", rig.queue.lost());
        }
        assert_eq!((done[0].cid, done[1].cid), (two, one));
        assert_eq!(rig.read(GUARD, 4000), vec![0xAA; 4000]);
        assert_eq!(rig.read(GUARD + 4000, 3997), vec![0xBB; 3997]);
        assert_eq!(rig.read(0, GUARD as usize), before);
        assert_eq!(
            rig.read(GUARD + 7997, 3),
            [(GUARD + 7997) % 251, (GUARD + 7998) % 251, (GUARD + 7999) % 251].map(|it| it as u8)
        );
    }
}

#[test]
fn success_with_the_last_data_ends_the_command() {
    let mut rig = Rig::plain();
    let cid = rig.push(RETRIEVE, 100);
    rig.data(C2hData { last: true, success: true, ..c2h(cid, 0, 100) }, 1, false);
    let done = rig.poll();
    assert_eq!((done[0].cid, done[0].status, done[0].dword0), (cid, Status::SUCCESS, 0));
    // A second end of it is a lie.
    rig.sent();
    rig.respond(cid, Status::SUCCESS);
    rig.refused(PduFault::invalid(20));
}

#[test]
fn a_command_whose_data_does_not_match_its_digest_fails_and_nothing_else_does() {
    let mut rig = Rig::new(BOTH, 0, 4096, 0);
    let cid = rig.push(RETRIEVE, 100);
    rig.data(C2hData { last: true, ..c2h(cid, 0, 100) }, 1, true);
    rig.respond(cid, Status::SUCCESS);
    assert_eq!(rig.poll()[0].status, Status::TRANSIENT_TRANSPORT_ERROR);
    let cid = rig.push(RETRIEVE, 100);
    rig.data(C2hData { last: true, ..c2h(cid, 0, 100) }, 2, true);
    rig.respond(cid, Status::UNRECOVERED_ERROR);
    assert_eq!(rig.poll()[0].status, Status::UNRECOVERED_ERROR);
    let cid = rig.push(RETRIEVE, 100);
    rig.data(C2hData { last: true, success: true, ..c2h(cid, 0, 100) }, 3, false);
    assert_eq!(rig.poll()[0].status, Status::SUCCESS);
}

#[test]
fn a_command_with_data_both_ways_uses_one_buffer() {
    let mut rig = Rig::new(Digests::NONE, 0, 4096, 8192);
    let cid = rig.push(LOOKUP_STATE, 64);
    assert_eq!(capsule_data(&rig.sent()[0].0), (Some(CapsuleData::Transport { length: 64 }), 0));
    rig.ask(cid, 1, 0, 64);
    assert!(rig.poll().is_empty());
    assert_eq!(rig.sent()[0].1, rig.read(GUARD, 64));
    rig.data(C2hData { last: true, ..c2h(cid, 0, 64) }, 9, false);
    rig.respond(cid, Status::SUCCESS);
    assert_eq!(rig.poll().len(), 1);
    assert_eq!(rig.read(GUARD, 64), [9; 64]);
}

#[test]
fn what_cannot_be_sent_ends_by_itself() {
    let mut rig = Rig::plain();
    let base = rig.memory.base();
    let beyond = SglDescriptor::data_block(base + 2 * GUARD + ROOM - 10, 11);
    let list = SglDescriptor { identifier: 0x30, ..SglDescriptor::data_block(base, 16) };
    for descriptor in [beyond, list, SglDescriptor::data_block(0, 1), SglDescriptor::data_block(u64::MAX, u32::MAX)] {
        let mut sqe = Sqe::new(RETRIEVE, 0);
        sqe.set_sgl(descriptor);
        let cid = rig.queue.push(sqe).unwrap();
        let done = rig.poll();
        assert_eq!((done.len(), done[0].cid, done[0].status), (1, cid, Status::INVALID_FIELD));
    }
    let mut prps = Sqe::new(STORE, 0);
    prps.set_prp(base, 0);
    rig.queue.push(prps).unwrap();
    assert_eq!(rig.poll()[0].status, Status::INVALID_FIELD);
    assert!(rig.sent().is_empty());
    assert!(rig.queue.detach(&rig.memory.clone()));
}

#[test]
fn memory_is_held_while_commands_name_it() {
    let mut rig = Rig::plain();
    let cid = rig.push(RETRIEVE, 100);
    let memory = rig.memory.clone();
    assert!(!rig.queue.detach(&memory));
    rig.respond(cid, Status::KEY_DOES_NOT_EXIST);
    assert_eq!(rig.poll().len(), 1);
    assert!(rig.queue.detach(&memory));
}

#[test]
fn a_full_queue_hands_the_command_back() {
    let mut rig = Rig::plain();
    for _ in 0..4 {
        rig.push(EXIST, 0);
    }
    assert!(rig.queue.push(Sqe::new(EXIST, 0)).is_err());
    rig.respond(2, Status::SUCCESS);
    assert_eq!(rig.poll().len(), 1);
    assert_eq!(rig.push(EXIST, 0), 2);
}

#[test]
fn a_command_that_ends_early_ends_when_its_data_has_left() {
    let mut rig = Rig::plain();
    let cid = rig.push(STORE, 9000);
    rig.sent();
    // The stream takes a part of the data, then nothing.
    rig.queue.stream_mut().takes = 100;
    rig.ask(cid, 1, 0, 9000);
    assert!(rig.poll().is_empty());
    rig.queue.stream_mut().takes = 0;
    rig.respond(cid, Status::CAPACITY_EXCEEDED);
    assert!(rig.poll().is_empty());
    assert_eq!(rig.queue.in_flight(), 1);
    rig.queue.stream_mut().takes = usize::MAX;
    assert_eq!(rig.poll()[0].status, Status::CAPACITY_EXCEEDED);
    // What was begun is whole.
    assert!(!rig.sent().is_empty());
}

#[test]
fn capsules_go_before_data_that_waits() {
    let mut rig = Rig::new(Digests::NONE, 0, 2048, 0);
    let cid = rig.push(STORE, 65_000);
    rig.sent();
    rig.queue.stream_mut().takes = 10;
    // More than the window of PDUs that are written at once holds.
    for piece in 0..4 {
        rig.ask(cid, piece, u32::from(piece) * 16_000, 16_000);
    }
    assert!(rig.poll().is_empty());
    rig.queue.stream_mut().takes = 0;
    rig.push(EXIST, 0);
    rig.queue.stream_mut().takes = usize::MAX;
    rig.queue.ring();
    let sent = rig.sent();
    let at = sent.iter().position(|(pdu, _)| matches!(pdu, Pdu::CapsuleCmd(_))).unwrap();
    assert!(at < sent.len() - 1, "the capsule is last of {}", sent.len());
}

#[test]
fn lies_about_data_end_the_connection() {
    let out_of_range = PduFault::plain(FatalStatus::DATA_OUT_OF_RANGE);
    let (field, sequence) = (PduFault::invalid(field::COMMAND_ID), PduFault::SEQUENCE);
    let last = |data: C2hData| C2hData { last: true, ..data };
    type Lie = Box<dyn Fn(&mut Rig, u16)>;
    let lies: Vec<(u8, Lie, PduFault)> = vec![
        (RETRIEVE, Box::new(|rig, cid| rig.data(c2h(cid + 1, 0, 4), 0, false)), field),
        (RETRIEVE, Box::new(|rig, _| rig.data(c2h(9999, 0, 4), 0, false)), field),
        (RETRIEVE, Box::new(|rig, cid| rig.data(c2h(cid, 0, 1001), 0, false)), out_of_range),
        (RETRIEVE, Box::new(|rig, cid| rig.data(c2h(cid, 4, 4), 0, false)), sequence),
        (
            RETRIEVE,
            Box::new(move |rig, cid| {
                rig.data(last(c2h(cid, 0, 4)), 0, false);
                rig.data(c2h(cid, 4, 4), 0, false);
            }),
            sequence,
        ),
        (
            RETRIEVE,
            Box::new(|rig, cid| {
                rig.data(c2h(cid, 0, 4), 0, false);
                rig.data(c2h(cid, 0, 4), 0, false);
            }),
            sequence,
        ),
        (RETRIEVE, Box::new(|rig, cid| rig.ask(cid, 0, 0, 4)), sequence),
        (STORE, Box::new(|rig, cid| rig.data(c2h(cid, 0, 4), 0, false)), sequence),
        (STORE, Box::new(|rig, cid| rig.ask(cid, 0, 4, 4)), sequence),
        (STORE, Box::new(|rig, cid| rig.ask(cid, 0, 0, 1004)), out_of_range),
        (STORE, Box::new(|rig, cid| rig.ask(cid + 1, 0, 0, 4)), field),
        (
            STORE,
            Box::new(|rig, cid| {
                for piece in 0..5 {
                    rig.ask(cid, piece, u32::from(piece) * 4, 4);
                }
            }),
            PduFault::plain(FatalStatus::R2T_LIMIT_EXCEEDED),
        ),
        (EXIST, Box::new(|rig, cid| rig.data(c2h(cid, 0, 4), 0, false)), sequence),
        (EXIST, Box::new(|rig, cid| rig.ask(cid, 0, 0, 4)), sequence),
        (EXIST, Box::new(|rig, cid| rig.respond(cid + 1, Status::SUCCESS)), PduFault::invalid(20)),
        (EXIST, Box::new(|rig, _| rig.comes(&[0xFF; 24])), PduFault::invalid(0)),
    ];
    for (number, (opcode, lie, fault)) in lies.into_iter().enumerate() {
        println!("lie {number}");
        let mut rig = Rig::plain();
        let cid = rig.push(opcode, if opcode == EXIST { 0 } else { 1000 });
        // So that R2Ts pile up.
        rig.sent();
        if fault.fes == FatalStatus::R2T_LIMIT_EXCEEDED {
            lie(&mut rig, cid);
            rig.queue.stream_mut().gives = 24 * 5;
        } else {
            lie(&mut rig, cid);
        }
        let beyond = rig.read(GUARD + 1000, 500);
        rig.refused(fault);
        assert_eq!(rig.read(GUARD + 1000, 500), beyond, "lie {number} wrote beyond the command's data");
    }
}

#[test]
fn an_answer_to_a_command_that_was_not_sent_is_a_lie() {
    let mut rig = Rig::plain();
    rig.queue.stream_mut().takes = 0;
    let cid = rig.push(EXIST, 0);
    rig.respond(cid, Status::SUCCESS);
    assert!(rig.poll().is_empty());
    assert!(matches!(rig.queue.lost(), Some(Lost::Protocol(PduFault::SEQUENCE))));
}

#[test]
fn data_that_was_there_before_its_command_was_sent_is_a_lie() {
    let mut rig = Rig::plain();
    // Identifiers are used again, so a target can guess which comes next.
    let cid = rig.push(EXIST, 0);
    rig.sent();
    for _ in 0..40 {
        rig.respond(cid, Status::SUCCESS);
    }
    rig.data(c2h(cid, 0, 64), 0, false);
    // The first answer is right; what follows it was read with it.
    let mut done = Burst::new();
    for _ in 0..crate::BURST - 1 {
        done.push(Cqe { dword0: 0, dword1: 0, sq_head: 0, sq_id: 0, cid: 0, status: Status::SUCCESS });
    }
    rig.queue.poll(&mut done);
    rig.push(RETRIEVE, 1000);
    rig.sent();
    let before = rig.read(GUARD, 1000);
    for _ in 0..3 {
        rig.poll();
    }
    assert!(matches!(rig.queue.lost(), Some(Lost::Protocol(_))), "{:?}", rig.queue.lost());
    assert_eq!(rig.read(GUARD, 1000), before);
}

#[test]
fn a_header_that_does_not_match_its_digest_ends_the_connection() {
    let mut rig = Rig::new(BOTH, 0, 4096, 0);
    let cid = rig.push(EXIST, 0);
    rig.sent();
    rig.respond(cid, Status::SUCCESS);
    rig.queue.stream_mut().coming[10] ^= 1;
    assert!(rig.poll().is_empty());
    let Some(Lost::Protocol(fault)) = rig.queue.lost() else { panic!("not noticed") };
    assert_eq!(fault.fes, FatalStatus::HEADER_DIGEST_ERROR);
}

#[test]
fn an_identifier_is_not_used_again_before_its_end_was_handed_out() {
    let mut rig = Rig::plain();
    let first = rig.push(EXIST, 0);
    rig.queue.ring();
    rig.respond(first, Status::SUCCESS);
    // Takes the response in, and keeps it for the next poll.
    assert!(rig.queue.is_alive());
    let second = rig.push(EXIST, 0);
    assert_ne!(second, first);
    assert_eq!(rig.poll().iter().map(|cqe| cqe.cid).collect::<Vec<_>>(), [first]);
}

#[test]
fn an_end_of_the_connection_is_told() {
    let mut rig = Rig::plain();
    let cid = rig.push(EXIST, 0);
    rig.respond(cid, Status::SUCCESS);
    rig.queue.stream_mut().ended = true;
    // What came before counts.
    assert_eq!(rig.poll().len(), 1);
    assert!(!rig.queue.is_alive());
    assert!(matches!(rig.queue.lost(), Some(Lost::Closed)));

    let mut rig = Rig::plain();
    let mut head = [0; HEAD_BYTES];
    let fault = PduFault::invalid(16);
    let bytes = TermReq::from(fault).encode(End::Controller, &[0; 24], &mut head);
    rig.comes(&head[..bytes]);
    assert!(!rig.queue.is_alive());
    assert!(matches!(rig.queue.lost(), Some(Lost::Terminated(found)) if *found == fault));
    // A termination is not answered.
    assert!(rig.sent().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whatever_comes_memory_and_identifiers_are_safe(program in proptest::collection::vec(any::<u8>(), 0..600)) {
        drive(&program);
    }
}

#[test]
fn what_a_fuzzer_found_stays_mended() {
    // An end that was taken in and not handed out yet.
    drive(&[
        7, 0, 0, 3, 2, 0x40, 5, 0, 0xFF, 1, 5, 0, 0, 0xFF, 2, 0, 0, 0x3F, 7, 0, 0, 0, 0x43, 0, 0, 0, 0, 0, 0xFF, 0, 0,
        0, 0, 1, 5, 0, 0, 0x3F, 1, 0, 0, 0xFB, 7, 0, 0, 0, 0, 0, 0xF5, 0xF5, 0xF5, 0xF5, 0xF5, 0xF5, 0, 0x2E,
    ]);
}
