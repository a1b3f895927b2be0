//! What a core's TCP end asks of byte streams: the trait, and sockets behind an io_uring ring.
#![allow(unsafe_code)]

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::{IoUring, opcode, types};

use crate::Burst;
use crate::core::io_ring;
use crate::memory::{DmaSlice, Region};

/// Pieces that one send may have.
pub const MAX_PARTS: usize = 160;

/// Names one receive or send of one stream: its place (below the number of streams that [`Streams`] was made for) and
/// which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The stream's place.
    pub place: u16,
    /// Whether it is the send.
    pub send: bool,
}

/// A receive or send has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamDone {
    /// Which.
    pub transfer: Transfer,
    /// Bytes that moved, 0 for the end of the stream, or an errno.
    pub result: Result<u32, i32>,
}

/// How far a stream is, whatever is under way on it: in bytes, from some point in time on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What the peer has of what was sent.
    pub acked: u64,
    /// What came from the peer.
    pub received: u64,
}

impl Progress {
    /// From an earlier one to this one.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { acked: self.acked.wrapping_sub(earlier.acked), received: self.received.wrapping_sub(earlier.received) }
    }
}

/// Byte streams of one core. Each has a place, and at most one receive and one send under way there.
pub trait Streams: Sized {
    /// A stream. Dropping it closes it.
    type Stream: Send;

    /// For as many streams, whose bytes all lie in `region`.
    ///
    /// # Errors
    /// What the system says.
    fn new(streams: u16, region: Arc<Region>) -> io::Result<Self>;

    /// Bytes to be sent may lie in this memory too, which is held from now on.
    fn read_from(&mut self, memory: &[Arc<Region>]);

    /// Begins to receive: some bytes, or with `all` as many as fit. The stream stays until it is done.
    fn receive(&mut self, place: u16, stream: &Self::Stream, into: DmaSlice, all: bool);

    /// Begins to send the first `most` of these bytes, one after another. The stream stays until it is done.
    fn send(&mut self, place: u16, stream: &Self::Stream, parts: &[DmaSlice], most: u32);

    /// Hands over what was begun. One system call at most.
    fn submit(&mut self);

    /// Takes what has ended.
    fn poll(&mut self, done: &mut Burst<StreamDone>);

    /// How far a stream is; `None` if that is not known. A system call: not for the hot path.
    fn progress(&self, _stream: &Self::Stream) -> Option<Progress> {
        None
    }

    /// Ends a stream in the direction to the host, which is told so after what was sent.
    fn end_sending(&mut self, stream: &Self::Stream);

    /// Ends a stream in both directions: what is under way there ends soon.
    fn shut_down(&mut self, stream: &Self::Stream);
}

/// The message of a send, which the kernel reads until the send has ended.
struct SendSlot {
    parts: [libc::iovec; MAX_PARTS],
    header: libc::msghdr,
}

/// Sockets behind a ring. Belongs to the thread that made it.
pub struct RingStreams {
    ring: IoUring,
    sends: Box<[Box<SendSlot>]>,
    region: Arc<Region>,
    /// Whose bytes are sent too.
    others: Vec<Arc<Region>>,
    /// Receives and sends that the kernel has.
    under_way: usize,
    unsent: bool,
}

impl Transfer {
    fn to_bits(self) -> u64 {
        u64::from(self.place) << 1 | u64::from(self.send)
    }

    fn from_bits(bits: u64) -> Self {
        Self { place: (bits >> 1) as u16, send: bits & 1 != 0 }
    }
}

impl RingStreams {
    fn push(&mut self, entry: &io_uring::squeue::Entry) {
        // SAFETY: the memory lies inside the regions, which this holds until nothing is under way; a message's slot stays
        // where it is for as long as this lives, and is not written to while its send is under way; and the caller keeps
        // the stream open until the transfer has ended.
        let pushed = unsafe { self.ring.submission().push(entry) };
        // There are two entries for each stream, and each has one receive and one send at most.
        debug_assert!(pushed.is_ok());
        self.under_way += 1;
    }
}

impl Streams for RingStreams {
    type Stream = TcpStream;

    fn new(streams: u16, region: Arc<Region>) -> io::Result<Self> {
        let ring = io_ring::set_up(u32::from(streams.max(1)) * 2, false)?;
        // SAFETY: both are plain C structures for which all zeros is a valid value.
        let slot = || Box::new(unsafe { std::mem::zeroed::<SendSlot>() });
        let sends = (0..streams).map(|_| slot()).collect();
        Ok(Self { ring, sends, region, others: Vec::new(), under_way: 0, unsent: false })
    }

    fn read_from(&mut self, memory: &[Arc<Region>]) {
        self.others.extend_from_slice(memory);
    }

    fn receive(&mut self, place: u16, stream: &TcpStream, into: DmaSlice, all: bool) {
        debug_assert!(self.region.contains(&into), "memory of another region");
        let flags = if all { libc::MSG_WAITALL } else { 0 };
        let fd = types::Fd(stream.as_raw_fd());
        let entry = opcode::Recv::new(fd, into.address() as *mut u8, into.bytes()).flags(flags).build();
        self.push(&entry.user_data(Transfer { place, send: false }.to_bits()));
    }

    fn send(&mut self, place: u16, stream: &TcpStream, parts: &[DmaSlice], most: u32) {
        let Some(slot) = self.sends.get_mut(usize::from(place)) else { return };
        let (mut count, mut left) = (0, most);
        for (to, part) in slot.parts.iter_mut().zip(parts) {
            if left == 0 {
                break;
            }
            let mut regions = self.others.iter().chain([&self.region]);
            debug_assert!(regions.any(|region| region.contains(part)), "memory of another region");
            let bytes = part.bytes().min(left);
            *to = libc::iovec { iov_base: part.address() as *mut libc::c_void, iov_len: bytes as usize };
            left -= bytes;
            count += 1;
        }
        slot.header.msg_iov = slot.parts.as_mut_ptr();
        slot.header.msg_iovlen = count as _;
        let fd = types::Fd(stream.as_raw_fd());
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
        let entry = opcode::SendMsg::new(fd, &raw const slot.header).flags(flags).build();
        self.push(&entry.user_data(Transfer { place, send: true }.to_bits()));
    }

    fn submit(&mut self) {
        if self.ring.submission().is_empty() && !self.unsent && !io_ring::must_gather(&mut self.ring) {
            return;
        }
        // What the kernel did not take stays in the ring, and is offered again in the next turn.
        self.unsent = self.ring.submit().is_err();
    }

    fn poll(&mut self, done: &mut Burst<StreamDone>) {
        if self.under_way == 0 {
            return;
        }
        if io_ring::must_gather(&mut self.ring) {
            self.submit();
        }
        let room = done.remaining_capacity();
        for entry in self.ring.completion().take(room) {
            let result = u32::try_from(entry.result()).map_err(|_| -entry.result());
            done.push(StreamDone { transfer: Transfer::from_bits(entry.user_data()), result });
        }
        self.under_way -= done.len();
    }

    fn progress(&self, stream: &TcpStream) -> Option<Progress> {
        // SAFETY: it is a plain C structure for which all zeros is a valid value.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut bytes = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `bytes` bytes to `info`, which has as many, and the descriptor is open.
        let answer = unsafe {
            let into = (&raw mut info).cast();
            libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut bytes)
        };
        // Kernels before 4.1 know less.
        let known = std::mem::offset_of!(libc::tcp_info, tcpi_bytes_received) + size_of::<u64>();
        let (acked, received) = (info.tcpi_bytes_acked, info.tcpi_bytes_received);
        (answer == 0 && bytes as usize >= known).then_some(Progress { acked, received })
    }

    fn end_sending(&mut self, stream: &TcpStream) {
        // One that the peer has ended already says so, which is as good.
        let _ = stream.shutdown(Shutdown::Write);
    }

    fn shut_down(&mut self, stream: &TcpStream) {
        // One that the peer has ended already says so, which is as good.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

impl Drop for RingStreams {
    /// Waits until the kernel no longer uses the memory. Streams were shut down before, so it does not take long.
    fn drop(&mut self) {
        while self.under_way > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => self.under_way -= self.ring.completion().count().min(self.under_way),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
                Err(_) => {
                    // It cannot be waited for: better to leak the memory than to have it written to by nobody's leave.
                    std::mem::forget((Arc::clone(&self.region), std::mem::take(&mut self.others)));
                    self.sends.iter_mut().for_each(|slot| {
                        std::mem::forget(std::mem::replace(
                            slot,
                            Box::new(unsafe {
                                // SAFETY: as in `new`.
                                std::mem::zeroed()
                            }),
                        ))
                    });
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::memory::RegionSlot;

    /// Ends a stream before the ring that waits for it, also if the test fails.
    struct Ends<'a>(&'a TcpStream);

    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            let _ = self.0.shutdown(Shutdown::Both);
        }
    }

    #[test]
    fn progress_is_told_while_a_transfer_is_under_way() {
        const LONG: u32 = 32 << 20;
        const READ: usize = 1 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut host = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let region = Arc::new(Region::anonymous(LONG as usize, RegionSlot(1)).unwrap());
        let mut streams = RingStreams::new(1, Arc::clone(&region)).unwrap();
        let _ends = Ends(&stream);
        let all = region.slice(0, LONG).unwrap();
        let begin = streams.progress(&stream).unwrap();
        streams.receive(0, &stream, all, true);
        streams.send(0, &stream, &[all], LONG);
        streams.submit();
        let reader = std::thread::spawn(move || {
            host.write_all(&[1; 1000]).unwrap();
            host.read_exact(&mut vec![0; READ]).unwrap();
            host
        });
        let mut done = Burst::new();
        let moved = |streams: &RingStreams| streams.progress(&stream).unwrap().since(begin);
        while moved(&streams).received < 1000 || moved(&streams).acked < READ as u64 {
            // The kernel goes on with a transfer when it is asked what has ended.
            streams.poll(&mut done);
        }
        assert_eq!(moved(&streams).received, 1000);
        assert!(done.iter().all(|done| done.transfer.send), "the receive has not ended");
        drop(reader.join().unwrap());
    }
}
