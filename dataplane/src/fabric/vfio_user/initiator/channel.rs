//! Messages to a target and its replies.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::DOORBELL_OFFSET;
use super::super::socket::{self, Assembler, Inbound, ReceiveError};
use super::super::wire::{
    DMA_READABLE, DMA_WRITABLE, FLAG_ERROR, FLAG_REPLY, MAJOR, MINOR, Message, capabilities, command, irq, region,
};
use crate::fabric::host::Deadline;

/// Why a target could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Nobody listens.
    #[error("cannot connect to {path}: {source}; is the daemon running, and does it listen there?")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The target hung up. It logs why it refuses a client.
    #[error("the target closed the connection; its log says why (is this user allowed?)")]
    Closed,
    /// The socket failed.
    #[error("the connection failed: {0}")]
    System(#[from] io::Error),
    /// What came makes no sense.
    #[error("the target broke the protocol: {0}")]
    Protocol(String),
    /// The target said no.
    #[error("the target refused message {command}: {error}")]
    Refused {
        /// Message number.
        command: u16,
        /// Its errno.
        error: io::Error,
    },
    /// No answer in time.
    #[error("the target did not answer message {0} in time")]
    TimedOut(u16),
}

impl From<ReceiveError> for ChannelError {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Closed | ReceiveError::Cut => Self::Closed,
            ReceiveError::System(error) if error.kind() == io::ErrorKind::ConnectionReset => Self::Closed,
            ReceiveError::System(error) => Self::System(error),
            other => Self::Protocol(other.to_string()),
        }
    }
}

pub(super) struct Channel {
    stream: UnixStream,
    assembler: Assembler,
    timeout: Duration,
    next_id: u16,
}

/// Little-endian fields of a reply.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ChannelError> {
        let short = || ChannelError::Protocol("a reply ends before its fields do".into());
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or_else(short)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, ChannelError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, ChannelError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, ChannelError> {
        self.take().map(u64::from_le_bytes)
    }
}

impl Channel {
    pub(super) fn connect(path: &Path, timeout: Duration) -> Result<Self, ChannelError> {
        let stream =
            UnixStream::connect(path).map_err(|source| ChannelError::Connect { path: path.to_path_buf(), source })?;
        stream.set_write_timeout(Some(timeout))?;
        let mut channel = Self { stream, assembler: Assembler::default(), timeout, next_id: 0 };
        let message =
            channel.message(command::VERSION).u16(MAJOR).u16(MINOR).bytes(&capabilities(usize::from(u16::MAX)));
        let reply = channel.request(command::VERSION, message, &[])?;
        let major = Fields(&reply.payload).u16()?;
        if major == MAJOR { Ok(channel) } else { Err(ChannelError::Protocol(format!("it speaks version {major}"))) }
    }

    fn message(&self, command: u16) -> Message {
        Message::command(self.next_id, command)
    }

    /// Sends a command and waits for its reply.
    fn request(&mut self, command: u16, message: Message, fds: &[BorrowedFd<'_>]) -> Result<Inbound, ChannelError> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        socket::send(&self.stream, &message.finish(), fds).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ChannelError::Closed,
            io::ErrorKind::WouldBlock => ChannelError::TimedOut(command),
            _ => ChannelError::System(error),
        })?;
        let deadline = Deadline::after(self.timeout);
        loop {
            if let Some(inbound) = self.assembler.receive(&self.stream)? {
                let header = inbound.header;
                if header.id != id || header.command != command || header.flags & FLAG_REPLY == 0 {
                    return Err(ChannelError::Protocol(format!("message {} came unasked", header.command)));
                }
                if header.flags & FLAG_ERROR != 0 {
                    let error = io::Error::from_raw_os_error(header.error as i32);
                    return Err(ChannelError::Refused { command, error });
                }
                return Ok(inbound);
            }
            let left = deadline.left();
            if left.is_zero() {
                return Err(ChannelError::TimedOut(command));
            }
            let milliseconds = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).max(1);
            socket::wait_readable([self.stream.as_fd()], milliseconds)?;
        }
    }

    /// Says that nothing more will be sent: a target that is told so closes the connection, and before that lets go of what
    /// it was lent. What it still answers is not listened to.
    pub(super) fn hang_up(&self) {
        // An error says that the other end closed it already.
        let _ = self.stream.shutdown(Shutdown::Write).and_then(|()| self.stream.set_nonblocking(true));
    }

    /// After [`hang_up`](Self::hang_up): whether the target closed the connection.
    pub(super) fn is_closed(&mut self) -> bool {
        let mut late = [0; 4096];
        // Not for ever, whatever it sends.
        for _ in 0..64 {
            match self.stream.read(&mut late) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => {
                    return !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
                }
            }
        }
        false
    }

    /// Nothing is ever sent unasked, so a socket that can be read has been closed.
    pub(super) fn is_alive(&self) -> bool {
        matches!(socket::wait_readable([self.stream.as_fd()], 0), Ok([false]))
    }

    pub(super) fn region_read(&mut self, region: u32, offset: u64, into: &mut [u8]) -> Result<(), ChannelError> {
        let message = self.message(command::REGION_READ).u64(offset).u32(region).u32(into.len() as u32);
        let reply = self.request(command::REGION_READ, message, &[])?;
        let data = reply.payload.get(16..16 + into.len());
        let data = data.ok_or_else(|| ChannelError::Protocol("a region reply is too short".into()))?;
        into.copy_from_slice(data);
        Ok(())
    }

    pub(super) fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), ChannelError> {
        let message = self.message(command::REGION_WRITE).u64(offset).u32(region).u32(data.len() as u32).bytes(data);
        self.request(command::REGION_WRITE, message, &[]).map(|_| ())
    }

    pub(super) fn read32(&mut self, region: u32, offset: u64) -> Result<u32, ChannelError> {
        let mut bytes = [0; 4];
        self.region_read(region, offset, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn read64(&mut self, region: u32, offset: u64) -> Result<u64, ChannelError> {
        let mut bytes = [0; 8];
        self.region_read(region, offset, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn write32(&mut self, region: u32, offset: u64, value: u32) -> Result<(), ChannelError> {
        self.region_write(region, offset, &value.to_le_bytes())
    }

    pub(super) fn write64(&mut self, region: u32, offset: u64, value: u64) -> Result<(), ChannelError> {
        self.region_write(region, offset, &value.to_le_bytes())
    }

    pub(super) fn dma_map(
        &mut self,
        fd: BorrowedFd<'_>,
        offset: u64,
        iova: u64,
        bytes: u64,
        writable: bool,
    ) -> Result<(), ChannelError> {
        let flags = if writable { DMA_READABLE | DMA_WRITABLE } else { DMA_READABLE };
        let message = self.message(command::DMA_MAP).u32(32).u32(flags);
        let message = message.u64(offset).u64(iova).u64(bytes);
        self.request(command::DMA_MAP, message, &[fd]).map(|_| ())
    }

    pub(super) fn dma_unmap(&mut self, iova: u64, bytes: u64) -> Result<(), ChannelError> {
        let message = self.message(command::DMA_UNMAP).u32(24).u32(0).u64(iova).u64(bytes);
        self.request(command::DMA_UNMAP, message, &[]).map(|_| ())
    }

    /// Resets the device.
    pub(super) fn reset(&mut self) -> Result<(), ChannelError> {
        let message = self.message(command::DEVICE_RESET);
        self.request(command::DEVICE_RESET, message, &[]).map(|_| ())
    }

    /// Ties an eventfd to an MSI-X vector, or unties it.
    pub(super) fn set_vector(&mut self, vector: u16, fd: Option<BorrowedFd<'_>>) -> Result<(), ChannelError> {
        let flags = irq::DATA_EVENTFD | irq::ACTION_TRIGGER;
        let message = self.message(command::DEVICE_SET_IRQS).u32(20).u32(flags).u32(irq::MSIX);
        let message = message.u32(u32::from(vector)).u32(1);
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        self.request(command::DEVICE_SET_IRQS, message, &fds).map(|_| ())
    }

    /// The file of the doorbells, and offset and length of the area that begins at BAR0 offset 1000h.
    pub(super) fn doorbell_area(&mut self) -> Result<(OwnedFd, u64, u64), ChannelError> {
        // Room for a capability with several areas.
        let ask = |channel: &Self| channel.message(command::DEVICE_GET_REGION_INFO).u32(1024).u32(0).u32(0).u32(0);
        let message = ask(self).u64(0).u64(0);
        let reply = self.request(command::DEVICE_GET_REGION_INFO, message, &[])?;
        let info = &reply.payload;
        let mut fields = Fields(info);
        let (_argsz, flags, _index, mut next) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        let (_size, base) = (fields.u64()?, fields.u64()?);
        let none = || ChannelError::Protocol("the doorbells of BAR0 cannot be mapped".into());
        let fd = reply.fds.into_iter().next().filter(|_| flags & region::MMAP != 0).ok_or_else(none)?;
        // Offsets rise, so the walk ends.
        let mut last = 0;
        while next > last {
            last = next;
            let mut capability = Fields(info.get(next as usize..).ok_or_else(none)?);
            let (id, _version) = (capability.u16()?, capability.u16()?);
            next = capability.u32()?;
            if id != region::CAP_SPARSE_MMAP {
                continue;
            }
            let (areas, _reserved) = (capability.u32()?, capability.u32()?);
            for _ in 0..areas {
                let (offset, bytes) = (capability.u64()?, capability.u64()?);
                if offset == DOORBELL_OFFSET {
                    return Ok((fd, base.checked_add(offset).ok_or_else(none)?, bytes));
                }
            }
        }
        Err(none())
    }
}
