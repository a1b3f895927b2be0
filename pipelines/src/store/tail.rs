//! The records of a segment that is still being written.

use std::collections::VecDeque;

use dataplane::core::Ticks;

use super::publish::Class;
use super::record::{RECORDS_PER_PAGE, Record};
use super::undo::Undo;

/// Segments whose records may be under way at once: the open one, and some that wait for their last values.
pub(super) const TAILS: usize = 8;

/// The open header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenHeader {
    Missing,
    /// Written, but a power cut could take it back.
    Written,
    Durable,
}

/// What a power cut could take back of a tail, on a device with a volatile cache.
#[derive(Clone, Copy, Debug, Default)]
struct Unflushed {
    /// Full pages.
    homes: bool,
    /// The partial page written last, or full pages before it.
    draft: bool,
}

/// One segment's records since it was opened.
pub(super) struct Tail {
    /// The segment, if the tail is in use.
    pub segment: Option<u32>,
    pub generation: u64,
    /// No more extents are given out.
    pub closing: bool,
    /// The device would not take its pages: nothing more is written.
    pub failed: bool,
    pub header: OpenHeader,
    pub records: Vec<Record>,
    /// Records before this speak of values that survive a power cut.
    flushed: u32,
    unflushed: Unflushed,
    /// What `flushed` and `header` become when the flush that runs succeeds.
    flushing: (u32, OpenHeader),
    /// Records written down.
    pub committed: u32,
    /// One past the last record that somebody waits for.
    pub urgent: u32,
    /// Which of the two drafts takes the next partial page.
    pub draft: u32,
    /// Records whose tickets are to be handed out, in their order.
    pub tickets: VecDeque<(u32, u64)>,
    /// What durable stores superseded whose records are not written down, in the order of the records.
    pub undos: VecDeque<Undo>,
    /// When the oldest record that is not written down was added.
    pub since: Ticks,
    /// No commit is tried before this, for the last one failed.
    pub not_before: Ticks,
}

impl Tail {
    pub fn new(max_records: u32, tickets: usize) -> Self {
        Self {
            segment: None,
            generation: 0,
            closing: false,
            failed: false,
            header: OpenHeader::Missing,
            records: Vec::with_capacity(max_records as usize),
            flushed: 0,
            unflushed: Unflushed::default(),
            flushing: (0, OpenHeader::Missing),
            committed: 0,
            urgent: 0,
            draft: 0,
            tickets: VecDeque::with_capacity(tickets),
            undos: VecDeque::with_capacity(tickets),
            since: Ticks(0),
            not_before: Ticks(0),
        }
    }

    /// Takes on a freshly opened segment.
    pub fn begin(&mut self, segment: u32, generation: u64) {
        debug_assert!(self.segment.is_none() && self.tickets.is_empty() && self.undos.is_empty());
        self.segment = Some(segment);
        self.generation = generation;
        (self.closing, self.failed) = (false, false);
        (self.header, self.flushing) = (OpenHeader::Missing, (0, OpenHeader::Missing));
        (self.flushed, self.unflushed) = (0, Unflushed::default());
        self.records.clear();
        self.not_before = Ticks(0);
        (self.committed, self.urgent, self.draft) = (0, 0, 0);
    }

    pub fn len(&self) -> u32 {
        self.records.len() as u32
    }

    pub fn uncommitted(&self) -> u32 {
        self.len() - self.committed
    }

    /// Adds a record. The caller knows that there is room.
    pub fn append(&mut self, record: Record, ticket: Option<u64>, now: Ticks) {
        if self.uncommitted() == 0 {
            self.since = now;
        }
        let at = self.len();
        self.records.push(record);
        if let Some(ticket) = ticket {
            self.tickets.push_back((at, ticket));
        }
        if record.class == Class::Durable {
            self.urgent = at + 1;
        }
    }

    /// Records of which pages may be written without a flush; `dirty` says whether values ended since the last one.
    pub fn backed(&self, dirty: bool) -> u32 {
        match self.header {
            OpenHeader::Durable if dirty => self.flushed,
            OpenHeader::Durable => self.len(),
            OpenHeader::Missing | OpenHeader::Written => 0,
        }
    }

    /// Whether a flush has to come before the pages up to `upto`.
    ///
    /// A partial page is written over the draft before last, which may be the only durable version of its page until
    /// the last draft, and the full pages before that, are durable.
    pub fn needs_flush(&self, upto: u32, dirty: bool) -> bool {
        upto > self.backed(dirty) || (self.unflushed.draft && !upto.is_multiple_of(RECORDS_PER_PAGE))
    }

    /// A flush goes to the device: it covers what has ended by now.
    pub fn flush_begins(&mut self) {
        self.flushing = (self.len(), self.header);
    }

    /// The flush that began last has ended. No page or header was written meanwhile.
    pub fn flush_ended(&mut self) {
        let (flushed, header) = self.flushing;
        self.flushed = self.flushed.max(flushed);
        if header == OpenHeader::Written {
            self.header = OpenHeader::Durable;
        }
        self.unflushed = Unflushed::default();
    }

    /// The pages up to `upto` stand on the device; `volatile` if a power cut could take them back.
    pub fn note_pages(&mut self, upto: u32, volatile: bool, now: Ticks) {
        let full = upto / RECORDS_PER_PAGE > self.committed / RECORDS_PER_PAGE;
        self.unflushed.homes |= volatile && full;
        if !upto.is_multiple_of(RECORDS_PER_PAGE) {
            self.draft ^= 1;
            self.unflushed.draft = volatile || self.unflushed.homes;
        }
        self.committed = upto;
        self.since = now;
    }

    /// Records before `upto` are written down: what they supersede is of the past.
    pub fn forget_undos(&mut self, upto: u32) {
        while self.undos.front().is_some_and(|undo| undo.record < upto) {
            self.undos.pop_front();
        }
    }

    /// Takes the next ticket whose record is before `upto`.
    pub fn pop_ticket(&mut self, upto: u32) -> Option<u64> {
        let &(at, ticket) = self.tickets.front()?;
        (at < upto).then(|| {
            self.tickets.pop_front();
            ticket
        })
    }
}
