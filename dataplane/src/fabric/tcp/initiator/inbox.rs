//! What a queue receives: headers into a small buffer, data straight to where it belongs. No I/O.

use super::super::wire::{DIGEST_BYTES, DataDigest, Decoder, Payload, Pdu, PduFault, Received};
use super::commands::{Commands, Transfer};
use super::pieces::Incoming;
use super::regions::Regions;

/// Room for headers. Many are read at once while no data can come between them.
const HEADER_ROOM: usize = 2048;
/// The common header and what follows it, for every PDU that a controller sends once a connection is initialized
/// (TCP transport, 3.6.2: HLEN is 24).
const HEADER_BYTES: usize = 24;

/// Data that is being received.
#[derive(Clone, Copy)]
struct Arriving {
    transfer: Transfer,
    /// How much of it is there.
    done: u32,
}

/// What came that is not data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// A PDU without data, or the header of a Terminate Connection Request.
    Pdu(Pdu),
    /// All data of a PDU.
    Data(Transfer),
}

pub(super) struct Inbox {
    pub(super) decoder: Decoder,
    headers: Box<[u8; HEADER_ROOM]>,
    /// Bytes of `headers` that are filled, and of those that were looked at.
    filled: usize,
    taken: usize,
    /// Where the header begins that was looked at last.
    looked: usize,
    padding: Box<[u8; 256]>,
    padding_left: usize,
    arriving: Option<Arriving>,
    digest: [u8; DIGEST_BYTES],
    digest_left: usize,
}

impl Inbox {
    pub(super) fn new(decoder: Decoder) -> Self {
        Self {
            decoder,
            headers: Box::new([0; HEADER_ROOM]),
            filled: 0,
            taken: 0,
            looked: 0,
            padding: Box::new([0; 256]),
            padding_left: 0,
            arriving: None,
            digest: [0; DIGEST_BYTES],
            digest_left: 0,
        }
    }

    fn header_bytes(&self) -> usize {
        HEADER_BYTES + if self.decoder.framing.digests.header { DIGEST_BYTES } else { 0 }
    }

    /// Where the next bytes go.
    pub(super) fn want<'a>(&'a mut self, commands: &Commands, regions: &'a Regions, into: &mut Incoming<'a>) {
        self.headers.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
        self.looked = 0;
        let one = self.header_bytes();
        into.add(&mut self.padding[..self.padding_left]);
        if let Some(Arriving { transfer, done }) = self.arriving
            && let Some(rest) = transfer.place.part(done, transfer.place.bytes - done)
            && let Some(region) = regions.region(rest)
        {
            into.add_region(region, rest.offset(), rest.bytes);
        }
        into.add(&mut self.digest[DIGEST_BYTES - self.digest_left..]);
        // With data about, what follows the next header may be data, which must not come here.
        let room = if commands.expect_data() { one.max(self.filled) } else { HEADER_ROOM };
        into.add(&mut self.headers[self.filled..room]);
    }

    /// So many bytes came to where [`want`](Self::want) had them go.
    pub(super) fn came(&mut self, mut bytes: usize) {
        let mut took = |left: usize| {
            let part = bytes.min(left);
            bytes -= part;
            part
        };
        self.padding_left -= took(self.padding_left);
        if let Some(arriving) = &mut self.arriving {
            arriving.done += took((arriving.transfer.place.bytes - arriving.done) as usize) as u32;
        }
        self.digest_left -= took(self.digest_left);
        self.filled += bytes;
    }

    /// The next thing that is complete. `None` if more has to come first.
    pub(super) fn next(&mut self, commands: &mut Commands, regions: &Regions) -> Result<Option<Arrived>, PduFault> {
        if let Some(Arriving { transfer, done }) = self.arriving {
            if done < transfer.place.bytes || self.digest_left > 0 {
                return Ok(None);
            }
            self.arriving = None;
            if self.decoder.framing.digests.data && !self.matches(transfer, regions) {
                commands.spoiled(transfer.cid);
            }
            return Ok(Some(Arrived::Data(transfer)));
        }
        self.looked = self.taken;
        let Some(first) = self.headers[self.taken..self.filled].first_chunk() else { return Ok(None) };
        let length = self.decoder.header_length(first)?;
        let Some(header) = self.headers[self.taken..self.filled].get(..length) else { return Ok(None) };
        let Received { pdu, payload } = self.decoder.decode(header)?;
        if let Pdu::C2hData(data) = pdu {
            self.begin(commands.data(&data)?, payload, length)?;
            // Its data has yet to come.
            return Ok(None);
        }
        self.taken += length;
        Ok(Some(Arrived::Pdu(pdu)))
    }

    fn begin(&mut self, transfer: Transfer, payload: Payload, header: usize) -> Result<(), PduFault> {
        self.taken += header;
        if self.taken < self.filled {
            // It was read ahead when no command awaited data, so it was sent before its command was.
            return Err(PduFault::SEQUENCE);
        }
        self.padding_left = usize::from(payload.padding);
        self.digest_left = if payload.digest { DIGEST_BYTES } else { 0 };
        self.arriving = Some(Arriving { transfer, done: 0 });
        Ok(())
    }

    fn matches(&self, transfer: Transfer, regions: &Regions) -> bool {
        let mut digest = DataDigest::new();
        regions.for_each_piece(transfer.place, |piece| digest.update(piece));
        digest.check(u32::from_le_bytes(self.digest)).is_some()
    }

    /// The header that was looked at last, as far as it is there: for a Terminate Connection Request.
    pub(super) fn offending(&self) -> &[u8] {
        let bytes = &self.headers[self.looked..self.filled];
        &bytes[..bytes.len().min(self.header_bytes())]
    }
}
