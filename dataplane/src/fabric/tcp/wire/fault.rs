//! What can be wrong with a PDU, in the words of the Terminate Connection Requests.

/// Fatal Error Status: why an end terminates the connection (sections 3.6.2.4 and 3.6.2.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FatalStatus(pub u16);

impl FatalStatus {
    /// 01h: a field of the header is not valid.
    pub const INVALID_HEADER_FIELD: Self = Self(1);
    /// 02h: the PDU was not due.
    pub const SEQUENCE_ERROR: Self = Self(2);
    /// 03h: the header does not match its digest.
    pub const HEADER_DIGEST_ERROR: Self = Self(3);
    /// 04h: the data lies outside the command's buffer, or outside what was asked for.
    pub const DATA_OUT_OF_RANGE: Self = Self(4);
    /// 05h, from a host: more R2Ts for one command than it takes.
    pub const R2T_LIMIT_EXCEEDED: Self = Self(5);
    /// 05h, from a controller: more data in one PDU than it takes.
    pub const DATA_LIMIT_EXCEEDED: Self = Self(5);
    /// 06h: a parameter is not supported.
    pub const UNSUPPORTED_PARAMETER: Self = Self(6);

    /// A short name in English, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            1 => "invalid PDU header field",
            2 => "PDU sequence error",
            3 => "header digest error",
            4 => "data transfer out of range",
            5 => "R2T or data transfer limit exceeded",
            6 => "unsupported parameter",
            _ => "unknown fatal error",
        }
    }
}

impl std::fmt::Display for FatalStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:02x}h)", self.name(), self.0)
    }
}

impl std::fmt::Debug for FatalStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Byte offsets of header fields, for Fatal Error Information.
pub mod field {
    /// PDU-Type.
    pub const TYPE: u32 = 0;
    /// FLAGS.
    pub const FLAGS: u32 = 1;
    /// HLEN.
    pub const HEADER_LENGTH: u32 = 2;
    /// PDO.
    pub const DATA_OFFSET_IN_PDU: u32 = 3;
    /// PLEN.
    pub const PDU_LENGTH: u32 = 4;
    /// PFV of ICReq and ICResp.
    pub const FORMAT_VERSION: u32 = 8;
    /// HPDA and CPDA.
    pub const ALIGNMENT: u32 = 10;
    /// DGST.
    pub const DIGESTS: u32 = 11;
    /// MAXH2CDATA.
    pub const MAX_H2C_DATA: u32 = 12;
    /// CCCID.
    pub const COMMAND_ID: u32 = 8;
    /// TTAG.
    pub const TRANSFER_TAG: u32 = 10;
    /// DATAO and R2TO.
    pub const OFFSET: u32 = 12;
    /// DATAL and R2TL.
    pub const LENGTH: u32 = 16;
}

/// A fatal transport error: the connection cannot go on (section 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fes}, information {fei:#x}")]
pub struct PduFault {
    /// Fatal Error Status.
    pub fes: FatalStatus,
    /// Fatal Error Information: the offset of the wrong field, or the header digest that was received; else 0.
    pub fei: u32,
}

impl PduFault {
    /// A Terminate Connection Request of a length that is not allowed: it is not answered, and the connection is
    /// terminated at once (section 3.5).
    pub const UNANSWERED: Self = Self { fes: FatalStatus(0), fei: 0 };

    /// The PDU was not due.
    pub const SEQUENCE: Self = Self { fes: FatalStatus::SEQUENCE_ERROR, fei: 0 };

    /// A field is not valid; one of [`field`].
    #[must_use]
    pub const fn invalid(offset: u32) -> Self {
        Self { fes: FatalStatus::INVALID_HEADER_FIELD, fei: offset }
    }

    /// A field asks for what is not supported; one of [`field`].
    #[must_use]
    pub const fn unsupported(offset: u32) -> Self {
        Self { fes: FatalStatus::UNSUPPORTED_PARAMETER, fei: offset }
    }

    /// A fault whose information is reserved.
    #[must_use]
    pub const fn plain(fes: FatalStatus) -> Self {
        Self { fes, fei: 0 }
    }

    /// Whether a Terminate Connection Request tells the other end.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.fes.0 != 0
    }
}
