//! Headers one after another, lined up with data.

use arrayvec::ArrayVec;

use super::super::super::wire::{C2hData, DIGEST_BYTES, DataDigest, Framing, HEAD_BYTES, Padded};
use super::super::streams::MAX_PARTS;
use super::AREA_BYTES;
use crate::fabric::message::{Area, Buffer, Staging};
use crate::memory::DmaSlice;

/// The digest of a range that is read piece by piece.
pub(super) fn digest_of(from: u32, bytes: u32, read: impl Fn(u32, &mut [u8]) -> Option<()>) -> DataDigest {
    let mut digest = DataDigest::new();
    let mut piece = [0; 4096];
    let mut done = 0;
    while done < bytes {
        let part = &mut piece[..(bytes - done).min(4096) as usize];
        if read(from + done, part).is_none() {
            break;
        }
        digest.update(part);
        done += part.len() as u32;
    }
    digest
}

/// Writes headers one after another into the outgoing half of an area, and lines them up with data.
pub(super) struct HeadWriter<'a> {
    pub at: u32,
    pub area: &'a Area,
    pub staging: &'a Staging,
    pub parts: &'a mut ArrayVec<DmaSlice, MAX_PARTS>,
}

impl HeadWriter<'_> {
    /// Whether one more answer with data fits.
    pub fn has_room(&self) -> bool {
        self.at + 2 * HEAD_BYTES as u32 + DIGEST_BYTES as u32 <= AREA_BYTES && self.parts.remaining_capacity() >= 4
    }

    pub fn put(&mut self, encode: impl FnOnce(&mut [u8; HEAD_BYTES]) -> usize) {
        let mut head = [0; HEAD_BYTES];
        let bytes = encode(&mut head);
        self.put_bytes(&head[..bytes]);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        let slice = self.staging.area_slice(self.area, self.at, bytes.len() as u32);
        let Some((slice, ())) = slice.zip(self.staging.area_write(self.area, self.at, bytes)) else { return };
        self.at += bytes.len() as u32;
        match self.parts.last_mut() {
            Some(last) if last.join(slice).is_some() => *last = last.join(slice).unwrap_or(*last),
            _ => self.parts.push(slice),
        }
    }

    /// A PDU with bytes that lie elsewhere, on a connection without data digests. Says how many they are.
    pub fn lent(&mut self, cid: u16, bytes: DmaSlice, framing: Framing) -> u32 {
        let length = bytes.bytes();
        if length > 0 {
            let pdu = C2hData { cid, offset: 0, length, last: true, success: false };
            self.put(|head| pdu.encode(framing, head));
            self.parts.push(bytes);
        }
        length
    }

    /// A PDU with the first `length` bytes of a buffer.
    pub fn data(&mut self, cid: u16, buffer: &Buffer, length: u32, framing: Framing) {
        let Some(slice) = self.staging.slice(buffer, 0, length).filter(|slice| slice.bytes() > 0) else { return };
        let pdu = C2hData { cid, offset: 0, length, last: true, success: false };
        self.put(|head| pdu.encode(framing, head));
        self.parts.push(slice);
        if framing.digests.data {
            let digest = digest_of(0, length, |at, into| self.staging.read(buffer, at, into));
            self.put_bytes(&digest.finish(Padded::No).to_le_bytes());
        }
    }
}
