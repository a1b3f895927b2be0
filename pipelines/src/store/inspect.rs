//! Looking at a store without changing it: what `kvplane store inspect` prints.
//!
//! Reads every metadata page, not only as far as recovery does, so it also finds what recovery does not look at.
//! Start-up and tools only: it waits for the device and allocates.

use std::collections::HashMap;

use dataplane::memory::{ArenaBuffer, DmaSlice};
use dataplane::nvme::{BlockIo, BlockOp, BlockQueue};
use serde::Serialize;

use super::format::{load, load_copy, run};
use super::layout::{FIRST_DRAFT, FIRST_HOME, HEADER_FREE, HEADER_OPEN, Layout, UNIT_BYTES};
use super::page::{PAGE_BYTES, PageHeader, PageKind, looks_ours, record_at};
use super::record::{Kind, Record};
use super::segment::{HeaderVerdict, judge};
use super::space::BlockId;
use super::superblock::COPIES;
use super::{Class, StoreError, Superblock};

/// Problems that are listed in words; more are only counted.
const MAX_PROBLEMS: usize = 100;

/// What a segment is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentState {
    /// Holds blocks.
    Used,
    /// Holds nothing, but did.
    Free,
    /// Was never used.
    #[default]
    Blank,
    /// Lost both headers, but has pages.
    Damaged,
}

/// One segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SegmentReport {
    /// Its shard.
    pub shard: u32,
    /// Its number in the shard.
    pub segment: u32,
    /// What it is.
    pub state: SegmentState,
    /// Which opening of a segment of the shard this life began with.
    pub generation: u64,
    /// Pages of records of this life, drafts that a fuller page superseded included.
    pub pages: u32,
    /// Records of this life.
    pub records: u32,
    /// Puts that hold.
    pub live: u32,
    /// Puts that were superseded, deleted or purged.
    pub dead: u32,
    /// Tombstones, purges and marks.
    pub marks: u32,
    /// Bytes of live values.
    pub live_bytes: u64,
    /// Pages that carry the store's mark but are not whole, or cannot be read.
    pub damaged_pages: u32,
}

/// What a record says, and whether that still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordState {
    /// A put that holds.
    Live,
    /// A put of a key that was stored again or deleted later.
    Superseded,
    /// A put in a namespace that was purged later.
    Purged,
    /// The key was deleted.
    Tombstone,
    /// The namespace was purged.
    Purge,
    /// The shard was shut down with everything committed.
    Clean,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordReport {
    /// Its shard.
    pub shard: u32,
    /// Its segment in the shard.
    pub segment: u32,
    /// Its place in the shard's order of records.
    pub sequence: u64,
    /// What it says.
    pub state: RecordState,
    /// The namespace's 28-bit number in the store.
    pub namespace: u32,
    /// The key in hex digits, two a byte, as long as it is; empty for a purge or a clean mark, which name no key.
    pub key: String,
    /// Bytes of the value.
    pub value_bytes: u32,
    /// Byte of the segment at which the value begins; 0 without a value.
    pub value_offset: u64,
    /// Whether it was acknowledged only once it was durable.
    pub durable: bool,
    /// CRC-64/NVME of the value in 16 hex digits, if it was stored with one.
    pub checksum: Option<String>,
    /// The link to the chain's parent in 16 hex digits, if it was stored with one.
    pub parent: Option<String>,
}

/// A whole store, or one shard of it.
#[derive(Clone, Debug, Serialize)]
pub struct StoreReport {
    /// What the store is.
    pub superblock: Superblock,
    /// Every segment that was looked at.
    pub segments: Vec<SegmentReport>,
    /// Keys that have a value.
    pub blocks: u64,
    /// Bytes of their values.
    pub live_bytes: u64,
    /// Records of all segments.
    pub records: u64,
    /// Puts of keys that another put supersedes.
    pub duplicates: u64,
    /// The highest sequence.
    pub sequence: u64,
    /// Bytes of metadata read.
    pub bytes_read: u64,
    /// How many problems there are.
    pub problem_count: u64,
    /// The first of them, in words.
    pub problems: Vec<String>,
}

/// A record of the newest life of a segment, and its place in the report.
struct Held {
    record: Record,
    place: usize,
}

/// Reads and checks a whole store. Writes nothing. `staging` must be 4096 bytes or more and aligned as the device
/// asks.
///
/// # Errors
/// As [`load`]: without a superblock there is nothing to look at. Everything else is a problem in the report.
pub fn inspect<B: BlockQueue>(blocks: &mut B, staging: &ArenaBuffer) -> Result<StoreReport, StoreError> {
    inspect_each(blocks, staging, None, |_| ())
}

/// As [`inspect`], of one shard alone if one is named, and shows each record: segment by segment, in the order in
/// which they were written.
///
/// # Errors
/// As [`inspect`]; [`StoreError::Setting`] if there is no such shard.
pub fn inspect_each<B: BlockQueue>(
    blocks: &mut B,
    staging: &ArenaBuffer,
    shard: Option<u32>,
    mut show: impl FnMut(RecordReport),
) -> Result<StoreReport, StoreError> {
    let superblock = load(blocks, staging)?;
    let shards = match shard {
        None => 0..superblock.shards,
        Some(shard) if shard < superblock.shards => shard..shard + 1,
        Some(shard) => {
            let last = superblock.shards - 1;
            return Err(StoreError::Setting(format!("there is no shard {shard}; the store has shards 0 to {last}")));
        }
    };
    let mut report = StoreReport {
        superblock,
        segments: Vec::new(),
        blocks: 0,
        live_bytes: 0,
        records: 0,
        duplicates: 0,
        sequence: 0,
        bytes_read: 0,
        problem_count: 0,
        problems: Vec::new(),
    };
    for (copy, at) in ["first", "second"].into_iter().zip(COPIES) {
        match load_copy(blocks, staging, at) {
            Ok(found) if (Superblock { lba_bytes: superblock.lba_bytes, ..found }) == superblock => {}
            Ok(_) => report.problem(format!("the {copy} copy of the superblock speaks of another store")),
            Err(reason) => report.problem(format!("the {copy} copy of the superblock is not usable: {reason}")),
        }
    }
    for shard in shards {
        let layout = Layout::new(&superblock, shard);
        let mut held = Vec::new();
        for segment in 0..layout.segments {
            let place = report.segments.len();
            let found = read_segment(blocks, staging, &layout, segment, &mut report);
            report.segments.push(found.0);
            held.extend(found.1.into_iter().map(|record| Held { record, place }));
        }
        settle(&mut report, &layout, held, &mut show);
    }
    Ok(report)
}

impl RecordReport {
    fn new(segment: &SegmentReport, record: &Record, state: RecordState) -> Self {
        let hex = |word: u64| (word != 0).then(|| format!("{word:016x}"));
        let mut key = record.id.key.to_string();
        let named = !matches!(state, RecordState::Purge | RecordState::Clean);
        key.truncate(if named { 2 * usize::from(record.id.space.key_bytes()) } else { 0 });
        Self {
            shard: segment.shard,
            segment: segment.segment,
            sequence: record.sequence,
            state,
            namespace: record.id.space.namespace(),
            key,
            value_bytes: record.bytes,
            value_offset: u64::from(record.offset) * u64::from(UNIT_BYTES),
            durable: record.class == Class::Durable,
            checksum: hex(record.checksum),
            parent: hex(record.parent),
        }
    }
}

impl StoreReport {
    fn problem(&mut self, what: String) {
        self.problem_count += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(what);
        }
    }
}

/// Reads all metadata of a segment, page by page so that one bad page costs one page.
fn read_segment<B: BlockQueue>(
    blocks: &mut B,
    staging: &ArenaBuffer,
    layout: &Layout,
    segment: u32,
    report: &mut StoreReport,
) -> (SegmentReport, Vec<Record>) {
    let name = |slot: u32| format!("shard {} segment {segment} page {slot}", layout.shard);
    let mut found = SegmentReport { shard: layout.shard, segment, ..SegmentReport::default() };
    let mut pages: Vec<(u32, PageHeader, Vec<Record>)> = Vec::new();
    let mut headers = [None, None];
    let mut bytes = [0; PAGE_BYTES];
    for slot in 0..layout.pages() {
        let memory = staging.sub(0, UNIT_BYTES).unwrap_or(DmaSlice::EMPTY);
        let (lba, count) = (layout.page_lba(segment, slot), layout.blocks(1));
        let read = run(blocks, BlockIo { op: BlockOp::Read, lba, blocks: count, memory, token: 0 });
        report.bytes_read += u64::from(UNIT_BYTES);
        if read.is_err() || staging.read(0, &mut bytes).is_none() {
            found.damaged_pages += 1;
            report.problem(format!("{} cannot be read", name(slot)));
            continue;
        }
        match PageHeader::check(layout, segment, slot, &bytes) {
            Some(header) if slot < FIRST_DRAFT => headers[slot as usize] = Some(header),
            Some(header) if header.kind == PageKind::Records => {
                let records: Vec<Record> = (0..header.count).filter_map(|at| record_at(&bytes, at)).collect();
                if records.len() < header.count as usize {
                    report.problem(format!("{} has records that make no sense", name(slot)));
                }
                pages.push((slot, header, records));
            }
            Some(_) => report.problem(format!("{} is a header in the wrong place", name(slot))),
            None if looks_ours(layout, &bytes) => {
                found.damaged_pages += 1;
                report.problem(format!("{} is damaged, or of another place", name(slot)));
            }
            None => {}
        }
    }
    let newest = pages.iter().map(|(_, header, _)| header.generation).max().unwrap_or(0);
    let [open, free] = [headers[HEADER_OPEN as usize], headers[HEADER_FREE as usize]];
    (found.state, found.generation) = match judge(open, free) {
        HeaderVerdict::Open(generation) => (SegmentState::Used, generation),
        HeaderVerdict::Suspect(generation) if newest > generation => (SegmentState::Used, newest),
        HeaderVerdict::Free(generation) | HeaderVerdict::Suspect(generation) => (SegmentState::Free, generation),
        HeaderVerdict::Blank if newest > 0 => (SegmentState::Damaged, newest),
        HeaderVerdict::Blank => (SegmentState::Blank, 0),
    };
    if found.state == SegmentState::Damaged {
        report.problem(format!("shard {} segment {segment} lost both headers", layout.shard));
    }
    let records = if found.state == SegmentState::Used { records_of(&mut found, pages) } else { Vec::new() };
    (found, records)
}

/// The records of a segment's newest life in their order: full pages, then what the drafts add.
fn records_of(found: &mut SegmentReport, pages: Vec<(u32, PageHeader, Vec<Record>)>) -> Vec<Record> {
    let mut ours: Vec<_> = pages.into_iter().filter(|(_, header, _)| header.generation == found.generation).collect();
    found.pages = ours.len() as u32;
    let homes =
        ours.iter().filter(|(slot, ..)| *slot >= FIRST_HOME).map(|(_, header, _)| header.page.saturating_add(1)).max();
    ours.retain(|(slot, header, _)| *slot >= FIRST_HOME || header.page >= homes.unwrap_or(0));
    // Of two versions of one page the fuller comes last, and repeats the records of the other.
    ours.sort_by_key(|(_, header, _)| (header.page, header.count));
    ours.dedup_by(|later, earlier| {
        let same = later.1.page == earlier.1.page;
        if same {
            std::mem::swap(later, earlier);
        }
        same
    });
    ours.into_iter().flat_map(|(.., records)| records).collect()
}

/// Tells live from dead, as recovery does: of each key the highest sequence holds.
fn settle(report: &mut StoreReport, layout: &Layout, held: Vec<Held>, show: &mut impl FnMut(RecordReport)) {
    let mut newest: HashMap<BlockId, u64> = HashMap::new();
    let mut purged: HashMap<u32, u64> = HashMap::new();
    for Held { record, .. } in &held {
        report.sequence = report.sequence.max(record.sequence);
        match record.kind {
            Kind::Put | Kind::Tombstone => {
                let sequence = newest.entry(record.id).or_default();
                *sequence = record.sequence.max(*sequence);
            }
            Kind::Purge => {
                let sequence = purged.entry(record.id.space.namespace()).or_default();
                *sequence = record.sequence.max(*sequence);
            }
            Kind::Clean => {}
        }
    }
    for Held { record, place } in held {
        report.records += 1;
        let segment = &mut report.segments[place];
        segment.records += 1;
        let gone = purged.get(&record.id.space.namespace()).is_some_and(|&sequence| sequence > record.sequence);
        let superseded = newest.get(&record.id).is_some_and(|&sequence| sequence > record.sequence);
        let state = match record.kind {
            Kind::Put if gone => RecordState::Purged,
            Kind::Put if superseded => RecordState::Superseded,
            Kind::Put => RecordState::Live,
            Kind::Tombstone => RecordState::Tombstone,
            Kind::Purge => RecordState::Purge,
            Kind::Clean => RecordState::Clean,
        };
        show(RecordReport::new(segment, &record, state));
        match state {
            RecordState::Live => {}
            RecordState::Purged | RecordState::Superseded => {
                segment.dead += 1;
                report.duplicates += u64::from(state == RecordState::Superseded);
                continue;
            }
            _ => {
                segment.marks += 1;
                continue;
            }
        }
        segment.live += 1;
        segment.live_bytes += u64::from(record.bytes);
        report.blocks += 1;
        report.live_bytes += u64::from(record.bytes);
        if !layout.holds(record.offset, record.bytes) {
            let number = segment.segment;
            report.problem(format!(
                "shard {} segment {number}: the value of {} lies outside",
                layout.shard, record.id.key
            ));
        }
    }
}
