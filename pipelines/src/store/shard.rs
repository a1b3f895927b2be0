//! A shard: everything of the store that one core owns.

use std::collections::VecDeque;

use dataplane::Burst;
use dataplane::core::{Poll, Ticks};
use dataplane::memory::ArenaBuffer;
use dataplane::nvme::spec::kv::Key;
use dataplane::nvme::spec::vendor::Tier;
use dataplane::nvme::{BlockError, BlockQueue};

use super::StoreError;
use super::commit::Commit;
use super::evict::Evict;
use super::extent::{Duty, Found, Hold};
use super::index::{Entry, EntryId, Index};
use super::layout::{Layout, UNIT_BYTES};
use super::lease::{Ended, Leases};
use super::moves::Moves;
use super::operation::Operations;
use super::page::PAGE_BYTES;
use super::policy::KeepHot;
use super::publish::{Class, padded};
use super::purge::Purges;
use super::quota::Namespaces;
use super::record::Record;
use super::recover::Recovery;
use super::segment::{SegmentTable, State};
use super::space::BlockId;
use super::staging::CHUNK_BYTES;
use super::stats::ShardStats;
use super::superblock::Superblock;
use super::tail::{TAILS, Tail};

/// What a shard is opened with.
#[derive(Clone, Copy, Debug)]
pub struct ShardConfig {
    /// What the store is.
    pub superblock: Superblock,
    /// Which shard of it.
    pub shard: u32,
    /// The top byte of the tokens of the shard's commands; the lower 56 bits must be zero.
    pub token_base: u64,
    /// Seeds the index's hash. Secret, and another at each start.
    pub seed: u64,
    /// The most blocks. Each takes 48 bytes, and 8 more during recovery.
    pub entries: u32,
    /// How long a record of the cache class waits for its commit, in ticks; twice that where commits share a flush.
    pub commit_ticks: u64,
    /// Pairs of lease and block.
    pub max_leases: u32,
    /// Durable commands that may wait for their commit without an allocation.
    pub max_tickets: u32,
    /// How much of a segment eviction moves on for being hot, in percent of its data area.
    pub move_percent: u32,
}

impl ShardConfig {
    /// The usual settings. A tick is taken to be a nanosecond for `commit_ticks` (500 ms).
    #[must_use]
    pub fn new(superblock: Superblock, shard: u32, token_base: u64, seed: u64) -> Self {
        let blocks = superblock.data_bytes() / u64::from(superblock.mean_value_bytes.max(UNIT_BYTES))
            * u64::from(superblock.segments_per_shard);
        Self {
            superblock,
            shard,
            token_base,
            seed,
            entries: blocks.clamp(1024, u64::from(u32::MAX - 1)) as u32,
            commit_ticks: 500_000_000,
            max_leases: 4096,
            max_tickets: 4096,
            move_percent: 25,
        }
    }
}

/// What a queue's geometry says that the machines need.
#[derive(Clone, Copy)]
pub(super) struct Facts {
    pub volatile: bool,
    pub deallocate: bool,
    pub max_units: u32,
}

impl Facts {
    fn of<B: BlockQueue>(blocks: &B) -> Self {
        let geometry = blocks.geometry();
        Self {
            volatile: geometry.volatile_cache,
            deallocate: geometry.deallocate,
            max_units: (geometry.max_transfer / UNIT_BYTES).max(1),
        }
    }
}

/// One core's part of the store.
///
/// It does no I/O by itself: [`poll`](Self::poll) and [`done`](Self::done) push commands into the queue that they
/// are given, under tokens that begin with `token_base`, and the caller rings the queue once a turn.
pub struct Shard<P = KeepHot> {
    pub(super) config: ShardConfig,
    pub(super) layout: Layout,
    pub(super) policy: P,
    pub(super) index: Index,
    pub(super) table: SegmentTable,
    pub(super) tails: [Tail; TAILS],
    /// The tail of the segment that takes values.
    pub(super) open: Option<usize>,
    /// Next free unit of the open segment, from its start.
    pub(super) fill: u32,
    pub(super) sequence: u64,
    pub(super) namespaces: Namespaces,
    pub(super) durable_bytes: u64,
    /// Bytes reserved for durable blocks that are not published yet, padded.
    pub(super) durable_reserved: u64,
    pub(super) leases: Leases,
    pub(super) purges: Purges,
    pub(super) commit: Commit,
    /// Values were written that no flush has followed.
    pub(super) dirty: bool,
    /// Pages likewise.
    pub(super) unflushed_pages: bool,
    pub(super) evict: Evict,
    pub(super) moves: Moves,
    /// Evictions in a row that won next to nothing.
    pub(super) barren: u32,
    pub(super) recovery: Option<Box<Recovery>>,
    pub(super) draining: bool,
    /// Devices that are known to be gone for good.
    gone_devices: usize,
    clean_mark: bool,
    pub(super) ops: Operations,
    pub(super) staging: ArenaBuffer,
    pub(super) page: Box<[u8; PAGE_BYTES]>,
    pub(super) chunk: Box<[u8]>,
    pub(super) ended: VecDeque<(u64, bool)>,
    pub(super) now: Ticks,
    pub(super) stats: ShardStats,
}

impl Shard<KeepHot> {
    /// Opens a shard with the default eviction policy. It recovers as it is polled.
    ///
    /// `staging` must be at least [`STAGING_BYTES`](Self::STAGING_BYTES) long and begin at a multiple of 4096.
    ///
    /// # Errors
    /// [`StoreError::Setting`] for settings out of range.
    pub fn open(config: ShardConfig, staging: ArenaBuffer) -> Result<Self, StoreError> {
        Self::with_policy(config, staging, KeepHot)
    }
}

impl<P> Shard<P> {
    /// As [`open`](Shard::open), with another policy.
    ///
    /// # Errors
    /// As [`open`](Shard::open).
    pub fn with_policy(config: ShardConfig, staging: ArenaBuffer, policy: P) -> Result<Self, StoreError> {
        check(&config, &staging)?;
        let layout = Layout::new(&config.superblock, config.shard);
        let tickets = config.max_tickets as usize;
        Ok(Self {
            layout,
            policy,
            index: Index::new(config.entries, config.seed),
            table: SegmentTable::new(&layout),
            tails: std::array::from_fn(|_| Tail::new(layout.max_records(), tickets)),
            open: None,
            fill: 0,
            sequence: 1,
            namespaces: Namespaces::new(),
            durable_bytes: 0,
            durable_reserved: 0,
            leases: Leases::new(config.max_leases),
            purges: Purges::default(),
            commit: Commit::default(),
            dirty: false,
            unflushed_pages: false,
            evict: Evict::default(),
            moves: Moves::default(),
            barren: 0,
            recovery: Some(Box::new(Recovery::new(&layout, config.entries))),
            draining: false,
            gone_devices: 0,
            clean_mark: false,
            ops: Operations::new(config.token_base),
            staging,
            page: Box::new([0; PAGE_BYTES]),
            chunk: vec![0; CHUNK_BYTES as usize].into_boxed_slice(),
            ended: VecDeque::with_capacity(tickets),
            now: Ticks(0),
            stats: ShardStats::default(),
            config,
        })
    }

    /// Whether recovery is over.
    #[must_use]
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.recovery.is_none()
    }

    /// Bytes of memory that the index takes: 48 or less for each block that it has room for.
    #[must_use]
    pub fn index_bytes(&self) -> usize {
        self.index.bytes()
    }

    /// Where the shard lies.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The hash under which the other methods know a block.
    #[must_use]
    #[inline]
    pub fn hash(&self, id: &BlockId) -> u64 {
        self.index.hash(id)
    }

    /// Asks the cache for the buckets of a hash, a burst ahead of [`find`](Self::find).
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch_bucket(hash);
    }

    /// Asks the cache for the entry of a hash whose buckets have arrived.
    pub fn prefetch_entry(&self, hash: u64) {
        self.index.prefetch_entry(hash);
    }

    /// Looks a block up. During recovery nothing is found, and nothing on a device that is gone for good.
    #[must_use]
    #[inline(always)]
    pub fn find(&self, hash: u64, id: &BlockId) -> Option<Found> {
        if !self.is_ready() || self.purges.covers(id.space.namespace()) {
            return None;
        }
        let at = self.index.find(hash, id)?;
        let entry = self.index.get(at)?;
        if self.table.any_gone && self.is_on_gone(entry.unit) {
            return None;
        }
        Some(Found {
            unit: entry.unit,
            bytes: entry.bytes(),
            checksum: entry.checksum,
            class: entry.class(),
            tier: Tier::Flash,
            leased: entry.leased(),
            lba_shift: self.layout.lba_shift(),
            segment: self.layout.segment_of(entry.unit),
            entry: at,
        })
    }

    /// Whether a unit lies on a device that is gone for good.
    #[cold]
    fn is_on_gone(&self, unit: u32) -> bool {
        self.table.is_gone(self.layout.segment_of(unit))
    }

    /// Counts a retrieve hit, which eviction looks at.
    #[inline]
    pub fn touch(&mut self, found: &Found) {
        if let Some(entry) = self.entry_of(found) {
            entry.touch();
        }
    }

    /// Keeps the extent of a block in place while its bytes move. `found` must be of this turn: nothing may have
    /// been polled or published in between.
    #[inline]
    pub fn hold(&mut self, found: &Found) -> Hold {
        self.table.at_mut(found.segment).holds += 1;
        Hold { unit: found.unit, entry: found.entry, duty: Duty::new() }
    }

    /// Gives a hold back.
    #[inline]
    pub fn release(&mut self, hold: Hold) {
        self.table.at_mut(self.layout.segment_of(hold.unit)).holds -= 1;
        hold.duty.discharge();
    }

    /// Puts a block under a lease until `expires`, or prolongs it. `false` if the table of leases is full or the
    /// block is gone.
    pub fn lease(&mut self, found: &Found, lease: u32, expires: Ticks) -> bool {
        let Some(id) = self.entry_of(found).map(|entry| entry.id()) else { return false };
        let hash = self.index.hash(&id);
        let taken = self.leases.add(lease, found.entry, hash, expires);
        if taken && let Some(entry) = self.entry_of(found) {
            entry.set_leased(true);
        }
        taken
    }

    /// Ends a lease for all its blocks.
    pub fn unlease(&mut self, lease: u32) {
        while let Some(ended) = self.leases.pop(lease) {
            self.end_lease(ended);
        }
    }

    /// Pairs of lease and block in use.
    #[must_use]
    pub fn leased(&self) -> u32 {
        self.leases.len()
    }

    /// Keeps a block from eviction until it is unpinned. `false` if it is gone.
    pub fn pin(&mut self, found: &Found, on: bool) -> bool {
        self.barren = 0;
        self.entry_of(found).map(|entry| entry.set_pinned(on)).is_some()
    }

    /// Lets a block go at the next eviction however often it was retrieved. `false` if it is gone.
    pub fn demote(&mut self, found: &Found) -> bool {
        self.entry_of(found).map(|entry| entry.set_demoted(true)).is_some()
    }

    /// Durable tickets that ended, and whether their records are safe.
    pub fn committed(&mut self, out: &mut Burst<(u64, bool)>) {
        while !out.is_full()
            && let Some(ended) = self.ended.pop_front()
        {
            out.push(ended);
        }
    }

    /// Bytes that a namespace holds here, padded to 4096 and with its reservations.
    #[must_use]
    pub fn used_bytes(&self, namespace: u32) -> u64 {
        self.namespaces.used(namespace)
    }

    /// Walks the keys of a namespace, in no particular order: looks at up to `budget` entries from `cursor` (0 at
    /// first) and says where to go on, `None` at the end.
    #[must_use]
    pub fn list(&self, namespace: u32, cursor: u32, budget: u32, out: &mut Burst<(Key, u8)>) -> Option<u32> {
        let end = self.index.high_water();
        let stop = cursor.saturating_add(budget).min(end);
        let hidden = !self.is_ready() || self.purges.covers(namespace);
        for at in cursor..stop {
            if out.is_full() {
                return Some(at);
            }
            if let Some(entry) = self.index.get(EntryId(at))
                && entry.space().namespace() == namespace
                && !hidden
                && !self.table.is_gone(self.layout.segment_of(entry.unit))
            {
                out.push((entry.id().key, entry.space().key_bytes()));
            }
        }
        (stop < end).then_some(stop)
    }

    /// What the shard is and did. Walks the table of segments: not for the hot path.
    #[must_use]
    pub fn stats(&self) -> ShardStats {
        let unit = u64::from(UNIT_BYTES);
        ShardStats {
            blocks: u64::from(self.index.len()),
            live_bytes: self.table.live_units * unit,
            capacity_bytes: u64::from(self.layout.data_units()) * u64::from(self.layout.segments) * unit,
            segments_free: self.table.count(State::Free),
            segments_open: self.table.count(State::Open),
            segments_closed: self.table.count(State::Closed) + self.table.count(State::Evicting),
            segments_retired: self.table.count(State::Retired),
            gone_blocks: self.table.gone_blocks(),
            device_errors: self.ops.errors,
            ..self.stats
        }
    }

    pub(super) fn next_sequence(&mut self) -> u64 {
        let sequence = self.sequence;
        self.sequence += 1;
        sequence
    }

    /// How many bytes blocks that are never evicted may take, padded: what remains if eviction is to have room.
    pub(super) fn durable_limit(&self) -> u64 {
        let usable = u64::from(self.layout.segments.saturating_sub(self.low_water() + 1));
        usable * u64::from(self.layout.data_units()) * u64::from(UNIT_BYTES) / 10 * 9
    }

    /// Eviction begins when fewer segments than this are free.
    pub(super) fn low_water(&self) -> u32 {
        if self.layout.segments < 8 { 2 } else { (self.layout.segments * 3).div_ceil(100).max(3) }
    }

    fn entry_of(&mut self, found: &Found) -> Option<&mut Entry> {
        self.index.get_mut(found.entry).filter(|entry| entry.unit == found.unit)
    }

    fn end_lease(&mut self, ended: Ended) {
        let Some(id) = self.index.get(ended.entry).map(Entry::id) else { return };
        if ended.last
            && self.index.hash(&id) == ended.hash
            && let Some(entry) = self.index.get_mut(ended.entry)
        {
            entry.set_leased(false);
            self.barren = 0;
        }
    }

    fn expire_leases(&mut self) {
        while let Some(ended) = self.leases.pop_expired(self.now) {
            self.end_lease(ended);
        }
    }
}

impl<P: super::EvictionPolicy> Shard<P> {
    /// Does what there is to do in the background: recovery, commits, eviction, TRIM, purges, leases that expire.
    /// Costs little when there is nothing.
    pub fn poll<B: BlockQueue>(&mut self, now: Ticks, blocks: &mut B) -> Poll {
        self.now = now;
        self.expire_leases();
        Poll::of(self.advance(blocks))
    }

    /// Takes the completion of a command of the shard's own.
    pub fn done<B: BlockQueue>(&mut self, token: u64, result: Result<(), BlockError>, blocks: &mut B) {
        self.ops.end(token, result);
        self.advance(blocks);
    }

    /// Writes down everything that is pending and then a mark that the shutdown was clean. Call it instead of
    /// [`poll`](Self::poll), once no extent is out any more, until it says `true`.
    pub fn drain<B: BlockQueue>(&mut self, now: Ticks, blocks: &mut B) -> bool {
        self.now = now;
        self.draining = true;
        if self.recovery.is_some() {
            return self.ops.settle();
        }
        self.advance(blocks);
        let written = self.tails.iter().all(|tail| tail.segment.is_none() || tail.uncommitted() == 0);
        let rests = self.evict.is_at_rest() || self.is_stalled();
        if !written || !self.ops.is_idle() || !rests || !self.purges_rest() {
            return false;
        }
        if !self.clean_mark {
            self.clean_mark = true;
            if let Some(tail) = self.tail_with_room(false) {
                let record = Record::keyless(super::record::Kind::Clean, 0, self.next_sequence());
                self.append(tail, record, None);
                return false;
            }
        }
        true
    }

    /// Notes which segments lie on devices that are gone for good.
    #[cold]
    fn note_gone<B: BlockQueue>(&mut self, blocks: &B) {
        self.gone_devices = blocks.gone_devices();
        for segment in 0..self.layout.segments {
            self.table.at_mut(segment).gone = blocks.is_gone(self.layout.page_lba(segment, 0));
        }
        self.table.any_gone = self.table.segments.iter().any(|segment| segment.gone);
    }

    fn advance<B: BlockQueue>(&mut self, blocks: &mut B) -> usize {
        if blocks.gone_devices() != self.gone_devices {
            self.note_gone(blocks);
        }
        let facts = Facts::of(blocks);
        let mut steps = if self.recovery.is_some() {
            self.recovery_step(facts)
        } else {
            self.commit_step(facts) + self.evict_step(facts) + self.purge_step()
        };
        steps += self.ops.push(blocks);
        steps
    }
}

fn check(config: &ShardConfig, staging: &ArenaBuffer) -> Result<(), StoreError> {
    let fail = |why: String| Err(StoreError::Setting(why));
    let need = Shard::<()>::STAGING_BYTES;
    if config.shard >= config.superblock.shards {
        return fail(format!("shard {} of a store of {} shards", config.shard, config.superblock.shards));
    }
    if config.token_base & 0x00FF_FFFF_FFFF_FFFF != 0 {
        return fail("the token base may use its top byte only".to_owned());
    }
    if config.entries == 0 || config.entries == u32::MAX {
        return fail("the index needs between 1 and 4,294,967,294 entries".to_owned());
    }
    if config.move_percent > 75 {
        return fail(format!("moving {}% of a segment wins too little; use 75 or less", config.move_percent));
    }
    if staging.bytes() < need || !staging.slice().address().is_multiple_of(u64::from(UNIT_BYTES)) {
        return fail(format!("staging memory must be {need} bytes or more, from a multiple of {UNIT_BYTES}"));
    }
    Ok(())
}

/// Whether a block must outlive its segment.
pub(super) fn must_stay(entry: &Entry) -> bool {
    entry.class() == Class::Durable || entry.leased() || entry.pinned()
}

/// Bytes of a block as eviction's budget counts them.
pub(super) fn cost(entry: &Entry) -> u64 {
    padded(entry.bytes())
}
