//! Walks a command's data pointer: PRP entries and lists, scatter gather lists.

use crate::fabric::SessionId;
use crate::memory::DmaSlice;
use crate::nvme::spec::{DataPointer, SglDescriptor, SglKind, Sqe, Status};

use super::iova::IovaTable;

/// Page size of the controller: CAP.MPSMIN = CAP.MPSMAX = 0.
const PAGE: u64 = 4096;
/// The most SGL descriptors that one command may use, empty ones included.
const MAX_DESCRIPTORS: u16 = 4096;
/// The most of them that may move nothing (empty blocks, segments that only lead on): a client could keep the core busy
/// with them for next to nothing.
const MAX_EMPTY_DESCRIPTORS: u8 = 64;

/// Where the bytes of a command lie, and how far they have been read.
///
/// Nothing is looked up before the first byte is asked for, so that commands without data cost nothing. Every entry
/// of a list is read once when it is reached, checked, and only then used; a client that changes its lists meanwhile
/// only fools itself.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// PRP: address of the current page. SGL: address of the current data block.
    at: u64,
    /// PRP: the next list entry. SGL: the next descriptor.
    next: u64,
    /// Bytes left in the current page or block.
    run: u32,
    /// Bytes left in all, the current run included.
    rest: u32,
    /// SGL: descriptors left in the current segment.
    segment: u32,
    /// SGL: descriptors that may still be read.
    budget: u16,
    /// SGL: descriptors that move nothing and may still be read.
    empty_budget: u8,
    session: SessionId,
    walk: Walk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    /// The data pointer as it stands in the command: PRP entries 1 and 2.
    FreshPrp,
    /// The data pointer as it stands in the command: an SGL descriptor in `at` and `next`.
    FreshSgl,
    /// PSDT was 11b.
    Reserved,
    /// `next` is PRP entry 2, the last page.
    PrpSecond,
    /// `next` is in a PRP list.
    PrpList,
    /// `next` is in an SGL segment; more may follow.
    Segment,
    /// `next` is in the last SGL segment.
    LastSegment,
    /// Nothing follows the current run.
    Last,
}

impl Cursor {
    /// A cursor over the first `bytes` of what the data pointer of `sqe` names.
    #[inline]
    pub(super) fn new(sqe: &Sqe, session: SessionId, bytes: u32) -> Self {
        let walk = match sqe.data_pointer() {
            Some(DataPointer::Prp { .. }) => Walk::FreshPrp,
            Some(DataPointer::Sgl(_)) => Walk::FreshSgl,
            None => Walk::Reserved,
        };
        Self {
            at: sqe.quadword(6),
            next: sqe.quadword(8),
            run: 0,
            rest: bytes,
            segment: 0,
            budget: MAX_DESCRIPTORS,
            empty_budget: MAX_EMPTY_DESCRIPTORS,
            session,
            walk,
        }
    }

    /// Whose memory it names.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Bytes that it can still yield.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.rest
    }

    /// The next bytes, `max` at most, adjacent pages joined.
    #[inline]
    pub(super) fn window(&mut self, table: &mut IovaTable, max: u32) -> Result<DmaSlice, Status> {
        match self.plain(table, max) {
            Some(window) => Ok(window),
            None => self.gather(table, max),
        }
    }

    /// The first `max` bytes where the command itself names them all, as one data block or inside one page: what
    /// nearly every command does. `None`, and nothing has changed, wherever there is more to it.
    #[inline]
    fn plain(&mut self, table: &mut IovaTable, max: u32) -> Option<DmaSlice> {
        let one_run = match self.walk {
            // The type and subtype of a data block are zero.
            Walk::FreshSgl => self.next >> 56 == 0 && self.next as u32 >= self.rest,
            Walk::FreshPrp => self.at & 0b11 == 0 && self.at % PAGE + u64::from(self.rest) <= PAGE,
            _ => false,
        };
        if !one_run || max == 0 || max > self.rest {
            return None;
        }
        let window = table.translate(self.at, max).filter(|window| window.bytes() == max)?;
        self.walk = Walk::Last;
        self.run = self.rest;
        self.consume(max);
        Some(window)
    }

    fn gather(&mut self, table: &mut IovaTable, max: u32) -> Result<DmaSlice, Status> {
        let mut window = DmaSlice::EMPTY;
        loop {
            let part = match self.part(table, max - window.bytes()) {
                Ok(part) => part,
                // What was found so far is good; the fault comes up again with the next call.
                Err(_) if window.bytes() > 0 => return Ok(window),
                Err(status) => return Err(status),
            };
            let joined = if window.bytes() == 0 { Some(part) } else { window.join(part) };
            let Some(joined) = joined else { return Ok(window) };
            window = joined;
            self.consume(part.bytes());
            if window.bytes() == max || self.rest == 0 {
                return Ok(window);
            }
        }
    }

    /// The bytes at the cursor as far as they lie together, without moving on.
    fn part(&mut self, table: &mut IovaTable, max: u32) -> Result<DmaSlice, Status> {
        if max == 0 || self.rest == 0 {
            return Err(Status::DATA_SGL_LENGTH_INVALID);
        }
        while self.run == 0 {
            self.advance(table)?;
        }
        table.translate(self.at, max.min(self.run)).ok_or(Status::DATA_TRANSFER_ERROR)
    }

    #[inline]
    fn consume(&mut self, bytes: u32) {
        self.at += u64::from(bytes);
        self.run -= bytes;
        self.rest -= bytes;
    }

    /// Goes to the next page or block. Changes nothing if that fails.
    fn advance(&mut self, table: &mut IovaTable) -> Result<(), Status> {
        match self.walk {
            Walk::FreshPrp => self.begin_prp(),
            Walk::FreshSgl => {
                let descriptor = SglDescriptor::from_quadwords(self.at, self.next);
                // The descriptor in the command may be a data block, or the segment that holds all others.
                self.take_descriptor(descriptor, Walk::Last, true)
            }
            Walk::Reserved => Err(Status::INVALID_FIELD),
            Walk::PrpSecond => {
                let page = self.next;
                self.take_page(page, Walk::Last)
            }
            Walk::PrpList => self.next_prp(table),
            Walk::Segment | Walk::LastSegment => self.next_descriptor(table),
            Walk::Last => Err(Status::DATA_SGL_LENGTH_INVALID),
        }
    }

    fn begin_prp(&mut self) -> Result<(), Status> {
        let offset = self.at % PAGE;
        // The base specification wants dword alignment of the first entry.
        if !offset.is_multiple_of(4) {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        let run = u64::from(self.rest).min(PAGE - offset) as u32;
        let beyond = u64::from(self.rest - run);
        self.walk = if beyond == 0 {
            Walk::Last
        } else if beyond <= PAGE {
            Walk::PrpSecond
        } else if self.next.is_multiple_of(8) {
            Walk::PrpList
        } else {
            return Err(Status::PRP_OFFSET_INVALID);
        };
        self.run = run;
        Ok(())
    }

    fn take_page(&mut self, page: u64, then: Walk) -> Result<(), Status> {
        if !page.is_multiple_of(PAGE) {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        self.at = page;
        self.run = u64::from(self.rest).min(PAGE) as u32;
        self.walk = then;
        Ok(())
    }

    /// The last entry of a list page leads to the next list page, unless it is the last entry of all.
    fn next_prp(&mut self, table: &mut IovaTable) -> Result<(), Status> {
        let mut list = self.next;
        let mut entry = Self::load(table, list)?;
        let ends_page = list % PAGE == PAGE - 8;
        if ends_page && u64::from(self.rest) > PAGE {
            if !entry.is_multiple_of(PAGE) {
                return Err(Status::PRP_OFFSET_INVALID);
            }
            list = entry;
            entry = Self::load(table, list)?;
        }
        self.take_page(entry, Walk::PrpList)?;
        self.next = list.wrapping_add(8);
        Ok(())
    }

    fn next_descriptor(&mut self, table: &mut IovaTable) -> Result<(), Status> {
        let (Some(segment), Some(budget)) = (self.segment.checked_sub(1), self.budget.checked_sub(1)) else {
            // The segment ran out before the data did, or the list is absurdly long.
            return Err(if self.segment == 0 { Status::DATA_SGL_LENGTH_INVALID } else { Status::INVALID_SGL_COUNT });
        };
        let low = Self::load(table, self.next)?;
        let high = Self::load(table, self.next.wrapping_add(8))?;
        let here = self.walk;
        let next = self.next.wrapping_add(u64::from(SglDescriptor::BYTES));
        // Only the last descriptor of a segment may lead on, and none of the last segment.
        let may_lead_on = here == Walk::Segment && segment == 0;
        let (before_segment, before_next) = (self.segment, self.next);
        (self.segment, self.next) = (segment, next);
        let taken = self.take_descriptor(SglDescriptor::from_quadwords(low, high), here, may_lead_on);
        if taken.is_err() {
            (self.segment, self.next) = (before_segment, before_next);
        } else {
            self.budget = budget;
        }
        taken
    }

    fn take_descriptor(&mut self, descriptor: SglDescriptor, then: Walk, may_lead_on: bool) -> Result<(), Status> {
        match descriptor.kind() {
            Some(SglKind::DataBlock) => {
                if descriptor.length == 0 {
                    self.spend_empty()?;
                }
                self.at = descriptor.address;
                self.run = descriptor.length.min(self.rest);
                self.walk = then;
                Ok(())
            }
            Some(kind @ (SglKind::Segment | SglKind::LastSegment)) => {
                let whole = descriptor.length >= SglDescriptor::BYTES
                    && descriptor.length.is_multiple_of(SglDescriptor::BYTES)
                    && descriptor.address.is_multiple_of(8);
                if !may_lead_on || !whole {
                    return Err(Status::INVALID_SGL_SEGMENT);
                }
                if kind == SglKind::Segment && descriptor.length == SglDescriptor::BYTES {
                    // Its only descriptor leads on: it moves nothing either.
                    self.spend_empty()?;
                }
                self.next = descriptor.address;
                self.segment = descriptor.length / SglDescriptor::BYTES;
                self.run = 0;
                self.walk = if kind == SglKind::Segment { Walk::Segment } else { Walk::LastSegment };
                Ok(())
            }
            Some(SglKind::BitBucket | SglKind::KeyedDataBlock) | None => Err(Status::SGL_TYPE_INVALID),
        }
    }

    fn spend_empty(&mut self) -> Result<(), Status> {
        self.empty_budget = self.empty_budget.checked_sub(1).ok_or(Status::INVALID_SGL_COUNT)?;
        Ok(())
    }

    fn load(table: &mut IovaTable, at: u64) -> Result<u64, Status> {
        let found = table.find(at).and_then(|(region, offset)| {
            // Aligned as the address is: regions begin on pages.
            region.load64(offset, std::sync::atomic::Ordering::Relaxed)
        });
        found.map(u64::from_le).ok_or(Status::DATA_TRANSFER_ERROR)
    }
}

/// Copies bytes out of a client's memory and moves the cursor on.
pub(super) fn copy_out(cursor: &mut Cursor, table: &mut IovaTable, into: &mut [u8]) -> Result<(), Status> {
    let mut done = 0;
    while done < into.len() {
        let part = cursor.part(table, bounded(into.len() - done))?;
        let end = done + part.bytes() as usize;
        let (region, offset) = table.find(cursor.at).ok_or(Status::DATA_TRANSFER_ERROR)?;
        region.read(offset, &mut into[done..end]).ok_or(Status::DATA_TRANSFER_ERROR)?;
        if region.poisoned() {
            // The client truncated its memory; what was read may be zeros that nobody wrote.
            return Err(Status::DATA_TRANSFER_ERROR);
        }
        cursor.consume(part.bytes());
        done = end;
    }
    Ok(())
}

/// Copies bytes into a client's memory and moves the cursor on.
pub(super) fn copy_in(cursor: &mut Cursor, table: &mut IovaTable, from: &[u8]) -> Result<(), Status> {
    let mut done = 0;
    while done < from.len() {
        let part = cursor.part(table, bounded(from.len() - done))?;
        let end = done + part.bytes() as usize;
        let (region, offset) = table.find(cursor.at).ok_or(Status::DATA_TRANSFER_ERROR)?;
        region.write(offset, &from[done..end]).ok_or(Status::DATA_TRANSFER_ERROR)?;
        cursor.consume(part.bytes());
        done = end;
    }
    Ok(())
}

fn bounded(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::super::shared_memory::SharedMemory;
    use super::super::iova::IovaRange;
    use super::*;
    use crate::memory::{Region, RegionSlot};
    use crate::nvme::spec::kv::opcode;
    use crate::nvme::spec::kv::transfer_bytes;
    use std::sync::Arc;

    const BASE: u64 = 0x10_0000;

    /// Two regions of 64 KiB that follow each other at `BASE`; the first one's memory comes back for lists.
    fn two_regions() -> (IovaTable, SharedMemory) {
        let first = SharedMemory::create("a", 65536, false).unwrap();
        // A slot of its own, as regions of clients have: they may be mapped next to each other.
        let second = Region::anonymous(65536, RegionSlot(1)).unwrap();
        let mut table = IovaTable::default();
        table.insert(IovaRange { iova: BASE, region: Arc::clone(first.region()) }).unwrap();
        table.insert(IovaRange { iova: BASE + 65536, region: Arc::new(second) }).unwrap();
        (table, first)
    }

    fn cursor(fill: impl FnOnce(&mut Sqe), bytes: u32) -> Cursor {
        let mut sqe = Sqe::new(opcode::STORE, 0);
        sqe.set_dword(10, bytes);
        fill(&mut sqe);
        Cursor::new(&sqe, SessionId(0), transfer_bytes(&sqe))
    }

    fn lengths(mut cursor: Cursor, table: &mut IovaTable, max: u32) -> Result<Vec<u32>, Status> {
        let mut found = Vec::new();
        while cursor.remaining() > 0 {
            found.push(cursor.window(table, max)?.bytes());
        }
        Ok(found)
    }

    #[test]
    fn adjacent_pages_join_and_regions_do_not() {
        let (mut table, memory) = two_regions();
        // A list at the start of the region that names pages 15, 16 (the next region) and 18.
        for (index, page) in [15u64, 16, 18].into_iter().enumerate() {
            memory.region().write(index as u64 * 8, &(BASE + page * 4096).to_le_bytes()).unwrap();
        }
        let prp = |bytes| cursor(|sqe| sqe.set_prp(BASE + 14 * 4096 + 8, BASE), bytes);
        assert_eq!(lengths(prp(4 * 4096 - 8), &mut table, u32::MAX), Ok(vec![8184, 4096, 4096]));
        assert_eq!(lengths(prp(4 * 4096 - 8), &mut table, 5000), Ok(vec![5000, 3184, 4096, 4096]));
        let sgl = cursor(|sqe| sqe.set_sgl(SglDescriptor::data_block(BASE + 65536 - 10, 30)), 30);
        assert_eq!(lengths(sgl, &mut table, 1 << 20), Ok(vec![10, 20]));
    }

    #[test]
    fn the_short_way_agrees_with_the_long_one() {
        let (mut table, memory) = two_regions();
        memory.region().write(0, &(BASE + 5 * 4096).to_le_bytes()).unwrap();
        let (mut short, mut tried) = (0, 0);
        for at in [0, 4, 6, 4000, 4096, 65536 - 100, 2 * 65536 - 100, 2 * 65536, u64::MAX - BASE - 8] {
            for bytes in [1, 96, 100, 4096, 5000] {
                for length in [0, bytes - 1, bytes, bytes + 1] {
                    let prp = cursor(|sqe| sqe.set_prp(BASE.wrapping_add(at), BASE), bytes);
                    let block = SglDescriptor::data_block(BASE.wrapping_add(at), length);
                    let mut odd = block;
                    odd.identifier = 1;
                    for fresh in [prp, cursor(|sqe| sqe.set_sgl(block), bytes), cursor(|sqe| sqe.set_sgl(odd), bytes)] {
                        for max in [1, bytes - 1, bytes, bytes + 1, u32::MAX] {
                            let (mut plain, mut gathered) = (fresh.clone(), fresh.clone());
                            tried += 1;
                            let Some(window) = plain.plain(&mut table, max) else {
                                assert_eq!(format!("{plain:?}"), format!("{fresh:?}"));
                                continue;
                            };
                            short += 1;
                            assert_eq!(gathered.gather(&mut table, max), Ok(window));
                            assert_eq!(format!("{plain:?}"), format!("{gathered:?}"));
                        }
                    }
                }
            }
        }
        assert!(short > 50 && tried > 5 * short, "{short} of {tried}");
    }

    #[test]
    fn a_list_goes_on_in_its_last_entry() {
        let (mut table, memory) = two_regions();
        // Two entries are left in the list page: the first names page 1, the last leads to a list at page 2.
        memory.region().write(4096 - 16, &(BASE + 4096).to_le_bytes()).unwrap();
        memory.region().write(4096 - 8, &(BASE + 2 * 4096).to_le_bytes()).unwrap();
        for (index, page) in [5u64, 6].into_iter().enumerate() {
            memory.region().write(2 * 4096 + index as u64 * 8, &(BASE + page * 4096).to_le_bytes()).unwrap();
        }
        let chained = cursor(|sqe| sqe.set_prp(BASE + 3 * 4096, BASE + 4096 - 16), 4 * 4096);
        assert_eq!(lengths(chained, &mut table, u32::MAX), Ok(vec![4096, 4096, 8192]));
        // With one page less to go, the last entry of the page is a data page, here the one after the page before.
        let ends = cursor(|sqe| sqe.set_prp(BASE + 3 * 4096, BASE + 4096 - 16), 3 * 4096);
        assert_eq!(lengths(ends, &mut table, u32::MAX), Ok(vec![4096, 8192]));
    }

    #[test]
    fn segments_chain_and_empty_blocks_are_skipped() {
        let (mut table, memory) = two_regions();
        let put = |at: u64, descriptor: SglDescriptor| {
            let (low, high) = descriptor.to_quadwords();
            memory.region().write(at, &[low.to_le_bytes(), high.to_le_bytes()].concat()).unwrap();
        };
        let lead = |kind: u8, address, length| SglDescriptor { address, length, middle: 0, identifier: kind << 4 };
        put(0, SglDescriptor::data_block(BASE + 4096, 100));
        put(16, SglDescriptor::data_block(BASE, 0));
        put(32, lead(3, BASE + 64, 32));
        put(64, SglDescriptor::data_block(BASE + 4196, 50));
        put(80, SglDescriptor::data_block(BASE + 9000, 50));
        let sgl = |bytes| cursor(|sqe| sqe.set_sgl(lead(2, BASE, 48)), bytes);
        assert_eq!(lengths(sgl(200), &mut table, u32::MAX), Ok(vec![150, 50]));
        assert_eq!(lengths(sgl(201), &mut table, u32::MAX), Err(Status::DATA_SGL_LENGTH_INVALID));
        // The last segment may not lead on.
        put(80, lead(2, BASE, 48));
        assert_eq!(lengths(sgl(200), &mut table, u32::MAX), Err(Status::INVALID_SGL_SEGMENT));
    }

    #[test]
    fn empty_blocks_are_limited() {
        let (mut table, memory) = two_regions();
        let put = |at: u64, descriptor: SglDescriptor| {
            let (low, high) = descriptor.to_quadwords();
            memory.region().write(at, &[low.to_le_bytes(), high.to_le_bytes()].concat()).unwrap();
        };
        let with_empty = |empty: u8| {
            let empty = u64::from(empty);
            (0..empty).for_each(|index| put(index * 16, SglDescriptor::data_block(0, 0)));
            put(empty * 16, SglDescriptor::data_block(BASE, 64));
            let list = SglDescriptor { address: BASE, length: (empty as u32 + 1) * 16, middle: 0, identifier: 0x30 };
            cursor(|sqe| sqe.set_sgl(list), 64)
        };
        assert_eq!(lengths(with_empty(MAX_EMPTY_DESCRIPTORS), &mut table, u32::MAX), Ok(vec![64]));
        let more = with_empty(MAX_EMPTY_DESCRIPTORS + 1);
        assert_eq!(lengths(more, &mut table, u32::MAX), Err(Status::INVALID_SGL_COUNT));
    }

    #[test]
    fn a_clone_remembers_the_place_and_no_data_costs_no_look() {
        let (mut table, memory) = two_regions();
        memory.region().write(4096, &[7; 64]).unwrap();
        let mut walk = cursor(|sqe| sqe.set_sgl(SglDescriptor::data_block(BASE + 4096, 64)), 64);
        walk.window(&mut table, 10).unwrap();
        let mut place = walk.clone();
        let mut bytes = [0; 54];
        copy_out(&mut walk, &mut table, &mut bytes).unwrap();
        assert_eq!((bytes, walk.remaining()), ([7; 54], 0));
        copy_in(&mut place, &mut table, &[9; 54]).unwrap();
        assert_eq!(copy_in(&mut place, &mut table, &[9]), Err(Status::DATA_SGL_LENGTH_INVALID));
        let mut seen = [0; 2];
        memory.region().read(4096 + 9, &mut seen).unwrap();
        assert_eq!(seen, [7, 9]);
        let mut exist = Sqe::new(opcode::EXIST, 0);
        exist.set_dword(10, 77);
        assert_eq!(transfer_bytes(&exist), 0);
    }
}
