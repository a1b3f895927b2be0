//! Moving blocks that outlive their segment: read into staging memory, written to the open segment, recorded anew.
//!
//! A few moves run at once, each with one buffer; long values go in pieces. A block that was superseded or deleted
//! meanwhile is left alone.
//!
//! A device that fails costs blocks that eviction may drop, and of those that must stay only what the medium does not give
//! back. The others wait in the victim, which goes no sooner, and are tried again once a commit interval.

use dataplane::core::Ticks;
use dataplane::nvme::{BlockError, BlockOp};

use super::commit::ATTEMPTS;
use super::extent::Extent;
use super::hint;
use super::index::{Entry, EntryId};
use super::layout::{Layout, UNIT_BYTES};
use super::operation::{MOVES, Op};
use super::record::Record;
use super::shard::{Facts, Shard, must_stay};
use super::staging::MOVE_BYTES;
use super::tail::Tail;

/// A block to be moved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    /// Its record, whose place and sequence are of the past.
    pub record: Record,
    pub entry: EntryId,
    /// Where it lies.
    pub unit: u32,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Idle,
    /// Waits for room.
    Room(Job),
    /// Moves `units` at `done` from the old place into the buffer.
    Read(Job, Extent, Piece),
    /// Moves them on into the new place.
    Write(Job, Extent, Piece),
    /// The device failed, and the block must stay: waits since then, to go on with the same piece.
    Wait(Job, Extent, Piece, Ticks),
    /// The device failed; the block goes.
    Lost(Job),
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    done: u32,
    units: u32,
    attempts: u32,
    /// Whether it is in the buffer, to be written.
    read: bool,
    /// Times that the move waited for the device at this place.
    waits: u32,
}

/// The moves that run.
#[derive(Default)]
pub(super) struct Moves {
    slots: [Phase; MOVES],
}

impl Moves {
    pub fn is_idle(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot, Phase::Idle))
    }

    /// Whether there are moves, and all of them wait for the device to come round.
    pub fn are_stalled(&self) -> bool {
        let rests = |slot: &Phase| matches!(slot, Phase::Idle | Phase::Wait(..));
        !self.is_idle() && self.slots.iter().all(rests)
    }

    /// Whether no more fit.
    pub fn are_full(&self) -> bool {
        !self.slots.iter().any(|slot| matches!(slot, Phase::Idle))
    }

    /// Begins a move. `false` if as many as possible run.
    pub fn add(&mut self, job: Job) -> bool {
        let free = self.slots.iter_mut().find(|slot| matches!(slot, Phase::Idle));
        free.map(|slot| *slot = Phase::Room(job)).is_some()
    }

    /// Whether a block is being moved.
    pub fn has(&self, entry: EntryId) -> bool {
        self.slots.iter().any(|slot| match slot {
            Phase::Idle => false,
            Phase::Room(job)
            | Phase::Lost(job)
            | Phase::Read(job, ..)
            | Phase::Write(job, ..)
            | Phase::Wait(job, ..) => job.entry == entry,
        })
    }
}

impl Drop for Moves {
    /// A shard that is dropped in the middle of an eviction leaves it to the next start.
    fn drop(&mut self) {
        for slot in &mut self.slots {
            if let Phase::Read(_, extent, _) | Phase::Write(_, extent, _) | Phase::Wait(_, extent, ..) =
                std::mem::take(slot)
            {
                extent.duty.discharge();
            }
        }
    }
}

impl<P> Shard<P> {
    pub(super) fn move_step(&mut self, facts: Facts) -> usize {
        if self.evict.is_idle() {
            return 0;
        }
        self.evict.set_starved(false);
        (0..MOVES).map(|index| usize::from(self.move_one(index, facts))).sum()
    }

    fn move_one(&mut self, index: usize, facts: Facts) -> bool {
        let phase = std::mem::take(&mut self.moves.slots[index]);
        let (next, progress) = match phase {
            Phase::Idle => (Phase::Idle, false),
            Phase::Room(job) => self.find_room(index, job, facts),
            Phase::Lost(job) => self.lose(job),
            Phase::Wait(job, extent, piece, since) => self.waited(index, job, extent, piece, since),
            Phase::Read(job, extent, piece) => self.read_ended(index, job, extent, piece),
            Phase::Write(job, extent, piece) => self.write_ended(index, job, extent, piece, facts),
        };
        self.moves.slots[index] = next;
        progress
    }

    fn find_room(&mut self, index: usize, job: Job, facts: Facts) -> (Phase, bool) {
        if self.live_at(&job.record, job.unit).is_none() {
            return (Phase::Idle, true);
        }
        let namespace = job.record.id.space.namespace();
        if let Ok(extent) = self.allocate(namespace, job.record.bytes, true) {
            return (self.next_piece(index, job, extent, 0, facts), true);
        }
        // Without a free segment only this eviction can make room. A block that must not go has to wait, the
        // others would wait for ever.
        let closing = |tail: &Tail| tail.segment.is_some() && tail.closing && !tail.failed;
        let hopeless = self.table.free.is_empty() && !self.tails.iter().any(closing);
        if hopeless && !self.is_kept(&job) {
            return (Phase::Lost(job), true);
        }
        if hopeless {
            self.evict.set_starved(true);
        }
        (Phase::Room(job), false)
    }

    /// Begins with the piece at `done`.
    fn next_piece(&mut self, index: usize, job: Job, extent: Extent, done: u32, facts: Facts) -> Phase {
        let units = (Layout::units_of(job.record.bytes) - done).min(MOVE_BYTES / UNIT_BYTES).min(facts.max_units);
        self.read_piece(index, job, extent, Piece { done, units, attempts: 0, read: false, waits: 0 })
    }

    fn read_piece(&mut self, index: usize, job: Job, extent: Extent, piece: Piece) -> Phase {
        let memory = self.move_memory(index, piece.units * UNIT_BYTES);
        let lba = self.layout.lba(job.unit + piece.done);
        self.ops.start(Op::moving(index), BlockOp::Read, lba, self.layout.blocks(piece.units), memory);
        Phase::Read(job, extent, piece)
    }

    fn write_piece(&mut self, index: usize, job: Job, extent: Extent, piece: Piece) -> Phase {
        let memory = self.move_memory(index, piece.units * UNIT_BYTES);
        let lba = self.layout.lba(extent.unit + piece.done);
        let blocks = self.layout.blocks(piece.units);
        self.ops.start(Op::moving(index), BlockOp::Write { fua: false, hint: hint::MOVED }, lba, blocks, memory);
        Phase::Write(job, extent, piece)
    }

    fn read_ended(&mut self, index: usize, job: Job, extent: Extent, piece: Piece) -> (Phase, bool) {
        match self.ops.take(Op::moving(index)) {
            None => (Phase::Read(job, extent, piece), false),
            Some(Ok(())) => {
                (self.write_piece(index, job, extent, Piece { attempts: 0, read: true, waits: 0, ..piece }), true)
            }
            Some(Err(_)) if piece.attempts + 1 < ATTEMPTS => {
                (self.read_piece(index, job, extent, Piece { attempts: piece.attempts + 1, ..piece }), true)
            }
            Some(Err(error)) if error.is_unreadable() || !self.is_kept(&job) => self.give_up(job, extent),
            Some(Err(error)) => (self.wait(job, extent, piece, error), true),
        }
    }

    fn write_ended(&mut self, index: usize, job: Job, extent: Extent, piece: Piece, facts: Facts) -> (Phase, bool) {
        match self.ops.take(Op::moving(index)) {
            None => (Phase::Write(job, extent, piece), false),
            Some(Ok(())) => {
                self.evict.note_taken();
                let done = piece.done + piece.units;
                if done < Layout::units_of(job.record.bytes) {
                    return (self.next_piece(index, job, extent, done, facts), true);
                }
                (self.finish_move(job, extent), true)
            }
            Some(Err(_)) if piece.attempts + 1 < ATTEMPTS => {
                let piece = Piece { attempts: piece.attempts + 1, ..piece };
                (self.write_piece(index, job, extent, piece), true)
            }
            Some(Err(_)) if !self.is_kept(&job) => self.give_up(job, extent),
            // The place may be bad for good, and the device well otherwise.
            Some(Err(_)) if piece.waits > 0 && self.leave_segment(extent.segment, piece.waits) => {
                self.settle_extent(extent, None);
                (Phase::Room(job), true)
            }
            Some(Err(error)) => (self.wait(job, extent, piece, error), true),
        }
    }

    /// Whether the block of a move must outlive the victim, as things stand.
    fn is_kept(&self, job: &Job) -> bool {
        let entry = self.live_at(&job.record, job.unit).and_then(|at| self.index.get(at));
        entry.is_some_and(must_stay)
    }

    fn wait(&mut self, job: Job, extent: Extent, piece: Piece, error: BlockError) -> Phase {
        if piece.waits == 0 {
            let what = if piece.read { "written" } else { "read" };
            tracing::error!(unit = job.unit, %error, "a block that must stay cannot be {what} to be moved; trying on");
        }
        self.stats.stalled_evictions += 1;
        Phase::Wait(job, extent, Piece { attempts: 0, waits: piece.waits.saturating_add(1), ..piece }, self.now)
    }

    fn waited(&mut self, index: usize, job: Job, extent: Extent, piece: Piece, since: Ticks) -> (Phase, bool) {
        if self.now.since(since) < self.config.commit_ticks.max(1) {
            return (Phase::Wait(job, extent, piece, since), false);
        }
        if self.live_at(&job.record, job.unit).is_none() {
            self.settle_extent(extent, None);
            return (Phase::Idle, true);
        }
        let next = if piece.read { Self::write_piece } else { Self::read_piece };
        (next(self, index, job, extent, piece), true)
    }

    fn give_up(&mut self, job: Job, extent: Extent) -> (Phase, bool) {
        self.settle_extent(extent, None);
        (Phase::Lost(job), true)
    }

    fn lose(&mut self, job: Job) -> (Phase, bool) {
        if self.live_at(&job.record, job.unit).is_some() {
            if !self.drop_block(job.entry) {
                return (Phase::Lost(job), false);
            }
            self.stats.lost_blocks += 1;
        }
        (Phase::Idle, true)
    }

    /// The block stands in its new place: points the entry there and records it.
    fn finish_move(&mut self, job: Job, extent: Extent) -> Phase {
        let here = self.live_at(&job.record, job.unit).and_then(|at| Some((at, *self.index.get(at)?)));
        let Some((at, old)) = here else {
            self.settle_extent(extent, None);
            return Phase::Idle;
        };
        if self.tails.iter().any(|tail| tail.segment == Some(extent.segment) && tail.failed) {
            // No record can be written there any more.
            self.settle_extent(extent, None);
            return Phase::Room(job);
        }
        let mut moved = old;
        moved.unit = extent.unit;
        moved.cool();
        moved.set_late(self.is_late(extent.segment));
        self.shift(at, &old, moved);
        self.evict.note_moved(at, old, extent.unit);
        let units = Layout::units_of(extent.bytes);
        self.evict.note_spent(units);
        self.stats.moved_blocks += 1;
        self.stats.moved_bytes += u64::from(units) * u64::from(UNIT_BYTES);
        let offset = extent.unit - self.layout.segment_unit(extent.segment);
        let record = Record { offset, class: old.class(), sequence: self.next_sequence(), ..job.record };
        self.settle_extent(extent, Some((record, None)));
        Phase::Idle
    }

    /// Points an entry to another place of its value.
    pub(super) fn shift(&mut self, at: EntryId, old: &Entry, new: Entry) {
        // Nothing is won by it.
        let barren = self.barren;
        self.note_loss(old);
        self.note_gain(&new);
        self.barren = barren;
        if let Some(entry) = self.index.get_mut(at) {
            *entry = new;
        }
    }
}
