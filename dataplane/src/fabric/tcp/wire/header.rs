//! What stands in front of every PDU, and what two ends agree on.

/// Bytes of the common header (section 3.6.2.1).
pub const COMMON_BYTES: usize = 8;

/// Bits of FLAGS.
pub mod flags {
    /// HDGSTF: a header digest follows the header.
    pub const HEADER_DIGEST: u8 = 1;
    /// DDGSTF: a data digest follows the data.
    pub const DATA_DIGEST: u8 = 1 << 1;
    /// LAST_PDU: the last data of an R2T, or of a command.
    pub const LAST: u8 = 1 << 2;
    /// SUCCESS: the command ended well, and no response capsule follows.
    pub const SUCCESS: u8 = 1 << 3;
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The end that connects and sends commands.
    Host,
    /// The end that listens.
    Controller,
}

impl End {
    /// The end across.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Host => Self::Controller,
            Self::Controller => Self::Host,
        }
    }
}

/// PDU-Type (section 3.3, Figure 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PduType {
    /// Initialize Connection Request.
    IcReq = 0x00,
    /// Initialize Connection Response.
    IcResp = 0x01,
    /// Host to Controller Terminate Connection Request.
    H2cTermReq = 0x02,
    /// Controller to Host Terminate Connection Request.
    C2hTermReq = 0x03,
    /// Command Capsule.
    CapsuleCmd = 0x04,
    /// Response Capsule.
    CapsuleResp = 0x05,
    /// Host to Controller Data.
    H2cData = 0x06,
    /// Controller to Host Data.
    C2hData = 0x07,
    /// Ready to Transfer.
    R2t = 0x09,
}

impl PduType {
    /// Every type there is.
    pub const ALL: [Self; 9] = [
        Self::IcReq,
        Self::IcResp,
        Self::H2cTermReq,
        Self::C2hTermReq,
        Self::CapsuleCmd,
        Self::CapsuleResp,
        Self::H2cData,
        Self::C2hData,
        Self::R2t,
    ];

    /// The type of that number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0x00 => Self::IcReq,
            0x01 => Self::IcResp,
            0x02 => Self::H2cTermReq,
            0x03 => Self::C2hTermReq,
            0x04 => Self::CapsuleCmd,
            0x05 => Self::CapsuleResp,
            0x06 => Self::H2cData,
            0x07 => Self::C2hData,
            0x09 => Self::R2t,
            _ => return None,
        })
    }

    /// Who sends it: bit 0 of the type gives the direction.
    #[must_use]
    pub const fn sender(self) -> End {
        if self as u8 & 1 == 0 { End::Host } else { End::Controller }
    }

    /// HLEN, which is fixed for each type: the header without its digest, in bytes.
    #[must_use]
    pub const fn header_bytes(self) -> usize {
        match self {
            Self::IcReq | Self::IcResp => 128,
            Self::CapsuleCmd => 72,
            _ => 24,
        }
    }

    /// Whether it is one of the two that begin a connection.
    #[must_use]
    pub const fn initializes(self) -> bool {
        matches!(self, Self::IcReq | Self::IcResp)
    }

    /// Whether it is a Terminate Connection Request.
    #[must_use]
    pub const fn terminates(self) -> bool {
        matches!(self, Self::H2cTermReq | Self::C2hTermReq)
    }

    /// Whether it carries a header digest where header digests are enabled.
    #[must_use]
    pub const fn may_have_digest(self) -> bool {
        !self.initializes() && !self.terminates()
    }
}

/// Which digests are asked for, or enabled (DGST of ICReq and ICResp). CRC-32C each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// HDGST_ENABLE: over the header.
    pub header: bool,
    /// DDGST_ENABLE: over the data.
    pub data: bool,
}

impl Digests {
    /// Neither.
    pub const NONE: Self = Self { header: false, data: false };

    /// What both want.
    #[must_use]
    pub const fn both(self, other: Self) -> Self {
        Self { header: self.header && other.header, data: self.data && other.data }
    }

    pub(super) const fn bits(self) -> u8 {
        self.header as u8 | (self.data as u8) << 1
    }

    /// Reserved bits are not looked at.
    pub(super) const fn from_bits(bits: u8) -> Self {
        Self { header: bits & 1 != 0, data: bits & 2 != 0 }
    }
}

/// PDU Data Alignment (HPDA, CPDA): where data may begin in a PDU. A multiple of 4 bytes, 4 to 128.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alignment(u8);

impl Alignment {
    /// 4 bytes: no padding.
    pub const DWORD: Self = Self(0);

    /// From the field, which counts dwords from 0. `None` above 31.
    #[must_use]
    pub const fn from_field(dwords: u8) -> Option<Self> {
        if dwords <= 31 { Some(Self(dwords)) } else { None }
    }

    /// The field.
    #[must_use]
    pub const fn field(self) -> u8 {
        self.0
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        (self.0 as usize + 1) * 4
    }

    /// Where data begins behind so many bytes of header and digest: PDO. 144 at most.
    #[must_use]
    pub const fn data_offset(self, header_bytes: usize) -> usize {
        header_bytes.next_multiple_of(self.bytes())
    }
}

/// What was agreed for the PDUs that go one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// The digests that both ends want. They hold for both ways.
    pub digests: Digests,
    /// Where data begins: CPDA for PDUs to the controller, HPDA for PDUs to the host.
    pub alignment: Alignment,
}

impl Framing {
    /// Before a connection is initialized: no digests, no alignment.
    pub const INITIAL: Self = Self { digests: Digests::NONE, alignment: Alignment::DWORD };
}
