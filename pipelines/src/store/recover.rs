//! Recovery: the index is built again from the metadata pages.
//!
//! First the two headers of every segment are read, which tells the segments that hold blocks and their age. Then
//! their records are read and applied oldest segment first. What a tombstone removes was recorded in the same or an
//! older segment, so it is there already; of two puts of one key the higher sequence holds, whatever the order.

use super::evict::MAX_GAP;
use super::layout::{FIRST_DRAFT, FIRST_HOME, HEADER_FREE, HEADER_OPEN, Layout, UNIT_BYTES};
use super::operation::{Op, READS};
use super::page::{PAGE_BYTES, PageHeader, PageKind, looks_ours};
use super::record::RECORDS_PER_PAGE;
use super::segment::{HeaderVerdict, State, judge};
use super::shard::{Facts, Shard};
use super::staging::CHUNK_BYTES;
use dataplane::nvme::BlockOp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Headers,
    /// Segments without a whole open header: do pages prove that it stood there?
    Probes,
    Records,
    Sweep,
}

/// A read that runs: pages of a segment.
#[derive(Clone, Copy, Debug)]
struct Read {
    segment: u32,
    /// Place of the segment in the list of this stage.
    place: usize,
    first: u32,
    pages: u32,
}

/// A partial page of the segment being applied.
struct Draft {
    header: Option<PageHeader>,
    page: Box<[u8; PAGE_BYTES]>,
}

/// What is known of the segment whose pages are being read. Begun anew for each.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    gap: u32,
    /// Pages of records, counted from the first home, that are applied.
    homes: u32,
    pages: u32,
    damaged: u32,
    alone: bool,
}

/// Recovery's memory. Gone once the shard is ready.
pub(super) struct Recovery {
    stage: Stage,
    reads: [Option<Read>; READS],
    /// Next place of the stage's list to read, and to look at.
    next: usize,
    head: usize,
    /// Headers read one by one after the read of both failed.
    open_header: Option<PageHeader>,
    unreadable: u32,
    /// Segments to probe, with the generation up to which they are free; `None` if both headers are missing.
    probes: Vec<(u32, Option<u64>, bool)>,
    /// Segments that hold blocks: generation and number.
    live: Vec<(u64, u32)>,
    free: Vec<(u64, u32)>,
    progress: Progress,
    drafts: [Draft; 2],
    /// Sequence of the record behind each entry.
    pub sequences: Vec<u64>,
    pub purged: Vec<(u32, u64)>,
    pub newest: u64,
    pub clean_at: u64,
    generation: u64,
    pub swept: usize,
}

impl Recovery {
    pub fn new(layout: &Layout, entries: u32) -> Self {
        let segments = layout.segments as usize;
        let draft = || Draft { header: None, page: Box::new([0; PAGE_BYTES]) };
        Self {
            stage: Stage::Headers,
            reads: [None; READS],
            next: 0,
            head: 0,
            open_header: None,
            unreadable: 0,
            probes: Vec::with_capacity(segments),
            live: Vec::with_capacity(segments),
            free: Vec::with_capacity(segments),
            progress: Progress::default(),
            drafts: [draft(), draft()],
            sequences: vec![0; entries as usize],
            purged: Vec::with_capacity(256),
            newest: 0,
            clean_at: 0,
            generation: 0,
            swept: 0,
        }
    }

    /// How many segments the stage goes through.
    fn places(&self, layout: &Layout) -> usize {
        match self.stage {
            Stage::Headers => layout.segments as usize,
            Stage::Probes => self.probes.len(),
            Stage::Records => self.live.len(),
            Stage::Sweep => 0,
        }
    }

    fn segment_at(&self, place: usize) -> u32 {
        match self.stage {
            Stage::Probes => self.probes[place].0,
            Stage::Records => self.live[place].1,
            Stage::Headers | Stage::Sweep => place as u32,
        }
    }

    pub fn purged_at(&self, namespace: u32) -> u64 {
        self.purged.iter().find(|&&(name, _)| name == namespace).map_or(0, |&(_, sequence)| sequence)
    }

    fn saw(&mut self, header: &PageHeader) {
        self.generation = self.generation.max(header.generation);
        self.newest = self.newest.max(header.sequence);
    }
}

impl<P> Shard<P> {
    /// Goes on with recovery. After the last step the shard is ready.
    pub(super) fn recovery_step(&mut self, facts: Facts) -> usize {
        let Some(mut recovery) = self.recovery.take() else { return 0 };
        let mut steps = self.read_ahead(&mut recovery, facts);
        if recovery.stage == Stage::Sweep {
            if self.sweep_purged(&mut recovery) {
                self.finish_recovery(*recovery);
                return steps + 1;
            }
            steps += 1;
        } else if recovery.head == recovery.places(&self.layout) {
            self.next_stage_of_recovery(&mut recovery);
            steps += 1;
        } else {
            steps += usize::from(self.look_at_head(&mut recovery, facts));
        }
        self.recovery = Some(recovery);
        steps
    }

    fn next_stage_of_recovery(&mut self, recovery: &mut Recovery) {
        recovery.stage = match recovery.stage {
            Stage::Headers => Stage::Probes,
            Stage::Probes => {
                recovery.live.sort_unstable();
                Stage::Records
            }
            Stage::Records | Stage::Sweep => Stage::Sweep,
        };
        (recovery.next, recovery.head, recovery.progress) = (0, 0, Progress::default());
    }

    /// Keeps reads of the next segments going.
    fn read_ahead(&mut self, recovery: &mut Recovery, facts: Facts) -> usize {
        let mut started = 0;
        let places = recovery.places(&self.layout);
        for index in 0..READS {
            if recovery.next >= places || recovery.reads[index].is_some() {
                continue;
            }
            let (place, segment) = (recovery.next, recovery.segment_at(recovery.next));
            let (first, pages) = match recovery.stage {
                Stage::Headers => (HEADER_OPEN, 2.min(facts.max_units)),
                _ => (FIRST_DRAFT, self.reach(FIRST_DRAFT, false, facts)),
            };
            recovery.next += 1;
            self.start_read(recovery, index, Read { segment, place, first, pages });
            started += 1;
        }
        started
    }

    fn reach(&self, first: u32, alone: bool, facts: Facts) -> u32 {
        let most = if alone { 1 } else { CHUNK_BYTES / UNIT_BYTES };
        most.min(facts.max_units).min(self.layout.pages() - first)
    }

    fn start_read(&mut self, recovery: &mut Recovery, index: usize, read: Read) {
        let bytes = read.pages * UNIT_BYTES;
        let memory = self.read_memory(index, bytes);
        let lba = self.layout.page_lba(read.segment, read.first);
        self.ops.start(Op::reading(index), BlockOp::Read, lba, self.layout.blocks(read.pages), memory);
        self.stats.recovery.bytes_read += u64::from(bytes);
        recovery.reads[index] = Some(read);
    }

    /// Takes the read that is next in order, if it has ended.
    fn look_at_head(&mut self, recovery: &mut Recovery, facts: Facts) -> bool {
        let head = recovery.head;
        let Some(index) = recovery.reads.iter().position(|read| read.is_some_and(|read| read.place == head)) else {
            return false;
        };
        let Some(result) = self.ops.take(Op::reading(index)) else { return false };
        let Some(read) = recovery.reads[index].take() else { return false };
        let whole = result.is_ok() && self.load_read(index, read.pages * UNIT_BYTES);
        if !whole && read.pages > 1 {
            recovery.progress.alone = true;
            self.start_read(recovery, index, Read { pages: 1, ..read });
            return true;
        }
        if !whole {
            self.stats.recovery.damaged_pages += 1;
            recovery.progress.damaged += 1;
        }
        // The chunk is lent out, so that records can be applied while it is read. An empty box takes no memory.
        let chunk = std::mem::take(&mut self.chunk);
        let bytes: &[u8] = if whole { &chunk[..(read.pages * UNIT_BYTES) as usize] } else { &[] };
        let next = match recovery.stage {
            Stage::Headers => self.take_headers(recovery, read, bytes),
            Stage::Probes => self.take_probe(recovery, read, bytes, facts),
            Stage::Records | Stage::Sweep => self.take_records(recovery, read, bytes, facts),
        };
        self.chunk = chunk;
        match next {
            Some(read) => self.start_read(recovery, index, read),
            None => {
                recovery.head += 1;
                recovery.progress = Progress::default();
            }
        }
        true
    }

    fn header_in(&self, recovery: &mut Recovery, read: &Read, bytes: &[u8], slot: u32) -> Option<PageHeader> {
        let at = (slot - read.first) as usize * PAGE_BYTES;
        let header = PageHeader::check(&self.layout, read.segment, slot, bytes.get(at..at + PAGE_BYTES)?)?;
        recovery.saw(&header);
        Some(header)
    }

    /// Judges a segment by its headers. Asks for another read if they have to be read one by one.
    fn take_headers(&mut self, recovery: &mut Recovery, read: Read, bytes: &[u8]) -> Option<Read> {
        let mut unreadable = recovery.unreadable + u32::from(bytes.is_empty());
        let open = if read.first == HEADER_OPEN {
            let open = self.header_in(recovery, &read, bytes, HEADER_OPEN);
            if read.pages == 1 {
                recovery.open_header = open;
                recovery.unreadable = unreadable;
                return Some(Read { first: HEADER_FREE, ..read });
            }
            open
        } else {
            recovery.open_header.take()
        };
        let free = self.header_in(recovery, &read, bytes, HEADER_FREE);
        recovery.unreadable = 0;
        if read.pages > 1 {
            unreadable = 0;
        }
        self.table.at_mut(read.segment).has_free_header = free.is_some_and(|header| header.kind == PageKind::Free);
        match judge(open, free) {
            HeaderVerdict::Open(generation) => {
                self.table.at_mut(read.segment).generation = generation;
                recovery.live.push((generation, read.segment));
            }
            HeaderVerdict::Free(generation) => {
                self.table.at_mut(read.segment).generation = generation;
                recovery.free.push((generation, read.segment));
            }
            HeaderVerdict::Suspect(generation) => {
                recovery.probes.push((read.segment, Some(generation), unreadable > 0));
            }
            HeaderVerdict::Blank => recovery.probes.push((read.segment, None, unreadable > 0)),
        }
        None
    }

    /// Looks for pages of a life that the headers do not tell of.
    fn take_probe(&mut self, recovery: &mut Recovery, read: Read, bytes: &[u8], facts: Facts) -> Option<Read> {
        let (_, free_upto, unreadable) = recovery.probes[read.place];
        let mut newest = 0;
        for slot in read.first..read.first + read.pages {
            let header = self.header_in(recovery, &read, bytes, slot).filter(|header| header.kind == PageKind::Records);
            newest = newest.max(header.map_or(0, |header| header.generation));
        }
        // Page by page, only the drafts and first homes are looked at: they are written before all others.
        let next = read.first + read.pages;
        if bytes.is_empty() && next < (FIRST_HOME + MAX_GAP).min(self.layout.pages()) {
            return Some(Read { first: next, pages: self.reach(next, true, facts), ..read });
        }
        match free_upto {
            Some(free_upto) if newest > free_upto => {
                self.table.at_mut(read.segment).generation = newest;
                recovery.live.push((newest, read.segment));
            }
            None if newest > 0 || unreadable => {
                tracing::error!(segment = read.segment, "a segment lost both headers; it is set aside");
                self.stats.recovery.quarantined += 1;
                self.table.at_mut(read.segment).state = State::Retired;
            }
            upto => recovery.free.push((upto.unwrap_or(0), read.segment)),
        }
        None
    }

    /// Applies the pages of a read and says what to read next of the segment.
    fn take_records(&mut self, recovery: &mut Recovery, read: Read, bytes: &[u8], facts: Facts) -> Option<Read> {
        if read.first == FIRST_DRAFT {
            recovery.drafts.iter_mut().for_each(|draft| draft.header = None);
        }
        let generation = self.table.at(read.segment).generation;
        for (slot, page) in (read.first..read.first + read.pages).zip(bytes.chunks_exact(PAGE_BYTES)) {
            let header = PageHeader::check(&self.layout, read.segment, slot, page);
            if header.is_none() && looks_ours(&self.layout, page) {
                self.stats.recovery.damaged_pages += 1;
                recovery.progress.damaged += 1;
            }
            let header = header.filter(|header| header.kind == PageKind::Records && header.generation == generation);
            if let Some(header) = &header {
                recovery.saw(header);
                recovery.progress.pages += 1;
                self.stats.recovery.pages += 1;
            }
            if slot < FIRST_HOME {
                let draft = &mut recovery.drafts[(slot - FIRST_DRAFT) as usize];
                draft.header = header;
                draft.page.copy_from_slice(page);
                continue;
            }
            match header.filter(|header| header.page == slot - FIRST_HOME && header.count == RECORDS_PER_PAGE) {
                Some(header) => {
                    recovery.progress.gap = 0;
                    recovery.progress.homes = header.page + 1;
                    self.apply_page(recovery, read.segment, header.count, page);
                }
                None => recovery.progress.gap += 1,
            }
        }
        if bytes.is_empty() {
            recovery.progress.gap += u32::from(read.first >= FIRST_HOME);
        }
        let next = read.first + read.pages;
        if recovery.progress.gap < MAX_GAP && next < self.layout.pages() {
            let pages = self.reach(next, recovery.progress.alone, facts);
            return Some(Read { first: next, pages, ..read });
        }
        self.apply_drafts(recovery, read.segment);
        self.end_segment(recovery, read);
        None
    }

    /// Applies the partial pages that go beyond the full ones; of two versions of one page the fuller.
    fn apply_drafts(&mut self, recovery: &mut Recovery, segment: u32) {
        let homes = recovery.progress.homes;
        let rank = |draft: &Draft| draft.header.filter(|header| header.page >= homes).map(|h| (h.page, h.count));
        let ranks = [rank(&recovery.drafts[0]), rank(&recovery.drafts[1])];
        let mut order = [0, 1];
        order.sort_by_key(|&at| ranks[at]);
        let same_page = matches!(ranks, [Some(a), Some(b)] if a.0 == b.0);
        for at in order.into_iter().skip(usize::from(same_page)) {
            if let Some((_, count)) = ranks[at] {
                let blank = Box::new([0; PAGE_BYTES]);
                let page = std::mem::replace(&mut recovery.drafts[at].page, blank);
                self.apply_page(recovery, segment, count, &*page);
                recovery.drafts[at].page = page;
            }
        }
    }

    /// A segment in which nothing was ever recorded is free again; with damaged pages it waits its turn.
    fn end_segment(&mut self, recovery: &mut Recovery, read: Read) {
        if recovery.progress.pages == 0 && recovery.progress.damaged == 0 {
            let generation = recovery.live[read.place].0;
            recovery.live[read.place].0 = 0;
            recovery.free.push((generation, read.segment));
        } else {
            self.stats.recovery.segments += 1;
        }
    }

    fn finish_recovery(&mut self, mut recovery: Recovery) {
        for &(_, segment) in recovery.live.iter().filter(|(generation, _)| *generation > 0) {
            self.table.at_mut(segment).state = State::Closed;
            self.table.log.push_back(segment);
        }
        recovery.free.sort_unstable();
        self.table.free.extend(recovery.free.iter().map(|&(_, segment)| segment));
        self.table.next_generation = recovery.generation + 1;
        self.sequence = recovery.newest + 1;
        self.stats.recovery.clean = recovery.clean_at > 0 && recovery.clean_at == recovery.newest;
        tracing::info!(shard = self.layout.shard, blocks = self.index.len(), figures = ?self.stats.recovery, "recovered");
    }
}
