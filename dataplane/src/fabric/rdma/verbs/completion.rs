//! Completion queues.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::{NonNull, null_mut};

use super::abi::{self, CompChannel, Cq};
use super::{Device, VerbsError};

/// `IBV_WC_WR_FLUSH_ERR`: the work request was not carried out, because its queue pair had failed before.
pub(super) const FLUSHED: u32 = 5;

/// How a work request ended. Of one that failed only [`id`](Self::id), [`failed`](Self::failed) and
/// [`queue_pair`](Self::queue_pair) say anything.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub struct WorkDone(abi::Wc);

impl WorkDone {
    /// What the work request was given.
    #[inline]
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.wr_id
    }

    /// Whether it failed, and how.
    #[inline]
    #[must_use]
    pub fn failed(&self) -> Option<WorkFault> {
        (self.0.status != 0).then_some(WorkFault(self.0.status))
    }

    /// The number of the queue pair.
    #[inline]
    #[must_use]
    pub fn queue_pair(&self) -> u32 {
        self.0.qp_num
    }

    /// Whether a message was received, and how many bytes. Of failures this is not known: tell receives by their id.
    #[inline]
    #[must_use]
    pub fn received(&self) -> Option<u32> {
        (self.0.opcode == abi::WC_RECV).then_some(self.0.byte_len)
    }
}

#[cfg(test)]
impl WorkDone {
    /// What a device in a test says of a work request: how it ended, and the bytes if it was a receive.
    pub(crate) fn told(id: u64, queue_pair: u32, status: u32, received: Option<u32>) -> Self {
        Self(abi::Wc {
            wr_id: id,
            status,
            opcode: received.map_or(0, |_| abi::WC_RECV),
            byte_len: received.unwrap_or(0),
            qp_num: queue_pair,
            ..abi::Wc::default()
        })
    }
}

/// How a work request failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WorkFault(u32);

impl WorkFault {
    /// Not carried out, because the queue pair had failed before. What made it fail is told by another work request or
    /// by the connection.
    #[must_use]
    pub const fn is_flushed(self) -> bool {
        self.0 == FLUSHED
    }
}

impl std::fmt::Display for WorkFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match super::library::Library::get() {
            Ok(library) => f.write_str(&library.status_text(self.0)),
            Err(_) => write!(f, "status {}", self.0),
        }
    }
}

impl std::fmt::Debug for WorkFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A completion queue. Any thread may poll it.
#[derive(Debug)]
pub struct CompletionQueue {
    device: Device,
    pub(super) cq: NonNull<Cq>,
    poll: unsafe extern "C" fn(*mut Cq, i32, *mut abi::Wc) -> i32,
    channel: Option<Channel>,
    entries: u32,
}

/// Where a completion queue tells that it has something.
#[derive(Debug)]
struct Channel {
    raw: NonNull<CompChannel>,
    fd: RawFd,
}

// SAFETY: libibverbs lets any thread use a completion queue and its channel.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// A queue of at least `entries` entries, which is polled only.
    ///
    /// # Errors
    /// What the device said.
    pub fn new(device: Device, entries: u32) -> Result<Self, VerbsError> {
        Self::make(device, entries, None)
    }

    /// A queue that can also be waited for, see [`arm`](Self::arm).
    ///
    /// # Errors
    /// What the device said.
    pub fn with_channel(device: Device, entries: u32) -> Result<Self, VerbsError> {
        // SAFETY: an open context.
        let raw = NonNull::new(unsafe { (device.library.ibv_create_comp_channel)(device.context.as_ptr()) });
        let raw = raw.ok_or_else(|| VerbsError::last("make a completion channel"))?;
        // SAFETY: just made; its descriptor does not change.
        let fd = unsafe { (*raw.as_ptr()).fd };
        // SAFETY: flags of a descriptor that stays open while the channel lives.
        unsafe { libc::fcntl(fd, libc::F_SETFL, libc::fcntl(fd, libc::F_GETFL) | libc::O_NONBLOCK) };
        Self::make(device, entries, Some(Channel { raw, fd })).inspect_err(|_| {
            // SAFETY: made above, and no completion queue refers to it.
            unsafe { (device.library.ibv_destroy_comp_channel)(raw.as_ptr()) };
        })
    }

    fn make(device: Device, entries: u32, channel: Option<Channel>) -> Result<Self, VerbsError> {
        let poll = device.ops().poll_cq.ok_or(VerbsError::Unsupported("the RDMA device cannot be polled"))?;
        let wanted = i32::try_from(entries.clamp(1, device.limits().completion_entries.max(1))).unwrap_or(i32::MAX);
        let raw = channel.as_ref().map_or(null_mut(), |channel| channel.raw.as_ptr());
        // SAFETY: an open context; the channel, if any, is of the same context.
        let cq = unsafe { (device.library.ibv_create_cq)(device.context.as_ptr(), wanted, null_mut(), raw, 0) };
        let cq = NonNull::new(cq).ok_or_else(|| VerbsError::last("make a completion queue"))?;
        Ok(Self { device, cq, poll, channel, entries: wanted as u32 })
    }

    /// Completions that it holds; beyond that the device fails.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Takes completions, as many as there are and `into` has room for, and says how many. Never waits.
    ///
    /// # Errors
    /// If the device failed. Nothing more comes from this queue then.
    #[inline]
    pub fn poll(&self, into: &mut [WorkDone]) -> Result<usize, VerbsError> {
        let room = i32::try_from(into.len()).unwrap_or(i32::MAX);
        // SAFETY: a live queue, and room for as many entries as are asked for; `WorkDone` is the entry itself.
        let count = unsafe { (self.poll)(self.cq.as_ptr(), room, into.as_mut_ptr().cast()) };
        usize::try_from(count).map_err(|_| VerbsError::Unsupported("the completion queue failed"))
    }

    /// Asks to be told of the next completion, by the channel's descriptor becoming readable. Poll once more after
    /// this, or what came in between is missed. Nothing happens without a channel.
    ///
    /// # Errors
    /// What the device said.
    pub fn arm(&self) -> Result<(), VerbsError> {
        let (Some(_), Some(notify)) = (&self.channel, self.device.ops().req_notify_cq) else { return Ok(()) };
        // SAFETY: a live queue.
        match unsafe { notify(self.cq.as_ptr(), 0) } {
            0 => Ok(()),
            code => Err(VerbsError::code("arm a completion queue", code)),
        }
    }

    /// The descriptor that becomes readable; `None` without a channel.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: open for as long as the channel lives, which is as long as `self`.
        self.channel.as_ref().map(|channel| unsafe { BorrowedFd::borrow_raw(channel.fd) })
    }

    /// Takes what made the descriptor readable. Never waits.
    pub fn take_notices(&self) {
        let Some(channel) = &self.channel else { return };
        let (mut cq, mut context, mut count) = (null_mut(), null_mut(), 0);
        // SAFETY: a live channel and room for the answers; its descriptor does not block.
        while unsafe { (self.device.library.ibv_get_cq_event)(channel.raw.as_ptr(), &raw mut cq, &raw mut context) }
            == 0
        {
            count += 1;
        }
        if count > 0 {
            // SAFETY: only this queue is on the channel, and as many events are acknowledged as were taken.
            unsafe { (self.device.library.ibv_ack_cq_events)(self.cq.as_ptr(), count) };
        }
    }

    /// Waits until the descriptor is readable, for `milliseconds` at most, and takes the notice.
    ///
    /// # Errors
    /// What the system said.
    pub fn wait(&self, milliseconds: i32) -> io::Result<()> {
        let Some(channel) = &self.channel else { return Ok(()) };
        super::wait_readable(channel.fd, milliseconds)?;
        self.take_notices();
        Ok(())
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: queue pairs hold their completion queues alive, so none refers to it; notices were acknowledged.
        let code = unsafe { (self.device.library.ibv_destroy_cq)(self.cq.as_ptr()) };
        debug_assert_eq!(code, 0, "no queue pair is left that refers to it");
        if let Some(channel) = &self.channel {
            // SAFETY: its only completion queue is gone.
            unsafe { (self.device.library.ibv_destroy_comp_channel)(channel.raw.as_ptr()) };
        }
    }
}
