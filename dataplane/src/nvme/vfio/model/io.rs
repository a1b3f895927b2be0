//! The model's I/O queues.

use std::sync::atomic::{Ordering, fence};

use super::lies::Fault;
use super::{Core, FIRST_DOORBELL, SILENT};
use crate::nvme::spec::{Cqe, Sqe, Status, nvm};

/// Commands of one queue in one step.
const STEP: usize = 64;

pub(super) struct IoPair {
    qid: u16,
    sq_address: u64,
    sq_entries: u32,
    sq_head: u32,
    sq_tail: u32,
    cq_address: u64,
    cq_entries: u32,
    cq_head: u32,
    cq_tail: u32,
    phase: bool,
    /// With shadow doorbells: whether it looks at memory, or waits for the register.
    awake: bool,
    /// Fetched and not completed.
    pub(super) held: Vec<Sqe>,
}

/// How a completion is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Right,
    WrongPhase,
    WrongQueue,
}

impl IoPair {
    pub(super) fn new(qid: u16, sq_address: u64, sq_entries: u32, cq_address: u64, cq_entries: u32) -> Self {
        Self {
            qid,
            sq_address,
            sq_entries,
            sq_head: 0,
            sq_tail: 0,
            cq_address,
            cq_entries,
            cq_head: 0,
            cq_tail: 0,
            phase: true,
            awake: true,
            held: Vec::new(),
        }
    }

    /// Takes new values of the doorbells. What is wrong with them.
    fn turn(&mut self, head: Option<u32>, tail: Option<u32>) -> Option<String> {
        let ahead = |value: u32, from: u32, entries: u32| (value + entries - from) % entries;
        let mut wrong = None;
        if let Some(head) = head {
            let posted = ahead(self.cq_tail, self.cq_head, self.cq_entries);
            if ahead(head, self.cq_head, self.cq_entries) > posted {
                wrong = Some(format!("completion head {head} beyond what was posted, up to {}", self.cq_tail));
            }
            self.cq_head = head;
        }
        if let Some(tail) = tail {
            let free = self.sq_entries - 1 - ahead(self.sq_tail, self.sq_head, self.sq_entries);
            if ahead(tail, self.sq_tail, self.sq_entries) > free {
                wrong = Some(format!("submission tail {tail} overtakes the head {}", self.sq_head));
            }
            self.sq_tail = tail;
        }
        wrong
    }

    /// Address and bytes of its rings.
    pub(super) fn rings(&self) -> [(u64, u64); 2] {
        let sq = u64::from(self.sq_entries) * Sqe::BYTES as u64;
        [(self.sq_address, sq), (self.cq_address, u64::from(self.cq_entries) * Cqe::BYTES as u64)]
    }

    fn completion_room(&self) -> bool {
        (self.cq_tail + 1) % self.cq_entries != self.cq_head
    }
}

impl Core {
    pub(super) fn step(&mut self) -> usize {
        if self.removed || !self.enabled() || !self.bus_master() {
            return 0;
        }
        (0..self.pairs.len()).map(|index| self.step_pair(index)).sum()
    }

    fn step_pair(&mut self, index: usize) -> usize {
        let Some(pair) = &self.pairs[index] else {
            self.check_silence(index);
            return 0;
        };
        let (qid, sq_entries, cq_entries) = (pair.qid, pair.sq_entries, pair.cq_entries);
        let doorbell = u64::from(qid) * 2;
        let head = self.look(index, doorbell + 1, cq_entries);
        let tail = self.look(index, doorbell, sq_entries);
        let Some(pair) = self.pairs[index].as_mut() else { return 0 };
        let wrong = pair.turn(head, tail);
        if let Some(what) = wrong {
            self.violation(format!("queue {qid}: {what}"));
        }
        let mut fetched = 0;
        while fetched < STEP {
            let Some(pair) = self.pairs[index].as_mut() else { break };
            if pair.sq_head == pair.sq_tail || !pair.completion_room() {
                break;
            }
            let address = pair.sq_address + u64::from(pair.sq_head) * Sqe::BYTES as u64;
            pair.sq_head = (pair.sq_head + 1) % pair.sq_entries;
            let Some(words) = self.dma_words::<8>(address) else { break };
            fetched += 1;
            self.counters.commands += 1;
            self.fetch(index, Sqe::from_quadwords(words.map(u64::to_le)));
        }
        self.settle(index, doorbell);
        fetched
    }

    /// Doorbells of a queue that is not there: nobody may have rung them.
    pub(super) fn check_silence(&mut self, index: usize) {
        let first = 2 * (index as u64 + 1);
        for doorbell in [first, first + 1] {
            let written = self.silence(doorbell);
            // A completion queue whose submission queue was deleted may still be read.
            let there = doorbell % 2 == 1 && self.completion_queues[index].is_some();
            if written != SILENT && !there {
                self.violation(format!("doorbell {doorbell} rung with {written}, of a queue that is not there"));
            }
        }
    }

    /// Takes what was written to a doorbell's register.
    pub(super) fn silence(&self, doorbell: u64) -> u32 {
        let at = doorbell << (2 + self.options.doorbell_stride);
        let word = self.doorbells.word32(FIRST_DOORBELL + at);
        word.map_or(SILENT, |word| word.swap(SILENT, Ordering::AcqRel))
    }

    /// The doorbell's value, if it was rung: from memory if there are shadow doorbells, from the register otherwise.
    fn look(&mut self, index: usize, doorbell: u64, entries: u32) -> Option<u32> {
        let at = doorbell << (2 + self.options.doorbell_stride);
        let written = self.silence(doorbell);
        if written != SILENT {
            self.counters.doorbells += 1;
        }
        let value = match self.shadow {
            None => (written != SILENT).then_some(written),
            Some((values, _)) => {
                let pair = self.pairs[index].as_mut()?;
                pair.awake |= written != SILENT;
                // Heads are read when there is something to do anyway.
                let awake = pair.awake || doorbell % 2 == 1;
                if awake { self.shadow_word(values + at) } else { None }
            }
        };
        match value {
            Some(value) if value >= entries => {
                self.violation(format!("doorbell {doorbell} rung with {value} of {entries} entries"));
                None
            }
            value => value,
        }
    }

    fn shadow_word(&mut self, address: u64) -> Option<u32> {
        fence(Ordering::SeqCst);
        let mut bytes = [0; 4];
        self.dma_read(address, &mut bytes)?;
        Some(u32::from_le_bytes(bytes))
    }

    /// With shadow doorbells and nothing left to do: says up to where it looked, and goes to sleep if that is all.
    fn settle(&mut self, index: usize, doorbell: u64) {
        let Some((values, events)) = self.shadow else { return };
        let at = doorbell << (2 + self.options.doorbell_stride);
        let Some(pair) = &self.pairs[index] else { return };
        let tail = pair.sq_tail;
        if pair.sq_head != tail || !pair.awake {
            return;
        }
        self.dma_write(events + at, &tail.to_le_bytes());
        let again = self.shadow_word(values + at);
        if let Some(pair) = &mut self.pairs[index] {
            pair.awake = again != Some(tail);
        }
    }

    fn fetch(&mut self, index: usize, sqe: Sqe) {
        let cid = sqe.cid();
        if let Some(pair) = &self.pairs[index]
            && pair.held.iter().any(|held| held.cid() == cid)
        {
            self.violation(format!("command identifier {cid:#x} is outstanding and used again"));
        }
        match self.faults.pop_front() {
            Some(Fault::Lose) => {
                if let Some(pair) = &mut self.pairs[index] {
                    pair.held.push(sqe);
                }
            }
            Some(Fault::Status(status)) => self.end(index, &sqe, status),
            Some(Fault::StatusAndSuccess(status)) => {
                self.end(index, &sqe, status);
                self.complete(index, cid, Status::SUCCESS, Way::Right);
            }
            Some(Fault::WrongPhase) => self.carry_out_and(index, &sqe, cid, Way::WrongPhase),
            Some(Fault::WrongCid(bit)) => self.carry_out_and(index, &sqe, cid ^ (1 << (bit & 15)), Way::Right),
            Some(Fault::WrongQueue) => self.carry_out_and(index, &sqe, cid, Way::WrongQueue),
            Some(Fault::Twice) => {
                self.carry_out_and(index, &sqe, cid, Way::Right);
                self.complete(index, cid, Status::SUCCESS, Way::Right);
            }
            None => {
                let status = self.carry_out(&sqe);
                self.end(index, &sqe, status);
            }
        }
    }

    /// Carries out what it held back.
    pub(super) fn release(&mut self) {
        for index in 0..self.pairs.len() {
            let held = self.pairs[index].as_mut().map(|pair| std::mem::take(&mut pair.held)).unwrap_or_default();
            for sqe in held {
                let status = self.carry_out(&sqe);
                self.end(index, &sqe, status);
            }
        }
    }

    fn carry_out_and(&mut self, index: usize, sqe: &Sqe, cid: u16, way: Way) {
        let status = self.carry_out(sqe);
        self.complete(index, cid, status, way);
    }

    fn end(&mut self, index: usize, sqe: &Sqe, status: Status) {
        if !status.is_success() {
            self.log_error(index as u16 + 1, sqe, status);
        }
        self.complete(index, sqe.cid(), status, Way::Right);
    }

    pub(super) fn complete(&mut self, index: usize, cid: u16, status: Status, way: Way) {
        let Some(pair) = &mut self.pairs[index] else { return };
        let address = pair.cq_address + u64::from(pair.cq_tail) * Cqe::BYTES as u64;
        let phase = pair.phase;
        pair.cq_tail += 1;
        if pair.cq_tail == pair.cq_entries {
            pair.cq_tail = 0;
            pair.phase = !phase;
        }
        let sq_id = if way == Way::WrongQueue { pair.qid + 1 } else { pair.qid };
        let cqe = Cqe { dword0: 0, dword1: 0, sq_head: pair.sq_head as u16, sq_id, cid, status };
        self.write_completion(address, &cqe, phase ^ (way == Way::WrongPhase));
    }

    fn carry_out(&mut self, sqe: &Sqe) -> Status {
        if sqe.nsid() == 0 || sqe.nsid() as usize > self.media.len() {
            return Status::INVALID_NAMESPACE;
        }
        match sqe.opcode() {
            nvm::opcode::FLUSH => {
                self.media[sqe.nsid() as usize - 1].flush();
                Status::SUCCESS
            }
            nvm::opcode::READ => self.transfer(sqe),
            nvm::opcode::WRITE => {
                self.place(sqe);
                self.transfer(sqe)
            }
            nvm::opcode::IO_MANAGEMENT_RECEIVE if self.options.placement_handles > 0 => self.manage(sqe),
            nvm::opcode::DATASET_MANAGEMENT if self.options.deallocate => self.deallocate(sqe),
            _ => Status::INVALID_OPCODE,
        }
    }

    /// Notes where a write asks to be placed.
    fn place(&mut self, sqe: &Sqe) {
        let (kind, identifier) = ((sqe.dword(12) >> 20) & 0xF, (sqe.dword(13) >> 16) as u16);
        let mut handles = 0..self.options.placement_handles;
        match (kind, handles.find(|handle| self.placement_identifier(*handle) == identifier)) {
            (0, _) => {}
            (2, Some(handle)) => self.placed[usize::from(handle)] += u64::from(sqe.dword(12) & 0xFFFF) + 1,
            _ => self.violation(format!("write with directive {kind} and placement {identifier:#x}")),
        }
    }

    /// I/O Management Receive.
    fn manage(&mut self, sqe: &Sqe) -> Status {
        if sqe.dword(10) & 0xFF != nvm::RECLAIM_UNIT_HANDLE_STATUS {
            return Status::INVALID_FIELD;
        }
        let data = self.handle_status();
        let bytes = (sqe.dword(11) as usize + 1).saturating_mul(4).min(data.len());
        match self.dma_write(sqe.quadword(6), &data[..bytes]) {
            Some(()) => Status::SUCCESS,
            None => Status::DATA_TRANSFER_ERROR,
        }
    }

    /// Whether blocks lie inside the namespace.
    pub(super) fn in_range(&self, nsid: u32, lba: u64, blocks: u64) -> bool {
        let capacity = self.options.namespaces.get(nsid as usize - 1).copied().unwrap_or(0);
        lba.checked_add(blocks).is_some_and(|end| end <= capacity)
    }

    fn deallocate(&mut self, sqe: &Sqe) -> Status {
        for range in 0..=u64::from(sqe.dword(10) & 0xFF) {
            let Some([attributes, lba]) = self.dma_words::<2>(sqe.quadword(6) + 16 * range) else {
                return Status::DATA_TRANSFER_ERROR;
            };
            let blocks = attributes >> 32;
            if !self.in_range(sqe.nsid(), lba, blocks) {
                return Status::generic(0x80).do_not_retry();
            }
            let lba_bytes = u64::from(self.options.lba_bytes);
            self.counters.deallocations += 1;
            let (offset, bytes, volatile) = (lba * lba_bytes, blocks * lba_bytes, self.options.volatile_cache);
            let media = &mut self.media[sqe.nsid() as usize - 1];
            let _ = media.blocks.fill(offset, bytes as usize, 0);
            media.written(offset, bytes, volatile);
        }
        Status::SUCCESS
    }
}
