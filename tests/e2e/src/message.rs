//! vfio-user messages put together by hand, right and wrong ones.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::memory::send_with_fds;

/// Bytes of a message's header.
pub const HEADER: usize = 16;
/// Message numbers.
pub const VERSION: u16 = 1;
/// Makes client memory reachable.
pub const DMA_MAP: u16 = 2;
/// Takes client memory back.
pub const DMA_UNMAP: u16 = 3;
/// Reads a region.
pub const REGION_READ: u16 = 9;
/// Writes a region.
pub const REGION_WRITE: u16 = 10;

/// A connection that says what it likes.
pub struct Wire {
    stream: UnixStream,
    id: u16,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The errno, if the reply says that the command failed.
    pub error: Option<u32>,
    /// What follows the header.
    pub body: Vec<u8>,
}

impl Wire {
    /// Connects and says nothing.
    ///
    /// # Errors
    /// What the system says.
    pub fn connect(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(crate::PATIENCE))?;
        stream.set_write_timeout(Some(crate::PATIENCE))?;
        Ok(Self { stream, id: 0 })
    }

    /// Connects and negotiates the version as any client does.
    ///
    /// # Errors
    /// If the target hangs up.
    pub fn negotiated(socket: &Path) -> std::io::Result<Self> {
        let mut wire = Self::connect(socket)?;
        let reply = wire.call(VERSION, b"\0\0\x01\0{\"capabilities\":{}}\0", &[])?;
        match reply.error {
            None => Ok(wire),
            Some(errno) => Err(std::io::Error::from_raw_os_error(errno.cast_signed())),
        }
    }

    /// A message: header and body.
    pub fn message(&mut self, command: u16, body: &[u8]) -> Vec<u8> {
        self.id += 1;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(self.id.to_le_bytes());
        message.extend(command.to_le_bytes());
        message.extend(u32::try_from(HEADER + body.len()).unwrap().to_le_bytes());
        message.extend([0; 8]);
        message.extend(body);
        message
    }

    /// Sends a message and waits for the reply.
    ///
    /// # Errors
    /// If the target hangs up.
    pub fn call(&mut self, command: u16, body: &[u8], fds: &[RawFd]) -> std::io::Result<Reply> {
        let message = self.message(command, body);
        send_with_fds(self.stream.as_raw_fd(), &message, fds)?;
        self.reply()
    }

    /// Asks for a mapping; what the target answers.
    ///
    /// # Errors
    /// If the target hangs up.
    pub fn dma_map(&mut self, offset: u64, iova: u64, bytes: u64, fd: Option<RawFd>) -> std::io::Result<Reply> {
        let mut body = Vec::new();
        body.extend(32u32.to_le_bytes());
        body.extend(3u32.to_le_bytes());
        for word in [offset, iova, bytes] {
            body.extend(word.to_le_bytes());
        }
        self.call(DMA_MAP, &body, fd.as_slice())
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// What the system says.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next reply.
    ///
    /// # Errors
    /// If the target hangs up, or says nothing.
    pub fn reply(&mut self) -> std::io::Result<Reply> {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header)?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let mut body = vec![0; (word(4) as usize).saturating_sub(HEADER)];
        self.stream.read_exact(&mut body)?;
        Ok(Reply { error: (word(8) & (1 << 5) != 0).then(|| word(12)), body })
    }

    /// Reads until the target hangs up.
    ///
    /// # Panics
    /// If it does not.
    pub fn await_hangup(mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => (),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => (),
            Err(error) => panic!("the target neither answers nor hangs up: {error}"),
        }
    }
}
