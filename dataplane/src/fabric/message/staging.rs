//! One core's staging memory: where values lie between the network and the device.
//!
//! ```text
//! | one word a unit: how far a buffer was filled | areas, one a connection | buffers                       |
//! ```
//!
//! The whole is one region, which the queues of every core and the NIC know, so the CPU never copies a value. A buffer is
//! contiguous. Areas are the carriers' own: headers that come and go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::buddy::{Block, Buddy, UNIT_BYTES};
use crate::memory::{DmaSlice, Region};

/// Bytes of buffers that commands which can wait leave to data that comes in capsules over TCP: it is behind it in the stream
/// that data for other buffers comes in, so it must not wait for those.
pub const KEPT_FOR_CAPSULES: u32 = 4 << 20;

/// How staging memory is laid out. The same on every core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagingLayout {
    /// Areas for connections.
    pub areas: u16,
    /// Bytes of each, a multiple of 4096.
    pub area_bytes: u32,
    /// Bytes for buffers, a multiple of 4096.
    pub buffer_bytes: u32,
}

impl StagingLayout {
    fn units(&self) -> u32 {
        self.buffer_bytes / UNIT_BYTES
    }

    fn words_bytes(&self) -> u64 {
        (u64::from(self.units()) * 4).next_multiple_of(u64::from(UNIT_BYTES))
    }

    fn areas_bytes(&self) -> u64 {
        u64::from(self.areas) * u64::from(self.area_bytes)
    }

    /// Bytes of the whole region.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.words_bytes() + self.areas_bytes() + u64::from(self.buffer_bytes)
    }

    fn buffer_offset(&self, unit: u32) -> u64 {
        self.words_bytes() + self.areas_bytes() + u64::from(unit) * u64::from(UNIT_BYTES)
    }
}

/// The staging memory of every core as each core knows it: to find the bytes that a cursor of any core names.
#[derive(Clone, Debug)]
pub struct StagingMap {
    layout: StagingLayout,
    regions: Arc<[Arc<Region>]>,
}

impl StagingMap {
    /// One region a core, by core. `None` if one is shorter than the layout asks.
    #[must_use]
    pub fn new(layout: StagingLayout, regions: Vec<Arc<Region>>) -> Option<Self> {
        let fits = regions.iter().all(|region| region.bytes() as u64 >= layout.bytes());
        fits.then(|| Self { layout, regions: regions.into() })
    }

    /// The regions, by core.
    #[must_use]
    pub fn regions(&self) -> &[Arc<Region>] {
        &self.regions
    }

    /// The layout.
    #[must_use]
    pub fn layout(&self) -> &StagingLayout {
        &self.layout
    }

    /// Bytes of a buffer: `bytes` from `at` on.
    #[inline]
    pub(crate) fn slice(&self, core: u16, unit: u32, at: u32, bytes: u32) -> Option<DmaSlice> {
        self.regions.get(usize::from(core))?.slice(self.layout.buffer_offset(unit) + u64::from(at), bytes)
    }

    pub(crate) fn read(&self, core: u16, unit: u32, at: u32, into: &mut [u8]) -> Option<()> {
        self.regions.get(usize::from(core))?.read(self.layout.buffer_offset(unit) + u64::from(at), into)
    }

    pub(crate) fn write(&self, core: u16, unit: u32, at: u32, from: &[u8]) -> Option<()> {
        self.regions.get(usize::from(core))?.write(self.layout.buffer_offset(unit) + u64::from(at), from)
    }

    /// Notes that a buffer was filled up to `end`. One core at a time has a command, and hands it on through a mailbox,
    /// so the word needs no ordering of its own.
    #[inline]
    pub(crate) fn note_filled(&self, core: u16, unit: u32, end: u32) {
        let word = self.regions.get(usize::from(core)).and_then(|region| region.word32(u64::from(unit) * 4));
        if let Some(word) = word
            && word.load(Ordering::Relaxed) < end
        {
            word.store(end, Ordering::Relaxed);
        }
    }
}

/// A buffer for the data of one command.
#[derive(Debug)]
pub struct Buffer {
    block: Block,
    /// Whether a carrier has it for good.
    kept: bool,
}

impl Buffer {
    /// Where it begins, in units from the first buffer.
    #[must_use]
    pub fn unit(&self) -> u32 {
        self.block.unit()
    }
}

/// An area that a connection has.
#[derive(Debug, PartialEq, Eq)]
pub struct Area(u16);

/// One core's own staging memory.
pub struct Staging {
    core: u16,
    map: StagingMap,
    region: Arc<Region>,
    buddy: Buddy,
    /// Counts the buffers that were given back: several carriers wait for them.
    given_back: u64,
    /// By unit: whether a carrier has it for good.
    kept: Box<[bool]>,
    /// Bytes that no carrier has for good, and the largest buffer that they can make up.
    passing: u32,
    largest: u32,
    free_areas: Vec<u16>,
}

impl Staging {
    /// The memory of core `core`; `None` if the map has none for it.
    #[must_use]
    pub fn new(core: u16, map: StagingMap) -> Option<Self> {
        let region = Arc::clone(map.regions.get(usize::from(core))?);
        let layout = map.layout;
        let free_areas = (0..layout.areas).rev().collect();
        let kept = vec![false; layout.units() as usize].into();
        let buddy = Buddy::new(layout.units());
        let mut staging = Self { core, map, region, buddy, given_back: 0, kept, passing: 0, largest: 0, free_areas };
        staging.measure();
        Some(staging)
    }

    /// Finds out what can ever be free, from what carriers have for good.
    fn measure(&mut self) {
        self.passing = self.kept.iter().filter(|kept| !**kept).count() as u32 * UNIT_BYTES;
        let mut units = 1;
        let whole = |units: usize| self.kept.chunks_exact(units).any(|chunk| !chunk.contains(&true));
        while units <= self.kept.len() && whole(units) {
            units *= 2;
        }
        self.largest = units as u32 / 2 * UNIT_BYTES;
    }

    fn keep(&mut self, buffer: &Buffer, kept: bool) {
        let (begin, units) = (buffer.block.unit() as usize, (buffer.block.bytes() / UNIT_BYTES) as usize);
        if let Some(places) = self.kept.get_mut(begin..begin + units) {
            places.fill(kept);
        }
    }

    /// The core whose memory it is.
    #[must_use]
    pub fn core(&self) -> u16 {
        self.core
    }

    /// Where every core's memory lies.
    #[must_use]
    pub fn map(&self) -> &StagingMap {
        &self.map
    }

    /// The region.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Bytes of buffers that are free.
    #[must_use]
    pub fn free_bytes(&self) -> u32 {
        self.buddy.free_units() * UNIT_BYTES
    }

    /// Takes a buffer of at least `bytes` bytes, of which none is filled; `None` if none is free.
    pub fn take(&mut self, bytes: u32) -> Option<Buffer> {
        let block = self.buddy.take(bytes)?;
        if let Some(word) = self.region.word32(u64::from(block.unit()) * 4) {
            word.store(0, Ordering::Relaxed);
        }
        Some(Buffer { block, kept: false })
    }

    /// Whether [`take_leaving`](Self::take_leaving) will give such a buffer once all that were taken are given back, but for
    /// those that carriers have for good.
    #[must_use]
    pub fn may_ever_take(&self, bytes: u32, leave: u32) -> bool {
        let Some(needed) = bytes.max(UNIT_BYTES).checked_next_power_of_two() else { return false };
        needed <= self.largest && u64::from(needed) + u64::from(leave) <= u64::from(self.passing)
    }

    /// As [`take`](Self::take), but only if `leave` bytes stay free: for those who can wait, so that something is left
    /// for those who must not.
    pub fn take_leaving(&mut self, bytes: u32, leave: u32) -> Option<Buffer> {
        let free = u64::from(self.buddy.free_units()) * u64::from(UNIT_BYTES);
        let needed = u64::from(bytes.max(1).next_power_of_two().max(UNIT_BYTES));
        if free < needed + u64::from(leave) { None } else { self.take(bytes) }
    }

    /// Takes buffers of `bytes` bytes each that lie side by side, so that the rest stays in large blocks; in several such
    /// spans, or fewer of them, if that is all that is free. For what a carrier keeps for good. Not for the hot path.
    pub fn take_beside(&mut self, count: u32, bytes: u32) -> Vec<Buffer> {
        let piece = bytes.max(1).next_power_of_two().max(UNIT_BYTES);
        let mut taken = Vec::with_capacity(count as usize);
        let mut at_once = count;
        while at_once > 0 && taken.len() < count as usize {
            let missing = count - taken.len() as u32;
            let span = piece.checked_mul(at_once.min(missing)).and_then(|bytes| self.buddy.take(bytes));
            let Some(span) = span else {
                at_once /= 2;
                continue;
            };
            for (index, block) in (0..).zip(span.cut(piece)) {
                if index < missing {
                    taken.push(Buffer { block, kept: true });
                } else {
                    self.buddy.give_back(block);
                }
            }
        }
        taken.iter().for_each(|buffer| self.keep(buffer, true));
        self.measure();
        taken
    }

    /// Gives a buffer back. Neither device nor network names it any more.
    pub fn give_back(&mut self, buffer: Buffer) {
        if buffer.kept {
            return self.give_back_kept(vec![buffer]);
        }
        self.buddy.give_back(buffer.block);
        self.given_back += 1;
    }

    /// Gives back what a carrier had for good. All of it at once, because it takes a while to find out what can be free then.
    pub fn give_back_kept(&mut self, buffers: Vec<Buffer>) {
        for buffer in buffers {
            self.keep(&buffer, false);
            self.buddy.give_back(buffer.block);
            self.given_back += 1;
        }
        self.measure();
    }

    /// How often a buffer was given back, by whomever: whoever waits for one compares with what it saw.
    #[must_use]
    pub fn given_back(&self) -> u64 {
        self.given_back
    }

    /// Bytes of a buffer; `None` if they do not lie inside.
    #[must_use]
    pub fn slice(&self, buffer: &Buffer, at: u32, bytes: u32) -> Option<DmaSlice> {
        let end = at.checked_add(bytes)?;
        if end > buffer.block.bytes() {
            return None;
        }
        self.map.slice(self.core, buffer.unit(), at, bytes)
    }

    /// Copies bytes into a buffer. `None`, and nothing copied, if they do not fit.
    pub fn write(&self, buffer: &Buffer, at: u32, from: &[u8]) -> Option<()> {
        let end = at.checked_add(u32::try_from(from.len()).ok()?)?;
        if end > buffer.block.bytes() {
            return None;
        }
        self.map.write(self.core, buffer.unit(), at, from)
    }

    /// Copies bytes out of a buffer. `None`, and nothing copied, if they do not lie inside.
    #[must_use]
    pub fn read(&self, buffer: &Buffer, at: u32, into: &mut [u8]) -> Option<()> {
        let end = at.checked_add(u32::try_from(into.len()).ok()?)?;
        if end > buffer.block.bytes() {
            return None;
        }
        self.map.read(self.core, buffer.unit(), at, into)
    }

    /// Copies bytes of another region to the beginning of a buffer, which is filled so far then. `None`, and nothing copied,
    /// if either range does not lie inside.
    #[must_use]
    pub fn fill_from(&self, buffer: &Buffer, from: &Region, bytes: &DmaSlice) -> Option<()> {
        if bytes.bytes() > buffer.block.bytes() {
            return None;
        }
        let target = self.map.layout.buffer_offset(buffer.unit());
        from.copy_to(from.offset_of(bytes)?, &self.region, target, bytes.bytes() as usize)?;
        self.map.note_filled(self.core, buffer.unit(), bytes.bytes());
        Some(())
    }

    /// How far a buffer was filled by device or CPU.
    #[must_use]
    pub fn filled(&self, buffer: &Buffer) -> u32 {
        let word = self.region.word32(u64::from(buffer.unit()) * 4);
        word.map_or(0, |word| word.load(Ordering::Relaxed)).min(buffer.block.bytes())
    }

    /// Takes an area for a connection; `None` if all are in use.
    pub fn take_area(&mut self) -> Option<Area> {
        self.free_areas.pop().map(Area)
    }

    /// Gives an area back.
    pub fn give_area_back(&mut self, area: Area) {
        self.free_areas.push(area.0);
    }

    fn area_offset(&self, area: &Area, at: u32, bytes: usize) -> Option<u64> {
        let layout = &self.map.layout;
        let end = u64::from(at) + bytes as u64;
        let base = layout.words_bytes() + u64::from(area.0) * u64::from(layout.area_bytes);
        (end <= u64::from(layout.area_bytes)).then_some(base + u64::from(at))
    }

    /// Bytes of an area; `None` if they do not lie inside.
    #[must_use]
    pub fn area_slice(&self, area: &Area, at: u32, bytes: u32) -> Option<DmaSlice> {
        self.region.slice(self.area_offset(area, at, bytes as usize)?, bytes)
    }

    /// Copies bytes out of an area. `None`, and nothing copied, if they do not lie inside.
    #[must_use]
    pub fn area_read(&self, area: &Area, at: u32, into: &mut [u8]) -> Option<()> {
        self.region.read(self.area_offset(area, at, into.len())?, into)
    }

    /// Copies bytes into an area. `None`, and nothing copied, if they do not lie inside.
    #[must_use]
    pub fn area_write(&self, area: &Area, at: u32, from: &[u8]) -> Option<()> {
        self.region.write(self.area_offset(area, at, from.len())?, from)
    }

    /// Copies bytes from an area into a buffer. `None`, and nothing copied, if either range does not lie inside.
    #[must_use]
    pub fn area_to_buffer(&self, area: &Area, from: u32, buffer: &Buffer, at: u32, bytes: u32) -> Option<()> {
        if at.checked_add(bytes)? > buffer.block.bytes() {
            return None;
        }
        let source = self.area_offset(area, from, bytes as usize)?;
        let target = self.map.layout.buffer_offset(buffer.unit()) + u64::from(at);
        self.region.copy_to(source, &self.region, target, bytes as usize)
    }

    /// Moves bytes within an area to its beginning. `None` if they do not lie inside.
    #[must_use]
    pub fn area_to_front(&self, area: &Area, from: u32, bytes: u32) -> Option<()> {
        let source = self.area_offset(area, from, bytes as usize)?;
        let target = self.area_offset(area, 0, bytes as usize)?;
        self.region.copy_to(source, &self.region, target, bytes as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::RegionSlot;

    #[test]
    fn buffers_lie_side_by_side_as_far_as_there_is_room() {
        let layout = StagingLayout { areas: 1, area_bytes: 4096, buffer_bytes: 64 << 10 };
        let region = Arc::new(Region::anonymous(layout.bytes() as usize, RegionSlot(1)).unwrap());
        let mut staging = Staging::new(0, StagingMap::new(layout, vec![region]).unwrap()).unwrap();
        let units = |buffers: &[Buffer]| buffers.iter().map(Buffer::unit).collect::<Vec<_>>();
        let three = staging.take_beside(3, 8192);
        assert_eq!((units(&three), staging.free_bytes()), (vec![0, 2, 4], 40 << 10));
        // Beside what others have, in as many spans as it takes, and no more than there is.
        let more = staging.take_beside(9, 8192);
        let mut all = units(&more);
        all.sort_unstable();
        assert_eq!((all, staging.free_bytes()), (vec![6, 8, 10, 12, 14], 0));
        three.into_iter().chain(more).for_each(|buffer| staging.give_back(buffer));
        assert!(staging.take(64 << 10).is_some());
    }

    #[test]
    fn what_carriers_keep_can_never_be_free() {
        let layout = StagingLayout { areas: 1, area_bytes: 4096, buffer_bytes: 96 << 10 };
        let region = Arc::new(Region::anonymous(layout.bytes() as usize, RegionSlot(1)).unwrap());
        let mut staging = Staging::new(0, StagingMap::new(layout, vec![region]).unwrap()).unwrap();
        let most = |staging: &Staging| (12..32).rev().find(|bit| staging.may_ever_take(1 << bit, 0));
        assert_eq!(most(&staging), Some(16));
        assert!(staging.may_ever_take(64 << 10, 32 << 10) && !staging.may_ever_take(64 << 10, 36 << 10));
        let passing = staging.take(64 << 10).unwrap();
        assert_eq!(most(&staging), Some(16), "it comes back");
        let kept = staging.take_beside(3, 8192);
        assert!(most(&staging) == Some(16) && staging.may_ever_take(32 << 10, 40 << 10));
        staging.give_back(passing);
        let more = staging.take_beside(1, 8192).into_iter().chain(staging.take_beside(1, 4096)).collect::<Vec<_>>();
        assert_eq!((most(&staging), staging.free_bytes()), (Some(15), 60 << 10));
        assert!(staging.take(64 << 10).is_none() && staging.take(32 << 10).is_some());
        kept.into_iter().for_each(|buffer| staging.give_back(buffer));
        staging.give_back_kept(more);
        assert_eq!(most(&staging), Some(16));
    }

    #[test]
    fn buffers_that_come_back_are_counted() {
        let layout = StagingLayout { areas: 1, area_bytes: 4096, buffer_bytes: 64 << 10 };
        let region = Arc::new(Region::anonymous(layout.bytes() as usize, RegionSlot(1)).unwrap());
        let mut staging = Staging::new(0, StagingMap::new(layout, vec![region]).unwrap()).unwrap();
        let (one, other) = (staging.take(32 << 10).unwrap(), staging.take(32 << 10).unwrap());
        assert!(staging.take(1).is_none());
        assert_eq!(staging.given_back(), 0);
        staging.give_back(one);
        assert_eq!((staging.given_back(), staging.free_bytes()), (1, 32 << 10));
        staging.give_back(other);
        assert_eq!((staging.given_back(), staging.free_bytes()), (2, 64 << 10));
    }
}
