//! The records of a segment that is still being written.

use std::collections::VecDeque;

use dataplane::core::Ticks;

use super::publish::Class;
use super::record::Record;
use super::undo::Undo;

/// Segments whose records may be under way at once: the open one, and some that wait for their last values.
pub(super) const TAILS: usize = 4;

/// One segment's records since it was opened.
pub(super) struct Tail {
    /// The segment, if the tail is in use.
    pub segment: Option<u32>,
    pub generation: u64,
    /// No more extents are given out.
    pub closing: bool,
    /// The device would not take its pages: nothing more is written.
    pub failed: bool,
    /// Whether the open header stands on the device.
    pub has_header: bool,
    pub records: Vec<Record>,
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
            has_header: false,
            records: Vec::with_capacity(max_records as usize),
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
        (self.closing, self.failed, self.has_header) = (false, false, false);
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
