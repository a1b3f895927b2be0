//! The PDUs of NVMe/TCP (NVM Express TCP Transport Specification 1.0, section 3.6.2), without any I/O.
//!
//! A receiver reads in steps, so that data can go straight to where it belongs:
//!
//! 1. the 8 bytes of the common header: [`Decoder::header_length`] says how long the header is with its digest;
//! 2. the rest of the header: [`Decoder::decode`] gives the [`Pdu`] and the [`Payload`] that follows it;
//! 3. the payload: padding to throw away, data, a data digest ([`DataDigest`]).
//!
//! A sender has the header, its digest and the padding written into a [`Head`]; the data is never copied, and the data
//! digest follows it.
//!
//! Nothing from the wire is believed. What is wrong with a PDU comes as a [`PduFault`]: what the specification wants
//! the Terminate Connection Request to say of it.

mod decoder;
mod digest;
mod fault;
mod header;
mod pdu;
#[cfg(test)]
mod tests;

pub use decoder::{Decoder, Limits, Payload, Received};
pub use digest::{DIGEST_BYTES, DataDigest, Padded, header_digest};
pub use fault::{FatalStatus, PduFault, field};
pub use header::{Alignment, COMMON_BYTES, Digests, End, Framing, PduType, flags};
pub use pdu::{C2hData, CapsuleCmd, CapsuleResp, H2cData, HEAD_BYTES, Head, IcReq, IcResp, Pdu, R2t, TermReq};

/// In-capsule data that every controller takes with a Fabrics or Admin command, in bytes (section 3.3.1, Figure 11).
pub const ADMIN_CAPSULE_DATA_BYTES: u32 = 8192;
/// The least that a controller may say it takes in one H2CData PDU, in bytes (section 3.6.2.3).
pub const MIN_H2C_DATA_BYTES: u32 = 4096;
/// The most bytes of an offending header that a Terminate Connection Request repeats (section 3.5).
pub const MAX_TERM_DATA_BYTES: u32 = 128;
