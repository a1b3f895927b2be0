//! What both ends set on their sockets.
#![allow(unsafe_code)]

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// The most seconds that Linux takes for TCP_KEEPIDLE and TCP_KEEPINTVL (include/net/tcp.h, MAX_TCP_KEEPIDLE).
const MAX_KEEPALIVE: libc::c_int = 32_767;

/// Has the kernel give up a peer that acknowledges nothing for as long as `timeout`, sent bytes and probes alike.
pub(super) fn notice_silence(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    let millis = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
    let seconds = libc::c_int::try_from(timeout.as_secs()).unwrap_or(MAX_KEEPALIVE).clamp(1, MAX_KEEPALIVE);
    for (level, name, value) in [
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, millis),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, (seconds / 3).max(1)),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3),
    ] {
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the pointer and the size describe `value`.
        let done = unsafe { libc::setsockopt(stream.as_raw_fd(), level, name, (&raw const value).cast(), size) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Ends the wait of whoever waits for connections on a listener, on whichever descriptor of it.
pub(super) fn shut_down(listener: &TcpListener) {
    // SAFETY: a plain system call on a descriptor that is borrowed. It cannot fail on a socket that listens.
    unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_of_any_length_can_be_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for timeout in [Duration::ZERO, Duration::from_secs(40_000), Duration::MAX] {
            notice_silence(&stream, timeout).unwrap();
        }
    }
}
