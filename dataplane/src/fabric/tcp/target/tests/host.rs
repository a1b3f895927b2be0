//! A host's end of a stream, just good enough to store and retrieve, and to check what comes back.

use std::collections::{BTreeMap, VecDeque};

use super::super::super::wire::{CapsuleCmd, DataDigest, Decoder, End, Framing, H2cData, HEAD_BYTES, Padded, Pdu, R2t};
use super::super::fuzzing::pipes::Pipe;
use crate::nvme::fault::random::SplitMix64 as Random;
use crate::nvme::spec::kv::KeyFields;
use crate::nvme::spec::{Cqe, SglDescriptor, Sqe, Status, kv};

/// A command that is under way.
struct Asked {
    sqe: Sqe,
    value: Vec<u8>,
    came: Vec<u8>,
}

pub(super) struct Host {
    pub stream: usize,
    framing: Framing,
    decoder: Decoder,
    asked: BTreeMap<u16, Asked>,
    next_cid: u16,
    inbox: VecDeque<u8>,
    pub entries: u32,
    pub terminated: bool,
    /// The header that the target complained of.
    pub repeated: Vec<u8>,
    /// It sends no data when it is asked for some.
    pub keeps_data: bool,
}

/// What came of a command.
pub(super) struct Told {
    pub sqe: Sqe,
    pub cqe: Cqe,
    pub value: Vec<u8>,
}

impl Host {
    pub fn new(stream: usize, framing: Framing, entries: u32) -> Self {
        let mut decoder = Decoder::new(End::Host);
        decoder.initialized = true;
        decoder.framing = framing;
        let (asked, inbox) = (BTreeMap::new(), VecDeque::new());
        Self {
            stream,
            framing,
            decoder,
            asked,
            next_cid: 0,
            inbox,
            entries,
            terminated: false,
            repeated: Vec::new(),
            keeps_data: false,
        }
    }

    pub fn under_way(&self) -> usize {
        self.asked.len()
    }

    fn put(&self, pipe: &mut Pipe, head: &[u8], data: &[u8]) {
        pipe.to_target.extend(head);
        pipe.to_target.extend(data);
        if self.framing.digests.data && !data.is_empty() {
            let mut digest = DataDigest::new();
            digest.update(data);
            pipe.to_target.extend(digest.finish(Padded::No).to_le_bytes());
        }
    }

    fn ask(&mut self, pipe: &mut Pipe, mut sqe: Sqe, value: Vec<u8>, in_capsule: bool) {
        while self.asked.contains_key(&self.next_cid) {
            self.next_cid = self.next_cid.wrapping_add(1);
        }
        sqe.set_cid(self.next_cid);
        self.next_cid = self.next_cid.wrapping_add(7);
        let inside: &[u8] = if in_capsule { &value } else { &[] };
        let mut head = [0; HEAD_BYTES];
        let bytes = CapsuleCmd { sqe, data: inside.len() as u32 }.encode(self.framing, &mut head);
        self.put(pipe, &head[..bytes], inside);
        self.asked.insert(sqe.cid(), Asked { sqe, value, came: Vec::new() });
    }

    pub fn store(&mut self, pipe: &mut Pipe, key: u8, value: Vec<u8>, in_capsule: bool) {
        let mut sqe = Sqe::new(kv::opcode::STORE, 0);
        sqe.set_key(&[key; 16]);
        let bytes = value.len() as u32;
        sqe.set_dword(10, bytes);
        sqe.set_sgl(if in_capsule { SglDescriptor::in_capsule(0, bytes) } else { SglDescriptor::transport(bytes) });
        self.ask(pipe, sqe, value, in_capsule);
    }

    pub fn retrieve(&mut self, pipe: &mut Pipe, key: u8, room: u32) {
        let mut sqe = Sqe::new(kv::opcode::RETRIEVE, 0);
        sqe.set_key(&[key; 16]);
        sqe.set_dword(10, room);
        sqe.set_sgl(SglDescriptor::transport(room));
        self.ask(pipe, sqe, Vec::new(), false);
    }

    pub fn exist(&mut self, pipe: &mut Pipe, key: u8) {
        let mut sqe = Sqe::new(kv::opcode::EXIST, 0);
        sqe.set_key(&[key; 16]);
        sqe.set_sgl(SglDescriptor::transport(0));
        self.ask(pipe, sqe, Vec::new(), false);
    }

    /// Reads what has come, and answers R2Ts.
    pub fn turn(&mut self, pipe: &mut Pipe, random: &mut Random, told: &mut Vec<Told>) {
        self.inbox.extend(pipe.to_host.drain(..));
        loop {
            let bytes = self.inbox.make_contiguous();
            let Some(first) = bytes.first_chunk() else { return };
            let header = self.decoder.header_length(first).expect("the target keeps to the protocol");
            let Some(head) = bytes.get(..header) else { return };
            let received = self.decoder.decode(head).expect("the target keeps to the protocol");
            let whole = header + received.payload.bytes();
            let Some(pdu) = bytes.get(..whole) else { return };
            let from = header + usize::from(received.payload.padding);
            let (data, digest) = pdu[from..].split_at(received.payload.data as usize);
            if received.payload.digest {
                let mut taken = DataDigest::new();
                taken.update(data);
                assert!(taken.check(u32::from_le_bytes(digest.try_into().unwrap())).is_some(), "wrong data digest");
            }
            let data = data.to_vec();
            self.inbox.drain(..whole);
            match received.pdu {
                Pdu::C2hData(pdu) => {
                    let asked = self.asked.get_mut(&pdu.cid).expect("data of a command under way");
                    assert_eq!(pdu.offset as usize, asked.came.len());
                    assert!(asked.came.len() + data.len() <= asked.sqe.dword(10) as usize);
                    asked.came.extend(data);
                }
                Pdu::R2t(_) if self.keeps_data => {}
                Pdu::R2t(r2t) => self.send_data(pipe, random, r2t),
                Pdu::CapsuleResp(response) => {
                    let cqe = response.cqe;
                    let Asked { sqe, value, came } = self.asked.remove(&cqe.cid).expect("one answer a command");
                    let is_store = sqe.opcode() == kv::opcode::STORE;
                    told.push(Told { sqe, cqe, value: if is_store { value } else { came } });
                }
                Pdu::TermReq(_) => (self.terminated, self.repeated) = (true, data),
                other => panic!("{other:?} from a controller"),
            }
        }
    }

    fn send_data(&mut self, pipe: &mut Pipe, random: &mut Random, r2t: R2t) {
        let value = self.asked[&r2t.cid].value.clone();
        let (mut offset, end) = (r2t.offset as usize, (r2t.offset + r2t.length) as usize);
        while offset < end {
            let left = end - offset;
            let piece = if random.below(2) == 0 { left } else { left.min(4 * (1 + random.below(2000) as usize)) };
            let (cid, tag, last) = (r2t.cid, r2t.tag, piece == left);
            let pdu = H2cData { cid, tag, offset: offset as u32, length: piece as u32, last };
            let mut head = [0; HEAD_BYTES];
            let bytes = pdu.encode(self.framing, &mut head);
            self.put(pipe, &head[..bytes], &value[offset..offset + piece]);
            offset += piece;
        }
    }
}

/// Whether a status is that of a key that is not there.
pub(super) fn is_miss(status: Status) -> bool {
    status == Status::KEY_DOES_NOT_EXIST
}
