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
    recorded: bool,
    cursor: u32,
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
        self.is_ready() && self.purges.jobs.try_push(Job { namespace, recorded: false, cursor: 0 }).is_ok()
    }

    /// Whether a namespace is still being purged, or the record of it is not yet written down.
    #[must_use]
    pub fn is_purging(&self, namespace: u32) -> bool {
        self.purges.covers(namespace)
            || self.tails.iter().any(|tail| tail.segment.is_some() && tail.urgent > tail.committed)
    }

    /// Goes on with the first purge.
    pub(super) fn purge_step(&mut self) -> usize {
        let Some(&Job { namespace, recorded, cursor }) = self.purges.jobs.first() else { return 0 };
        let mut steps = 0;
        if !recorded && let Some(tail) = self.tail_with_room(false) {
            let sequence = self.next_sequence();
            self.append(tail, Record::keyless(Kind::Purge, namespace, sequence), None);
            self.purges.jobs[0].recorded = true;
            steps += 1;
        }
        let end = self.index.high_water();
        let stop = cursor.saturating_add(STEP).min(end);
        for at in cursor..stop {
            let id = EntryId(at);
            if self.index.get(id).is_some_and(|entry| entry.space().namespace() == namespace) {
                self.forget(id);
            }
        }
        self.purges.jobs[0].cursor = stop;
        if stop == end && self.purges.jobs[0].recorded {
            self.purges.jobs.remove(0);
            steps += 1;
        }
        steps + (stop - cursor) as usize
    }
}
