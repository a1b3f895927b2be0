//! Messages as they are made, by either end.

use super::header::Header;
use super::numbers::{FLAG_ERROR, FLAG_REPLY};

/// A message under construction.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A command.
    #[must_use]
    pub fn command(id: u16, command: u16) -> Self {
        Self::with_flags(id, command, 0, 0)
    }

    /// A reply to a command.
    #[must_use]
    pub fn reply(to: &Header) -> Self {
        Self::with_flags(to.id, to.command, FLAG_REPLY, 0)
    }

    /// A reply that says that the command failed.
    #[must_use]
    pub fn error(to: &Header, errno: u32) -> Self {
        Self::with_flags(to.id, to.command, FLAG_REPLY | FLAG_ERROR, errno)
    }

    fn with_flags(id: u16, command: u16, flags: u32, error: u32) -> Self {
        let message = Self { bytes: Vec::with_capacity(64) };
        message.u16(id).u16(command).u32(0).u32(flags).u32(error)
    }

    /// Adds a 16-bit field.
    #[must_use]
    pub fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Adds a 32-bit field.
    #[must_use]
    pub fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Adds a 64-bit field.
    #[must_use]
    pub fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// The whole message with its size filled in.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let size = self.bytes.len() as u32;
        self.bytes[4..8].copy_from_slice(&size.to_le_bytes());
        self.bytes
    }
}
