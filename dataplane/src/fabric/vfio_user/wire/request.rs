//! The commands that a client may send, as a target decodes them.

use super::header::{Header, Reader, WireError};
use super::numbers::{FLAG_NO_REPLY, HEADER_BYTES, MAX_TRANSFER_BYTES, command};

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
        /// [`DMA_READABLE`](super::DMA_READABLE), [`DMA_WRITABLE`](super::DMA_WRITABLE).
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
        /// [`UNMAP_ALL`](super::UNMAP_ALL).
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
        /// Data type and action, see [`irq`](super::irq).
        flags: u32,
        /// Interrupt index.
        index: u32,
        /// First vector.
        start: u32,
        /// Number of vectors.
        count: u32,
        /// What follows: bytes for [`irq::DATA_BOOL`](super::irq::DATA_BOOL).
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
