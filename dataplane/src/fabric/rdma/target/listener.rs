//! Accepts connections of NVMe over RDMA, and hears of their ends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::admin_channel::{AdminChannel, AdminParts};
use super::devices::{Connection, Kind, RdmaDevices};
use super::io_channel::IoChannel;
use super::orders::{ExpectedQueue, RdmaOrder};
use crate::fabric::message::callers::{Callers, Crowded};
use crate::fabric::message::{Channel, CoreCommand, Door, MAX_IO_QUEUES, OpenError};
use crate::fabric::rdma::verbs::{
    ConnectRequest, Endpoint, EndpointId, Event, EventChannel, EventKind, QueuePairParts, Reads, VerbsError,
};
use crate::fabric::rdma::wire::{ADMIN_ENTRIES, ConnectAnswer, ConnectQuery, RESPONSE_BYTES, RejectReason, Rejection};
use crate::fabric::refusals::{Refusals, may_log};
use crate::nvme::spec::fabrics::ConnectData;

/// Connections that are asked for at once.
const BACKLOG: u32 = 128;
/// How long a target that ends waits for its connections.
const FAREWELL: Duration = Duration::from_secs(30);
/// How long to wait for events before looking after the rest.
const LOOK: Duration = Duration::from_millis(50);
/// The most bytes of one command: what a keyed descriptor can name, as a power of two.
pub const MAX_TRANSFER_BYTES: u32 = 8 << 20;

/// Why a target cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The libraries, the device or the system refused.
    #[error("cannot listen on rdma://{address}: {source}")]
    Verbs {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: VerbsError,
    },
    /// No thread.
    #[error("cannot start a thread to listen on rdma://{address}: {source}")]
    Thread {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The cores could not be prepared.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Listens for hosts until it is dropped. Their queues end with it. The cores must still run then.
pub struct RdmaTarget {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for RdmaTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RdmaTarget").field("address", &self.address).finish_non_exhaustive()
    }
}

impl RdmaTarget {
    /// Listens at an address, which must be one of an RDMA device or of none in particular (`0.0.0.0`, `[::]`). With port
    /// 0 the system chooses one.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn listen(address: SocketAddr, devices: &RdmaDevices) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Verbs { address, source };
        let channel = EventChannel::new().map_err(failed)?;
        let mut listener = Endpoint::new(&channel).map_err(failed)?;
        listener.listen(address, BACKLOG).map_err(failed)?;
        let address = listener.local_address().unwrap_or(address);
        devices.hosts().open()?;
        // A device that cannot serve is better known of now; with an address of none in particular it is not known yet.
        if let Some(device) = listener.device().map_err(failed)? {
            devices.ports(device).map_err(failed)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let desk = Reception {
            channel,
            id: listener.id(),
            listener: Some(listener),
            address,
            devices: devices.clone(),
            stop: Arc::clone(&stop),
            callers: Mutex::default(),
            refusals: Arc::new(Mutex::new(Refusals::new(Instant::now()))),
        };
        let thread = std::thread::Builder::new().name("nvme-rdma-cm".into()).spawn(move || desk.run());
        let thread = thread.map_err(|source| ListenError::Thread { address, source })?;
        info!(%address, "NVMe/RDMA target listens");
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for RdmaTarget {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread that hears events needs.
struct Reception {
    channel: Arc<EventChannel>,
    /// The name of the listener that there was first, by which its connections are found.
    id: EndpointId,
    /// `None` while it is to listen again, or ends.
    listener: Option<Endpoint>,
    address: SocketAddr,
    devices: RdmaDevices,
    stop: Arc<AtomicBool>,
    /// Admin queues, and I/O queues that have not sent Connect.
    callers: Mutex<Callers>,
    /// What refusals may still log.
    refusals: Arc<Mutex<Refusals>>,
}

impl Reception {
    fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            self.turn(LOOK);
            if self.listener.is_none() {
                self.listen_again();
            }
        }
        self.listener = None;
        for id in self.devices.of(self.id) {
            self.devices.lose(id);
        }
        let deadline = Instant::now() + FAREWELL;
        while !(self.devices.of(self.id).is_empty() && self.join_ended()) {
            if Instant::now() > deadline {
                warn!("connections of an NVMe/RDMA target do not end; leaving them behind");
                break;
            }
            self.turn(Duration::from_millis(2));
        }
    }

    fn turn(&mut self, wait: Duration) {
        match self.channel.next(wait) {
            Ok(Some(event)) => self.hear(event),
            Ok(None) => {}
            Err(error) => {
                warn!(%error, "cannot hear of RDMA connections; trying again");
                std::thread::sleep(LOOK);
            }
        }
        self.devices.bury();
        self.join_ended();
    }

    /// Joins the threads that have ended; whether none is left.
    fn join_ended(&self) -> bool {
        let mut callers = self.callers();
        callers.join_ended();
        callers.is_empty()
    }

    fn callers(&self) -> MutexGuard<'_, Callers> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device was removed on which it listened: listens again as soon as there is one with its address.
    fn listen_again(&mut self) {
        let made = Endpoint::new(&self.channel).and_then(|mut listener| {
            listener.listen(self.address, BACKLOG)?;
            Ok(listener)
        });
        if let Ok(listener) = made {
            info!(address = %self.address, "NVMe/RDMA target listens again");
            self.listener = Some(listener);
        }
    }

    fn hear(&mut self, event: Event) {
        match event.kind {
            EventKind::ConnectRequest(request) if self.listener.is_some() => {
                self.request(request, &event.private_data);
            }
            EventKind::DeviceGone if self.listener.as_ref().is_some_and(|listener| listener.id() == event.endpoint) => {
                warn!(address = %self.address, "the RDMA device of a target was removed; listening again when it is back");
                self.listener = None;
            }
            EventKind::Disconnected | EventKind::DeviceGone | EventKind::Failed | EventKind::Rejected => {
                self.devices.lose(event.endpoint);
            }
            _ => {}
        }
    }

    /// A host wants a queue.
    fn request(&self, mut request: ConnectRequest, private_data: &[u8]) {
        let peer = request.endpoint.peer_address();
        let prepared = ConnectQuery::decode(private_data).map_err(Refusal::from);
        let prepared = prepared.and_then(|query| self.prepare(&mut request, query));
        let accepted = match prepared {
            Ok(prepared) => self.accept(request, prepared),
            Err(Refusal { reason, cause }) => {
                if let Some(unlogged) = may_log(&self.refusals) {
                    info!(?peer, %reason, cause, unlogged, "an NVMe/RDMA connection was refused");
                }
                request.endpoint.reject(&Rejection { reason }.encode())
            }
        };
        if let Err(error) = accepted
            && let Some(unlogged) = may_log(&self.refusals)
        {
            warn!(?peer, %error, unlogged, "an NVMe/RDMA connection came to nothing");
        }
    }

    /// Makes the queue pair of a request.
    fn prepare(&self, request: &mut ConnectRequest, query: ConnectQuery) -> Result<Prepared, Refusal> {
        self.callers().make_room(address_of(&request.endpoint))?;
        let entries = u32::from(query.host_sends) + 1;
        check_query(&query, request.reads, self.devices.hosts().options().max_queue_entries)?;
        let made = if query.qid == 0 {
            AdminParts::make(&mut request.endpoint, entries.min(u32::from(ADMIN_ENTRIES))).map(Prepared::Admin)
        } else {
            self.prepare_io(&mut request.endpoint, query.qid, entries).map(Prepared::Io)
        };
        let made = made?;
        // Completions are sent inline: they need no memory that would have to live until they were sent.
        if request.endpoint.inline_bytes() < RESPONSE_BYTES {
            return Err(VerbsError::Unsupported("the device cannot send 16 bytes along with a work request").into());
        }
        Ok(made)
    }

    fn prepare_io(&self, endpoint: &mut Endpoint, qid: u16, entries: u32) -> Result<IoParts, VerbsError> {
        let device = endpoint.device()?.ok_or(VerbsError::Unsupported("a request that came over no device"))?;
        let core = (qid - 1) % self.devices.hosts().cores();
        let (port, ports) = self.devices.ports(device)?;
        let parts = ports.get(usize::from(core)).ok_or(VerbsError::Unsupported("the core has no staging memory"))?;
        // Each command has at most two outstanding at a time; one says at the end that nothing is left.
        let send_entries = (2 * entries + 2).min(device.limits().queue_entries.max(4));
        endpoint.make_queue_pair(&QueuePairParts {
            domain: &parts.domain,
            sends: &parts.completions,
            receives: &parts.completions,
            shared: Some(&parts.shared),
            send_entries,
            receive_entries: 0,
            inline_bytes: RESPONSE_BYTES,
        })?;
        Ok(IoParts { core, port, entries, send_entries })
    }

    /// Accepts a request, and has the connection served.
    fn accept(&self, request: ConnectRequest, prepared: Prepared) -> Result<(), VerbsError> {
        let device = request.endpoint.device()?;
        let most = device.map_or(1, |device| device.limits().reads_under_way);
        let reads = Reads { answered: 0, under_way: request.reads.min(most) };
        let endpoint = Arc::new(request.endpoint);
        let options = *self.devices.hosts().options();
        let max_transfer_bytes = options.max_transfer_bytes.min(MAX_TRANSFER_BYTES);
        match prepared {
            Prepared::Admin(parts) => {
                let channel = AdminChannel::new(&self.devices, Arc::clone(&endpoint), parts, max_transfer_bytes)?;
                let kind = Kind::Admin(Arc::clone(&channel.gone));
                self.begin(&endpoint, kind, reads, ADMIN_ENTRIES, channel)
            }
            Prepared::Io(parts) => {
                let hosts = self.devices.hosts();
                let (sender, connect) = sync_channel(1);
                let expected = ExpectedQueue {
                    endpoint: Arc::clone(&endpoint),
                    port: parts.port,
                    entries: parts.entries,
                    reads: reads.under_way,
                    send_entries: parts.send_entries,
                    connect: sender,
                    room: Vec::with_capacity(ConnectData::BYTES),
                };
                let order = |answer| CoreCommand::Rdma(RdmaOrder::Expect(Box::new(expected), answer));
                if !matches!(hosts.ask(parts.core, order), Some(Ok(()))) {
                    return endpoint.reject(&Rejection { reason: RejectReason::NO_RESOURCES }.encode());
                }
                let channel = IoChannel {
                    devices: self.devices.clone(),
                    core: parts.core,
                    endpoint: Arc::clone(&endpoint),
                    connect,
                    max_transfer_bytes,
                    settled: false,
                };
                let receives = parts.entries.min(u32::from(u16::MAX)) as u16;
                self.begin(&endpoint, Kind::Io(parts.core), reads, receives, channel)
            }
        }
    }

    /// Accepts, and starts the thread that waits for Connect. If that fails, the channel ends the connection.
    fn begin(
        &self,
        endpoint: &Arc<Endpoint>,
        kind: Kind,
        reads: Reads,
        controller_receives: u16,
        channel: impl Channel + 'static,
    ) -> Result<(), VerbsError> {
        self.devices.add(Connection { endpoint: Arc::clone(endpoint), listener: self.id, kind, session: None });
        endpoint.accept(reads, &ConnectAnswer { controller_receives }.encode())?;
        // The address that the host reached: with one of none in particular the listener has many.
        let listener = endpoint.local_address().map(|address| address.to_string()).unwrap_or_default();
        let standing = Arc::default();
        let door = Door {
            hosts: self.devices.hosts().clone(),
            listener,
            stop: Arc::clone(&self.stop),
            standing: Arc::clone(&standing),
            refusals: Arc::clone(&self.refusals),
        };
        let thread = std::thread::Builder::new().name("nvme-rdma-host".into()).spawn(move || door.serve(channel));
        let thread = thread.map_err(|cause| VerbsError::Call { what: "start a thread for a host", cause })?;
        self.callers().add(address_of(endpoint), standing, thread, ());
        Ok(())
    }
}

/// Why a connection is refused: what its host is told, and what the log is told besides.
struct Refusal {
    reason: RejectReason,
    cause: Option<String>,
}

impl From<RejectReason> for Refusal {
    fn from(reason: RejectReason) -> Self {
        Self { reason, cause: None }
    }
}

impl From<VerbsError> for Refusal {
    fn from(error: VerbsError) -> Self {
        Self { reason: RejectReason::NO_RESOURCES, cause: Some(error.to_string()) }
    }
}

impl From<Crowded> for Refusal {
    fn from(crowded: Crowded) -> Self {
        Self { reason: RejectReason::NO_RESOURCES, cause: Some(crowded.to_string()) }
    }
}

/// Whom an address counts for. Who has none counts with all others that have none.
fn address_of(endpoint: &Endpoint) -> IpAddr {
    endpoint.peer_address().map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip())
}

/// Whether a queue can be as its host asks for, of which so many READs are answered at once.
fn check_query(query: &ConnectQuery, reads: u8, max_queue_entries: u32) -> Result<(), RejectReason> {
    if query.qid > MAX_IO_QUEUES {
        return Err(RejectReason::INVALID_QUEUE);
    }
    if query.qid > 0 && u32::from(query.host_sends) + 1 > max_queue_entries {
        return Err(RejectReason::INVALID_SENDS);
    }
    // Data of Connect, and of whatever does not come along, is read.
    if reads == 0 { Err(RejectReason::INVALID_READS) } else { Ok(()) }
}

/// What a request needs to be accepted.
enum Prepared {
    Admin(AdminParts),
    Io(IoParts),
}

/// An I/O queue's place.
struct IoParts {
    core: u16,
    port: usize,
    entries: u32,
    send_entries: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_no_reads_or_wants_too_much_is_refused() {
        let query = |qid, host_sends| ConnectQuery { qid, host_receives: 32, host_sends, controller_id: 1 };
        assert_eq!(check_query(&query(1, 127), 1, 128), Ok(()));
        assert_eq!(check_query(&query(1, 127), 0, 128), Err(RejectReason::INVALID_READS));
        assert_eq!(check_query(&query(0, 31), 0, 128), Err(RejectReason::INVALID_READS));
        assert_eq!(check_query(&query(1, 128), 1, 128), Err(RejectReason::INVALID_SENDS));
        assert_eq!(check_query(&query(MAX_IO_QUEUES + 1, 31), 1, 128), Err(RejectReason::INVALID_QUEUE));
    }
}
