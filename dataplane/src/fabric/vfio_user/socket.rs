//! Messages with file descriptors over a unix stream socket.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use super::wire::{HEADER_BYTES, Header, MAX_FDS, WireError};

/// Room for the control message that carries [`MAX_FDS`] descriptors, in 8-byte words so that it is aligned.
const CONTROL_WORDS: usize = (MAX_FDS * size_of::<RawFd>()).div_ceil(8) + 4;

/// What one call of [`receive`] brought.
struct Received {
    bytes: usize,
    fds: Vec<OwnedFd>,
    /// Descriptors were lost because there were too many.
    truncated: bool,
}

/// Receives at most `into.len()` bytes. Never waits. Every descriptor that arrives is owned by the result, so
/// surplus ones are closed when it is dropped.
fn receive(stream: &UnixStream, into: &mut [u8]) -> io::Result<Received> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut iov = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: an all-zero msghdr is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<[u64; CONTROL_WORDS]>() as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the buffers that `message` points to live until the end of this function and are as long as it says.
    let count = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, flags) };
    if count < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut fds = Vec::new();
    // SAFETY: the kernel filled `control` with well-formed control messages of `msg_controllen` bytes in all; the
    // macros walk exactly those. Each descriptor was just installed for us, so nobody else owns it.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..bytes / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(Received { bytes: count as usize, fds, truncated: message.msg_flags & libc::MSG_CTRUNC != 0 })
}

/// Sends a whole message; waits for room. The descriptors travel with its first byte.
///
/// # Errors
/// As `sendmsg(2)`; a peer that is gone is an error, never a signal.
pub(super) fn send(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        let descriptors = if sent == 0 { fds } else { &[] };
        match send_some(stream, &bytes[sent..], descriptors) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn send_some(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many file descriptors for one message"));
    }
    let mut control = [0u64; CONTROL_WORDS];
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero msghdr is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let payload = std::mem::size_of_val(fds) as u32;
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: `control` has room for MAX_FDS descriptors, checked above, and is aligned for the header.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(payload) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(payload) as _;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (index, fd) in fds.iter().enumerate() {
                data.add(index).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    // SAFETY: the buffers that `message` points to live until the end of this function; they are only read.
    let count = unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
}

/// A whole message.
#[derive(Debug)]
pub(super) struct Inbound {
    pub header: Header,
    /// What follows the header.
    pub payload: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// Why nothing can be received any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer closed the connection in the middle of a message")]
    Cut,
    #[error("it took memory away that it had lent (truncated the file); memory must stay until it is unmapped")]
    MemoryGone,
    #[error("a message carried more than {MAX_FDS} file descriptors")]
    TooManyFds,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Puts messages together from whatever pieces the socket yields. It reads a header, then exactly what the header
/// announces, so descriptors are never mixed up between messages.
#[derive(Default)]
pub(super) struct Assembler {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    header: Option<Header>,
}

impl Assembler {
    /// Reads what is there. `None` when a message is not complete yet. Never waits.
    pub(super) fn receive(&mut self, stream: &UnixStream) -> Result<Option<Inbound>, ReceiveError> {
        loop {
            let goal = self.header.map_or(HEADER_BYTES, |header| header.size as usize);
            if self.bytes.len() < goal && !self.read_up_to(stream, goal)? {
                return Ok(None);
            }
            if self.bytes.len() < goal {
                continue;
            }
            let Some(header) = self.header else {
                let mut head = [0; HEADER_BYTES];
                head.copy_from_slice(&self.bytes);
                self.header = Some(Header::decode(&head)?);
                continue;
            };
            self.header = None;
            let payload = self.bytes.split_off(HEADER_BYTES);
            self.bytes.clear();
            return Ok(Some(Inbound { header, payload, fds: std::mem::take(&mut self.fds) }));
        }
    }

    /// Whether anything came; `false` if it would have to wait.
    fn read_up_to(&mut self, stream: &UnixStream, goal: usize) -> Result<bool, ReceiveError> {
        let have = self.bytes.len();
        self.bytes.resize(goal, 0);
        let outcome = receive(stream, &mut self.bytes[have..]);
        let count = outcome.as_ref().map_or(0, |received| received.bytes);
        self.bytes.truncate(have + count);
        match outcome {
            Ok(received) if received.truncated || self.fds.len() + received.fds.len() > MAX_FDS => {
                Err(ReceiveError::TooManyFds)
            }
            Ok(received) if received.bytes == 0 => {
                let between = self.bytes.is_empty() && self.header.is_none();
                Err(if between { ReceiveError::Closed } else { ReceiveError::Cut })
            }
            Ok(received) => {
                self.fds.extend(received.fds);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Waits until one of the descriptors can be read or has hung up, `timeout_ms` at most. Says for each.
///
/// # Errors
/// As `poll(2)`; an interruption by a signal counts as nothing ready.
pub(super) fn wait_readable<const N: usize>(fds: [BorrowedFd<'_>; N], timeout_ms: i32) -> io::Result<[bool; N]> {
    let mut entries = fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    // SAFETY: `entries` holds N valid entries for the time of the call.
    let ready = unsafe { libc::poll(entries.as_mut_ptr(), N as libc::nfds_t, timeout_ms) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok([false; N]) } else { Err(error) };
    }
    Ok(entries.map(|entry| entry.revents != 0))
}

/// Ends a listener: whoever waits for a connection on it, or on a duplicate of it, gets an error from now on.
pub(super) fn shut_down(listener: &UnixListener) {
    // SAFETY: a plain system call on a descriptor that is borrowed. It cannot fail on a socket that listens.
    unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
}

/// User and process id of the process at the other end.
pub(super) fn peer_credentials(stream: &UnixStream) -> io::Result<libc::ucred> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the out pointers are valid and `length` says how long the first is.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(credentials) }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Message, command};
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn a_message_in_pieces_is_put_together_with_its_descriptors() {
        let (left, right) = UnixStream::pair().unwrap();
        let bytes = Message::command(7, command::REGION_WRITE).u64(0).u32(0).u32(4).bytes(b"abcd").finish();
        let mut assembler = Assembler::default();
        send(&left, &bytes[..5], &[left.as_fd(), right.as_fd()]).unwrap();
        assert!(assembler.receive(&right).unwrap().is_none());
        (&left).write_all(&bytes[5..30]).unwrap();
        assert!(assembler.receive(&right).unwrap().is_none());
        (&left).write_all(&bytes[30..]).unwrap();
        send(&left, &Message::command(8, command::DEVICE_RESET).finish(), &[left.as_fd()]).unwrap();
        let first = assembler.receive(&right).unwrap().unwrap();
        assert_eq!((first.header.id, first.fds.len(), first.payload.len()), (7, 2, 20));
        let second = assembler.receive(&right).unwrap().unwrap();
        assert_eq!((second.header.id, second.fds.len()), (8, 1));
        drop((left, first, second));
        assert!(matches!(assembler.receive(&right), Err(ReceiveError::Closed)));
    }

    #[test]
    fn a_bad_size_or_a_cut_message_ends_it() {
        let (left, right) = UnixStream::pair().unwrap();
        (&left).write_all(&[0xFF; 16]).unwrap();
        assert!(matches!(Assembler::default().receive(&right), Err(ReceiveError::Wire(WireError::Size(_)))));
        let (left, right) = UnixStream::pair().unwrap();
        (&left).write_all(&[0; 3]).unwrap();
        drop(left);
        assert!(matches!(Assembler::default().receive(&right), Err(ReceiveError::Cut)));
    }
}
