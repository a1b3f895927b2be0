//! Moving blocks that outlive their segment: read into staging memory, written to the open segment, recorded anew.
//!
//! A few moves run at once, each with one buffer; long values go in pieces. A block that was superseded or deleted
//! meanwhile is left alone.

use dataplane::nvme::BlockOp;

use super::commit::ATTEMPTS;
use super::extent::Extent;
use super::hint;
use super::index::{Entry, EntryId};
use super::layout::{Layout, UNIT_BYTES};
use super::operation::{MOVES, Op};
use super::publish::Class;
use super::record::Record;
use super::shard::{Facts, Shard};
use super::staging::MOVE_BYTES;

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
    /// The device failed; the block goes.
    Lost(Job),
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    done: u32,
    units: u32,
    attempts: u32,
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

    /// Begins a move. `false` if as many as possible run.
    pub fn add(&mut self, job: Job) -> bool {
        let free = self.slots.iter_mut().find(|slot| matches!(slot, Phase::Idle));
        free.map(|slot| *slot = Phase::Room(job)).is_some()
    }

    /// Whether a block is being moved.
    pub fn has(&self, entry: EntryId) -> bool {
        self.slots.iter().any(|slot| match slot {
            Phase::Idle => false,
            Phase::Room(job) | Phase::Lost(job) | Phase::Read(job, ..) | Phase::Write(job, ..) => job.entry == entry,
        })
    }
}

impl Drop for Moves {
    /// A shard that is dropped in the middle of an eviction leaves it to the next start.
    fn drop(&mut self) {
        for slot in &mut self.slots {
            if let Phase::Read(_, extent, _) | Phase::Write(_, extent, _) = std::mem::take(slot) {
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
        (0..MOVES).map(|index| usize::from(self.move_one(index, facts))).sum()
    }

    fn move_one(&mut self, index: usize, facts: Facts) -> bool {
        let phase = std::mem::take(&mut self.moves.slots[index]);
        let (next, progress) = match phase {
            Phase::Idle => (Phase::Idle, false),
            Phase::Room(job) => self.find_room(index, job, facts),
            Phase::Lost(job) => self.lose(job),
            Phase::Read(job, extent, piece) => self.read_ended(index, job, extent, piece, facts),
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
            self.evict.set_starved(false);
            return (self.read_piece(index, job, extent, 0, 0, facts), true);
        }
        // Without a free segment only this eviction can make room. A block that must not go has to wait, the
        // others would wait for ever.
        let hopeless = self.table.free.is_empty() && !self.tails.iter().any(|tail| tail.closing && !tail.failed);
        if hopeless && job.record.class == Class::Cache {
            return (Phase::Lost(job), true);
        }
        self.evict.set_starved(hopeless);
        (Phase::Room(job), false)
    }

    fn read_piece(&mut self, index: usize, job: Job, extent: Extent, done: u32, attempts: u32, facts: Facts) -> Phase {
        let units = (Layout::units_of(job.record.bytes) - done).min(MOVE_BYTES / UNIT_BYTES).min(facts.max_units);
        let memory = self.move_memory(index, units * UNIT_BYTES);
        let lba = self.layout.lba(job.unit + done);
        self.ops.start(Op::moving(index), BlockOp::Read, lba, self.layout.blocks(units), memory);
        Phase::Read(job, extent, Piece { done, units, attempts })
    }

    fn write_piece(&mut self, index: usize, job: Job, extent: Extent, piece: Piece) -> Phase {
        let memory = self.move_memory(index, piece.units * UNIT_BYTES);
        let lba = self.layout.lba(extent.unit + piece.done);
        let blocks = self.layout.blocks(piece.units);
        self.ops.start(Op::moving(index), BlockOp::Write { fua: false, hint: hint::MOVED }, lba, blocks, memory);
        Phase::Write(job, extent, piece)
    }

    fn read_ended(&mut self, index: usize, job: Job, extent: Extent, piece: Piece, facts: Facts) -> (Phase, bool) {
        match self.ops.take(Op::moving(index)) {
            None => (Phase::Read(job, extent, piece), false),
            Some(Ok(())) => (self.write_piece(index, job, extent, Piece { attempts: 0, ..piece }), true),
            Some(Err(_)) if piece.attempts + 1 < ATTEMPTS => {
                (self.read_piece(index, job, extent, piece.done, piece.attempts + 1, facts), true)
            }
            Some(Err(_)) => self.give_up(job, extent),
        }
    }

    fn write_ended(&mut self, index: usize, job: Job, extent: Extent, piece: Piece, facts: Facts) -> (Phase, bool) {
        match self.ops.take(Op::moving(index)) {
            None => (Phase::Write(job, extent, piece), false),
            Some(Ok(())) => {
                let done = piece.done + piece.units;
                if done < Layout::units_of(job.record.bytes) {
                    return (self.read_piece(index, job, extent, done, 0, facts), true);
                }
                (self.finish_move(job, extent), true)
            }
            Some(Err(_)) if piece.attempts + 1 < ATTEMPTS => {
                let piece = Piece { attempts: piece.attempts + 1, ..piece };
                (self.write_piece(index, job, extent, piece), true)
            }
            Some(Err(_)) => self.give_up(job, extent),
        }
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
