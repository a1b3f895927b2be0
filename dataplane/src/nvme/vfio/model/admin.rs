//! The model's admin queue.

use super::{Core, IoPair};
use crate::nvme::spec::{Cqe, Sqe, Status, admin};
use crate::nvme::vfio::registers::{CC_ENABLE, CSTS_SUBSYSTEM_RESET, offset};

/// Times that CSTS is looked at before it has stopped.
const LOOKS_TO_STOP: u32 = 3;
/// Event requests that it takes at once.
const EVENT_REQUESTS: usize = 4;

#[derive(Default)]
pub(super) struct AdminSide {
    sq_head: u32,
    cq_tail: u32,
    phase: bool,
    /// Command identifiers of event requests.
    events: Vec<u16>,
    /// Aborts that it took and never answers.
    aborts: u16,
    /// Entries of the error log, the oldest first.
    pub(super) errors: Vec<[u8; 64]>,
}

impl Core {
    /// A register of the first page.
    pub(super) fn register(&self, at: u32) -> u32 {
        let (cap, registers) = (self.capabilities(), &self.registers);
        match at {
            offset::CAP => cap as u32,
            0x04 => (cap >> 32) as u32,
            offset::VS => 0x0001_0400,
            offset::CC => registers.configuration,
            offset::CSTS => registers.status | if self.subsystem_was_reset { CSTS_SUBSYSTEM_RESET } else { 0 },
            offset::AQA => registers.admin_attributes,
            offset::ASQ => registers.admin_sq as u32,
            offset::ACQ => registers.admin_cq as u32,
            offset::CRTO => self.lies.ready_timeouts.unwrap_or(0),
            _ => 0,
        }
    }

    pub(super) fn set_register(&mut self, at: u32, value: u32) {
        let low = |word: u64| (word & !0xFFFF_FFFF) | u64::from(value);
        let high = |word: u64| (word & 0xFFFF_FFFF) | (u64::from(value) << 32);
        let stride = 4 << self.options.doorbell_stride;
        let registers = &mut self.registers;
        match at {
            offset::CC => self.configure(value),
            offset::CSTS if value == CSTS_SUBSYSTEM_RESET => self.subsystem_was_reset = false,
            offset::AQA => registers.admin_attributes = value,
            offset::ASQ => registers.admin_sq = low(registers.admin_sq),
            0x2C => registers.admin_sq = high(registers.admin_sq),
            offset::ACQ => registers.admin_cq = low(registers.admin_cq),
            0x34 => registers.admin_cq = high(registers.admin_cq),
            offset::DOORBELLS => self.admin_tail(value),
            _ if at == offset::DOORBELLS + stride => {}
            _ => self.violation(format!("write of {value:#x} to register {at:#x}")),
        }
    }

    fn configure(&mut self, value: u32) {
        let before = std::mem::replace(&mut self.registers.configuration, value);
        if value & CC_ENABLE != 0 && before & CC_ENABLE == 0 {
            self.counters.enables += 1;
            if self.registers.status & 1 != 0 {
                self.violation("enabled before it had stopped".into());
            }
            self.registers.stopping = 0;
            let right = (value >> 16) & 0xFF == 0x46 && (value >> 7) & 0xF == 0;
            if !right || !self.bus_master() {
                self.violation(format!(
                    "enabled with CC {value:#x} and command register {:#x}",
                    self.registers.command
                ));
            }
            self.forget_queues();
            self.admin.phase = true;
            self.registers.status = match () {
                () if self.lies.fatal_on_enable => 0b10,
                () if self.lies.never_ready => 0,
                () => 1,
            };
        } else if value & CC_ENABLE == 0 && before & CC_ENABLE != 0 {
            // It works on for a while, as a true one may: only RDY says that it does not.
            self.registers.stopping = LOOKS_TO_STOP;
        }
        if (value >> 14) & 0b11 != 0 {
            self.registers.status = (self.registers.status & !0b1100) | 0b1000;
        }
    }

    /// CSTS is looked at: a controller that is stopping does a little more of its work, and has stopped in the end.
    pub(super) fn go_on_stopping(&mut self) {
        if self.registers.stopping == 0 || self.lies.never_stops {
            return;
        }
        let _ = self.step();
        self.registers.stopping -= 1;
        if self.registers.stopping == 0 {
            self.registers.status = 0;
            self.forget_queues();
        }
    }

    fn admin_tail(&mut self, tail: u32) {
        let entries = (self.registers.admin_attributes & 0xFFF) + 1;
        if !self.enabled() {
            return;
        }
        if tail >= entries {
            return self.violation(format!("admin tail {tail} of {entries} entries"));
        }
        while self.admin.sq_head != tail {
            self.counters.admin_commands += 1;
            let address = self.registers.admin_sq + u64::from(self.admin.sq_head) * Sqe::BYTES as u64;
            self.admin.sq_head = (self.admin.sq_head + 1) % entries;
            let Some(words) = self.dma_words::<8>(address) else { return };
            let sqe = Sqe::from_quadwords(words.map(u64::to_le));
            if self.lies.unanswered.contains(&sqe.opcode()) {
                self.ignore(&sqe);
                continue;
            }
            let refused =
                self.lies.refused.iter().find(|(opcode, _)| *opcode == sqe.opcode()).map(|(_, status)| *status);
            let answer = match refused {
                Some(status) => Some((status, 0)),
                None => self.administer(&sqe),
            };
            let once = self.lies.mute_once.iter().position(|opcode| *opcode == sqe.opcode());
            if let Some(at) = once {
                self.lies.mute_once.swap_remove(at);
            }
            if once.is_some() || self.lies.mute.contains(&sqe.opcode()) {
                continue;
            }
            if let Some((status, dword0)) = answer {
                if !status.is_success() {
                    self.log_error(0, &sqe, status);
                }
                self.answer(sqe.cid(), status, dword0);
            }
        }
    }

    /// Takes a command and never answers it.
    fn ignore(&mut self, sqe: &Sqe) {
        if sqe.opcode() == admin::opcode::ABORT {
            self.admin.aborts += 1;
            let limit = self.options.abort_limit;
            if self.admin.aborts > limit {
                self.violation(format!("{} aborts at once, and it takes {limit}", self.admin.aborts));
            }
        }
    }

    fn answer(&mut self, cid: u16, status: Status, dword0: u32) {
        let entries = ((self.registers.admin_attributes >> 16) & 0xFFF) + 1;
        let address = self.registers.admin_cq + u64::from(self.admin.cq_tail) * Cqe::BYTES as u64;
        let cqe = Cqe { dword0, dword1: 0, sq_head: self.admin.sq_head as u16, sq_id: 0, cid, status };
        let phase = self.admin.phase;
        self.admin.cq_tail += 1;
        if self.admin.cq_tail == entries {
            self.admin.cq_tail = 0;
            self.admin.phase = !phase;
        }
        self.write_completion(address, &cqe, phase);
    }

    /// Writes a completion, the half with the phase last.
    pub(super) fn write_completion(&mut self, address: u64, cqe: &Cqe, phase: bool) {
        let words = cqe.to_quadwords(phase);
        self.dma_write(address, &words[0].to_ne_bytes());
        std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
        let found = self.host.find(address + 8, 8).map(|(region, offset)| (std::sync::Arc::clone(region), offset));
        match found.filter(|_| self.bus_master()) {
            Some((region, offset)) => {
                if let Some(word) = region.word64(offset) {
                    word.store(words[1], std::sync::atomic::Ordering::Release);
                }
            }
            None => self.violation(format!("completion at {address:#x}, which is not mapped")),
        }
    }

    pub(super) fn log_error(&mut self, sqid: u16, sqe: &Sqe, status: Status) {
        let mut entry = [0; 64];
        entry[0..8].copy_from_slice(&(self.admin.errors.len() as u64 + 1).to_le_bytes());
        entry[8..10].copy_from_slice(&sqid.to_le_bytes());
        entry[10..12].copy_from_slice(&sqe.cid().to_le_bytes());
        entry[12..14].copy_from_slice(&(status.bits() << 1).to_le_bytes());
        entry[16..24].copy_from_slice(&sqe.quadword(10).to_le_bytes());
        entry[24..28].copy_from_slice(&sqe.nsid().to_le_bytes());
        self.admin.errors.push(entry);
    }

    pub(super) fn send_event(&mut self, dword0: u32) -> bool {
        let Some(cid) = self.admin.events.pop() else { return false };
        self.answer(cid, Status::SUCCESS, dword0);
        true
    }

    /// Carries an admin command out: its status and DW0; `None` for one that stays open.
    fn administer(&mut self, sqe: &Sqe) -> Option<(Status, u32)> {
        let status = |status| Some((status, 0));
        match sqe.opcode() {
            admin::opcode::IDENTIFY => status(self.identify(sqe)),
            admin::opcode::GET_LOG_PAGE => status(self.log_page(sqe)),
            admin::opcode::SET_FEATURES => Some(self.set_features(sqe)),
            admin::opcode::CREATE_CQ => status(self.create_cq(sqe)),
            admin::opcode::CREATE_SQ => status(self.create_sq(sqe)),
            admin::opcode::DELETE_SQ => status(self.delete_sq(sqe)),
            admin::opcode::DELETE_CQ => status(self.delete_cq(sqe)),
            admin::opcode::ABORT if self.admin.aborts >= self.options.abort_limit => {
                self.violation("an abort beyond those that it takes at once".into());
                status(Status::ABORT_LIMIT_EXCEEDED)
            }
            admin::opcode::ABORT => Some((Status::SUCCESS, u32::from(!self.abort(sqe)))),
            admin::opcode::ASYNC_EVENT if self.admin.events.len() < EVENT_REQUESTS => {
                self.admin.events.push(sqe.cid());
                None
            }
            admin::opcode::ASYNC_EVENT => status(Status::AER_LIMIT_EXCEEDED),
            admin::opcode::DOORBELL_BUFFER_CONFIG if self.options.shadow_doorbells && !self.lies.refuses_shadows => {
                self.shadow = Some((sqe.quadword(6), sqe.quadword(8)));
                status(Status::SUCCESS)
            }
            _ => status(Status::INVALID_OPCODE),
        }
    }

    fn give(&mut self, sqe: &Sqe, data: &[u8]) -> Status {
        match self.dma_write(sqe.quadword(6), data) {
            Some(()) => Status::SUCCESS,
            None => Status::DATA_TRANSFER_ERROR,
        }
    }

    fn identify(&mut self, sqe: &Sqe) -> Status {
        if let Some((nsid, status)) = self.lies.refused_namespace
            && sqe.dword(10) as u8 == admin::cns::NAMESPACE
            && sqe.nsid() == nsid
        {
            return status;
        }
        let data = match sqe.dword(10) as u8 {
            admin::cns::NAMESPACE => self.identify_namespace(sqe.nsid()),
            admin::cns::CONTROLLER => Some(self.identify_controller()),
            admin::cns::ACTIVE_NAMESPACES => Some(self.namespace_list(sqe.nsid())),
            _ => return Status::INVALID_FIELD,
        };
        let Some(data) = data else { return Status::INVALID_NAMESPACE };
        self.give(sqe, &data)
    }

    fn log_page(&mut self, sqe: &Sqe) -> Status {
        let dwords = (sqe.dword(10) >> 16) | ((sqe.dword(11) & 0xFFFF) << 16);
        let data = match sqe.dword(10) as u8 {
            admin::log::HEALTH => self.health_page(),
            admin::log::ERROR => self.error_page(),
            admin::log::CHANGED_NAMESPACES => [0; 4096],
            _ => return Status::INVALID_LOG_PAGE,
        };
        let bytes = ((dwords as usize + 1) * 4).min(data.len());
        self.give(sqe, &data[..bytes])
    }

    fn set_features(&mut self, sqe: &Sqe) -> (Status, u32) {
        match sqe.dword(10) as u8 {
            admin::feature::NUMBER_OF_QUEUES => {
                let most = u32::from(self.options.queues.max(1) - 1);
                let granted = (sqe.dword(11) & 0xFFFF).min(sqe.dword(11) >> 16).min(most);
                let granted = self.lies.granted.map_or(granted, u32::from);
                (Status::SUCCESS, granted | (granted << 16))
            }
            admin::feature::ASYNC_EVENT_CONFIGURATION => (Status::SUCCESS, 0),
            _ => (Status::INVALID_FIELD, 0),
        }
    }

    /// Queue identifier (as an index) and entries of a command that makes a queue.
    fn new_queue(&self, sqe: &Sqe) -> Result<(usize, u32), Status> {
        let (qid, entries) = (sqe.dword(10) as u16, (sqe.dword(10) >> 16) + 1);
        if let Some((refused, status)) = self.lies.refused_queue
            && refused == qid
        {
            return Err(status);
        }
        if qid == 0 || qid > self.options.queues {
            return Err(Status::INVALID_QUEUE_ID);
        }
        if entries < 2 || entries > u32::from(self.options.queue_entries) {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        // Contiguous, at a page.
        if sqe.dword(11) & 1 == 0 || !sqe.quadword(6).is_multiple_of(4096) {
            return Err(Status::INVALID_FIELD);
        }
        Ok((usize::from(qid) - 1, entries))
    }

    fn create_cq(&mut self, sqe: &Sqe) -> Status {
        let (index, entries) = match self.new_queue(sqe) {
            Ok(queue) => queue,
            Err(status) => return status,
        };
        if self.completion_queues[index].is_some() {
            return Status::INVALID_QUEUE_ID;
        }
        self.completion_queues[index] = Some((sqe.quadword(6), entries));
        Status::SUCCESS
    }

    fn create_sq(&mut self, sqe: &Sqe) -> Status {
        let (index, entries) = match self.new_queue(sqe) {
            Ok(queue) => queue,
            Err(status) => return status,
        };
        let cq = self.completion_queues.get((sqe.dword(11) >> 16).wrapping_sub(1) as usize).copied().flatten();
        let Some((cq_address, cq_entries)) = cq else { return Status::COMPLETION_QUEUE_INVALID };
        if self.pairs[index].is_some() {
            return Status::INVALID_QUEUE_ID;
        }
        self.check_silence(index);
        let qid = index as u16 + 1;
        self.pairs[index] = Some(IoPair::new(qid, sqe.quadword(6), entries, cq_address, cq_entries));
        Status::SUCCESS
    }

    fn delete_sq(&mut self, sqe: &Sqe) -> Status {
        let index = usize::from(sqe.dword(10) as u16).wrapping_sub(1);
        match self.pairs.get_mut(index).and_then(Option::take) {
            Some(_) => {
                // What was rung before is void.
                self.silence(2 * (index as u64 + 1));
                Status::SUCCESS
            }
            None => Status::INVALID_QUEUE_ID,
        }
    }

    fn delete_cq(&mut self, sqe: &Sqe) -> Status {
        let index = usize::from(sqe.dword(10) as u16).wrapping_sub(1);
        if self.pairs.get(index).is_some_and(Option::is_some) {
            return Status::INVALID_QUEUE_DELETION;
        }
        match self.completion_queues.get_mut(index).and_then(Option::take) {
            Some(_) => {
                self.silence(2 * (index as u64 + 1) + 1);
                Status::SUCCESS
            }
            None => Status::INVALID_QUEUE_ID,
        }
    }

    /// Ends a command that it holds; whether it did.
    fn abort(&mut self, sqe: &Sqe) -> bool {
        let (sqid, cid) = (sqe.dword(10) as u16, (sqe.dword(10) >> 16) as u16);
        if self.lies.aborts_nothing {
            return false;
        }
        let Some(pair) = self.pairs.get_mut(usize::from(sqid).wrapping_sub(1)).and_then(Option::as_mut) else {
            return false;
        };
        let Some(at) = pair.held.iter().position(|held| held.cid() == cid) else { return false };
        pair.held.swap_remove(at);
        let status = self.lies.abort_status.unwrap_or(Status::ABORT_REQUESTED);
        self.complete(usize::from(sqid) - 1, cid, status, super::io::Way::Right);
        true
    }
}
