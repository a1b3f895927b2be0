//! The byte stream under a queue.
#![allow(unsafe_code)]

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::super::socket::notice_silence;
use super::pieces::{Incoming, Outgoing};

/// What a queue sends to and receives from. Never waits.
pub trait ByteStream {
    /// Sends as many bytes as can go now.
    ///
    /// # Errors
    /// `WouldBlock` for none, or why the stream is broken.
    fn send(&mut self, pieces: &Outgoing<'_>) -> io::Result<usize>;

    /// Receives what has come; 0 says that the other end closed.
    ///
    /// # Errors
    /// `WouldBlock` for nothing, or why the stream is broken.
    fn receive(&mut self, pieces: &mut Incoming<'_>) -> io::Result<usize>;

    /// Tells whether bytes wait for the stream to take them.
    fn wants_to_send(&mut self, waiting: bool);

    /// Ends the stream.
    fn close(&mut self);
}

/// A TCP connection.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// Becomes readable when there is something to do.
    wake: Option<OwnedFd>,
    waiting: bool,
}

impl Socket {
    /// Connects within `time`, with an epoll instance around the socket if asked. A target that is silent for longer than
    /// `silence` is given up.
    pub(super) fn connect(address: &SocketAddr, time: Duration, silence: Duration, wake: bool) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(address, time)?;
        // A capsule must not wait for the answer to the one before it.
        stream.set_nodelay(true)?;
        notice_silence(&stream, silence)?;
        stream.set_nonblocking(true)?;
        let wake = if wake { Some(epoll(&stream)?) } else { None };
        Ok(Self { stream, wake, waiting: false })
    }

    /// What becomes readable when the queue is to be polled.
    pub(super) fn wake(&self) -> Option<BorrowedFd<'_>> {
        self.wake.as_ref().map(OwnedFd::as_fd)
    }

    /// Waits until there is something to receive, or room to send, for so long at the most.
    pub(super) fn wait(&self, sends: bool, time: Duration) {
        let events = if sends { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
        let mut entry = libc::pollfd { fd: self.stream.as_raw_fd(), events, revents: 0 };
        let millis = i32::try_from(time.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
        // SAFETY: one entry, on the stack.
        unsafe { libc::poll(&raw mut entry, 1, millis) };
    }
}

impl ByteStream for Socket {
    fn send(&mut self, pieces: &Outgoing<'_>) -> io::Result<usize> {
        pieces.send(self.stream.as_fd())
    }

    fn receive(&mut self, pieces: &mut Incoming<'_>) -> io::Result<usize> {
        pieces.receive(self.stream.as_fd())
    }

    fn wants_to_send(&mut self, waiting: bool) {
        if self.waiting == waiting {
            return;
        }
        self.waiting = waiting;
        if let Some(wake) = &self.wake {
            // It cannot fail: both descriptors are open, and the socket was added.
            let _ = control(wake, libc::EPOLL_CTL_MOD, &self.stream, waiting);
        }
    }

    fn close(&mut self) {
        // Only this way: to drop what was received unread would take with it what was sent last. An error says that the
        // other end closed it already.
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

fn epoll(stream: &TcpStream) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers; its result is checked and owned by nobody else.
    let wake = unsafe {
        let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    control(&wake, libc::EPOLL_CTL_ADD, stream, false)?;
    Ok(wake)
}

fn control(wake: &OwnedFd, operation: libc::c_int, stream: &TcpStream, sends: bool) -> io::Result<()> {
    let events = if sends { libc::EPOLLIN | libc::EPOLLOUT } else { libc::EPOLLIN };
    let mut event = libc::epoll_event { events: events as u32, u64: 0 };
    // SAFETY: both descriptors are open for as long as they are borrowed, and the event lives until the call returns.
    let done = unsafe { libc::epoll_ctl(wake.as_raw_fd(), operation, stream.as_raw_fd(), &raw mut event) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
