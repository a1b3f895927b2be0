//! The table of segments: state, life, and what keeps each from being reused.

use std::collections::VecDeque;

use super::layout::Layout;
use super::page::{PageHeader, PageKind};

/// What may be done with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing in it counts.
    Free,
    /// It takes values, or waits for values and records that are under way.
    Open,
    /// Full and written down.
    Closed,
    /// Being emptied.
    Evicting,
    /// Its headers cannot be read or written: not touched any more.
    Retired,
}

/// One segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub state: State,
    pub generation: u64,
    /// Extents given out and not yet published or abandoned.
    pub outstanding: u32,
    /// Readers of its blocks.
    pub holds: u32,
    pub live_blocks: u32,
    pub live_units: u32,
    /// Whether a free header of an earlier life stands on the device.
    pub has_free_header: bool,
    /// Its device is gone for good: what lies in it is not served any more.
    pub gone: bool,
}

/// All segments of a shard.
pub(super) struct SegmentTable {
    pub segments: Box<[Segment]>,
    /// Free segments, the longest free first.
    pub free: VecDeque<u32>,
    /// Segments that hold blocks, oldest first.
    pub log: VecDeque<u32>,
    pub next_generation: u64,
    pub live_units: u64,
    /// Whether any is gone.
    pub any_gone: bool,
}

impl SegmentTable {
    pub fn new(layout: &Layout) -> Self {
        let blank = Segment {
            state: State::Free,
            generation: 0,
            outstanding: 0,
            holds: 0,
            live_blocks: 0,
            live_units: 0,
            has_free_header: false,
            gone: false,
        };
        let count = layout.segments as usize;
        Self {
            segments: vec![blank; count].into_boxed_slice(),
            free: VecDeque::with_capacity(count),
            log: VecDeque::with_capacity(count),
            next_generation: 1,
            live_units: 0,
            any_gone: false,
        }
    }

    pub fn at(&self, segment: u32) -> &Segment {
        &self.segments[segment as usize]
    }

    pub fn at_mut(&mut self, segment: u32) -> &mut Segment {
        &mut self.segments[segment as usize]
    }

    /// Begins a new life of a free segment.
    pub fn open_next(&mut self) -> Option<u32> {
        let segment = self.free.pop_front()?;
        let generation = self.next_generation;
        self.next_generation += 1;
        self.log.push_back(segment);
        let slot = self.at_mut(segment);
        debug_assert!(slot.state == State::Free && slot.live_blocks == 0 && slot.holds == 0 && slot.outstanding == 0);
        slot.state = State::Open;
        slot.generation = generation;
        Some(segment)
    }

    /// A block came to lie in a segment.
    pub fn gain(&mut self, segment: u32, bytes: u32) {
        let units = Layout::units_of(bytes);
        let slot = self.at_mut(segment);
        slot.live_blocks += 1;
        slot.live_units += units;
        self.live_units += u64::from(units);
    }

    /// A block of a segment no longer counts.
    pub fn lose(&mut self, segment: u32, bytes: u32) {
        let units = Layout::units_of(bytes);
        let slot = self.at_mut(segment);
        slot.live_blocks -= 1;
        slot.live_units -= units;
        self.live_units -= u64::from(units);
    }

    /// Whether a segment's device is gone for good.
    #[inline]
    pub fn is_gone(&self, segment: u32) -> bool {
        self.any_gone && self.at(segment).gone
    }

    /// Blocks on devices that are gone for good.
    pub fn gone_blocks(&self) -> u64 {
        self.segments.iter().filter(|segment| segment.gone).map(|segment| u64::from(segment.live_blocks)).sum()
    }

    pub fn count(&self, state: State) -> u64 {
        self.segments.iter().filter(|segment| segment.state == state).count() as u64
    }
}

/// What the two headers of a segment say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderVerdict {
    /// Neither is there: a segment that was never used, or one that lost both.
    Blank,
    /// Nothing in it counts up to this generation.
    Free(u64),
    /// It holds blocks of this generation.
    Open(u64),
    /// The open header is missing or torn; pages of a generation beyond this one prove that it stood there.
    Suspect(u64),
}

/// Judges the headers.
///
/// Opening writes the open header; freeing writes the free header of the same generation and then turns the open
/// one into a second free one. One of the two is therefore whole at any time, and the newer generation holds.
pub(super) fn judge(open: Option<PageHeader>, free: Option<PageHeader>) -> HeaderVerdict {
    let free = free.filter(|header| header.kind == PageKind::Free).map(|header| header.generation);
    let Some(open) = open.filter(|header| header.kind != PageKind::Records) else {
        return free.map_or(HeaderVerdict::Blank, HeaderVerdict::Suspect);
    };
    match (open.kind, free) {
        (PageKind::Open, Some(free)) if free >= open.generation => HeaderVerdict::Free(free),
        (PageKind::Open, _) => HeaderVerdict::Open(open.generation),
        (_, free) => HeaderVerdict::Free(free.unwrap_or(0).max(open.generation)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_whole_header_holds() {
        let page = |kind, generation| Some(PageHeader { generation, page: 0, count: 0, sequence: 0, kind });
        let (open, free) =
            (|generation| page(PageKind::Open, generation), |generation| page(PageKind::Free, generation));
        assert_eq!(judge(None, None), HeaderVerdict::Blank);
        assert_eq!(judge(open(3), None), HeaderVerdict::Open(3));
        assert_eq!(judge(open(3), free(2)), HeaderVerdict::Open(3));
        assert_eq!(judge(open(3), free(3)), HeaderVerdict::Free(3));
        assert_eq!(judge(free(3), free(3)), HeaderVerdict::Free(3));
        assert_eq!(judge(free(3), None), HeaderVerdict::Free(3));
        assert_eq!(judge(None, free(3)), HeaderVerdict::Suspect(3));
        assert_eq!(judge(page(PageKind::Records, 9), free(3)), HeaderVerdict::Suspect(3));
    }
}
