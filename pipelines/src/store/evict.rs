//! Eviction: the oldest segment is emptied and freed as a whole.
//!
//! Oldest first, because then what supersedes a record never goes before it. The steps: read the segment's
//! metadata back; of each block that still counts decide whether it is moved or dropped; commit what that wrote, and
//! flush; wait for readers; write both headers as free; TRIM. Only then may the segment be used again.

use arrayvec::ArrayVec;
use dataplane::core::Ticks;
use dataplane::memory::DmaSlice;
use dataplane::nvme::BlockOp;

use super::commit::ATTEMPTS;
use super::extent::Hold;
use super::index::{Entry, EntryId};
use super::layout::{FIRST_DRAFT, HEADER_FREE, HEADER_OPEN, UNIT_BYTES};
use super::moves::Job;
use super::operation::Op;
use super::page::{PAGE_BYTES, PageHeader, PageKind, record_at};
use super::policy::{BlockView, EvictionPolicy, Verdict};
use super::publish::Class;
use super::record::{Kind, RECORDS_PER_PAGE, Record};
use super::segment::State;
use super::shard::{Facts, Shard, cost, must_stay};
use super::staging::CHUNK_BYTES;
use super::tail::TAILS;

/// Invalid pages in a row after which no more are expected. Pages are written in order, but for the two drafts.
pub(super) const MAX_GAP: u32 = 4;
/// Records or index entries looked at in one step.
const STEP: u32 = 64;
const SWEEP_STEP: u32 = 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    /// A chunk of metadata is being read.
    Read,
    /// Its records are looked at.
    Scan,
    /// The last blocks are being moved.
    Settle,
    /// Blocks whose records could not be found are looked for in the index.
    Sweep,
    /// Moved records and tombstones are being written down.
    Commit,
    Flush,
    /// Readers still hold blocks.
    Holds,
    FreeHeader,
    OpenHeader,
    Trim,
    /// The device does not take what frees the victim. Tried again after a while.
    Pause,
}

/// A block that this eviction moved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub entry: EntryId,
    /// What it was in the victim.
    pub old: Entry,
    /// Where it lies now.
    pub to: u32,
}

/// The eviction that runs.
#[derive(Default)]
pub(super) struct Evict {
    stage: Stage,
    victim: u32,
    /// Metadata pages in the chunk: first, number.
    first: u32,
    pages: u32,
    /// Pages to read at once; fewer after an error, to get around the bad one.
    reach: u32,
    cursor: u32,
    gap: u32,
    budget: u64,
    /// Units of the log that this eviction used up: for blocks it moved, and left unused behind them.
    spent_units: u32,
    attempts: u32,
    /// Where to go on after a pause.
    resume: Stage,
    /// When the pause, or the waiting for readers, began.
    paused: Ticks,
    /// Blocks moved out of the victim, whose records may still fail to be written.
    moved: Vec<Moved>,
    /// Tombstones that could not be written and have to be, before a victim goes.
    unwritten: Vec<Record>,
    /// Blocks lie in the victim again: it has to be gone through once more.
    again: bool,
    /// A block that must stay finds no room, and nothing will make any.
    starved: bool,
    /// Segments that were left because they took no block, since one did.
    left: u32,
    marks: ArrayVec<(u64, u32), TAILS>,
}

impl Evict {
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// Whether nothing is under way that the device would bring to an end by itself.
    pub fn is_at_rest(&self) -> bool {
        matches!(self.stage, Stage::Idle | Stage::Pause) || self.starved
    }

    /// Whether records that this eviction depends on may not be written yet.
    pub fn is_gathering(&self) -> bool {
        matches!(self.stage, Stage::Read | Stage::Scan | Stage::Settle | Stage::Sweep | Stage::Commit)
    }

    /// A block was moved by this eviction.
    pub fn note_moved(&mut self, entry: EntryId, old: Entry, to: u32) {
        self.moved.push(Moved { entry, old, to });
    }

    /// Takes back the moves to some places.
    pub fn take_moved(&mut self, lost: impl Fn(u32) -> bool) -> Vec<Moved> {
        self.moved.extract_if(.., |block| lost(block.to)).collect()
    }

    /// Whether this eviction moved a block to a place, and may have to take that back.
    pub fn is_moving(&self, entry: EntryId, to: u32) -> bool {
        self.is_gathering() && self.moved.iter().any(|block| block.entry == entry && block.to == to)
    }

    /// Keeps tombstones that have to be written elsewhere before a victim goes: that of this eviction, or of the next.
    pub fn keep_unwritten<'a>(&mut self, records: impl Iterator<Item = &'a Record>) {
        self.unwritten.extend(records);
    }

    pub fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    pub fn pop_unwritten(&mut self) -> Option<Record> {
        self.unwritten.pop()
    }

    /// The segment that is being emptied.
    pub fn victim(&self) -> u32 {
        self.victim
    }

    /// Has the victim gone through once more before it goes.
    pub fn look_again(&mut self) {
        self.again = true;
    }

    /// Units of the log were used up, by a block that came to lie there or because they were left unused.
    pub fn note_spent(&mut self, units: u32) {
        self.spent_units = self.spent_units.saturating_add(units);
    }

    /// Whether a segment may be left that refused a block so many times over. Each time that none takes one, the next is
    /// tried twice as long: where the device refuses them all, a hundred times cost seven segments.
    pub fn may_leave(&self, waits: u32) -> bool {
        waits >> self.left.min(31) > 0
    }

    /// A segment was left.
    pub fn note_left(&mut self) {
        self.left += 1;
    }

    /// The device took bytes of a block.
    pub fn note_taken(&mut self) {
        self.left = 0;
    }

    /// Says whether a block that must stay waits for room that will not come.
    pub fn set_starved(&mut self, starved: bool) {
        self.starved = starved;
    }
}

impl<P> Shard<P> {
    /// Whether eviction cannot win anything: there is nothing to evict, or all of it must stay.
    pub(super) fn is_stuck(&self) -> bool {
        let under_way = self.tails.iter().any(|tail| tail.segment.is_some() && tail.closing);
        let evictable = self.table.log.front().is_some_and(|&first| self.table.at(first).state == State::Closed);
        let fruitless = self.evict.is_idle() && (!evictable || self.is_barren());
        let waits = fruitless || self.evict.stage == Stage::Pause || self.evict.starved;
        // Moves that wait for the device keep open the segment in which they have their room.
        (!under_way && waits) || self.is_stalled()
    }

    /// Whether eviction waits for the device to take or give back blocks that must stay.
    pub(super) fn is_stalled(&self) -> bool {
        let all_begun = matches!(self.evict.stage, Stage::Settle | Stage::Sweep) || self.moves.are_full();
        all_begun && self.moves.are_stalled()
    }

    /// Whether eviction waits for readers, and has for a commit interval or longer. They hold up every Store of the shard
    /// by then, or soon will.
    #[must_use]
    pub fn awaits_readers(&self) -> bool {
        self.evict.stage == Stage::Holds && self.now.since(self.evict.paused) >= self.config.commit_ticks.max(1)
    }

    /// For how many ticks eviction has waited for a hold to be given back; 0 if it does not, or not for a commit interval.
    #[must_use]
    pub fn awaits(&self, hold: &Hold) -> u64 {
        let here = self.awaits_readers() && self.layout.segment_of(hold.unit) == self.evict.victim;
        if here { self.now.since(self.evict.paused) } else { 0 }
    }

    fn is_barren(&self) -> bool {
        u64::from(self.barren) > self.table.log.len() as u64
    }

    /// The entry of a record's block, if that is where the block lies now.
    pub(super) fn live_at(&self, record: &Record, unit: u32) -> Option<EntryId> {
        let at = self.index.find(self.index.hash(&record.id), &record.id)?;
        self.index.get(at).filter(|entry| entry.unit == unit && entry.bytes() == record.bytes).map(|_| at)
    }

    /// Drops a block that goes with its segment. `false` if that needs a tombstone and there is no room for one.
    pub(super) fn drop_block(&mut self, at: EntryId) -> bool {
        let Some(&entry) = self.index.get(at) else { return true };
        if entry.late() {
            let Some(tail) = self.tail_with_room(true) else { return false };
            let record = Record::bare(Kind::Tombstone, entry.id(), Class::Cache, self.next_sequence());
            self.append(tail, record, None);
        }
        self.forget(at);
        true
    }
}

impl<P: EvictionPolicy> Shard<P> {
    pub(super) fn evict_step(&mut self, facts: Facts) -> usize {
        let mut steps = self.move_step(facts);
        for _ in 0..4 {
            if !self.evict_once(facts) {
                break;
            }
            steps += 1;
        }
        steps
    }

    fn evict_once(&mut self, facts: Facts) -> bool {
        if self.evict.again
            && self.moves.is_idle()
            && matches!(self.evict.stage, Stage::Settle | Stage::Sweep | Stage::Commit)
        {
            return self.scan_again();
        }
        match self.evict.stage {
            Stage::Idle => self.begin_eviction(facts),
            Stage::Read => self.metadata_read(facts),
            Stage::Scan => self.scan(facts),
            Stage::Settle => self.moves.is_idle() && self.go(Stage::Sweep),
            Stage::Sweep => self.sweep(),
            Stage::Commit => self.await_commit(facts),
            Stage::Flush => self.await_flush(),
            Stage::Holds => self.await_readers(facts),
            Stage::FreeHeader | Stage::OpenHeader => self.await_header(facts),
            Stage::Trim => self.await_trim(),
            Stage::Pause => self.await_pause(facts),
        }
    }

    fn go(&mut self, stage: Stage) -> bool {
        self.evict.stage = stage;
        self.evict.attempts = 0;
        true
    }

    fn begin_eviction(&mut self, facts: Facts) -> bool {
        let enough = self.table.free.len() as u64 >= u64::from(self.low_water());
        if enough || self.draining || self.is_barren() {
            return false;
        }
        let Some(&victim) = self.table.log.front() else { return false };
        if self.table.at(victim).state != State::Closed {
            return false;
        }
        self.table.at_mut(victim).state = State::Evicting;
        let data = u64::from(self.layout.data_units()) * u64::from(UNIT_BYTES);
        let budget = data * u64::from(self.config.move_percent) / 100;
        let (mut moved, unwritten) = (std::mem::take(&mut self.evict.moved), std::mem::take(&mut self.evict.unwritten));
        moved.clear();
        self.evict = Evict { victim, first: FIRST_DRAFT, budget, moved, unwritten, ..Evict::default() };
        self.evict.reach = (CHUNK_BYTES / UNIT_BYTES).min(facts.max_units);
        if self.table.at(victim).live_blocks == 0 {
            return self.go(Stage::Settle);
        }
        self.read_metadata()
    }

    /// Goes through the victim once more, from its first page.
    fn scan_again(&mut self) -> bool {
        self.commit.demand = false;
        (self.evict.again, self.evict.first, self.evict.cursor, self.evict.gap) = (false, FIRST_DRAFT, 0, 0);
        self.read_metadata()
    }

    fn read_metadata(&mut self) -> bool {
        let pages = self.evict.reach.min(self.layout.pages() - self.evict.first);
        self.evict.pages = pages;
        let lba = self.layout.page_lba(self.evict.victim, self.evict.first);
        let memory = self.chunk_memory(pages * UNIT_BYTES);
        self.ops.start(Op::EVICT_META, BlockOp::Read, lba, self.layout.blocks(pages), memory);
        self.evict.stage = Stage::Read;
        true
    }

    fn metadata_read(&mut self, facts: Facts) -> bool {
        let Some(result) = self.ops.take(Op::EVICT_META) else { return false };
        self.evict.cursor = 0;
        if result.is_ok() && self.load_chunk(self.evict.pages * UNIT_BYTES) {
            return self.go(Stage::Scan);
        }
        if self.evict.pages > 1 {
            self.evict.reach = 1;
            return self.read_metadata();
        }
        let passing = result.is_err_and(|error| !error.is_unreadable());
        if passing && self.evict.attempts + 1 < ATTEMPTS {
            self.evict.attempts += 1;
            return self.read_metadata();
        }
        self.evict.attempts = 0;
        self.stats.damaged_pages += 1;
        self.evict.gap += 1;
        self.next_chunk(facts)
    }

    /// Reads on, or ends the scan.
    fn next_chunk(&mut self, _facts: Facts) -> bool {
        self.evict.first += self.evict.pages;
        let all_seen = self.table.at(self.evict.victim).live_blocks == 0;
        if all_seen || self.evict.gap >= MAX_GAP || self.evict.first >= self.layout.pages() {
            return self.go(Stage::Settle);
        }
        self.read_metadata()
    }

    /// Looks at some records of the chunk.
    fn scan(&mut self, facts: Facts) -> bool {
        for _ in 0..STEP {
            let (page, place) = (self.evict.cursor / RECORDS_PER_PAGE, self.evict.cursor % RECORDS_PER_PAGE);
            if page >= self.evict.pages {
                return self.next_chunk(facts);
            }
            let bytes = &self.chunk[page as usize * PAGE_BYTES..(page as usize + 1) * PAGE_BYTES];
            if place == 0 {
                let slot = self.evict.first + page;
                let generation = self.table.at(self.evict.victim).generation;
                let count = PageHeader::check(&self.layout, self.evict.victim, slot, bytes)
                    .filter(|header| header.kind == PageKind::Records && header.generation == generation);
                self.evict.gap = if count.is_some() { 0 } else { self.evict.gap + 1 };
                if count.is_none() {
                    self.evict.cursor += RECORDS_PER_PAGE;
                    continue;
                }
            }
            // Places beyond the count are zero and make no record.
            if let Some(record) = record_at(bytes, place)
                && !self.judge_record(&record)
            {
                return false;
            }
            self.evict.cursor += 1;
        }
        true
    }

    /// Moves or drops the block of a record. `false` if that has to wait.
    fn judge_record(&mut self, record: &Record) -> bool {
        if record.kind != Kind::Put {
            return true;
        }
        let unit = self.layout.segment_unit(self.evict.victim).wrapping_add(record.offset);
        let Some(at) = self.live_at(record, unit) else { return true };
        let Some(&entry) = self.index.get(at) else { return true };
        if self.moves.has(at) {
            return true;
        }
        let stays = must_stay(&entry);
        let view = BlockView {
            frequency: entry.frequency(),
            demoted: entry.demoted(),
            bytes: entry.bytes(),
            budget: self.evict.budget,
        };
        if !stays && self.policy.verdict(view) == Verdict::Drop {
            let dropped = self.drop_block(at);
            self.stats.dropped_blocks += u64::from(dropped);
            return dropped;
        }
        let taken = self.moves.add(Job { record: *record, entry: at, unit });
        if taken && !stays {
            self.evict.budget = self.evict.budget.saturating_sub(cost(&entry));
        }
        taken
    }

    /// Makes sure that no entry points into the victim. What is left are blocks whose records could not be read: those that
    /// must stay are moved, for the index knows of them what a record needs, and the others dropped.
    fn sweep(&mut self) -> bool {
        if self.table.at(self.evict.victim).live_blocks == 0 {
            // The block of a move may have been deleted while the move waits for the device; what the others wrote may yet
            // fail. Neither may outlast the victim.
            if !self.moves.is_idle() {
                return false;
            }
            self.mark_records();
            return self.go(Stage::Commit);
        }
        // The sweep goes round until nothing is left; `cursor` begins where the scan left it, which does no harm.
        let end = self.index.high_water();
        if self.evict.cursor >= end {
            if !self.moves.is_idle() {
                return false;
            }
            self.evict.cursor = 0;
        }
        let start = self.evict.cursor;
        let stop = start.saturating_add(SWEEP_STEP).min(end);
        for at in start..stop {
            let left = self.index.get(EntryId(at)).copied();
            let here = left.filter(|entry| self.layout.segment_of(entry.unit) == self.evict.victim);
            if here.is_some_and(|entry| !self.judge_unrecorded(EntryId(at), &entry)) {
                self.evict.cursor = at;
                return false;
            }
        }
        self.evict.cursor = stop;
        true
    }

    /// Moves or drops a block of which the index alone knows. `false` if that has to wait.
    fn judge_unrecorded(&mut self, at: EntryId, entry: &Entry) -> bool {
        if self.moves.has(at) {
            return true;
        }
        if must_stay(entry) {
            let offset = entry.unit - self.layout.segment_unit(self.evict.victim);
            return self.moves.add(Job { record: Record::of_entry(entry, offset), entry: at, unit: entry.unit });
        }
        let dropped = self.drop_block(at);
        self.stats.lost_blocks += u64::from(dropped);
        dropped
    }

    /// Notes the records that have to be written before the victim may go, and asks for it.
    fn mark_records(&mut self) {
        let used = self.tails.iter().filter(|tail| tail.segment.is_some());
        self.evict.marks = used.map(|tail| (tail.generation, tail.len())).collect();
        self.commit.demand = true;
    }

    fn await_commit(&mut self, facts: Facts) -> bool {
        while let Some(&record) = self.evict.unwritten.last() {
            let Some(tail) = self.tail_with_room(true) else {
                if self.table.free.is_empty() {
                    // Only the victim's end makes room for more. The rest is written right behind it.
                    break;
                }
                return false;
            };
            self.evict.unwritten.pop();
            self.append(tail, record, None);
            self.mark_records();
        }
        let written = self.evict.marks.iter().all(|&(generation, upto)| {
            !self
                .tails
                .iter()
                .any(|tail| tail.segment.is_some() && tail.generation == generation && tail.committed < upto)
        });
        if !written {
            return false;
        }
        self.commit.demand = false;
        if self.table.at(self.evict.victim).live_blocks > 0 || !self.moves.is_idle() {
            debug_assert!(
                false,
                "blocks lie in the victim, or come out of it, and nothing asks to go through it again"
            );
            return self.go(Stage::Sweep);
        }
        if facts.volatile {
            self.ops.start(Op::EVICT_FLUSH, BlockOp::Flush, 0, 0, DmaSlice::EMPTY);
            return self.go(Stage::Flush);
        }
        self.await_holds()
    }

    fn await_flush(&mut self) -> bool {
        let Some(result) = self.ops.take(Op::EVICT_FLUSH) else { return false };
        if result.is_ok() {
            self.stats.flushes += 1;
            return self.await_holds();
        }
        self.evict.attempts += 1;
        if self.evict.attempts >= ATTEMPTS {
            return self.pause();
        }
        self.ops.start(Op::EVICT_FLUSH, BlockOp::Flush, 0, 0, DmaSlice::EMPTY);
        true
    }

    fn await_holds(&mut self) -> bool {
        self.evict.paused = self.now;
        self.go(Stage::Holds)
    }

    fn await_readers(&mut self, facts: Facts) -> bool {
        if self.table.at(self.evict.victim).holds > 0 {
            return false;
        }
        self.go(Stage::FreeHeader);
        self.write_free(facts);
        true
    }

    fn write_free(&mut self, facts: Facts) {
        let slot = if self.evict.stage == Stage::FreeHeader { HEADER_FREE } else { HEADER_OPEN };
        let (victim, generation) = (self.evict.victim, self.table.at(self.evict.victim).generation);
        let at = Self::EVICT_HEADER_AT;
        self.write_header(Op::EVICT_HEADER, at, victim, slot, PageKind::Free, generation, facts);
    }

    fn await_header(&mut self, facts: Facts) -> bool {
        let Some(result) = self.ops.take(Op::EVICT_HEADER) else { return false };
        if result.is_err() {
            self.evict.attempts += 1;
            if self.evict.attempts >= ATTEMPTS {
                return self.pause();
            }
            self.write_free(facts);
            return true;
        }
        if self.evict.stage == Stage::FreeHeader {
            self.table.at_mut(self.evict.victim).has_free_header = true;
            self.go(Stage::OpenHeader);
            self.write_free(facts);
            return true;
        }
        if !facts.deallocate {
            return self.finish_eviction();
        }
        let layout = &self.layout;
        let lba = layout.page_lba(self.evict.victim, layout.pages());
        self.ops.start(Op::EVICT_TRIM, BlockOp::Deallocate, lba, layout.blocks(layout.data_units()), DmaSlice::EMPTY);
        self.go(Stage::Trim)
    }

    fn await_trim(&mut self) -> bool {
        let Some(result) = self.ops.take(Op::EVICT_TRIM) else { return false };
        // TRIM is a hint: a device that refuses it has the segment nevertheless.
        self.stats.trimmed_segments += u64::from(result.is_ok());
        self.finish_eviction()
    }

    fn finish_eviction(&mut self) -> bool {
        let victim = self.evict.victim;
        self.table.log.pop_front();
        self.table.at_mut(victim).state = State::Free;
        self.table.free.push_back(victim);
        self.stats.evicted_segments += 1;
        let won = self.layout.data_units().saturating_sub(self.evict.spent_units);
        self.barren = if won < self.layout.data_units() / 16 { self.barren + 1 } else { 0 };
        self.go(Stage::Idle)
    }

    /// The device does not take the flush or the header that frees the victim. It stays the oldest segment: on the
    /// device it still holds blocks, and were a younger one to go first, its records would count again.
    fn pause(&mut self) -> bool {
        tracing::error!(segment = self.evict.victim, "a segment cannot be freed, the device refuses; trying on");
        self.stats.stalled_evictions += 1;
        let resume = self.evict.stage;
        self.go(Stage::Pause);
        (self.evict.resume, self.evict.paused) = (resume, self.now);
        true
    }

    fn await_pause(&mut self, facts: Facts) -> bool {
        if self.now.since(self.evict.paused) < self.config.commit_ticks.max(1) {
            return false;
        }
        self.go(self.evict.resume);
        if self.evict.stage == Stage::Flush {
            self.ops.start(Op::EVICT_FLUSH, BlockOp::Flush, 0, 0, DmaSlice::EMPTY);
        } else {
            self.write_free(facts);
        }
        true
    }
}
