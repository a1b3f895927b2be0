//! The way of a block: room is reserved, the value written by the caller, the block published, later deleted.

use dataplane::nvme::spec::kv::StoreOptions;

use super::extent::{Duty, Extent, Hold};
use super::index::{Entry, EntryId};
use super::layout::{Layout, UNIT_BYTES};
use super::record::{Kind, Record};
use super::shard::Shard;
use super::space::BlockId;

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The block may be lost; it is acknowledged once its value is written.
    Cache,
    /// The block survives a power cut; it is acknowledged once its record is durable. Never evicted.
    Durable,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The value is longer than the store takes.
    #[error("the value is longer than this store takes")]
    TooLarge,
    /// The namespace's quota would be exceeded.
    #[error("the namespace's quota would be exceeded")]
    OverQuota,
    /// Not now: recovery, eviction or a purge is under way. Ask again after the shard was polled.
    #[error("no room right now, ask again")]
    Wait,
    /// Everything is taken by blocks that must stay.
    #[error("the store is full of blocks that must stay")]
    NoSpace,
}

/// What is to become visible.
#[derive(Clone, Copy, Debug)]
pub struct NewBlock {
    /// Its name.
    pub id: BlockId,
    /// [`Shard::hash`] of the name.
    pub hash: u64,
    /// Length of the value: what was reserved.
    pub bytes: u32,
    /// CRC-64/NVME of the value, 0 for none.
    pub checksum: u64,
    /// Link to the chain's parent, 0 for none.
    pub parent: u64,
    /// What the acknowledgement will promise.
    pub class: Class,
    /// Existence conditions.
    pub condition: StoreOptions,
}

/// How publishing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Published {
    /// Visible; acknowledge now.
    Visible,
    /// Visible; acknowledge when [`Shard::committed`] hands the ticket out.
    Pending,
    /// Not stored: the key exists and must not.
    KeyExists,
    /// Not stored: the key does not exist and must.
    KeyMissing,
    /// Not stored: the index has no room.
    IndexFull,
}

/// How deleting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Deleted {
    /// There was no such block.
    Missing,
    /// Gone; acknowledge now.
    Done,
    /// Gone; acknowledge when [`Shard::committed`] hands the ticket out.
    Pending,
    /// Nothing was done, for there is no room for the record right now. Ask again after the shard was polled.
    Wait,
}

/// Bytes that a value takes on the device.
pub(super) fn padded(bytes: u32) -> u64 {
    u64::from(Layout::units_of(bytes)) * u64::from(UNIT_BYTES)
}

impl<P> Shard<P> {
    /// Takes room for a value of a namespace. The caller writes the value to it and then publishes or abandons it.
    ///
    /// `class` is that of the block to be published. `quota` limits what the namespace holds in this shard,
    /// reservations included, in bytes padded to 4096.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn reserve(&mut self, namespace: u32, bytes: u32, class: Class, quota: Option<u64>) -> Result<Extent, Refusal> {
        if !self.is_ready() || self.draining || self.purges.covers(namespace) {
            return Err(Refusal::Wait);
        }
        if bytes > self.layout.max_value_bytes {
            return Err(Refusal::TooLarge);
        }
        let takes = padded(bytes);
        if quota.is_some_and(|quota| self.namespaces.used(namespace) + takes > quota) {
            return Err(Refusal::OverQuota);
        }
        // Blocks under way count, or as many as a queue holds would slip past the limit together.
        let durable = class == Class::Durable;
        if durable && self.durable_bytes + self.durable_reserved + takes > self.durable_limit() {
            return Err(Refusal::NoSpace);
        }
        let mut extent = self.allocate(namespace, bytes, false)?;
        extent.class = class;
        self.namespaces.add(namespace, takes);
        if durable {
            self.durable_reserved += takes;
        }
        Ok(extent)
    }

    /// Makes a block visible whose value was written to `extent`, and writes its record down with the next commit.
    ///
    /// An earlier value of the key is superseded; if a durable store's ticket says that it failed, that value is there
    /// again. After a restart it is too, unless the device wrote the record in spite of the error that it gave.
    /// `ticket` comes back from [`committed`](Self::committed) if the
    /// answer is [`Published::Pending`].
    pub fn publish(&mut self, extent: Extent, block: NewBlock, ticket: u64) -> Published {
        debug_assert_eq!(extent.bytes, block.bytes);
        let namespace = block.id.space.namespace();
        debug_assert_eq!(extent.namespace, namespace);
        debug_assert_eq!(extent.class, block.class);
        let old = self.index.find(block.hash, &block.id);
        // What lies on a device that is gone is a miss for whoever asks, so it does not exist here either.
        let shown = old.and_then(|at| self.index.get(at));
        let shown = shown.filter(|entry| !self.table.is_gone(self.layout.segment_of(entry.unit)));
        let refused = match shown {
            Some(_) if block.condition.must_not_exist => Some(Published::KeyExists),
            None if block.condition.must_exist => Some(Published::KeyMissing),
            // The purge that is under way counts as later than this store, which has no one to tell.
            _ if self.purges.covers(namespace) => Some(Published::Visible),
            _ => None,
        };
        if let Some(refused) = refused {
            self.abandon(extent);
            return refused;
        }
        let tail = self.tails.iter().position(|tail| tail.segment == Some(extent.segment));
        let durable = block.class == Class::Durable;
        if durable && tail.is_none_or(|tail| self.tails[tail].failed) {
            // No record can be written there any more, and what there is of the key must stay.
            self.stats.lost_records += 1;
            self.abandon(extent);
            self.ended.push_back((ticket, false));
            return Published::Pending;
        }
        let mut entry = Entry::new(&block.id, extent.unit, extent.bytes, block.checksum, block.parent, block.class);
        entry.set_late(self.is_late(extent.segment));
        if let Some(at) = old {
            let superseded = self.supersede(at, entry);
            if let (true, Some(tail), Some(superseded)) = (durable, tail, superseded) {
                self.keep_old(tail, at, entry.unit, superseded);
            }
        } else if self.index.insert(block.hash, entry).is_err() {
            self.stats.index_full += 1;
            self.abandon(extent);
            return Published::IndexFull;
        }
        self.note_gain(&entry);
        self.end_reservation(&extent);
        self.stats.value_bytes_written += padded(extent.bytes);
        let record = Record {
            id: block.id,
            bytes: extent.bytes,
            offset: extent.unit - self.layout.segment_unit(extent.segment),
            kind: Kind::Put,
            class: block.class,
            checksum: block.checksum,
            parent: block.parent,
            sequence: self.next_sequence(),
        };
        let ticket = durable.then_some(ticket);
        self.settle_extent(extent, Some((record, ticket)));
        if ticket.is_some() { Published::Pending } else { Published::Visible }
    }

    /// Gives room back whose value was not, or not fully, written. The room itself is lost until the segment goes.
    pub fn abandon(&mut self, extent: Extent) {
        self.namespaces.sub(extent.namespace, padded(extent.bytes));
        self.end_reservation(&extent);
        self.settle_extent(extent, None);
    }

    fn end_reservation(&mut self, extent: &Extent) {
        if extent.class == Class::Durable {
            self.durable_reserved -= padded(extent.bytes);
        }
    }

    /// Removes a block. `ticket` comes back from [`committed`](Self::committed) if the answer is
    /// [`Deleted::Pending`]: for the durable class, when the deletion survives a power cut.
    ///
    /// The block is gone in any case. A deletion whose record the device does not take, so that its ticket says that it
    /// failed, is recorded anew when the device takes records again, and at the latest before the next segment goes, if
    /// there is room; until then a restart brings the block back.
    pub fn delete(&mut self, hash: u64, id: &BlockId, class: Class, ticket: u64) -> Deleted {
        if !self.is_ready() {
            return Deleted::Wait;
        }
        if self.purges.covers(id.space.namespace()) {
            return Deleted::Missing;
        }
        let Some(at) = self.index.find(hash, id) else { return Deleted::Missing };
        let Some(tail) = self.tail_of_removal(Some(at)) else { return Deleted::Wait };
        self.forget(at);
        let record = Record::bare(Kind::Tombstone, *id, class, self.next_sequence());
        let ticket = (class == Class::Durable).then_some(ticket);
        self.append(tail, record, ticket);
        if ticket.is_some() { Deleted::Pending } else { Deleted::Done }
    }

    /// Drops a block whose bytes the medium does not give back, so that it is a miss from now on and whoever needs it stores
    /// it again. Only what was read is dropped: a value that was stored under the key since, or that eviction moved, lies
    /// elsewhere and stays. `false` if there was nothing to drop, if the block's own record is not written down yet, or if
    /// there is no room for the tombstone without which an older value could come back; then the next read finds it
    /// unreadable again.
    ///
    /// After a restart it is a miss too, unless the tombstone was not written by then. One that the device does not take is
    /// written elsewhere once it takes records again, and before the next segment goes if there is room: until then nothing
    /// that it removes can be the last of its key.
    #[cold]
    #[inline(never)]
    pub fn drop_unreadable(&mut self, hold: &Hold) -> bool {
        // The hold keeps the segment, so nothing else can lie there by now.
        let Some(entry) = self.index.get(hold.entry).filter(|entry| entry.unit == hold.unit) else { return false };
        let (id, class) = (entry.id(), entry.class());
        // A value whose record may yet fail leaves what it superseded, and that must not be dropped in its place.
        if self.purges.covers(id.space.namespace()) || self.may_go_back(hold.entry, hold.unit) {
            return false;
        }
        let Some(tail) = self.tail_of_removal(Some(hold.entry)) else { return false };
        tracing::warn!(shard = self.config.shard, unit = hold.unit, ?class, "a block cannot be read and is dropped");
        self.forget(hold.entry);
        // Nobody waits for it, but it is to last as the block was.
        let tombstone = Record::bare(Kind::Tombstone, id, class, self.next_sequence());
        self.append(tail, tombstone, None);
        self.stats.lost_blocks += 1;
        true
    }

    /// Puts a new value into the entry of a key. Leases and pins are on the key and stay.
    fn supersede(&mut self, at: EntryId, mut entry: Entry) -> Option<Entry> {
        let old = *self.index.get(at)?;
        self.note_loss(&old);
        entry.set_leased(old.leased());
        entry.set_pinned(old.pinned());
        if let Some(slot) = self.index.get_mut(at) {
            *slot = entry;
        }
        self.namespaces.sub(old.space().namespace(), padded(old.bytes()));
        Some(old)
    }

    /// Removes an entry and all that is counted of it. Writes no record.
    pub(super) fn forget(&mut self, at: EntryId) -> Option<Entry> {
        let entry = self.index.remove(at)?;
        self.note_loss(&entry);
        self.namespaces.sub(entry.space().namespace(), padded(entry.bytes()));
        Some(entry)
    }

    /// Counts a block where it lies now.
    pub(super) fn note_gain(&mut self, entry: &Entry) {
        self.table.gain(self.layout.segment_of(entry.unit), entry.bytes());
        if entry.class() == Class::Durable {
            self.durable_bytes += padded(entry.bytes());
        }
    }

    /// Counts a block no longer where it lay.
    pub(super) fn note_loss(&mut self, entry: &Entry) {
        self.table.lose(self.layout.segment_of(entry.unit), entry.bytes());
        if entry.class() == Class::Durable {
            self.durable_bytes -= padded(entry.bytes());
        }
        // Something can be won by eviction again.
        self.barren = 0;
    }

    /// Whether a record of this segment may supersede one of a younger segment. Such a block must not vanish with
    /// its segment alone: the younger record would come back to life at the next start.
    pub(super) fn is_late(&self, segment: u32) -> bool {
        self.open.is_none_or(|open| self.tails[open].segment != Some(segment))
    }

    /// Takes an extent out of the account of its segment and adds its record, if it has one.
    pub(super) fn settle_extent(&mut self, extent: Extent, record: Option<(Record, Option<u64>)>) {
        let Extent { segment, duty, .. } = extent;
        duty.discharge();
        self.table.at_mut(segment).outstanding -= 1;
        let Some(tail) = self.tails.iter().position(|tail| tail.segment == Some(segment)) else { return };
        if let Some((record, ticket)) = record {
            self.dirty = true;
            self.append(tail, record, ticket);
        }
        self.settle_tail(tail);
    }

    /// An extent in the open segment, and the right to one record there. The eviction's own (`privileged`) may use
    /// the last free segment.
    pub(super) fn allocate(&mut self, namespace: u32, bytes: u32, privileged: bool) -> Result<Extent, Refusal> {
        let units = Layout::units_of(bytes);
        let fits = |shard: &Self| {
            shard.open.is_some_and(|open| shard.fill + units <= shard.layout.units() && shard.record_room(open) > 0)
        };
        // What is left of the last segment belongs to eviction: if others filled it, the blocks that eviction has to
        // move would find no room, and no segment would ever come free again.
        if !privileged && self.table.free.is_empty() && self.open.is_some() {
            return Err(self.no_room());
        }
        if !fits(self) {
            self.rotate(privileged)?;
        }
        let Some(segment) = self.open.and_then(|open| self.tails[open].segment) else { return Err(Refusal::Wait) };
        let unit = self.layout.segment_unit(segment) + self.fill;
        self.fill += units;
        self.table.at_mut(segment).outstanding += 1;
        let lba_shift = self.layout.lba_shift();
        // The class is of account for reservations only, which name it themselves.
        Ok(Extent { unit, bytes, segment, namespace, class: Class::Cache, lba_shift, duty: Duty::new() })
    }

    /// A tail that takes a record without a value. In the last segment, room is left for the records of the blocks
    /// that eviction may have to move next.
    pub(super) fn tail_with_room(&mut self, privileged: bool) -> Option<usize> {
        let next = self.table.log.front().map_or(0, |&oldest| self.table.at(oldest).live_blocks);
        let kept = if privileged || !self.table.free.is_empty() { 0 } else { next };
        if self.open.is_none_or(|open| self.record_room(open) <= kept) {
            self.rotate(privileged).ok()?;
        }
        self.open
    }

    /// A tail for the record that removes a block, or a whole namespace. A store that is full of blocks that must stay
    /// would never have room for it, and never come free again: there the record may go where only eviction writes
    /// otherwise, if the oldest segment's blocks find room behind it all the same.
    pub(super) fn tail_of_removal(&mut self, block: Option<EntryId>) -> Option<usize> {
        if let Some(tail) = self.tail_with_room(false) {
            return Some(tail);
        }
        let &oldest = self.table.log.front()?;
        if !self.is_stuck() {
            return None;
        }
        let entry = block.and_then(|block| self.index.get(block));
        let inside = entry.is_some_and(|entry| self.layout.segment_of(entry.unit) == oldest);
        let needed = self.table.at(oldest).live_blocks - u32::from(inside) + 1;
        let room = if self.table.free.is_empty() {
            self.open.map_or(0, |open| self.record_room(open))
        } else {
            self.layout.max_records()
        };
        if needed <= room {
            return self.tail_with_room(true);
        }
        // Every place for a record is taken. One more segment is rewritten, until the block lies in the oldest.
        if block.is_some() {
            self.barren = self.barren.min(self.table.log.len() as u32);
        }
        None
    }

    /// Records that the segment of a tail still takes, beyond those that extents have a right to.
    fn record_room(&self, tail: usize) -> u32 {
        let outstanding = self.tails[tail].segment.map_or(0, |segment| self.table.at(segment).outstanding);
        self.layout.max_records().saturating_sub(self.tails[tail].len() + outstanding)
    }

    /// Whether waiting for eviction is worth it.
    fn no_room(&self) -> Refusal {
        if self.is_stuck() { Refusal::NoSpace } else { Refusal::Wait }
    }

    /// Sees to it that what comes next lies in another segment than this one, which refused a block so many times over.
    /// `false` if there is none to spare: the last free one must do for the whole victim, and a device that refuses
    /// everything is not to use up the others.
    pub(super) fn leave_segment(&mut self, segment: u32, waits: u32) -> bool {
        let Some(open) = self.open.filter(|&open| self.tails[open].segment == Some(segment)) else { return true };
        if self.table.free.len() < 2 || !self.evict.may_leave(waits) {
            return false;
        }
        self.evict.note_left();
        self.close_open(open, true);
        true
    }

    /// Gives no more room out of the open segment.
    fn close_open(&mut self, open: usize, privileged: bool) {
        // What eviction leaves unused is spent as well: a segment can run out of records long before it is full,
        // and a long value can find no room at the end. Otherwise moving the same blocks for ever looks like gain.
        if privileged {
            self.evict.note_spent(self.layout.units() - self.fill);
        }
        self.open = None;
        self.tails[open].closing = true;
        self.settle_tail(open);
    }

    /// Closes the open segment and opens the next.
    fn rotate(&mut self, privileged: bool) -> Result<(), Refusal> {
        let needed = if privileged { 1 } else { 2 };
        if self.table.free.len() < needed {
            return Err(self.no_room());
        }
        let Some(next) = self.tails.iter().position(|tail| tail.segment.is_none()) else { return Err(Refusal::Wait) };
        if let Some(open) = self.open {
            self.close_open(open, privileged);
        }
        let Some(segment) = self.table.open_next() else { return Err(Refusal::Wait) };
        let generation = self.table.at(segment).generation;
        self.tails[next].begin(segment, generation);
        self.open = Some(next);
        self.fill = self.layout.pages();
        Ok(())
    }
}
