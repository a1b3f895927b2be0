//! Purging a namespace: a record says so at once, the index is swept bit by bit.

use arrayvec::ArrayVec;

use super::index::EntryId;
use super::record::{Kind, Record};
use super::shard::Shard;

/// Purges that may be under way at once; as many as a store has namespaces.
const MAX_PURGES: usize = 256;
/// Entries looked at in one step.
const STEP: u32 = 512;

#[derive(Clone, Copy)]
struct Job {
    namespace: u32,
    /// The record of the purge: the life of the segment that it stands in, and how many records that has with it.
    record: Option<(u64, u32)>,
    /// Entries before this are looked at.
    cursor: u32,
    swept: bool,
    /// Whether the sweep met a block: then records stand on the device that only this purge's own makes void.
    found: bool,
}

/// Purges that are under way.
#[derive(Default)]
pub(super) struct Purges {
    jobs: ArrayVec<Job, MAX_PURGES>,
}

impl Purges {
    /// Whether a namespace is being purged: nothing of it is found or taken until that is done.
    #[inline]
    pub fn covers(&self, namespace: u32) -> bool {
        !self.jobs.is_empty() && self.jobs.iter().any(|job| job.namespace == namespace)
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Records of a segment's life could not be written, from `committed` on: purges among them are recorded anew.
    pub fn note_lost(&mut self, generation: u64, committed: u32) {
        for job in &mut self.jobs {
            job.record.take_if(|(life, upto)| *life == generation && *upto > committed);
        }
    }
}

impl<P> Shard<P> {
    /// Removes every block of a namespace. They are invisible from now on, and stay away for good once
    /// [`is_purging`](Self::is_purging) says no. `false` if too many purges are under way or the shard is
    /// recovering: ask again.
    #[must_use]
    pub fn purge(&mut self, namespace: u32) -> bool {
        if self.purges.covers(namespace) {
            return true;
        }
        let job = Job { namespace, record: None, cursor: 0, swept: false, found: false };
        self.is_ready() && self.purges.jobs.try_push(job).is_ok()
    }

    /// Whether a namespace is still being purged, or the record of it is not yet written down, or stores of it that
    /// were under way have not yet ended.
    ///
    /// In a store that is full of blocks that must stay, a namespace that holds nothing is purged without a record. If
    /// blocks of it may be hidden on the device (after damage, or after records were lost), the purge waits until
    /// other blocks are deleted.
    #[must_use]
    pub fn is_purging(&self, namespace: u32) -> bool {
        self.purges.covers(namespace)
    }

    /// Goes on with the purges.
    pub(super) fn purge_step(&mut self) -> usize {
        if self.purges.is_empty() {
            return 0;
        }
        let mut steps = 0;
        for at in 0..self.purges.jobs.len() {
            if self.purges.jobs[at].record.is_none()
                && let Some(tail) = self.tail_of_removal(None)
            {
                let record = Record::keyless(Kind::Purge, self.purges.jobs[at].namespace, self.next_sequence());
                self.append(tail, record, None);
                self.purges.jobs[at].record = Some((self.tails[tail].generation, self.tails[tail].len()));
                steps += 1;
            }
        }
        // One after the other, so that a turn stays short.
        if let Some(at) = self.purges.jobs.iter().position(|job| !job.swept) {
            steps += self.sweep_purge(at);
        }
        let before = self.purges.jobs.len();
        let unrecorded = self.is_stuck() && !self.may_hide_blocks();
        let Self { purges, tails, namespaces, .. } = self;
        purges.jobs.retain(|job| {
            let written = match job.record {
                Some((life, upto)) => {
                    !tails.iter().any(|tail| tail.segment.is_some() && tail.generation == life && tail.committed < upto)
                }
                // A namespace that holds nothing frees no room for a record either, and needs none.
                None => unrecorded && !job.found,
            };
            // What was reserved before is published under the purge, which takes it, or it would be found by whoever
            // gets the name next.
            !(job.swept && written && namespaces.used(job.namespace) == 0)
        });
        steps + before - self.purges.jobs.len()
    }

    /// Whether records of blocks may stand on the device that the index does not know of: their tombstones were lost,
    /// or they could not be read or taken in at the start.
    fn may_hide_blocks(&self) -> bool {
        let recovery = &self.stats.recovery;
        let unread = recovery.damaged_pages + recovery.damaged_records + recovery.quarantined + recovery.index_full;
        unread + self.stats.lost_records + self.stats.lost_blocks + self.stats.damaged_pages > 0
    }

    /// Whether nothing goes on with the purges until blocks are removed or the device comes round.
    pub(super) fn purges_rest(&self) -> bool {
        let waits = |job: &Job| job.swept && job.record.is_none();
        self.purges.is_empty() || (self.is_stuck() && self.purges.jobs.iter().all(waits))
    }

    fn sweep_purge(&mut self, at: usize) -> usize {
        let Job { namespace, cursor, .. } = self.purges.jobs[at];
        let end = self.index.high_water();
        let stop = cursor.saturating_add(STEP).min(end);
        for entry in cursor..stop {
            let id = EntryId(entry);
            if self.index.get(id).is_some_and(|entry| entry.space().namespace() == namespace) {
                self.forget(id);
                self.purges.jobs[at].found = true;
            }
        }
        self.purges.jobs[at].cursor = stop;
        self.purges.jobs[at].swept = stop == end;
        (stop - cursor).max(1) as usize
    }
}
