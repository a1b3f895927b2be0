//! The messages of the vfio-user protocol, version 0.1 (QEMU, docs/interop/vfio-user.rst).
//!
//! Everything is decoded out of a bounded buffer by checked reads; nothing from the wire is believed. The protocol
//! uses the machine's byte order, which is little endian on every machine kvplane runs on.

use std::fmt::Write as _;

/// Bytes of the header in front of every message.
pub const HEADER_BYTES: usize = 16;
/// The longest message that is read; longer ones end the connection.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// The most bytes that one region access may carry.
pub const MAX_TRANSFER_BYTES: u32 = 32 * 1024;
/// The most file descriptors in one message: one for each interrupt vector.
pub const MAX_FDS: usize = 64;
/// Protocol version, major.
pub const MAJOR: u16 = 0;
/// Protocol version, minor.
pub const MINOR: u16 = 1;

/// Message numbers.
pub mod command {
    /// Negotiates version and capabilities.
    pub const VERSION: u16 = 1;
    /// Makes client memory reachable for DMA.
    pub const DMA_MAP: u16 = 2;
    /// Takes client memory back.
    pub const DMA_UNMAP: u16 = 3;
    /// Counts of regions and interrupts.
    pub const DEVICE_GET_INFO: u16 = 4;
    /// Shape of a region.
    pub const DEVICE_GET_REGION_INFO: u16 = 5;
    /// File descriptors for a region's doorbells.
    pub const DEVICE_GET_REGION_IO_FDS: u16 = 6;
    /// Shape of an interrupt.
    pub const DEVICE_GET_IRQ_INFO: u16 = 7;
    /// Ties interrupts to eventfds.
    pub const DEVICE_SET_IRQS: u16 = 8;
    /// Reads a region.
    pub const REGION_READ: u16 = 9;
    /// Writes a region.
    pub const REGION_WRITE: u16 = 10;
    /// Resets the device.
    pub const DEVICE_RESET: u16 = 13;
}

/// Header flags: bits 3:0 hold the type, 1 for a reply.
pub const FLAG_REPLY: u32 = 1;
/// Header flag: the sender wants no reply.
pub const FLAG_NO_REPLY: u32 = 1 << 4;
/// Header flag: the command failed; the error field holds an errno.
pub const FLAG_ERROR: u32 = 1 << 5;

/// DMA_MAP flag: the device may read.
pub const DMA_READABLE: u32 = 1;
/// DMA_MAP flag: the device may write.
pub const DMA_WRITABLE: u32 = 1 << 1;
/// DMA_UNMAP flag: give everything back (as VFIO's "unmap all").
pub const UNMAP_ALL: u32 = 1 << 2;

/// DEVICE_SET_IRQS flags: data types and actions, as in linux/vfio.h.
pub mod irq {
    /// No data.
    pub const DATA_NONE: u32 = 1;
    /// One byte for each vector.
    pub const DATA_BOOL: u32 = 1 << 1;
    /// One eventfd for each vector.
    pub const DATA_EVENTFD: u32 = 1 << 2;
    /// Hold the vector back.
    pub const ACTION_MASK: u32 = 1 << 3;
    /// Let the vector through.
    pub const ACTION_UNMASK: u32 = 1 << 4;
    /// Set the eventfd, or raise the interrupt.
    pub const ACTION_TRIGGER: u32 = 1 << 5;
    /// The index of MSI-X.
    pub const MSIX: u32 = 2;
    /// Number of interrupt indices of a PCI device.
    pub const INDICES: u32 = 5;
}

/// Region indices of a PCI device, as in linux/vfio.h.
pub mod region {
    /// BAR0.
    pub const BAR0: u32 = 0;
    /// BAR4.
    pub const BAR4: u32 = 4;
    /// PCI configuration space.
    pub const CONFIG: u32 = 7;
    /// Number of region indices.
    pub const INDICES: u32 = 9;
    /// Flag: readable.
    pub const READ: u32 = 1;
    /// Flag: writable.
    pub const WRITE: u32 = 1 << 1;
    /// Flag: parts can be mapped.
    pub const MMAP: u32 = 1 << 2;
    /// Flag: a list of capabilities follows.
    pub const CAPS: u32 = 1 << 3;
    /// Capability: the areas that can be mapped.
    pub const CAP_SPARSE_MMAP: u16 = 1;
    /// Bytes of the region information without capabilities.
    pub const INFO_BYTES: u32 = 32;
}

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
    /// An errno in replies with [`FLAG_ERROR`].
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

/// A command that a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Version and capabilities (JSON, as sent).
    Version {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
        /// The JSON text without its terminating zero.
        json: &'a [u8],
    },
    /// Makes memory reachable; the file descriptor travels beside it.
    DmaMap {
        /// [`DMA_READABLE`], [`DMA_WRITABLE`].
        flags: u32,
        /// Offset into the file.
        offset: u64,
        /// I/O virtual address.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// Takes memory back.
    DmaUnmap {
        /// [`UNMAP_ALL`].
        flags: u32,
        /// I/O virtual address.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// Asks for the device's shape.
    GetInfo,
    /// Asks for a region's shape.
    GetRegionInfo {
        /// Room for the reply.
        argsz: u32,
        /// Region index.
        index: u32,
    },
    /// Asks for an interrupt's shape.
    GetIrqInfo {
        /// Interrupt index.
        index: u32,
    },
    /// Sets interrupts up.
    SetIrqs {
        /// Data type and action, see [`irq`].
        flags: u32,
        /// Interrupt index.
        index: u32,
        /// First vector.
        start: u32,
        /// Number of vectors.
        count: u32,
        /// What follows: bytes for [`irq::DATA_BOOL`].
        data: &'a [u8],
    },
    /// Reads a region.
    RegionRead {
        /// Offset in the region.
        offset: u64,
        /// Region index.
        region: u32,
        /// Bytes.
        count: u32,
    },
    /// Writes a region.
    RegionWrite {
        /// Offset in the region.
        offset: u64,
        /// Region index.
        region: u32,
        /// The bytes.
        data: &'a [u8],
    },
    /// Resets the device.
    Reset,
}

struct Reader<'a> {
    command: u16,
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let truncated = WireError::Truncated { command: self.command, bytes: self.bytes.len() };
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or(truncated)?;
        self.bytes = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.take().map(u64::from_le_bytes)
    }
}

/// Decodes a whole command as a target receives it: header and payload.
///
/// # Errors
/// [`WireError`]; [`WireError::Size`] also if the size field and the length of `message` differ.
pub fn decode_message(message: &[u8]) -> Result<(Header, Request<'_>), WireError> {
    let Some((head, payload)) = message.split_first_chunk::<HEADER_BYTES>() else {
        return Err(WireError::Truncated { command: 0, bytes: message.len() });
    };
    let header = Header::decode(head)?;
    if header.size as usize != message.len() {
        return Err(WireError::Size(header.size));
    }
    Ok((header, decode_request(&header, payload)?))
}

/// Decodes the payload of a command.
///
/// # Errors
/// [`WireError`].
pub fn decode_request<'a>(header: &Header, payload: &'a [u8]) -> Result<Request<'a>, WireError> {
    // Bits 3:0 are the type (0, a command); an error bit makes no sense in one.
    if header.flags & !FLAG_NO_REPLY != 0 {
        return Err(WireError::Flags(header.flags));
    }
    let mut r = Reader { command: header.command, bytes: payload };
    match header.command {
        command::VERSION => {
            let (major, minor) = (r.u16()?, r.u16()?);
            let json = r.bytes.split(|&byte| byte == 0).next().unwrap_or_default();
            Ok(Request::Version { major, minor, json })
        }
        command::DMA_MAP => {
            let _argsz = r.u32()?;
            Ok(Request::DmaMap { flags: r.u32()?, offset: r.u64()?, address: r.u64()?, size: r.u64()? })
        }
        command::DMA_UNMAP => {
            let _argsz = r.u32()?;
            Ok(Request::DmaUnmap { flags: r.u32()?, address: r.u64()?, size: r.u64()? })
        }
        command::DEVICE_GET_INFO => Ok(Request::GetInfo),
        command::DEVICE_GET_REGION_INFO => {
            let (argsz, _flags) = (r.u32()?, r.u32()?);
            Ok(Request::GetRegionInfo { argsz, index: r.u32()? })
        }
        command::DEVICE_GET_IRQ_INFO => {
            let (_argsz, _flags) = (r.u32()?, r.u32()?);
            Ok(Request::GetIrqInfo { index: r.u32()? })
        }
        command::DEVICE_SET_IRQS => {
            let _argsz = r.u32()?;
            let (flags, index, start, count) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
            Ok(Request::SetIrqs { flags, index, start, count, data: r.bytes })
        }
        command::REGION_READ => {
            let request = Request::RegionRead { offset: r.u64()?, region: r.u32()?, count: r.u32()? };
            let Request::RegionRead { count, .. } = request else { return Err(WireError::Field(header.command)) };
            if count > MAX_TRANSFER_BYTES { Err(WireError::Field(header.command)) } else { Ok(request) }
        }
        command::REGION_WRITE => {
            let (offset, region, count) = (r.u64()?, r.u32()?, r.u32()?);
            let data = r.bytes.get(..count as usize).ok_or(WireError::Field(header.command))?;
            Ok(Request::RegionWrite { offset, region, data })
        }
        command::DEVICE_RESET => Ok(Request::Reset),
        other => Err(WireError::Unsupported(other)),
    }
}

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

/// The capabilities text, with its terminating zero, that either end sends with VERSION.
#[must_use]
pub fn capabilities(max_dma_maps: usize) -> Vec<u8> {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "{{\"capabilities\":{{\"max_msg_fds\":{MAX_FDS},\"max_data_xfer_size\":{MAX_TRANSFER_BYTES},\
         \"max_dma_maps\":{max_dma_maps},\"pgsizes\":4096}}}}\0"
    );
    text.into_bytes()
}

/// What a peer said of itself; absent or odd entries take the protocol's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCapabilities {
    /// File descriptors that it takes in one message.
    pub max_msg_fds: u32,
    /// Bytes that it takes in one region access.
    pub max_data_xfer_size: u32,
}

impl PeerCapabilities {
    /// Reads the capabilities text of a VERSION message, tolerantly.
    #[must_use]
    pub fn parse(json: &[u8]) -> Self {
        let value: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
        let number = |name: &str, default: u32| {
            let found = value.get("capabilities").and_then(|caps| caps.get(name)).and_then(serde_json::Value::as_u64);
            found.and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
        };
        Self { max_msg_fds: number("max_msg_fds", 1), max_data_xfer_size: number("max_data_xfer_size", 1 << 20) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dma_map_matches_literal_bytes() {
        let mut bytes = vec![0x34, 0x12, 2, 0, 48, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&[32, 0, 0, 0, 3, 0, 0, 0]);
        bytes.extend_from_slice(&0x1000u64.to_le_bytes());
        bytes.extend_from_slice(&0x10_0000u64.to_le_bytes());
        bytes.extend_from_slice(&0x20_0000u64.to_le_bytes());
        let (header, request) = decode_message(&bytes).unwrap();
        assert_eq!((header.id, header.command, header.wants_reply()), (0x1234, command::DMA_MAP, true));
        let expected = Request::DmaMap { flags: 3, offset: 0x1000, address: 0x10_0000, size: 0x20_0000 };
        assert_eq!(request, expected);
        let made = Message::command(0x1234, command::DMA_MAP).u32(32).u32(3).u64(0x1000).u64(0x10_0000).u64(0x20_0000);
        assert_eq!(made.finish(), bytes);
    }

    #[test]
    fn size_flags_and_unknown_commands_are_refused() {
        let mut message = Message::command(1, command::DEVICE_RESET).finish();
        assert!(matches!(decode_message(&message), Ok((_, Request::Reset))));
        message[8] = 1;
        assert_eq!(decode_message(&message), Err(WireError::Flags(1)));
        message[8] = 0;
        message[4] = 15;
        assert_eq!(decode_message(&message), Err(WireError::Size(15)));
        let unknown = Message::command(1, 14).finish();
        assert_eq!(decode_message(&unknown), Err(WireError::Unsupported(14)));
        let long = Message::command(1, command::REGION_READ).u64(0).u32(0).u32(MAX_TRANSFER_BYTES + 1).finish();
        assert_eq!(decode_message(&long), Err(WireError::Field(command::REGION_READ)));
    }

    #[test]
    fn capabilities_are_read_tolerantly() {
        let ours = capabilities(128);
        let parsed = PeerCapabilities::parse(&ours[..ours.len() - 1]);
        assert_eq!(parsed, PeerCapabilities { max_msg_fds: 64, max_data_xfer_size: 32768 });
        let defaults = PeerCapabilities { max_msg_fds: 1, max_data_xfer_size: 1 << 20 };
        for odd in [&b""[..], b"{", b"[]", b"{\"capabilities\":7}", b"{\"capabilities\":{\"max_msg_fds\":-1}}"] {
            assert_eq!(PeerCapabilities::parse(odd), defaults);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..256), command in 0u16..20) {
            let _ = decode_message(&bytes);
            if bytes.len() >= HEADER_BYTES {
                let size = bytes.len() as u32;
                bytes[2..4].copy_from_slice(&command.to_le_bytes());
                bytes[4..8].copy_from_slice(&size.to_le_bytes());
                bytes[8..12].fill(0);
                let _ = decode_message(&bytes);
            }
        }
    }
}
