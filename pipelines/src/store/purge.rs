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
        let job = Job { namespace, record: None, cursor: 0, swept: false };
        self.is_ready() && self.purges.jobs.try_push(job).is_ok()
    }

    /// Whether a namespace is still being purged, or the record of it is not yet written down, or stores of it that
    /// were under way have not yet ended.
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
                && let Some(tail) = self.tail_with_room(false)
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
        let Self { purges, tails, namespaces, .. } = self;
        purges.jobs.retain(|job| {
            let written = job.record.is_some_and(|(life, upto)| {
                !tails.iter().any(|tail| tail.segment.is_some() && tail.generation == life && tail.committed < upto)
            });
            // What was reserved before is published under the purge, which takes it, or it would be found by whoever
            // gets the name next.
            !(job.swept && written && namespaces.used(job.namespace) == 0)
        });
        steps + before - self.purges.jobs.len()
    }

    fn sweep_purge(&mut self, at: usize) -> usize {
        let Job { namespace, cursor, .. } = self.purges.jobs[at];
        let end = self.index.high_water();
        let stop = cursor.saturating_add(STEP).min(end);
        for entry in cursor..stop {
            let id = EntryId(entry);
            if self.index.get(id).is_some_and(|entry| entry.space().namespace() == namespace) {
                self.forget(id);
            }
        }
        self.purges.jobs[at].cursor = stop;
        self.purges.jobs[at].swept = stop == end;
        (stop - cursor).max(1) as usize
    }
}
