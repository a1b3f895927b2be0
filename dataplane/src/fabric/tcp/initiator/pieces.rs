//! Bytes for one system call, out of this process's own buffers and out of regions: values go between socket and region
//! without a copy in between.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use arrayvec::ArrayVec;

use crate::memory::Region;

/// The most pieces of one call.
pub(super) const MAX_PIECES: usize = 64;

type Entries = ArrayVec<libc::iovec, MAX_PIECES>;

/// Bytes to send, in order.
pub struct Outgoing<'a> {
    entries: Entries,
    bytes: usize,
    sources: PhantomData<&'a [u8]>,
}

/// Room for bytes to receive, in order.
pub struct Incoming<'a> {
    entries: Entries,
    bytes: usize,
    targets: PhantomData<&'a mut [u8]>,
}

fn add(entries: &mut Entries, total: &mut usize, base: *mut u8, bytes: usize) -> bool {
    if bytes == 0 {
        return true;
    }
    *total += bytes;
    entries.try_push(libc::iovec { iov_base: base.cast(), iov_len: bytes }).is_ok()
}

impl<'a> Outgoing<'a> {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { entries: ArrayVec::new(), bytes: 0, sources: PhantomData }
    }

    /// Whether pieces of so many more entries fit.
    pub fn has_room(&self, entries: usize) -> bool {
        self.entries.remaining_capacity() >= entries
    }

    /// Bytes of all pieces.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds bytes. False if there is no room for one more piece.
    pub fn add(&mut self, bytes: &'a [u8]) -> bool {
        add(&mut self.entries, &mut self.bytes, bytes.as_ptr().cast_mut(), bytes.len())
    }

    /// Adds bytes of a region. False if they do not lie inside, or there is no room for one more piece.
    pub fn add_region(&mut self, region: &'a Region, offset: u64, bytes: u32) -> bool {
        let Some(slice) = region.slice(offset, bytes) else { return false };
        add(&mut self.entries, &mut self.bytes, slice.address() as *mut u8, bytes as usize)
    }

    /// Sends as many as the socket takes now. Never waits.
    ///
    /// # Errors
    /// As `sendmsg(2)`; a peer that is gone is an error, never a signal.
    pub fn send(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: an all-zero msghdr is valid.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.entries.as_ptr().cast_mut();
        message.msg_iovlen = self.entries.len() as _;
        // SAFETY: every entry describes a slice or a part of a mapping that is borrowed for as long as `self` lives, and
        // the call only reads them. A region's bytes may change meanwhile; they are plain.
        let sent =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Copies the bytes out, at most as many as fit, and says how many: for a wire that is no socket.
    pub fn gather(&self, into: &mut [u8]) -> usize {
        let mut done = 0;
        for entry in &self.entries {
            let part = entry.iov_len.min(into.len() - done);
            // SAFETY: the source as in `send`; the target was just checked to have the room, and is ours alone.
            unsafe { std::ptr::copy_nonoverlapping(entry.iov_base.cast(), into[done..].as_mut_ptr(), part) };
            done += part;
        }
        done
    }
}

impl<'a> Incoming<'a> {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { entries: ArrayVec::new(), bytes: 0, targets: PhantomData }
    }

    /// Bytes of all pieces.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds room in a buffer. False if there is no room for one more piece.
    pub fn add(&mut self, bytes: &'a mut [u8]) -> bool {
        add(&mut self.entries, &mut self.bytes, bytes.as_mut_ptr(), bytes.len())
    }

    /// Adds room in a region. False if it does not lie inside, the region is read-only, or there is no room for one more
    /// piece.
    pub fn add_region(&mut self, region: &'a Region, offset: u64, bytes: u32) -> bool {
        let Some(slice) = region.slice(offset, bytes).filter(|_| region.writable()) else { return false };
        add(&mut self.entries, &mut self.bytes, slice.address() as *mut u8, bytes as usize)
    }

    /// Receives what has arrived, as far as there is room; 0 says that the other end closed. Never waits.
    ///
    /// # Errors
    /// As `recvmsg(2)`.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: an all-zero msghdr is valid.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.entries.as_mut_ptr();
        message.msg_iovlen = self.entries.len() as _;
        // SAFETY: every entry describes a slice that is borrowed mutably, or a part of a writable mapping that is
        // borrowed, for as long as `self` lives; the call writes to nothing else.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// Copies bytes in, as many as there is room for, and says how many: for a wire that is no socket.
    pub fn scatter(&mut self, from: &[u8]) -> usize {
        let mut done = 0;
        for entry in &self.entries {
            let part = entry.iov_len.min(from.len() - done);
            // SAFETY: the target as in `receive`; the source was just checked to have so many bytes, and cannot overlap a
            // buffer that is borrowed mutably; a region is no Rust object.
            unsafe { std::ptr::copy_nonoverlapping(from[done..].as_ptr(), entry.iov_base.cast(), part) };
            done += part;
        }
        done
    }
}
