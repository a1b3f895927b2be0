//! Private data of the messages that make and refuse connections (RDMA transport specification, "RDMA_CM Private Data
//! formats"). All fields are little-endian.

use std::fmt;

/// The only record format there is.
const FORMAT: u16 = 0;

/// What a host asks for with the request for a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectQuery {
    /// Queue identifier: 0 for the admin queue.
    pub qid: u16,
    /// HRQSIZE: receives that the host has for completions.
    pub host_receives: u16,
    /// HSQSIZE: entries of the host's send queue, less one.
    pub host_sends: u16,
    /// CNTLID: the controller that an I/O queue belongs to. Hosts of older versions leave it zero.
    pub controller_id: u16,
}

impl ConnectQuery {
    /// Bytes.
    pub const BYTES: usize = 32;

    /// Reads a request; what follows it is padding.
    ///
    /// # Errors
    /// The reason to reject it with.
    pub fn decode(bytes: &[u8]) -> Result<Self, RejectReason> {
        let fields = bytes.first_chunk::<{ Self::BYTES }>().ok_or(RejectReason::INVALID_LENGTH)?;
        let word = |at: usize| u16::from_le_bytes([fields[at], fields[at + 1]]);
        if word(0) != FORMAT {
            return Err(RejectReason::INVALID_FORMAT);
        }
        let query = Self { qid: word(2), host_receives: word(4), host_sends: word(6), controller_id: word(8) };
        if query.host_receives == 0 {
            return Err(RejectReason::INVALID_RECEIVES);
        }
        if query.host_sends == 0 || query.qid == 0 && query.host_sends >= super::ADMIN_ENTRIES * 4 {
            return Err(RejectReason::INVALID_SENDS);
        }
        Ok(query)
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        words(&[FORMAT, self.qid, self.host_receives, self.host_sends, self.controller_id])
    }
}

/// What a controller says as it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectAnswer {
    /// CRQSIZE: receives that the controller has for commands.
    pub controller_receives: u16,
}

impl ConnectAnswer {
    /// Bytes.
    pub const BYTES: usize = 32;

    /// Reads an answer; `None` if it is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let fields = bytes.first_chunk::<4>()?;
        let (format, receives) = (u16::from_le_bytes([fields[0], fields[1]]), [fields[2], fields[3]]);
        (format == FORMAT).then_some(Self { controller_receives: u16::from_le_bytes(receives) })
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        words(&[FORMAT, self.controller_receives])
    }
}

/// What a controller says as it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Why.
    pub reason: RejectReason,
}

impl Rejection {
    /// Bytes.
    pub const BYTES: usize = 4;

    /// Reads a refusal; `None` if it is none, such as one that comes from the transport itself.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let fields = bytes.first_chunk::<{ Self::BYTES }>()?;
        let (format, status) = (u16::from_le_bytes([fields[0], fields[1]]), [fields[2], fields[3]]);
        let reason = RejectReason(u16::from_le_bytes(status));
        (format == FORMAT && reason.0 != 0).then_some(Self { reason })
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        words(&[FORMAT, self.reason.0])
    }
}

fn words<const N: usize>(words: &[u16]) -> [u8; N] {
    let mut bytes = [0; N];
    for (into, word) in bytes.chunks_exact_mut(2).zip(words) {
        into.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Why a connection was refused (RDMA transport specification, "RDMA_CM Reject Status Codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectReason(pub u16);

impl RejectReason {
    /// The private data is too short.
    pub const INVALID_LENGTH: Self = Self(1);
    /// RECFMT is not known.
    pub const INVALID_FORMAT: Self = Self(2);
    /// QID is not one of the controller's.
    pub const INVALID_QUEUE: Self = Self(3);
    /// HSQSIZE is too small or too large.
    pub const INVALID_SENDS: Self = Self(4);
    /// HRQSIZE is too small or too large.
    pub const INVALID_RECEIVES: Self = Self(5);
    /// No resources.
    pub const NO_RESOURCES: Self = Self(6);
    /// The host answers no READs (IRD).
    pub const INVALID_READS: Self = Self(7);
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            1 => "invalid private data length",
            2 => "invalid private data format",
            3 => "invalid queue identifier",
            4 => "invalid size of the host's send queue",
            5 => "invalid size of the host's receive queue",
            6 => "no resources",
            7 => "invalid number of READs answered",
            8 => "invalid number of READs under way",
            9 => "invalid controller identifier",
            other => return write!(f, "reject status {other:#x}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        let query = ConnectQuery { qid: 0x0102, host_receives: 0x0304, host_sends: 0x0506, controller_id: 0x0708 };
        let bytes = query.encode();
        assert_eq!(bytes[..12], [0, 0, 2, 1, 4, 3, 6, 5, 8, 7, 0, 0]);
        assert_eq!(bytes[12..], [0; 20]);
        // The connection manager may pad it.
        let mut padded = bytes.to_vec();
        padded.resize(56, 0);
        assert_eq!(ConnectQuery::decode(&padded), Ok(query));
        let answer = ConnectAnswer { controller_receives: 0x0102 };
        assert_eq!(answer.encode()[..5], [0, 0, 2, 1, 0]);
        assert_eq!(ConnectAnswer::decode(&answer.encode()), Some(answer));
        let rejection = Rejection { reason: RejectReason::NO_RESOURCES };
        assert_eq!(rejection.encode(), [0, 0, 6, 0]);
        assert_eq!(Rejection::decode(&rejection.encode()), Some(rejection));
    }

    #[test]
    fn what_cannot_be_is_rejected_with_its_reason() {
        let query = ConnectQuery { qid: 1, host_receives: 128, host_sends: 127, controller_id: 1 };
        assert_eq!(ConnectQuery::decode(&query.encode()[..31]), Err(RejectReason::INVALID_LENGTH));
        assert_eq!(ConnectQuery::decode(&[]), Err(RejectReason::INVALID_LENGTH));
        let mut other = query.encode();
        other[0] = 1;
        assert_eq!(ConnectQuery::decode(&other), Err(RejectReason::INVALID_FORMAT));
        let none = ConnectQuery { host_receives: 0, ..query };
        assert_eq!(ConnectQuery::decode(&none.encode()), Err(RejectReason::INVALID_RECEIVES));
        let none = ConnectQuery { host_sends: 0, ..query };
        assert_eq!(ConnectQuery::decode(&none.encode()), Err(RejectReason::INVALID_SENDS));
        let admin = ConnectQuery { qid: 0, host_sends: 1000, ..query };
        assert_eq!(ConnectQuery::decode(&admin.encode()), Err(RejectReason::INVALID_SENDS));
        assert_eq!(Rejection::decode(&[0, 0, 0, 0]), None);
        assert_eq!(ConnectAnswer::decode(&[1, 0, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(query) = ConnectQuery::decode(&bytes) {
                prop_assert_eq!(&query.encode()[..10], &bytes[..10]);
            }
            let _ = (ConnectAnswer::decode(&bytes), Rejection::decode(&bytes));
        }
    }
}
