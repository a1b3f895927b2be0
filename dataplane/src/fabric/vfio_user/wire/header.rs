//! What stands in front of every message, how fields are read, and what can be wrong with them.

use super::numbers::{FLAG_NO_REPLY, HEADER_BYTES, MAX_MESSAGE_BYTES};

/// Why a message is not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The size field is less than the header or more than [`MAX_MESSAGE_BYTES`]. The stream cannot be followed any
    /// further.
    #[error("message size {0} is outside 16 to 65536 bytes")]
    Size(u32),
    /// The message ends before its fields do.
    #[error("message {command} ends after {bytes} bytes, before its fields do")]
    Truncated {
        /// Message number.
        command: u16,
        /// Its length.
        bytes: usize,
    },
    /// A reply where a command was due, or the other way round.
    #[error("message flags {0:#x} do not fit")]
    Flags(u32),
    /// A message that is not supported.
    #[error("message {0} is not supported")]
    Unsupported(u16),
    /// A field is out of range.
    #[error("a field of message {0} is out of range")]
    Field(u16),
}

impl WireError {
    /// The errno for the reply.
    #[must_use]
    pub const fn errno(self) -> u32 {
        match self {
            Self::Unsupported(_) => libc::EOPNOTSUPP as u32,
            _ => libc::EINVAL as u32,
        }
    }
}

/// The 16 bytes in front of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Chosen by the sender, echoed in the reply.
    pub id: u16,
    /// Message number.
    pub command: u16,
    /// Bytes of the whole message.
    pub size: u32,
    /// Type and flags.
    pub flags: u32,
    /// An errno in replies with [`FLAG_ERROR`](super::FLAG_ERROR).
    pub error: u32,
}

impl Header {
    /// Decodes a header and checks its size field.
    ///
    /// # Errors
    /// [`WireError::Size`].
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let mut reader = Reader { command: 0, bytes };
        let header = Self {
            id: reader.u16()?,
            command: reader.u16()?,
            size: reader.u32()?,
            flags: reader.u32()?,
            error: reader.u32()?,
        };
        let fits = (HEADER_BYTES..=MAX_MESSAGE_BYTES).contains(&(header.size as usize));
        if fits { Ok(header) } else { Err(WireError::Size(header.size)) }
    }

    /// Whether the sender of this command waits for a reply.
    #[must_use]
    pub const fn wants_reply(&self) -> bool {
        self.flags & FLAG_NO_REPLY == 0
    }
}

/// Checked reads of a message's fields.
pub(super) struct Reader<'a> {
    /// Message number, for errors.
    pub(super) command: u16,
    /// What is left.
    pub(super) bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let truncated = WireError::Truncated { command: self.command, bytes: self.bytes.len() };
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or(truncated)?;
        self.bytes = rest;
        Ok(*head)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.take().map(u64::from_le_bytes)
    }
}
