//! Recovery's records: what each makes of the index.

use super::index::{Entry, EntryId};
use super::page::{name_at, record_at};
use super::publish::padded;
use super::record::{Kind, RECORDS_PER_PAGE, Record};
use super::recover::Recovery;
use super::shard::Shard;

/// Entries looked at in one step of the sweep.
const SWEEP_STEP: usize = 1 << 16;

impl<P> Shard<P> {
    /// Applies the records of a page, asking for the index's cache lines ahead.
    pub(super) fn apply_page(&mut self, recovery: &mut Recovery, segment: u32, count: u32, page: &[u8]) {
        let mut hashes = [0; RECORDS_PER_PAGE as usize];
        for (place, hash) in (0..count).zip(&mut hashes) {
            if let Some(id) = name_at(page, place) {
                *hash = self.index.hash(&id);
                self.index.prefetch_bucket(*hash);
            }
        }
        let hashes = &hashes[..hashes.len().min(count as usize)];
        hashes.iter().for_each(|&hash| self.index.prefetch_entry(hash));
        self.stats.recovery.records += u64::from(count);
        for (place, &hash) in (0..).zip(hashes) {
            match record_at(page, place) {
                Some(record) => self.apply(recovery, segment, hash, &record),
                None => self.stats.recovery.damaged_records += 1,
            }
        }
    }

    fn apply(&mut self, recovery: &mut Recovery, segment: u32, hash: u64, record: &Record) {
        recovery.newest = recovery.newest.max(record.sequence);
        match record.kind {
            Kind::Put if !self.layout.holds(record.offset, record.bytes) => self.stats.recovery.damaged_records += 1,
            Kind::Put => self.apply_put(recovery, segment, hash, record),
            Kind::Tombstone => {
                if let Some(at) = self.index.find(hash, &record.id)
                    && recovery.sequences[at.0 as usize] < record.sequence
                {
                    self.forget(at);
                }
            }
            Kind::Purge => {
                let namespace = record.id.space.namespace();
                match recovery.purged.iter_mut().find(|(name, _)| *name == namespace) {
                    Some((_, sequence)) => *sequence = record.sequence.max(*sequence),
                    None => recovery.purged.push((namespace, record.sequence)),
                }
            }
            Kind::Clean => recovery.clean_at = recovery.clean_at.max(record.sequence),
        }
    }

    fn apply_put(&mut self, recovery: &mut Recovery, segment: u32, hash: u64, record: &Record) {
        if record.sequence < recovery.purged_at(record.id.space.namespace()) {
            return;
        }
        let unit = self.layout.segment_unit(segment) + record.offset;
        let entry = Entry::new(&record.id, unit, record.bytes, record.checksum, record.parent, record.class);
        let at = match self.index.find(hash, &record.id) {
            Some(at) => {
                let Some(&old) = self.index.get(at) else { return };
                let known = recovery.sequences[at.0 as usize];
                let age = |unit| self.table.at(self.layout.segment_of(unit)).generation;
                if record.sequence <= known {
                    // What holds lies in an older segment than what it supersedes: see `is_late`.
                    if record.sequence < known
                        && age(unit) > age(old.unit)
                        && let Some(entry) = self.index.get_mut(at)
                    {
                        entry.set_late(true);
                    }
                    return;
                }
                // Segments are applied oldest first, so the newer value lies no deeper than the one it supersedes.
                debug_assert!(age(unit) >= age(old.unit));
                self.note_loss(&old);
                self.namespaces.sub(old.space().namespace(), padded(old.bytes()));
                if let Some(slot) = self.index.get_mut(at) {
                    *slot = entry;
                }
                at
            }
            None => match self.index.insert(hash, entry) {
                Ok(at) => at,
                Err(_) => {
                    self.stats.recovery.index_full += 1;
                    return;
                }
            },
        };
        recovery.sequences[at.0 as usize] = record.sequence;
        self.note_gain(&entry);
        self.namespaces.add(entry.space().namespace(), padded(entry.bytes()));
    }

    /// Removes what was applied before the record of a purge was seen.
    pub(super) fn sweep_purged(&mut self, recovery: &mut Recovery) -> bool {
        let end = self.index.high_water() as usize;
        if recovery.purged.is_empty() || recovery.swept >= end {
            return true;
        }
        let stop = (recovery.swept + SWEEP_STEP).min(end);
        for at in recovery.swept..stop {
            let id = EntryId(at as u32);
            let Some(entry) = self.index.get(id) else { continue };
            if recovery.sequences[at] < recovery.purged_at(entry.space().namespace()) {
                self.forget(id);
            }
        }
        recovery.swept = stop;
        stop == end
    }
}
