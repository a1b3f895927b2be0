//! From bytes to PDUs.

use super::digest::{DIGEST_BYTES, header_digest};
use super::fault::{FatalStatus, PduFault, field};
use super::header::{COMMON_BYTES, End, Framing, PduType, flags};
use super::pdu::{C2hData, CapsuleCmd, CapsuleResp, H2cData, IcReq, IcResp, Pdu, R2t, TermReq, get32};
use super::{ADMIN_CAPSULE_DATA_BYTES, MAX_TERM_DATA_BYTES, MIN_H2C_DATA_BYTES};

/// How much data a controller takes in one PDU, in bytes. A host takes what fits the command's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In-capsule data of a CapsuleCmd.
    pub capsule_data: u32,
    /// Data of an H2CData: the MAXH2CDATA that was told.
    pub h2c_data: u32,
}

impl Default for Limits {
    /// What every controller must take.
    fn default() -> Self {
        Self { capsule_data: ADMIN_CAPSULE_DATA_BYTES, h2c_data: MIN_H2C_DATA_BYTES }
    }
}

/// What an end expects of the PDUs that come in. It holds no bytes: change it as the connection goes on.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// Who receives.
    pub receiver: End,
    /// Whether ICReq and ICResp were exchanged. Until then nothing else may come, and afterwards neither.
    pub initialized: bool,
    /// What was agreed for the PDUs that come in.
    pub framing: Framing,
    /// How much data may come at once.
    pub limits: Limits,
}

/// What follows a header, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// Bytes of padding between the header (with its digest) and the data, to be thrown away. 255 at most.
    pub padding: u8,
    /// Bytes of data.
    pub data: u32,
    /// Whether a data digest of 4 bytes follows the data.
    pub digest: bool,
}

impl Payload {
    /// Bytes of it on the wire.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.padding as usize + self.data as usize + if self.digest { DIGEST_BYTES } else { 0 }
    }
}

/// A PDU and what follows its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The PDU.
    pub pdu: Pdu,
    /// What follows.
    pub payload: Payload,
}

impl Decoder {
    /// Of a connection that was just made.
    #[must_use]
    pub fn new(receiver: End) -> Self {
        Self { receiver, initialized: false, framing: Framing::INITIAL, limits: Limits::default() }
    }

    /// Bytes of the header whose first 8 bytes these are: with them, and with its digest if it has one. So many have to
    /// be there for [`decode`](Self::decode): 24 to 128.
    ///
    /// # Errors
    /// The fault that ends the connection.
    pub fn header_length(&self, first: &[u8; COMMON_BYTES]) -> Result<usize, PduFault> {
        self.kind(first).map(|(_, bytes)| bytes)
    }

    /// The type of a PDU, and the bytes of its header with digest.
    fn kind(&self, first: &[u8]) -> Result<(PduType, usize), PduFault> {
        let kind = PduType::from_number(first[0]).filter(|kind| kind.sender() != self.receiver);
        let kind = kind.ok_or(PduFault::invalid(field::TYPE))?;
        let length = get32(first, 4);
        if kind.terminates() && !(24..=24 + MAX_TERM_DATA_BYTES).contains(&length) {
            return Err(PduFault::UNANSWERED);
        }
        if kind.initializes() == self.initialized && !kind.terminates() {
            return Err(PduFault::SEQUENCE);
        }
        let has_digest = self.framing.digests.header && kind.may_have_digest();
        let says_digest = first[1] & flags::HEADER_DIGEST != 0 && kind.may_have_digest();
        if has_digest != says_digest {
            return Err(PduFault::invalid(field::FLAGS));
        }
        if usize::from(first[2]) != kind.header_bytes() {
            return Err(PduFault::invalid(field::HEADER_LENGTH));
        }
        let bytes = kind.header_bytes() + if has_digest { DIGEST_BYTES } else { 0 };
        if (length as usize) < bytes {
            return Err(PduFault::invalid(field::PDU_LENGTH));
        }
        Ok((kind, bytes))
    }

    /// Decodes a header of the length that [`header_length`](Self::header_length) told.
    ///
    /// # Errors
    /// The fault that ends the connection.
    pub fn decode(&self, header: &[u8]) -> Result<Received, PduFault> {
        if header.len() < COMMON_BYTES {
            return Err(PduFault::invalid(field::HEADER_LENGTH));
        }
        let (kind, bytes) = self.kind(header)?;
        if header.len() != bytes {
            return Err(PduFault::invalid(field::HEADER_LENGTH));
        }
        if bytes > kind.header_bytes() {
            let received = get32(header, kind.header_bytes());
            if header_digest(&header[..kind.header_bytes()]) != received {
                return Err(PduFault { fes: FatalStatus::HEADER_DIGEST_ERROR, fei: received });
            }
        }
        let payload = self.payload(kind, header)?;
        let pdu = match kind {
            PduType::IcReq => Pdu::IcReq(IcReq::decode(header)?),
            PduType::IcResp => Pdu::IcResp(IcResp::decode(header)?),
            PduType::H2cTermReq | PduType::C2hTermReq => Pdu::TermReq(TermReq::decode(header)),
            PduType::CapsuleCmd => Pdu::CapsuleCmd(CapsuleCmd::decode(header, payload.data)),
            PduType::CapsuleResp => Pdu::CapsuleResp(CapsuleResp::decode(header)),
            PduType::H2cData => Pdu::H2cData(H2cData::decode(header)?),
            PduType::C2hData => Pdu::C2hData(C2hData::decode(header)?),
            PduType::R2t => Pdu::R2t(R2t::decode(header)?),
        };
        self.within_limits(&pdu, payload)?;
        Ok(Received { pdu, payload })
    }

    /// What follows the header, as PDO, PLEN and DDGSTF say.
    fn payload(&self, kind: PduType, header: &[u8]) -> Result<Payload, PduFault> {
        let length = get32(header, 4);
        // A header is as long as its type says, so this cannot be negative.
        let rest = length - header.len() as u32;
        match kind {
            // The repeated header follows at once.
            PduType::H2cTermReq | PduType::C2hTermReq => Ok(Payload { data: rest, ..Payload::default() }),
            PduType::H2cData | PduType::C2hData => self.data(header, length),
            PduType::CapsuleCmd if rest > 0 => self.data(header, length),
            _ if rest > 0 => Err(PduFault::invalid(field::PDU_LENGTH)),
            _ => Ok(Payload::default()),
        }
    }

    fn data(&self, header: &[u8], length: u32) -> Result<Payload, PduFault> {
        let digest = header[1] & flags::DATA_DIGEST != 0;
        if digest != self.framing.digests.data {
            return Err(PduFault::invalid(field::FLAGS));
        }
        let offset = usize::from(header[3]);
        if offset < header.len() || !offset.is_multiple_of(self.framing.alignment.bytes()) {
            return Err(PduFault::invalid(field::DATA_OFFSET_IN_PDU));
        }
        let around = offset + if digest { DIGEST_BYTES } else { 0 };
        let data = length.checked_sub(around as u32).filter(|data| *data > 0);
        let data = data.ok_or(PduFault::invalid(field::PDU_LENGTH))?;
        Ok(Payload { padding: (offset - header.len()) as u8, data, digest })
    }

    /// DATAL must say what PLEN says, and neither more than was agreed.
    fn within_limits(&self, pdu: &Pdu, payload: Payload) -> Result<(), PduFault> {
        let same = |length: u32| length == payload.data;
        match pdu {
            Pdu::CapsuleCmd(_) if payload.data > self.limits.capsule_data => Err(PduFault::invalid(field::PDU_LENGTH)),
            Pdu::H2cData(H2cData { length, .. }) | Pdu::C2hData(C2hData { length, .. }) if !same(*length) => {
                Err(PduFault::invalid(field::PDU_LENGTH))
            }
            Pdu::H2cData(data) if data.length > self.limits.h2c_data => {
                Err(PduFault::plain(FatalStatus::DATA_LIMIT_EXCEEDED))
            }
            _ => Ok(()),
        }
    }
}
