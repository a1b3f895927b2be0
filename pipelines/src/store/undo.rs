//! Records that the device does not take: who waits is told, and what was done on their account is undone.
//!
//! A durable store that failed leaves what it was to supersede. The entry of a key points to the new value from
//! publishing on, so what it was before is kept until the new record is written down. The old value is still where
//! it was then: a segment goes only after every record that supersedes something in it is written, or given up here.

use dataplane::core::Ticks;

use super::index::{Entry, EntryId};
use super::publish::padded;
use super::record::Kind;
use super::segment::State;
use super::shard::Shard;
use super::tail::Tail;

/// What an entry was before a durable store whose record is not written down yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Undo {
    /// Which record of the tail supersedes it.
    pub record: u32,
    pub entry: EntryId,
    /// Where the new value lies.
    pub unit: u32,
    pub old: Entry,
    /// The life of the segment in which the old value lies.
    pub life: u64,
}

/// What an entry becomes that points to `unit`, whose record will never be written.
#[derive(Clone, Copy)]
struct Reversal {
    unit: u32,
    entry: EntryId,
    old: Entry,
    life: u64,
}

impl<P> Shard<P> {
    /// Keeps what a durable store supersedes. Its record is the next of the tail.
    pub(super) fn keep_old(&mut self, tail: usize, entry: EntryId, unit: u32, old: Entry) {
        let life = self.table.at(self.layout.segment_of(old.unit)).generation;
        let record = self.tails[tail].len();
        self.tails[tail].undos.push_back(Undo { record, entry, unit, old, life });
    }

    /// Puts the writing of records off that eviction needs and that no other segment could take. Everyone who waits
    /// for one is told that it failed; they may yet be written. Only who supersedes a value has to wait on: there is
    /// no room to keep the old one beside it, and it must not be said to have failed and then hold.
    pub(super) fn postpone_tail(&mut self, at: usize) {
        let tail = &mut self.tails[at];
        tracing::error!(segment = ?tail.segment, records = tail.uncommitted(), "records cannot be written; trying on");
        tail.not_before = Ticks(self.now.0.saturating_add(self.config.commit_ticks.max(1)));
        let undos = &tail.undos;
        tail.tickets.retain(|&(record, ticket)| {
            let waits = undos.binary_search_by_key(&record, |undo| undo.record).is_ok();
            if !waits {
                self.ended.push_back((ticket, false));
            }
            waits
        });
    }

    /// Gives up writing records of a segment. Everyone who waits for one is told. Durable stores over an older value
    /// leave that one; all other blocks stay readable until the segment is evicted, but are not there after a restart.
    pub(super) fn fail_tail(&mut self, at: usize) {
        let tail = &mut self.tails[at];
        tracing::error!(segment = ?tail.segment, records = tail.uncommitted(), "records cannot be written; closing the segment");
        self.stats.lost_records += u64::from(tail.uncommitted());
        let (generation, committed) = (tail.generation, tail.committed);
        self.purges.note_lost(generation, committed);
        self.take_back(at);
        let tail = &mut self.tails[at];
        tail.failed = true;
        tail.closing = true;
        tail.committed = tail.len();
        while let Some(ticket) = self.tails[at].pop_ticket(u32::MAX) {
            self.ended.push_back((ticket, false));
        }
        if self.open == Some(at) {
            self.open = None;
        }
        self.settle_tail(at);
    }

    /// The records of a tail that are not written down yet never will be. Undoes what was done on their account:
    /// superseded blocks are back, those that the eviction that runs moved there lie in the victim again, and its
    /// tombstones are kept to be written elsewhere. Only then does the victim's end not take the last record of a
    /// block with it.
    fn take_back(&mut self, at: usize) {
        let Some(segment) = self.tails[at].segment else { return };
        let undos = std::mem::take(&mut self.tails[at].undos);
        let mut reversals: Vec<Reversal> =
            undos.iter().map(|&Undo { unit, entry, old, life, .. }| Reversal { unit, entry, old, life }).collect();
        self.tails[at].undos = undos;
        self.tails[at].undos.clear();
        self.keep_tombstones(at);
        if self.evict.is_gathering() {
            let life = self.table.at(self.evict.victim()).generation;
            for block in self.evict.take_moved(|to| self.layout.segment_of(to) == segment) {
                reversals.push(Reversal { unit: block.to, entry: block.entry, old: block.old, life });
            }
        }
        reversals.sort_unstable_by_key(|reversal| reversal.unit);
        for reversal in &reversals {
            self.put_back(&reversals, reversal);
        }
        // What other tails would go back to may be what was given up here.
        for other in 0..self.tails.len() {
            for place in 0..self.tails[other].undos.len() {
                let Undo { old, life, .. } = self.tails[other].undos[place];
                let (before, life) = last_good(&reversals, old, life);
                if before.unit != old.unit {
                    (self.tails[other].undos[place].old, self.tails[other].undos[place].life) = (before, life);
                    self.look_again_at(before.unit);
                }
            }
        }
    }

    /// Keeps the tombstones that a tail loses, to be written elsewhere. Their blocks are gone from the index for good,
    /// whoever was told what: were a younger value's segment to go before its tombstone is written, an older value in a
    /// younger segment would come back at the next start. To a key that was stored anew since, they do nothing.
    fn keep_tombstones(&mut self, at: usize) {
        let tail = &self.tails[at];
        let lost = tail.records[tail.committed as usize..].iter().filter(|record| record.kind == Kind::Tombstone);
        self.evict.keep_unwritten(lost);
    }

    /// Writes lost tombstones anew, now that the device takes records again, so that they need not wait for an eviction.
    pub(super) fn rewrite_tombstones(&mut self) {
        while self.evict.is_idle() && self.evict.has_unwritten() {
            let Some(tail) = self.tail_with_room(false) else { return };
            if let Some(record) = self.evict.pop_unwritten() {
                self.append(tail, record, None);
            }
        }
    }

    /// Whether a block is where it is on account of a record that is not written down yet, so that it may have to go
    /// back to where it was before.
    pub(super) fn may_go_back(&self, entry: EntryId, unit: u32) -> bool {
        let superseded = |tail: &Tail| tail.undos.iter().any(|undo| undo.entry == entry && undo.unit == unit);
        self.tails.iter().any(superseded) || self.evict.is_moving(entry, unit)
    }

    /// Points an entry to where it pointed before, unless it has gone on since.
    fn put_back(&mut self, reversals: &[Reversal], reversal: &Reversal) {
        let Some(&entry) = self.index.get(reversal.entry).filter(|entry| entry.unit == reversal.unit) else { return };
        let (mut back, life) = last_good(reversals, reversal.old, reversal.life);
        let slot = self.table.at(self.layout.segment_of(back.unit));
        let stands = slot.generation == life && !matches!(slot.state, State::Free | State::Retired);
        debug_assert!(stands, "a segment went before the records that supersede its blocks were settled");
        if !stands {
            return;
        }
        back.set_leased(entry.leased());
        back.set_pinned(entry.pinned());
        // Some of these records may have been written: should the block be dropped after all, they must not bring
        // theirs back.
        back.set_late(true);
        self.shift(reversal.entry, &entry, back);
        let namespace = entry.space().namespace();
        self.namespaces.add(namespace, padded(back.bytes()));
        self.namespaces.sub(namespace, padded(entry.bytes()));
        self.look_again_at(back.unit);
    }

    /// A block may lie in the victim again, or come to: then eviction must go through it once more.
    fn look_again_at(&mut self, unit: u32) {
        if self.evict.is_gathering() && self.layout.segment_of(unit) == self.evict.victim() {
            self.evict.look_again();
        }
    }
}

/// What an entry was before all stores and moves that are being given up.
fn last_good(reversals: &[Reversal], mut old: Entry, mut life: u64) -> (Entry, u64) {
    while let Ok(at) = reversals.binary_search_by_key(&old.unit, |reversal| reversal.unit) {
        (old, life) = (reversals[at].old, reversals[at].life);
    }
    (old, life)
}
