//! What a queue has to send: capsules, and the data that R2Ts asked for. No I/O.

use std::collections::VecDeque;

use super::super::wire::{CapsuleCmd, DIGEST_BYTES, DataDigest, Framing, H2cData, HEAD_BYTES, Head, Padded};
use super::commands::{Commands, MAX_R2TS};
use super::pieces::Outgoing;
use super::regions::{Place, Regions};

/// PDUs that are written at once.
const WINDOW: usize = 16;
/// No further PDU is begun while so many bytes wait for the socket.
const WINDOW_BYTES: usize = 512 << 10;
/// Pieces of one PDU: head, data, digest.
const PIECES: usize = 3;

/// Data that an R2T asked for, as far as it has not been written.
#[derive(Clone, Copy, Debug)]
struct Asked {
    cid: u16,
    tag: u16,
    offset: u32,
    place: Place,
}

/// A PDU that is being sent.
struct Leaving {
    head: Head,
    head_bytes: usize,
    data: Option<Place>,
    digest: [u8; DIGEST_BYTES],
    digest_bytes: usize,
    cid: u16,
    capsule: bool,
}

impl Leaving {
    fn bytes(&self) -> usize {
        self.head_bytes + self.data.map_or(0, |place| place.bytes as usize) + self.digest_bytes
    }
}

pub(super) struct Outbox {
    /// Commands that were pushed and not yet written. They go before data, which may be long.
    capsules: VecDeque<u16>,
    asked: VecDeque<Asked>,
    window: VecDeque<Leaving>,
    /// Bytes of the first PDU of the window that are gone, and bytes of the window that are not.
    gone: usize,
    waiting: usize,
    pub(super) framing: Framing,
    /// Data in one H2CData PDU.
    pub(super) max_data: u32,
}

impl Outbox {
    pub(super) fn new(depth: u16, framing: Framing, max_data: u32) -> Self {
        let depth = usize::from(depth);
        Self {
            capsules: VecDeque::with_capacity(depth),
            asked: VecDeque::with_capacity(depth * usize::from(MAX_R2TS)),
            window: VecDeque::with_capacity(WINDOW),
            gone: 0,
            waiting: 0,
            framing,
            max_data,
        }
    }

    pub(super) fn push_capsule(&mut self, cid: u16) {
        self.capsules.push_back(cid);
    }

    pub(super) fn push_data(&mut self, cid: u16, tag: u16, offset: u32, place: Place) {
        self.asked.push_back(Asked { cid, tag, offset, place });
    }

    /// Drops data of a command that the controller does not want any more, as far as it was not written.
    pub(super) fn cancel(&mut self, cid: u16) {
        self.asked.retain(|asked| asked.cid != cid);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.capsules.is_empty() && self.asked.is_empty() && self.window.is_empty()
    }

    /// Whether the next byte sent would begin a PDU.
    pub(super) fn between_pdus(&self) -> bool {
        self.gone == 0
    }

    /// Writes PDUs for what is due, as far as the window goes.
    pub(super) fn fill(&mut self, commands: &mut Commands, regions: &Regions) {
        while self.window.len() < WINDOW && self.waiting < WINDOW_BYTES {
            let leaving = if let Some(cid) = self.capsules.pop_front() {
                self.capsule(cid, commands, regions)
            } else {
                self.data(commands, regions)
            };
            let Some(leaving) = leaving else { return };
            if let Some(command) = commands.get_mut(leaving.cid) {
                command.leaving += 1;
            }
            self.waiting += leaving.bytes();
            self.window.push_back(leaving);
        }
    }

    fn capsule(&self, cid: u16, commands: &Commands, regions: &Regions) -> Option<Leaving> {
        let command = commands.get(cid)?;
        let data = command.place.filter(|_| command.in_capsule);
        let mut head = [0; HEAD_BYTES];
        let pdu = CapsuleCmd { sqe: command.sqe, data: data.map_or(0, |place| place.bytes) };
        let head_bytes = pdu.encode(self.framing, &mut head);
        Some(self.leaving(head, head_bytes, data, cid, true, regions))
    }

    fn data(&mut self, commands: &mut Commands, regions: &Regions) -> Option<Leaving> {
        let max_data = self.max_data;
        let asked = self.asked.front_mut()?;
        let Asked { cid, tag, offset, place } = *asked;
        let length = place.bytes.min(max_data);
        let last = length == place.bytes;
        let now = place.part(0, length)?;
        if last {
            self.asked.pop_front();
            commands.served(cid);
        } else {
            asked.offset += length;
            asked.place = place.part(length, place.bytes - length)?;
        }
        let mut head = [0; HEAD_BYTES];
        let head_bytes = H2cData { cid, tag, offset, length, last }.encode(self.framing, &mut head);
        Some(self.leaving(head, head_bytes, Some(now), cid, false, regions))
    }

    fn leaving(
        &self,
        head: Head,
        head_bytes: usize,
        data: Option<Place>,
        cid: u16,
        capsule: bool,
        regions: &Regions,
    ) -> Leaving {
        let mut digest = [0; DIGEST_BYTES];
        let digested = data.filter(|_| self.framing.digests.data);
        if let Some(place) = digested {
            let mut state = DataDigest::new();
            regions.for_each_piece(place, |piece| state.update(piece));
            digest = state.finish(Padded::No).to_le_bytes();
        }
        let digest_bytes = if digested.is_some() { DIGEST_BYTES } else { 0 };
        Leaving { head, head_bytes, data, digest, digest_bytes, cid, capsule }
    }

    /// The bytes of the window that are still to be sent.
    pub(super) fn gather<'a>(&'a self, regions: &'a Regions, into: &mut Outgoing<'a>) {
        let mut skip = self.gone;
        for leaving in &self.window {
            if !into.has_room(PIECES) {
                return;
            }
            let head = skip.min(leaving.head_bytes);
            into.add(&leaving.head[head..leaving.head_bytes]);
            skip -= head;
            if let Some(place) = leaving.data {
                let bytes = skip.min(place.bytes as usize) as u32;
                if let (Some(region), Some(rest)) = (regions.region(place), place.part(bytes, place.bytes - bytes)) {
                    into.add_region(region, rest.offset(), rest.bytes);
                }
                skip -= bytes as usize;
            }
            let digest = skip.min(leaving.digest_bytes);
            into.add(&leaving.digest[digest..leaving.digest_bytes]);
            skip -= digest;
        }
    }

    /// So many bytes were sent. `each` is called for every command of which a PDU has left.
    pub(super) fn sent(&mut self, bytes: usize, commands: &mut Commands, mut each: impl FnMut(u16, &mut Commands)) {
        self.gone += bytes;
        self.waiting -= bytes.min(self.waiting);
        while let Some(first) = self.window.front() {
            let length = first.bytes();
            if self.gone < length {
                return;
            }
            self.gone -= length;
            let (cid, capsule) = (first.cid, first.capsule);
            self.window.pop_front();
            if capsule {
                commands.sent(cid);
            }
            if let Some(command) = commands.get_mut(cid) {
                command.leaving -= 1;
            }
            each(cid, commands);
        }
    }
}
