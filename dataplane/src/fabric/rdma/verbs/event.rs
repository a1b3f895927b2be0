//! Events of connections, and the channel that they come on.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;

use super::abi::{self, CmEvent, cm_event};
use super::connection::Endpoint;
use super::library::Library;
use super::{VerbsError, wait_readable};

/// The most private data that any event brings.
pub const PRIVATE_BYTES: usize = 255;

/// Where the events of some connections come in. One thread takes them.
#[derive(Debug)]
pub struct EventChannel {
    pub(super) library: &'static Library,
    pub(super) raw: NonNull<abi::EventChannel>,
    fd: RawFd,
}

// SAFETY: librdmacm lets any thread use a channel; a connection is destroyed only after its events were acknowledged.
unsafe impl Send for EventChannel {}
// SAFETY: as above.
unsafe impl Sync for EventChannel {}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library").finish_non_exhaustive()
    }
}

/// A name that no other connection of the process ever has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u64);

/// Something happened to a connection, or to one that is to be.
#[derive(Debug)]
pub struct Event {
    /// To which. For [`EventKind::ConnectRequest`] the listener.
    pub endpoint: EndpointId,
    /// What.
    pub kind: EventKind,
    /// An error number, or for [`EventKind::Rejected`] the reason by the tables of the transport; 0 if there is none.
    pub status: i32,
    /// What the peer sent along; may be longer than what it gave, by zeros.
    pub private_data: ArrayVec<u8, PRIVATE_BYTES>,
}

/// What happened.
#[derive(Debug)]
pub enum EventKind {
    /// The address belongs to a device.
    AddressResolved,
    /// There is a way to the peer.
    RouteResolved,
    /// A peer wants a connection.
    ConnectRequest(ConnectRequest),
    /// The connection is there.
    Established,
    /// The peer refused.
    Rejected,
    /// It came to nothing for another reason: no such address, no way there, no answer, a fault.
    Failed,
    /// The peer ended the connection, or is gone.
    Disconnected,
    /// The time after a connection's end is over, in which late packets may come.
    TimeWaitOver,
    /// The device is being removed, or its address moved elsewhere: the connection must go.
    DeviceGone,
    /// Anything else.
    Other(u32),
}

/// A peer wants a connection: accept it or reject it. Dropped, it is rejected without a reason.
#[derive(Debug)]
pub struct ConnectRequest {
    /// This end of it.
    pub endpoint: Endpoint,
    /// READs of ours that the peer answers at the same time.
    pub reads: u8,
    /// READs of the peer's that we are to answer at the same time.
    pub peer_reads: u8,
}

impl EventChannel {
    /// A new channel.
    ///
    /// # Errors
    /// What the system said, or that the libraries or the kernel module are not there.
    pub fn new() -> Result<Arc<Self>, VerbsError> {
        let library = Library::get()?;
        // SAFETY: takes nothing.
        let raw = NonNull::new(unsafe { (library.rdma_create_event_channel)() });
        let raw = raw.ok_or_else(|| VerbsError::last("open the RDMA connection manager"))?;
        // SAFETY: just made; its descriptor does not change.
        let fd = unsafe { (*raw.as_ptr()).fd };
        // SAFETY: flags of a descriptor that is open while the channel lives.
        unsafe { libc::fcntl(fd, libc::F_SETFL, libc::fcntl(fd, libc::F_GETFL) | libc::O_NONBLOCK) };
        Ok(Arc::new(Self { library, raw, fd }))
    }

    /// The descriptor that becomes readable with an event.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: open for as long as the channel lives.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    /// The next event, after waiting for at most so long; `None` if there is none.
    ///
    /// # Errors
    /// What the system said.
    pub fn next(self: &Arc<Self>, wait: Duration) -> Result<Option<Event>, VerbsError> {
        let milliseconds = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        let readable = wait_readable(self.fd, milliseconds);
        if !readable.map_err(|cause| VerbsError::Call { what: "wait for events of connections", cause })? {
            return Ok(None);
        }
        let mut raw = null_mut();
        // SAFETY: a live channel whose descriptor does not block, and room for the answer.
        if unsafe { (self.library.rdma_get_cm_event)(self.raw.as_ptr(), &raw mut raw) } != 0 {
            let cause = std::io::Error::last_os_error();
            return match cause.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(None),
                _ => Err(VerbsError::Call { what: "take an event of a connection", cause }),
            };
        }
        // SAFETY: an event that was not acknowledged yet.
        let event = unsafe { self.take(&*raw) };
        // SAFETY: acknowledged once; everything of it was copied.
        unsafe { (self.library.rdma_ack_cm_event)(raw) };
        event.map(Some)
    }

    /// Copies what an event says.
    ///
    /// # Safety
    /// It must be one that librdmacm gave, and not be acknowledged yet: until then its connection is not destroyed.
    unsafe fn take(self: &Arc<Self>, raw: &CmEvent) -> Result<Event, VerbsError> {
        let request = raw.event == cm_event::CONNECT_REQUEST;
        let named = if request { raw.listen_id } else { raw.id };
        // SAFETY: the connection is there until the event is acknowledged, and its context is not written to any more.
        let endpoint = EndpointId(unsafe { (*named).context } as u64);
        let mut private_data = ArrayVec::new();
        if !raw.conn.private_data.is_null() {
            // SAFETY: librdmacm says where the data lies and how long it is, which holds until the acknowledgement.
            // 255 bytes at most, because the length is a byte.
            let data = unsafe {
                std::slice::from_raw_parts(raw.conn.private_data.cast::<u8>(), usize::from(raw.conn.private_data_len))
            };
            let _ = private_data.try_extend_from_slice(data);
        }
        let kind = match raw.event {
            cm_event::ADDR_RESOLVED => EventKind::AddressResolved,
            cm_event::ROUTE_RESOLVED => EventKind::RouteResolved,
            cm_event::CONNECT_REQUEST => {
                let id =
                    NonNull::new(raw.id).ok_or(VerbsError::Unsupported("a connect request without an endpoint"))?;
                // SAFETY: a new endpoint on this channel, which is ours from here on.
                let endpoint = unsafe { Endpoint::adopt(self, id) };
                EventKind::ConnectRequest(ConnectRequest {
                    endpoint,
                    reads: raw.conn.initiator_depth,
                    peer_reads: raw.conn.responder_resources,
                })
            }
            cm_event::ESTABLISHED => EventKind::Established,
            cm_event::REJECTED => EventKind::Rejected,
            cm_event::ADDR_ERROR | cm_event::ROUTE_ERROR | cm_event::CONNECT_ERROR | cm_event::UNREACHABLE => {
                EventKind::Failed
            }
            cm_event::DISCONNECTED => EventKind::Disconnected,
            cm_event::TIMEWAIT_EXIT => EventKind::TimeWaitOver,
            cm_event::DEVICE_REMOVAL | cm_event::ADDR_CHANGE => EventKind::DeviceGone,
            other => EventKind::Other(other),
        };
        Ok(Event { endpoint, kind, status: raw.status, private_data })
    }
}

impl Drop for EventChannel {
    fn drop(&mut self) {
        // SAFETY: endpoints hold their channel alive, so none is left on it, and every event was acknowledged.
        unsafe { (self.library.rdma_destroy_event_channel)(self.raw.as_ptr()) };
    }
}
