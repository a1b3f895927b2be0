//! The PDUs, and how they are written. Section numbers are those of the TCP transport specification.

use zerocopy::IntoBytes;

use super::digest::{DIGEST_BYTES, header_digest};
use super::fault::{FatalStatus, PduFault, field};
use super::header::{Alignment, COMMON_BYTES, Digests, End, Framing, PduType, flags};
use super::{MAX_TERM_DATA_BYTES, MIN_H2C_DATA_BYTES};
use crate::nvme::spec::{Cqe, Sqe};

/// Room for all of a PDU but its data and data digest: the longest is a Terminate Connection Request with the header
/// that it repeats.
pub const HEAD_BYTES: usize = 152;

/// Where a PDU is written: header, header digest and padding. Data and data digest follow from elsewhere.
pub type Head = [u8; HEAD_BYTES];

/// ICReq (3.6.2.2): the first PDU, from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcReq {
    /// HPDA: the alignment of data in PDUs to the host.
    pub alignment: Alignment,
    /// The digests that the host asks for.
    pub digests: Digests,
    /// MAXR2T: R2Ts that the host takes at once for one command, counted from 0.
    pub max_r2t: u32,
}

/// ICResp (3.6.2.3): the controller's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcResp {
    /// CPDA: the alignment of data in PDUs to the controller.
    pub alignment: Alignment,
    /// The digests that are enabled.
    pub digests: Digests,
    /// MAXH2CDATA: the most data that an H2CData PDU may carry, in bytes; a multiple of 4 and 4,096 or more.
    pub max_h2c_data: u32,
}

/// H2CTermReq and C2HTermReq (3.6.2.4, 3.6.2.5): why an end terminates the connection. The header that it complains of
/// follows as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermReq {
    /// FES.
    pub fes: FatalStatus,
    /// FEI.
    pub fei: u32,
}

/// CapsuleCmd (3.6.2.6): a command, and perhaps its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapsuleCmd {
    /// CCSQE.
    pub sqe: Sqe,
    /// Bytes of in-capsule data; 0 for none.
    pub data: u32,
}

/// CapsuleResp (3.6.2.7): the end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapsuleResp {
    /// RCCQE. It has no phase tag here.
    pub cqe: Cqe,
}

/// H2CData (3.6.2.8): data that an R2T asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H2cData {
    /// CCCID: the command.
    pub cid: u16,
    /// TTAG: the R2T.
    pub tag: u16,
    /// DATAO: where it belongs in the command's data, in bytes; a multiple of 4.
    pub offset: u32,
    /// DATAL: bytes, 1 at least.
    pub length: u32,
    /// LAST_PDU: the last for this R2T.
    pub last: bool,
}

/// C2HData (3.6.2.9): data for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct C2hData {
    /// CCCID: the command.
    pub cid: u16,
    /// DATAO: where it belongs in the command's data, in bytes; a multiple of 4.
    pub offset: u32,
    /// DATAL: bytes, 1 at least.
    pub length: u32,
    /// LAST_PDU: the last for this command.
    pub last: bool,
    /// SUCCESS: the command ended well, with nothing else to say, and no CapsuleResp follows. Only with `last`.
    pub success: bool,
}

/// R2T (3.6.2.10): the controller asks for data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct R2t {
    /// CCCID: the command.
    pub cid: u16,
    /// TTAG: comes back with the data.
    pub tag: u16,
    /// R2TO: where the data begins in the command's data, in bytes; a multiple of 4.
    pub offset: u32,
    /// R2TL: bytes, 1 at least.
    pub length: u32,
}

/// Any PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pdu {
    /// Initialize Connection Request.
    IcReq(IcReq),
    /// Initialize Connection Response.
    IcResp(IcResp),
    /// Terminate Connection Request, of the end across.
    TermReq(TermReq),
    /// Command Capsule.
    CapsuleCmd(CapsuleCmd),
    /// Response Capsule.
    CapsuleResp(CapsuleResp),
    /// Host to Controller Data.
    H2cData(H2cData),
    /// Controller to Host Data.
    C2hData(C2hData),
    /// Ready to Transfer.
    R2t(R2t),
}

impl IcReq {
    /// Writes the PDU; says how long it is.
    pub fn encode(&self, head: &mut Head) -> usize {
        initialize(head, PduType::IcReq, self.alignment, self.digests, self.max_r2t)
    }

    pub(super) fn decode(header: &[u8]) -> Result<Self, PduFault> {
        let (alignment, digests, max_r2t) = initialized(header)?;
        Ok(Self { alignment, digests, max_r2t })
    }
}

impl IcResp {
    /// Writes the PDU; says how long it is.
    pub fn encode(&self, head: &mut Head) -> usize {
        initialize(head, PduType::IcResp, self.alignment, self.digests, self.max_h2c_data)
    }

    pub(super) fn decode(header: &[u8]) -> Result<Self, PduFault> {
        let (alignment, digests, max_h2c_data) = initialized(header)?;
        if max_h2c_data < MIN_H2C_DATA_BYTES || !max_h2c_data.is_multiple_of(4) {
            return Err(PduFault::invalid(field::MAX_H2C_DATA));
        }
        Ok(Self { alignment, digests, max_h2c_data })
    }

    /// The digests that hold from now on, after a host asked for some: the controller may leave out what was asked for,
    /// and not enable what was not (section 3.3.1.1).
    ///
    /// # Errors
    /// The fault for the H2CTermReq.
    pub const fn enabled(&self, asked: Digests) -> Result<Digests, PduFault> {
        let unasked = (self.digests.header && !asked.header) || (self.digests.data && !asked.data);
        if unasked { Err(PduFault::invalid(field::DIGESTS)) } else { Ok(self.digests) }
    }
}

impl TermReq {
    /// Writes the request of the given end, with the header that it complains of (128 bytes of it at most); says how
    /// long it is.
    pub fn encode(&self, from: End, offending: &[u8], head: &mut Head) -> usize {
        let kind = match from {
            End::Host => PduType::H2cTermReq,
            End::Controller => PduType::C2hTermReq,
        };
        let header = kind.header_bytes();
        let repeated = offending.len().min(MAX_TERM_DATA_BYTES as usize);
        common(head, kind, 0, 0, header + repeated);
        put(head, 8, self.fes.0.to_le_bytes());
        put(head, 10, self.fei.to_le_bytes());
        head[14..header].fill(0);
        head[header..header + repeated].copy_from_slice(&offending[..repeated]);
        header + repeated
    }

    pub(super) fn decode(header: &[u8]) -> Self {
        Self { fes: FatalStatus(get16(header, 8)), fei: get32(header, 10) }
    }
}

impl From<PduFault> for TermReq {
    fn from(fault: PduFault) -> Self {
        Self { fes: fault.fes, fei: fault.fei }
    }
}

impl CapsuleCmd {
    /// Writes all of the PDU but its data and data digest; says how long that is.
    pub fn encode(&self, framing: Framing, head: &mut Head) -> usize {
        put_slice(head, COMMON_BYTES, self.sqe.as_bytes());
        finish(head, PduType::CapsuleCmd, 0, framing, self.data)
    }

    pub(super) fn decode(header: &[u8], data: u32) -> Self {
        let words = std::array::from_fn(|word| u64::from_ne_bytes(get(header, COMMON_BYTES + word * 8)));
        Self { sqe: Sqe::from_quadwords(words), data }
    }
}

impl CapsuleResp {
    /// Writes the PDU; says how long it is.
    pub fn encode(&self, framing: Framing, head: &mut Head) -> usize {
        let [low, high] = self.cqe.to_quadwords(false);
        put(head, 8, low.to_ne_bytes());
        put(head, 16, high.to_ne_bytes());
        finish(head, PduType::CapsuleResp, 0, framing, 0)
    }

    pub(super) fn decode(header: &[u8]) -> Self {
        let words = [u64::from_ne_bytes(get(header, 8)), u64::from_ne_bytes(get(header, 16))];
        Self { cqe: Cqe::from_quadwords(words).0 }
    }
}

impl H2cData {
    /// Writes all of the PDU but its data and data digest; says how long that is.
    pub fn encode(&self, framing: Framing, head: &mut Head) -> usize {
        transfer(head, (self.cid, self.tag), self.offset, self.length);
        finish(head, PduType::H2cData, if self.last { flags::LAST } else { 0 }, framing, self.length)
    }

    pub(super) fn decode(header: &[u8]) -> Result<Self, PduFault> {
        let ((cid, tag), offset, length) = transferred(header)?;
        Ok(Self { cid, tag, offset, length, last: header[1] & flags::LAST != 0 })
    }
}

impl C2hData {
    /// Writes all of the PDU but its data and data digest; says how long that is.
    pub fn encode(&self, framing: Framing, head: &mut Head) -> usize {
        let last = if self.last { flags::LAST } else { 0 };
        let success = if self.success { flags::SUCCESS } else { 0 };
        transfer(head, (self.cid, 0), self.offset, self.length);
        finish(head, PduType::C2hData, last | success, framing, self.length)
    }

    pub(super) fn decode(header: &[u8]) -> Result<Self, PduFault> {
        let (last, success) = (header[1] & flags::LAST != 0, header[1] & flags::SUCCESS != 0);
        if success && !last {
            return Err(PduFault::invalid(field::FLAGS));
        }
        let ((cid, _), offset, length) = transferred(header)?;
        Ok(Self { cid, offset, length, last, success })
    }
}

impl R2t {
    /// Writes the PDU; says how long it is.
    pub fn encode(&self, framing: Framing, head: &mut Head) -> usize {
        transfer(head, (self.cid, self.tag), self.offset, self.length);
        finish(head, PduType::R2t, 0, framing, 0)
    }

    pub(super) fn decode(header: &[u8]) -> Result<Self, PduFault> {
        let ((cid, tag), offset, length) = transferred(header)?;
        Ok(Self { cid, tag, offset, length })
    }
}

/// ICReq and ICResp, which differ in what their last field means.
fn initialize(head: &mut Head, kind: PduType, alignment: Alignment, digests: Digests, limit: u32) -> usize {
    let bytes = kind.header_bytes();
    head[..bytes].fill(0);
    common(head, kind, 0, 0, bytes);
    head[field::ALIGNMENT as usize] = alignment.field();
    head[field::DIGESTS as usize] = digests.bits();
    put(head, 12, limit.to_le_bytes());
    bytes
}

fn initialized(header: &[u8]) -> Result<(Alignment, Digests, u32), PduFault> {
    if get16(header, 8) != 0 {
        return Err(PduFault::unsupported(field::FORMAT_VERSION));
    }
    let alignment = Alignment::from_field(header[10]).ok_or(PduFault::invalid(field::ALIGNMENT))?;
    Ok((alignment, Digests::from_bits(header[11]), get32(header, 12)))
}

/// The fields that H2CData, C2HData and R2T share.
fn transfer(head: &mut Head, (cid, tag): (u16, u16), offset: u32, length: u32) {
    put(head, 8, cid.to_le_bytes());
    put(head, 10, tag.to_le_bytes());
    put(head, 12, offset.to_le_bytes());
    put(head, 16, length.to_le_bytes());
    put(head, 20, [0; 4]);
}

fn transferred(header: &[u8]) -> Result<((u16, u16), u32, u32), PduFault> {
    let (offset, length) = (get32(header, 12), get32(header, 16));
    if !offset.is_multiple_of(4) {
        return Err(PduFault::invalid(field::OFFSET));
    }
    if length == 0 {
        return Err(PduFault::invalid(field::LENGTH));
    }
    if offset.checked_add(length).is_none() {
        return Err(PduFault::plain(FatalStatus::DATA_OUT_OF_RANGE));
    }
    Ok(((get16(header, 8), get16(header, 10)), offset, length))
}

fn common(head: &mut Head, kind: PduType, flags: u8, data_offset: usize, length: usize) {
    head[..4].copy_from_slice(&[kind as u8, flags, kind.header_bytes() as u8, data_offset as u8]);
    put(head, 4, (length as u32).to_le_bytes());
}

/// Writes common header, digest and padding around a header whose own fields are there; says how long all that is.
fn finish(head: &mut Head, kind: PduType, flags: u8, framing: Framing, data: u32) -> usize {
    let Framing { digests, alignment } = framing;
    let header = kind.header_bytes();
    let end = header + if digests.header { DIGEST_BYTES } else { 0 };
    let with_data_digest = digests.data && data > 0;
    let data_offset = if data > 0 { alignment.data_offset(end) } else { end };
    let length = data_offset + data as usize + if with_data_digest { DIGEST_BYTES } else { 0 };
    let mut flags = flags;
    flags |= if digests.header { flags::HEADER_DIGEST } else { 0 };
    flags |= if with_data_digest { flags::DATA_DIGEST } else { 0 };
    common(head, kind, flags, if data > 0 { data_offset } else { 0 }, length);
    if digests.header {
        let digest = header_digest(&head[..header]);
        put(head, header, digest.to_le_bytes());
    }
    head[end..data_offset].fill(0);
    data_offset
}

fn put<const N: usize>(head: &mut Head, at: usize, bytes: [u8; N]) {
    head[at..at + N].copy_from_slice(&bytes);
}

fn put_slice(head: &mut Head, at: usize, bytes: &[u8]) {
    head[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Bytes of a header, which is as long as its type says.
pub(super) fn get<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    header[at..].first_chunk().copied().unwrap_or([0; N])
}

pub(super) fn get16(header: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(get(header, at))
}

pub(super) fn get32(header: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(header, at))
}
