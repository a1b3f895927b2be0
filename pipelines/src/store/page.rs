//! Metadata pages: a 64-byte header, then 63 records.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic `KVPG` |
//! | 4..8 | CRC-32C of the whole page, taken with this field zero |
//! | 8..16 | low 64 bits of the store's uuid |
//! | 16..20 | number of the segment over all shards |
//! | 20..24 | slot: which page of the segment this is |
//! | 24..32 | generation of the segment |
//! | 32..36 | page: which part of the segment's records this is |
//! | 36..40 | records in the page |
//! | 40..48 | sequence of the newest record known when it was written |
//! | 48..52 | shard |
//! | 52..56 | kind: 1 segment open, 2 segment free, 3 records |
//! | 56..64 | 0 |
//!
//! A page names its own place and life, so a misdirected write or a page of the segment's earlier life is never
//! taken for this one.

use crc_fast::{CrcAlgorithm, checksum};

use super::layout::{Layout, UNIT_BYTES};
use super::record::{LIMIT, RECORD_BYTES, RECORDS_PER_PAGE, Record, long, word};
use super::space::BlockId;

/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = UNIT_BYTES as usize;
const MAGIC: [u8; 4] = *b"KVPG";

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageKind {
    /// Header: the segment holds blocks.
    Open,
    /// Header: the segment holds nothing.
    Free,
    /// Records.
    Records,
}

/// The header of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageHeader {
    pub generation: u64,
    pub page: u32,
    pub count: u32,
    pub sequence: u64,
    pub kind: PageKind,
}

impl PageHeader {
    /// Writes the header into `page`, whose records stand already, and seals it.
    pub fn seal(&self, layout: &Layout, segment: u32, slot: u32, page: &mut [u8; PAGE_BYTES]) {
        page[..4].copy_from_slice(&MAGIC);
        page[4..8].fill(0);
        page[8..16].copy_from_slice(&layout.store.to_le_bytes());
        page[16..20].copy_from_slice(&layout.global(segment).to_le_bytes());
        page[20..24].copy_from_slice(&slot.to_le_bytes());
        page[24..32].copy_from_slice(&self.generation.to_le_bytes());
        page[32..36].copy_from_slice(&self.page.to_le_bytes());
        page[36..40].copy_from_slice(&self.count.to_le_bytes());
        page[40..48].copy_from_slice(&self.sequence.to_le_bytes());
        page[48..52].copy_from_slice(&layout.shard.to_le_bytes());
        let kind: u32 = match self.kind {
            PageKind::Open => 1,
            PageKind::Free => 2,
            PageKind::Records => 3,
        };
        page[52..56].copy_from_slice(&kind.to_le_bytes());
        page[56..64].fill(0);
        let crc = crc_of(page);
        page[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    /// The header of a page read from `slot` of `segment`; `None` unless it is whole, ours, and of that place.
    pub fn check(layout: &Layout, segment: u32, slot: u32, page: &[u8]) -> Option<Self> {
        if page.len() != PAGE_BYTES || page[..4] != MAGIC {
            return None;
        }
        let here = long(page, 8) == layout.store
            && word(page, 16) == layout.global(segment)
            && word(page, 20) == slot
            && word(page, 48) == layout.shard;
        if !here || word(page, 4) != crc_of(page) {
            return None;
        }
        let kind = match word(page, 52) {
            1 => PageKind::Open,
            2 => PageKind::Free,
            3 => PageKind::Records,
            _ => return None,
        };
        let header = Self {
            generation: long(page, 24),
            page: word(page, 32),
            count: word(page, 36),
            sequence: long(page, 40),
            kind,
        };
        let life = header.generation < LIMIT && (header.generation > 0 || kind == PageKind::Free);
        (life && header.count <= RECORDS_PER_PAGE && header.sequence < LIMIT).then_some(header)
    }
}

/// Whether a page carries our mark: then it should be whole, and is damaged if it is not.
pub(crate) fn looks_ours(layout: &Layout, page: &[u8]) -> bool {
    page.len() == PAGE_BYTES && page[..4] == MAGIC && long(page, 8) == layout.store
}

/// Record `index` of a checked page; `None` if its contents make no sense.
pub(crate) fn record_at(page: &[u8], index: u32) -> Option<Record> {
    let at = RECORD_BYTES * (index as usize + 1);
    Record::from_bytes(page.get(at..)?.first_chunk()?)
}

/// The name in record `index` of a page, whatever else the record says.
pub(crate) fn name_at(page: &[u8], index: u32) -> Option<BlockId> {
    let at = RECORD_BYTES * (index as usize + 1);
    Some(Record::name_in(page.get(at..)?.first_chunk()?))
}

/// Puts a record into place `index` of a page.
pub(crate) fn put_record(page: &mut [u8; PAGE_BYTES], index: u32, record: &Record) {
    let at = RECORD_BYTES * (index as usize + 1);
    page[at..at + RECORD_BYTES].copy_from_slice(&record.to_bytes());
}

fn crc_of(page: &[u8]) -> u32 {
    let mut head = [0; 64];
    head.copy_from_slice(&page[..64]);
    head[4..8].fill(0);
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&head);
    digest.update(&page[64..]);
    digest.finalize() as u32
}

/// CRC-32C of some bytes.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::superblock::tests::example;

    fn sealed() -> (Layout, [u8; PAGE_BYTES]) {
        let layout = Layout::new(&example(), 1);
        let mut page = [0; PAGE_BYTES];
        put_record(&mut page, 0, &Record::keyless(crate::store::record::Kind::Purge, 3, 0x0203));
        let header = PageHeader { generation: 9, page: 4, count: 1, sequence: 0x0203, kind: PageKind::Records };
        header.seal(&layout, 2, 8, &mut page);
        (layout, page)
    }

    #[test]
    fn the_bytes_are_those_of_the_table() {
        let (layout, page) = sealed();
        assert_eq!(&page[..4], b"KVPG");
        assert_eq!(&page[8..16], b"01234567");
        assert_eq!(&page[16..24], &[6, 0, 0, 0, 8, 0, 0, 0], "segment 2 of shard 1, of 4 each");
        assert_eq!(&page[24..40], &[9, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(&page[40..64], &[3, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((page[64 + 16], page[64 + 28], page[64 + 29], page[64 + 48]), (0x30, 3, 1, 3));
        let header = PageHeader::check(&layout, 2, 8, &page).unwrap();
        assert_eq!((header.generation, header.page, header.count, header.kind), (9, 4, 1, PageKind::Records));
        assert_eq!(record_at(&page, 0).unwrap().sequence, 0x0203);
    }

    #[test]
    fn the_checksum_is_crc_32c() {
        // The check value of the catalogue of CRCs (CRC-32/ISCSI).
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        let (_, mut page) = sealed();
        let stands = word(&page, 4);
        page[4..8].fill(0);
        assert_eq!(crc32c(&page), stands);
    }

    #[test]
    fn a_page_is_good_in_its_own_place_only_and_only_whole() {
        let (layout, page) = sealed();
        assert_eq!(PageHeader::check(&layout, 2, 9, &page), None);
        assert_eq!(PageHeader::check(&layout, 1, 8, &page), None);
        assert_eq!(PageHeader::check(&Layout::new(&example(), 0), 2, 8, &page), None);
        let other = crate::store::Superblock { uuid: [1; 16], ..example() };
        assert_eq!(PageHeader::check(&Layout::new(&other, 1), 2, 8, &page), None);
        assert_eq!(PageHeader::check(&layout, 2, 8, &page[..512]), None);
        for at in [0, 5, 30, 63, 64, 2000, PAGE_BYTES - 1] {
            let mut torn = page;
            torn[at] ^= 0x10;
            assert_eq!(PageHeader::check(&layout, 2, 8, &torn), None, "byte {at}");
        }
    }
}
