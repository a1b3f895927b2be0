//! Group commit: records reach the device page by page, never before the values they speak of.
//!
//! One commit runs at a time, for one segment: header (once in the segment's life), flush if anything that the pages
//! build on could be taken back by a power cut, pages, tickets. What arrives meanwhile makes up the next one.
//!
//! A full page goes to its home, which is written once. A partial one goes to one of two drafts, in turn, so the
//! version before it stays whole if the write is torn.
//!
//! Flushes are what commits cost, and hold up the values that are on their way. So records of the cache class wait for
//! the interval, also in segments that are full, and one flush backs the commits of every segment. Headers are written
//! ahead of it for the same reason.

use dataplane::nvme::BlockOp;

use super::hint::METADATA;
use super::layout::{FIRST_DRAFT, FIRST_HOME, HEADER_FREE, HEADER_OPEN};
use super::operation::{COMMIT_PAGES, Op};
use super::page::{PageHeader, PageKind, put_record};
use super::record::{RECORDS_PER_PAGE, Record};
use super::segment::State;
use super::shard::{Facts, Shard};
use super::tail::{OpenHeader, Tail};

/// How often a command is repeated before the device is taken at its word.
pub(super) const ATTEMPTS: u32 = 3;

/// The known bug that the simulator has to catch: records overtake the values they speak of.
const CANARY: bool = cfg!(feature = "canary");

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    FreeHeader,
    OpenHeader,
    Flush,
    Pages,
}

/// The commit that runs.
#[derive(Default)]
pub(super) struct Commit {
    stage: Stage,
    tail: usize,
    /// Records before this are part of it.
    upto: u32,
    /// Pages that have not ended.
    waiting: u32,
    failed: bool,
    attempts: u32,
    fua: bool,
    /// Somebody waits for everything to be written down.
    pub demand: bool,
}

impl<P> Shard<P> {
    /// Adds a record to a segment that is being written.
    pub(super) fn append(&mut self, tail: usize, record: Record, ticket: Option<u64>) {
        let now = self.now;
        let tail = &mut self.tails[tail];
        if tail.failed {
            self.stats.lost_records += 1;
            self.ended.extend(ticket.map(|ticket| (ticket, false)));
            return;
        }
        tail.append(record, ticket, now);
        self.stats.records += 1;
    }

    /// Gives a tail up once its segment is closed and everything in it is settled.
    pub(super) fn settle_tail(&mut self, at: usize) {
        let tail = &mut self.tails[at];
        let Some(segment) = tail.segment else { return };
        let busy = self.commit.stage != Stage::Idle && self.commit.tail == at;
        let slot = self.table.at_mut(segment);
        if tail.closing && !busy && slot.outstanding == 0 && tail.uncommitted() == 0 {
            slot.state = State::Closed;
            tail.segment = None;
        }
    }

    /// Takes the running commit as far as it goes now.
    pub(super) fn commit_step(&mut self, facts: Facts) -> usize {
        let mut steps = 0;
        while self.commit_once(facts) {
            steps += 1;
        }
        steps
    }

    fn commit_once(&mut self, facts: Facts) -> bool {
        match self.commit.stage {
            Stage::Idle => self.begin_commit(facts),
            Stage::FreeHeader | Stage::OpenHeader => self.header_ended(facts),
            Stage::Flush => self.flush_ended(facts),
            Stage::Pages => self.pages_ended(facts),
        }
    }

    /// Whether a tail's records are to be written down now.
    fn is_due(&self, tail: &Tail) -> bool {
        let waiting = tail.uncommitted();
        tail.segment.is_some()
            && waiting > 0
            && tail.not_before <= self.now
            && (tail.urgent > tail.committed
                || self.commit.demand
                || self.draining
                || (tail.closing && self.tails_run_short())
                || self.now.since(tail.since) >= self.config.commit_ticks)
    }

    /// Whether segments must be closed soon: to open others, or to evict them.
    fn tails_run_short(&self) -> bool {
        let unused = self.tails.iter().filter(|tail| tail.segment.is_none()).count();
        unused <= 1 || (self.table.free.len() as u64) < u64::from(self.low_water())
    }

    /// The tail to commit next, and the records it shall have written down: none if it is only to get its header.
    fn next_commit(&self, facts: Facts) -> Option<(usize, u32)> {
        let now = self.now;
        let in_use = |tail: &Tail| tail.segment.is_some() && tail.not_before <= now;
        let urgent = |tail: &Tail| in_use(tail) && tail.urgent > tail.committed;
        let bare = |tail: &Tail| in_use(tail) && tail.header == OpenHeader::Missing && tail.uncommitted() > 0;
        if let Some(at) = self.tails.iter().position(urgent) {
            return Some((at, self.commit_goal(at, facts)));
        }
        if let Some(at) = self.tails.iter().position(bare) {
            return Some((at, 0));
        }
        let at = self.tails.iter().position(|tail| self.is_due(tail))?;
        Some((at, self.commit_goal(at, facts)))
    }

    /// What is backed by a flush already, if that is worth a commit; else all there is.
    fn commit_goal(&self, at: usize, facts: Facts) -> u32 {
        let tail = &self.tails[at];
        let most = (tail.committed / RECORDS_PER_PAGE + COMMIT_PAGES as u32) * RECORDS_PER_PAGE;
        let all = tail.len().min(most);
        let backed = tail.backed(facts.volatile && self.dirty).min(most);
        let enough = backed > tail.committed && backed >= tail.urgent.min(most);
        if enough && !self.must_flush(at, backed, facts) { backed } else { all }
    }

    fn must_flush(&self, at: usize, upto: u32, facts: Facts) -> bool {
        // An orderly end leaves nothing behind that a power cut could take back.
        let last = self.draining && self.unflushed_pages;
        facts.volatile && !CANARY && (last || self.tails[at].needs_flush(upto, self.dirty))
    }

    fn begin_commit(&mut self, facts: Facts) -> bool {
        let Some((at, upto)) = self.next_commit(facts) else { return false };
        let tail = &self.tails[at];
        let fua = facts.volatile && (tail.urgent > tail.committed || self.draining);
        let demand = self.commit.demand;
        self.commit =
            Commit { stage: Stage::Idle, tail: at, upto, waiting: 0, failed: false, attempts: 0, fua, demand };
        self.next_stage(facts);
        true
    }

    /// Starts whatever must come next of header, flush and pages.
    fn next_stage(&mut self, facts: Facts) {
        let at = self.commit.tail;
        let tail = &self.tails[at];
        let Some(segment) = tail.segment else { return };
        if tail.header == OpenHeader::Missing {
            let (generation, op, place) = (tail.generation, Op::COMMIT_HEADER, Self::COMMIT_HEADER_AT);
            if self.table.at(segment).has_free_header {
                self.commit.stage = Stage::OpenHeader;
                // The flush before the first pages makes it durable.
                let facts = Facts { volatile: false, ..facts };
                self.write_header(op, place, segment, HEADER_OPEN, PageKind::Open, generation, facts);
            } else {
                self.commit.stage = Stage::FreeHeader;
                self.write_header(op, place, segment, HEADER_FREE, PageKind::Free, generation - 1, facts);
            }
        } else if self.commit.upto <= tail.committed {
            self.commit.stage = Stage::Idle;
        } else if self.must_flush(at, self.commit.upto, facts) {
            self.commit.stage = Stage::Flush;
            (self.dirty, self.unflushed_pages) = (false, false);
            self.tails.iter_mut().for_each(Tail::flush_begins);
            self.ops.start(Op::COMMIT_FLUSH, BlockOp::Flush, 0, 0, dataplane::memory::DmaSlice::EMPTY);
        } else {
            self.commit.stage = Stage::Pages;
            self.write_pages(segment);
        }
    }

    /// Starts writing a header page of a segment.
    #[expect(clippy::too_many_arguments, reason = "each names one field of one page")]
    pub(super) fn write_header(
        &mut self,
        op: Op,
        staging: u32,
        segment: u32,
        slot: u32,
        kind: PageKind,
        generation: u64,
        facts: Facts,
    ) {
        self.page.fill(0);
        let header = PageHeader { generation, page: 0, count: 0, sequence: self.sequence, kind };
        header.seal(&self.layout, segment, slot, &mut self.page);
        let memory = self.stage_page(staging);
        let lba = self.layout.page_lba(segment, slot);
        self.count_page();
        self.ops.start(op, BlockOp::Write { fua: facts.volatile, hint: METADATA }, lba, self.layout.blocks(1), memory);
    }

    fn count_page(&mut self) {
        self.stats.page_writes += 1;
        self.stats.meta_bytes_written += u64::from(super::UNIT_BYTES);
    }

    fn header_ended(&mut self, facts: Facts) -> bool {
        let Some(result) = self.ops.take(Op::COMMIT_HEADER) else { return false };
        if result.is_err() {
            return self.retry(facts);
        }
        let tail = &mut self.tails[self.commit.tail];
        match (self.commit.stage, tail.segment) {
            (Stage::FreeHeader, Some(segment)) => self.table.at_mut(segment).has_free_header = true,
            _ if facts.volatile => tail.header = OpenHeader::Written,
            _ => tail.header = OpenHeader::Durable,
        }
        self.commit.attempts = 0;
        self.next_stage(facts);
        true
    }

    fn flush_ended(&mut self, facts: Facts) -> bool {
        let Some(result) = self.ops.take(Op::COMMIT_FLUSH) else { return false };
        if result.is_err() {
            (self.dirty, self.unflushed_pages) = (true, true);
            return self.retry(facts);
        }
        self.stats.flushes += 1;
        self.tails.iter_mut().for_each(Tail::flush_ended);
        self.commit.attempts = 0;
        // Values that completed since the flush was sent belong to later records: this commit goes on.
        let Some(segment) = self.tails[self.commit.tail].segment else { return false };
        self.commit.stage = Stage::Pages;
        self.write_pages(segment);
        true
    }

    fn write_pages(&mut self, segment: u32) {
        let tail = &self.tails[self.commit.tail];
        let (committed, upto, generation, draft) = (tail.committed, self.commit.upto, tail.generation, tail.draft);
        let mut page = committed / RECORDS_PER_PAGE;
        let mut index = 0;
        while page * RECORDS_PER_PAGE < upto {
            let first = page * RECORDS_PER_PAGE;
            let count = (upto - first).min(RECORDS_PER_PAGE);
            let slot = if count == RECORDS_PER_PAGE { FIRST_HOME + page } else { FIRST_DRAFT + draft };
            self.page.fill(0);
            let mut newest = 0;
            for (place, record) in (0..count).zip(&self.tails[self.commit.tail].records[first as usize..]) {
                put_record(&mut self.page, place, record);
                newest = newest.max(record.sequence);
            }
            let header = PageHeader { generation, page, count, sequence: newest, kind: PageKind::Records };
            header.seal(&self.layout, segment, slot, &mut self.page);
            let memory = self.stage_page(Self::staging_of_page(index));
            let lba = self.layout.page_lba(segment, slot);
            let what = BlockOp::Write { fua: self.commit.fua, hint: METADATA };
            self.ops.start(Op::commit_page(index), what, lba, self.layout.blocks(1), memory);
            self.count_page();
            self.commit.waiting |= 1 << index;
            page += 1;
            index += 1;
        }
    }

    fn pages_ended(&mut self, facts: Facts) -> bool {
        for index in 0..COMMIT_PAGES {
            if self.commit.waiting & (1 << index) != 0
                && let Some(result) = self.ops.take(Op::commit_page(index))
            {
                self.commit.waiting &= !(1 << index);
                self.commit.failed |= result.is_err();
            }
        }
        if self.commit.waiting != 0 {
            return false;
        }
        if std::mem::take(&mut self.commit.failed) {
            return self.retry(facts);
        }
        self.stats.commits += 1;
        let at = self.commit.tail;
        let upto = self.commit.upto;
        self.commit.stage = Stage::Idle;
        let volatile = facts.volatile && !self.commit.fua;
        self.unflushed_pages |= volatile;
        self.tails[at].note_pages(upto, volatile, self.now);
        while let Some(ticket) = self.tails[at].pop_ticket(upto) {
            self.ended.push_back((ticket, true));
        }
        self.tails[at].forget_undos(upto);
        self.settle_tail(at);
        self.rewrite_tombstones();
        true
    }

    /// Repeats the stage that failed, or gives the segment up.
    fn retry(&mut self, facts: Facts) -> bool {
        self.commit.attempts += 1;
        if self.commit.attempts < ATTEMPTS {
            self.next_stage(facts);
        } else {
            self.commit.stage = Stage::Idle;
            if self.evict.is_gathering() && self.table.free.is_empty() && !self.draining {
                self.postpone_tail(self.commit.tail);
            } else {
                self.fail_tail(self.commit.tail);
            }
        }
        true
    }
}
