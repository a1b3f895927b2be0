//! One end of a connection: an identifier of librdmacm, and the queue pair on it.
#![allow(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::abi::{self, CmId, ConnParam, QpAttr, QpInitAttr};
use super::event::{EndpointId, EventChannel};
use super::library::Library;
use super::{CompletionQueue, Device, Domain, ReceiveList, SendList, SharedReceiveQueue, VerbsError, socket_address};

/// Sends that met a peer without a receive are tried again so often: 7 means without end (IBTA, "RNR Retry Count").
const WITHOUT_END: u8 = 7;

/// How long a packet waits for its acknowledgement before it is sent again: 4.096 us times 2 to this power, 0.27 s. Sent again
/// six times (some devices wait up to four times as long), a path that broke is given up within seconds.
const ACK_TIMEOUT: u8 = 16;
/// How often a packet is sent again. Soft-RoCE takes the most that there may be, 7, to mean without end.
const RETRIES: u8 = 6;

/// One end of a connection, or of one that is to be. Any thread may use it; dropping it ends everything it has.
pub struct Endpoint {
    channel: Arc<EventChannel>,
    raw: NonNull<CmId>,
    id: EndpointId,
    pair: Option<Pair>,
}

/// The queue pair, and what it needs alive.
struct Pair {
    qp: NonNull<abi::Qp>,
    number: u32,
    inline_bytes: u32,
    post_send: unsafe extern "C" fn(*mut abi::Qp, *mut abi::SendWr, *mut *mut abi::SendWr) -> i32,
    post_recv: unsafe extern "C" fn(*mut abi::Qp, *mut abi::RecvWr, *mut *mut abi::RecvWr) -> i32,
    _domain: Arc<Domain>,
    _completions: [Arc<CompletionQueue>; 2],
    _shared_receives: Option<Arc<SharedReceiveQueue>>,
}

// SAFETY: libibverbs and librdmacm let any thread use these; destroying them needs the value itself.
unsafe impl Send for Endpoint {}
// SAFETY: as above.
unsafe impl Sync for Endpoint {}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("id", &self.id).field("queue_pair", &self.number()).finish_non_exhaustive()
    }
}

/// What a queue pair is made of.
#[derive(Debug)]
pub struct QueuePairParts<'a> {
    /// Its domain.
    pub domain: &'a Arc<Domain>,
    /// Where the ends of sends, READs and WRITEs are told.
    pub sends: &'a Arc<CompletionQueue>,
    /// Where the ends of receives are told.
    pub receives: &'a Arc<CompletionQueue>,
    /// Where it takes receives from; `None` for a queue of its own.
    pub shared: Option<&'a Arc<SharedReceiveQueue>>,
    /// Work requests that may be outstanding.
    pub send_entries: u32,
    /// Receives that may be outstanding, of its own.
    pub receive_entries: u32,
    /// Bytes that may go along with a work request; less if the device cannot.
    pub inline_bytes: u32,
}

/// How many READs there may be at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Of the peer's, which this end answers.
    pub answered: u8,
    /// Of this end's.
    pub under_way: u8,
}

impl Endpoint {
    /// A new end whose events come on `channel`.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(channel: &Arc<EventChannel>) -> Result<Self, VerbsError> {
        let (id, mut raw) = (next_id(), null_mut());
        let context = id.0 as *mut _;
        // SAFETY: a live channel, room for the answer, and a context that librdmacm only hands back.
        let code =
            unsafe { (channel.library.rdma_create_id)(channel.raw.as_ptr(), &raw mut raw, context, abi::RDMA_PS_TCP) };
        let raw = NonNull::new(raw).filter(|_| code == 0).ok_or_else(|| VerbsError::last("make an RDMA endpoint"))?;
        Ok(Self { channel: Arc::clone(channel), raw, id, pair: None })
    }

    /// Takes over the end that a connect request made.
    ///
    /// # Safety
    /// `raw` must be the new endpoint of a request on this channel that is not acknowledged yet.
    pub(super) unsafe fn adopt(channel: &Arc<EventChannel>, raw: NonNull<CmId>) -> Self {
        let id = next_id();
        // SAFETY: it is ours, and no other event of it has come yet that could read its context.
        unsafe { (*raw.as_ptr()).context = id.0 as *mut _ };
        Self { channel: Arc::clone(channel), raw, id, pair: None }
    }

    fn library(&self) -> &'static Library {
        self.channel.library
    }

    /// Its name in events.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Listens at an address for `backlog` requests that were not taken yet.
    ///
    /// # Errors
    /// What the system said.
    pub fn listen(&mut self, address: SocketAddr, backlog: u32) -> Result<(), VerbsError> {
        let mut yes: i32 = 1;
        let bytes = size_of_val(&yes);
        let mut at = socket_address::encode(address);
        let (library, raw) = (self.library(), self.raw.as_ptr());
        // SAFETY: a live endpoint and an option of the length that is told. It may fail on old kernels: then a port
        // stays taken for a while after its listener.
        unsafe {
            (library.rdma_set_option)(raw, abi::OPTION_ID, abi::OPTION_ID_REUSEADDR, (&raw mut yes).cast(), bytes)
        };
        // SAFETY: a live endpoint, and an address that is long enough for its family.
        if unsafe { (library.rdma_bind_addr)(raw, (&raw mut at).cast()) } != 0 {
            return Err(VerbsError::last("listen for RDMA connections at this address"));
        }
        // SAFETY: a live endpoint.
        if unsafe { (library.rdma_listen)(raw, i32::try_from(backlog).unwrap_or(i32::MAX)) } != 0 {
            return Err(VerbsError::last("listen for RDMA connections"));
        }
        Ok(())
    }

    /// Begins to look for the device that leads to an address.
    ///
    /// # Errors
    /// What the system said.
    pub fn resolve_address(&mut self, to: SocketAddr, from: Option<IpAddr>, limit: Duration) -> Result<(), VerbsError> {
        let mut to = socket_address::encode(to);
        let mut from = from.map(|from| socket_address::encode(SocketAddr::new(from, 0)));
        let from = from.as_mut().map_or(null_mut(), |from| std::ptr::from_mut(from).cast());
        // SAFETY: a live endpoint, and addresses that are long enough for their families.
        let code = unsafe {
            (self.library().rdma_resolve_addr)(self.raw.as_ptr(), from, (&raw mut to).cast(), milliseconds(limit))
        };
        if code == 0 { Ok(()) } else { Err(VerbsError::last("look for the RDMA device that leads there")) }
    }

    /// Begins to look for the way to the address that was resolved.
    ///
    /// # Errors
    /// What the system said.
    pub fn resolve_route(&mut self, limit: Duration) -> Result<(), VerbsError> {
        // SAFETY: a live endpoint.
        let code = unsafe { (self.library().rdma_resolve_route)(self.raw.as_ptr(), milliseconds(limit)) };
        if code == 0 { Ok(()) } else { Err(VerbsError::last("look for the way to an RDMA peer")) }
    }

    /// The device that it is on; `None` as long as none is known, or for a listener on every address.
    ///
    /// # Errors
    /// What the device said.
    pub fn device(&self) -> Result<Option<Device>, VerbsError> {
        // SAFETY: a live endpoint. Its device is set before the event that tells of it, and does not change.
        let context = NonNull::new(unsafe { (*self.raw.as_ptr()).verbs });
        // SAFETY: librdmacm has the device of a live endpoint open.
        context.map(|context| unsafe { Device::of(self.library(), context) }).transpose()
    }

    /// Its own address; `None` if there is none yet.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        // SAFETY: a live endpoint; plain bytes.
        socket_address::decode(&unsafe { (*self.raw.as_ptr()).src_addr })
    }

    /// The peer's address; `None` if there is none yet.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        // SAFETY: a live endpoint; plain bytes.
        socket_address::decode(&unsafe { (*self.raw.as_ptr()).dst_addr })
    }

    /// Makes its queue pair.
    ///
    /// # Errors
    /// What the device said, or that there is one already.
    pub fn make_queue_pair(&mut self, parts: &QueuePairParts<'_>) -> Result<(), VerbsError> {
        let device = parts.domain.device();
        let (Some(post_send), Some(post_recv)) = (device.ops().post_send, device.ops().post_recv) else {
            return Err(VerbsError::Unsupported("the RDMA device takes no work requests"));
        };
        if self.pair.is_some() || self.device()? != Some(device) {
            return Err(VerbsError::Unsupported("the endpoint has a queue pair, or is on another device"));
        }
        let mut wanted = QpInitAttr {
            qp_context: null_mut(),
            send_cq: parts.sends.cq.as_ptr(),
            recv_cq: parts.receives.cq.as_ptr(),
            srq: parts.shared.map_or(null_mut(), |shared| shared.srq.as_ptr()),
            cap: abi::QpCap::default(),
            qp_type: abi::QPT_RC,
            sq_sig_all: 0,
        };
        // Some devices refuse inline data that they have no room for, others give less.
        let mut code = -1;
        for inline_bytes in [parts.inline_bytes, 0] {
            wanted.cap = abi::QpCap {
                max_send_wr: parts.send_entries,
                max_recv_wr: if parts.shared.is_some() { 0 } else { parts.receive_entries },
                max_send_sge: 2,
                max_recv_sge: if parts.shared.is_some() { 0 } else { 1 },
                max_inline_data: inline_bytes,
            };
            // SAFETY: a live endpoint on the device of the domain and of the queues, which the pair keeps alive.
            code = unsafe {
                (self.library().rdma_create_qp)(self.raw.as_ptr(), parts.domain.pd.as_ptr(), &raw mut wanted)
            };
            if code == 0 || inline_bytes == 0 {
                break;
            }
        }
        // SAFETY: a live endpoint, which knows its queue pair now.
        let qp = NonNull::new(unsafe { (*self.raw.as_ptr()).qp }).filter(|_| code == 0);
        let qp = qp.ok_or_else(|| VerbsError::last("make a queue pair"))?;
        self.pair = Some(Pair {
            qp,
            // SAFETY: just made; its number does not change.
            number: unsafe { (*qp.as_ptr()).qp_num },
            inline_bytes: wanted.cap.max_inline_data,
            post_send,
            post_recv,
            _domain: Arc::clone(parts.domain),
            _completions: [Arc::clone(parts.sends), Arc::clone(parts.receives)],
            _shared_receives: parts.shared.cloned(),
        });
        Ok(())
    }

    /// The number of its queue pair; `None` without one.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        self.pair.as_ref().map(|pair| pair.number)
    }

    /// Bytes that may go along with a work request.
    #[must_use]
    pub fn inline_bytes(&self) -> u32 {
        self.pair.as_ref().map_or(0, |pair| pair.inline_bytes)
    }

    /// Begins to connect to the address whose way is known.
    ///
    /// # Errors
    /// What the system said, or that there is no queue pair.
    pub fn connect(&self, reads: Reads, private_data: &[u8]) -> Result<(), VerbsError> {
        let call = self.library().rdma_connect;
        self.with_parameters(reads, private_data, call, "connect to an RDMA peer")
    }

    /// Accepts a connect request. Receives should have been posted.
    ///
    /// # Errors
    /// What the system said, or that there is no queue pair.
    pub fn accept(&self, reads: Reads, private_data: &[u8]) -> Result<(), VerbsError> {
        let call = self.library().rdma_accept;
        self.with_parameters(reads, private_data, call, "accept an RDMA connection")
    }

    fn with_parameters(
        &self,
        reads: Reads,
        private_data: &[u8],
        call: unsafe extern "C" fn(*mut CmId, *mut ConnParam) -> i32,
        what: &'static str,
    ) -> Result<(), VerbsError> {
        let private_data_len = u8::try_from(private_data.len());
        let private_data_len = private_data_len.map_err(|_| VerbsError::Unsupported("private data is too long"))?;
        if self.pair.is_none() {
            return Err(VerbsError::Unsupported("the endpoint has no queue pair"));
        }
        let mut timeout = ACK_TIMEOUT;
        // SAFETY: a live endpoint and an option of one byte. It may fail on old kernels: then the path's own time holds, for the
        // end that accepts what its peer asked for.
        unsafe {
            let option = (&raw mut timeout).cast();
            (self.library().rdma_set_option)(self.raw.as_ptr(), abi::OPTION_ID, abi::OPTION_ID_ACK_TIMEOUT, option, 1)
        };
        let mut parameters = ConnParam {
            private_data: private_data.as_ptr().cast(),
            private_data_len,
            responder_resources: reads.answered,
            initiator_depth: reads.under_way,
            flow_control: 1,
            retry_count: RETRIES,
            rnr_retry_count: WITHOUT_END,
            srq: 0,
            qp_num: 0,
        };
        // SAFETY: a live endpoint, and parameters that are copied within the call.
        if unsafe { call(self.raw.as_ptr(), &raw mut parameters) } == 0 { Ok(()) } else { Err(VerbsError::last(what)) }
    }

    /// Rejects a connect request.
    ///
    /// # Errors
    /// What the system said.
    pub fn reject(&self, private_data: &[u8]) -> Result<(), VerbsError> {
        let bytes = u8::try_from(private_data.len());
        let bytes = bytes.map_err(|_| VerbsError::Unsupported("private data is too long"))?;
        // SAFETY: a live endpoint, and data that is copied within the call.
        let code = unsafe { (self.library().rdma_reject)(self.raw.as_ptr(), private_data.as_ptr().cast(), bytes) };
        if code == 0 { Ok(()) } else { Err(VerbsError::last("reject an RDMA connection")) }
    }

    /// Ends the connection, or agrees to the end that the peer told: the peer is told, the queue pair fails, and what it
    /// had outstanding ends as flushed. Does nothing to one that has ended.
    pub fn disconnect(&self) {
        // SAFETY: a live endpoint. It fails if there is no connection any more, which is what is wanted.
        unsafe { (self.library().rdma_disconnect)(self.raw.as_ptr()) };
        self.fail();
    }

    /// Makes the queue pair fail: what it had outstanding ends as flushed, and the device touches no memory for it any
    /// more once that has been told.
    pub fn fail(&self) {
        let Some(pair) = &self.pair else { return };
        let mut wanted = QpAttr::state(abi::QPS_ERR);
        // SAFETY: a live queue pair, and attributes of which only the state is looked at.
        unsafe { (self.library().ibv_modify_qp)(pair.qp.as_ptr(), &raw mut wanted, abi::QP_STATE) };
    }

    /// Posts work requests. On an error some of them may be under way; the queue pair is of no use any more then.
    ///
    /// # Errors
    /// What the device said: most likely that more are outstanding than the queue pair was made for.
    #[inline]
    pub fn post(&self, list: &mut SendList) -> Result<(), VerbsError> {
        let Some(pair) = &self.pair else { return Err(VerbsError::Unsupported("the endpoint has no queue pair")) };
        // SAFETY: a live queue pair, and a linked list that outlives the call. What the device reads or writes to is
        // registered memory, which its registration keeps alive; inline bytes are read within the call.
        list.post_with(|first, bad| unsafe { (pair.post_send)(pair.qp.as_ptr(), first, bad) })
    }

    /// Posts receives to its own queue.
    ///
    /// # Errors
    /// What the device said.
    #[inline]
    pub fn post_receives(&self, list: &mut ReceiveList) -> Result<(), VerbsError> {
        let Some(pair) = &self.pair else { return Err(VerbsError::Unsupported("the endpoint has no queue pair")) };
        // SAFETY: as in `post`.
        list.post_with(|first, bad| unsafe { (pair.post_recv)(pair.qp.as_ptr(), first, bad) })
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let library = self.library();
        if self.pair.is_some() {
            // SAFETY: made by `make_queue_pair`, destroyed once, before what it needs.
            unsafe { (library.rdma_destroy_qp)(self.raw.as_ptr()) };
        }
        self.pair = None;
        // SAFETY: destroyed once. Waits for the acknowledgement of its events, which `EventChannel::next` gives before it
        // returns.
        unsafe { (library.rdma_destroy_id)(self.raw.as_ptr()) };
    }
}

fn next_id() -> EndpointId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    EndpointId(NEXT.fetch_add(1, Ordering::Relaxed))
}

fn milliseconds(limit: Duration) -> i32 {
    i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1)
}
