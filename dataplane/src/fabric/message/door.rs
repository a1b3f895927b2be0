//! A connection's first command must be Connect: who may come in, and as what.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::admin::AdminQueue;
use super::callers::Standing;
use super::channel::{AdminCapsule, Channel, ChannelError, QueueTerms};
use super::hosts::{Host, HostName, Hosts, MAX_IO_QUEUES, Way};
use super::orders::{CoreCommand, CoreError, HostLink};
use crate::fabric::controller::{Controller, ControllerLimits, FabricsLimits};
use crate::fabric::refusals::{Refusals, may_log};
use crate::fabric::{CarrierKind, Completion, Peer, Refused, RefusedKind, Session};
use crate::nvme::spec::fabrics::{
    ConnectData, ConnectFields, ConnectInvalid, DISCOVERY_NQN, DYNAMIC_CONTROLLER, FabricsCommand,
};
use crate::nvme::spec::{Cqe, Sqe, Status};

/// How long a host has for Connect.
const CONNECT: Duration = Duration::from_secs(10);
/// How long Connect waits for an earlier connection of the same queue to be gone from its core.
const STRAGGLER: Duration = Duration::from_millis(200);
/// Bytes of a submission queue entry in a capsule.
const ENTRY_BYTES: u32 = 64;

/// What every connection of a listener is received with.
pub struct Door {
    /// The hosts.
    pub hosts: Hosts,
    /// The listener's address, as peers are told apart by it: `IP:PORT`.
    pub listener: String,
    /// Whether the listener ends.
    pub stop: Arc<AtomicBool>,
    /// Where the connection stands.
    pub(crate) standing: Arc<Standing>,
    /// What the listener's refusals may still log.
    pub(crate) refusals: Arc<Mutex<Refusals>>,
}

/// Why Connect was refused.
struct Refusal(Completion);

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self(Completion::failed(status))
    }
}

impl From<ConnectInvalid> for Refusal {
    fn from(invalid: ConnectInvalid) -> Self {
        Self(Completion { dword0: invalid.dword0(), ..Completion::failed(Status::CONNECT_INVALID_PARAMETERS) })
    }
}

impl From<Completion> for Refusal {
    fn from(completion: Completion) -> Self {
        Self(completion)
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused.kind {
            RefusedKind::UnknownSubsystem | RefusedKind::NotListening => ConnectInvalid::SUBSYSTEM_NQN.into(),
            RefusedKind::HostNotAllowed => Status::CONNECT_INVALID_HOST.into(),
            RefusedKind::Full => Status::CONNECT_CONTROLLER_BUSY.into(),
            RefusedKind::Other => Status::INTERNAL_ERROR.into(),
        }
    }
}

/// Connect as a host sent it.
struct Connect {
    sqe: Sqe,
    fields: ConnectFields,
    data: ConnectData,
}

impl Door {
    /// Serves a connection: an admin queue until its host leaves, an I/O queue until its core has it.
    pub fn serve(&self, mut channel: impl Channel) {
        let peer = channel.peer();
        let outcome = self.receive_connect(&mut channel).and_then(|capsule| self.connect(&mut channel, &capsule));
        match outcome {
            Ok(()) | Err(ChannelError::Closed) => {}
            Err(error) => debug!(listener = %self.listener, ?peer, %error, "a connection ended"),
        }
    }

    fn receive_connect(&self, channel: &mut impl Channel) -> Result<AdminCapsule, ChannelError> {
        let deadline = Instant::now() + CONNECT;
        while Instant::now() < deadline && !self.stop.load(Ordering::Acquire) {
            if let Some(capsule) = channel.receive(Duration::from_millis(100))? {
                return Ok(capsule);
            }
        }
        Err(ChannelError::Stuck(CONNECT))
    }

    fn connect(&self, channel: &mut impl Channel, capsule: &AdminCapsule) -> Result<(), ChannelError> {
        let taken = Self::decode(capsule).and_then(|connect| {
            if connect.fields.qid != 0 {
                return self.connect_io(channel, &connect).map(|()| None);
            }
            self.connect_admin(channel, &connect).map(Some)
        });
        match taken {
            Ok(None) => Ok(()),
            Ok(Some(admin)) => {
                if admin.is_discovery() {
                    self.standing.let_ask();
                } else {
                    self.standing.let_in();
                }
                let answered = channel.respond(&capsule.sqe, &[], admin.connected(capsule.sqe.cid()));
                // The end of the admin queue is that of the host, also if it did not hear the answer.
                let ends = || self.stop.load(Ordering::Acquire) || self.standing.is_sent_away();
                answered.and_then(|()| admin.serve(channel, ends))
            }
            Err(Refusal(completion)) => {
                if let Some(unlogged) = may_log(&self.refusals) {
                    info!(listener = %self.listener, peer = ?channel.peer(), status = %completion.status, unlogged, "an NVMe-oF host was refused");
                }
                channel.respond(&capsule.sqe, &[], answer(&capsule.sqe, completion, 1))
            }
        }
    }

    fn decode(capsule: &AdminCapsule) -> Result<Connect, Refusal> {
        let sqe = capsule.sqe;
        let FabricsCommand::Connect(fields) = FabricsCommand::decode(&sqe)? else {
            return Err(Status::COMMAND_SEQUENCE_ERROR.into());
        };
        let data = capsule.data.first_chunk().ok_or(Status::DATA_SGL_LENGTH_INVALID)?;
        Ok(Connect { sqe, fields, data: ConnectData::decode(data)? })
    }

    fn peer(&self, channel: &impl Channel, data: &ConnectData) -> Peer {
        Peer {
            carrier: channel.carrier(),
            listener: self.listener.clone(),
            subsystem_nqn: Some(data.subsystem_nqn.clone()),
            host_nqn: Some(data.host_nqn.clone()),
            host_id: Some(data.host_id),
            address: channel.peer(),
            uid: None,
            pid: None,
        }
    }

    fn way(&self, channel: &impl Channel) -> Way {
        let peer = channel.peer().map(|peer| peer.ip().to_canonical());
        Way { carrier: channel.carrier(), listener: self.listener.clone(), peer }
    }

    fn limits(&self, carrier: CarrierKind) -> ControllerLimits {
        let options = self.hosts.options();
        ControllerLimits {
            max_queue_entries: options.max_queue_entries,
            io_queues: MAX_IO_QUEUES,
            vectors: 1,
            cores: self.hosts.cores(),
            fabrics: Some(FabricsLimits {
                io_capsule_bytes: ENTRY_BYTES + options.in_capsule_bytes,
                response_bytes: 16,
                in_capsule_offset: 0,
                max_sgl_descriptors: 1,
                keyed_sgl: carrier == CarrierKind::Rdma,
            }),
        }
    }

    fn connect_admin(&self, channel: &impl Channel, connect: &Connect) -> Result<AdminQueue, Refusal> {
        let Connect { fields, data, .. } = connect;
        let limits = self.limits(channel.carrier());
        limits.check_connect(fields)?;
        if data.controller_id != DYNAMIC_CONTROLLER {
            return Err(ConnectInvalid::CONTROLLER_ID.into());
        }
        let peer = self.peer(channel, data);
        if data.subsystem_nqn == DISCOVERY_NQN {
            return Ok(AdminQueue::discovery(self.hosts.clone(), peer, limits, fields));
        }
        let session: Arc<dyn Session> = match self.hosts.admission().open(&peer) {
            Ok(session) => Arc::from(session),
            Err(refused) => {
                if let Some(unlogged) = may_log(&self.refusals) {
                    warn!(listener = %self.listener, host = %data.host_nqn, address = ?peer.address, reason = %refused, unlogged, "NVMe-oF host refused");
                }
                return Err(refused.into());
            }
        };
        let mut identity = session.identity();
        let most = self.hosts.options().max_transfer_bytes.min(channel.max_transfer_bytes());
        identity.max_transfer_bytes = identity.max_transfer_bytes.min(most);
        let name = HostName {
            subsystem_nqn: data.subsystem_nqn.clone(),
            host_nqn: data.host_nqn.clone(),
            host_id: data.host_id,
            controller_id: identity.controller_id,
        };
        let mut controller = Controller::new(identity, session.namespaces(), limits);
        controller.connected(fields);
        info!(listener = %self.listener, host = %name.host_nqn, address = ?peer.address, session = session.id().0, controller = name.controller_id, "NVMe-oF host connected");
        let (link, controller) = (Arc::new(HostLink::of(&data.host_nqn)), Mutex::new(controller));
        let host = Arc::new(Host { session, link, name, way: self.way(channel), controller });
        Ok(AdminQueue::of(self.hosts.clone(), host, u32::from(fields.sqsize) + 1))
    }

    fn connect_io(&self, channel: &mut impl Channel, connect: &Connect) -> Result<(), Refusal> {
        let Connect { sqe, fields, data } = connect;
        let name = HostName {
            subsystem_nqn: data.subsystem_nqn.clone(),
            host_nqn: data.host_nqn.clone(),
            host_id: data.host_id,
            controller_id: data.controller_id,
        };
        let way = self.way(channel);
        let host = self.hosts.find(&name, &way).ok_or(ConnectInvalid::CONTROLLER_ID)?;
        let epoch = Self::reserve(&host, fields)?;
        let most = self.hosts.options().max_transfer_bytes.min(channel.max_transfer_bytes());
        let terms = QueueTerms {
            session: host.session.id(),
            qid: fields.qid,
            entries: u32::from(fields.sqsize) + 1,
            max_transfer_bytes: most.min(host.session.identity().max_transfer_bytes),
            link: Arc::clone(&host.link),
        };
        let core = (fields.qid - 1) % self.hosts.cores();
        let mut system = None;
        let (told, answered) = std::sync::mpsc::sync_channel(1);
        match channel.hand_over(terms, told) {
            Ok(order) => self.hosts.tell(core, order),
            Err(error) => system = Some(error),
        }
        let taken = match system {
            Some(error) => Err(CoreError::System(error.to_string())),
            // A core that has stopped drops the order, and with it the way to answer.
            None => answered.recv().unwrap_or(Err(CoreError::NotOpen)),
        };
        if let Err(error) = taken {
            warn!(session = host.session.id().0, qid = fields.qid, %error, "a core did not take a queue");
            host.release(fields.qid, epoch);
            return Err(match error {
                CoreError::NoRoom => Status::CONNECT_CONTROLLER_BUSY.into(),
                _ => Status::INTERNAL_ERROR.into(),
            });
        }
        // The queues may have been ended while the core took this one, which then nobody ends but this. Either the order
        // to end them came to the core after this one, or it is seen here.
        if host.link.epoch() != epoch {
            host.link.lose();
            let session = host.session.id();
            if self.hosts.ask(core, |answer| CoreCommand::CloseSession(session, answer)) != Some(Ok(())) {
                // The core may still know the number.
                std::mem::forget(Arc::clone(&host.session));
            }
            return Err(Status::COMMAND_SEQUENCE_ERROR.into());
        }
        let completion = Completion::success(u32::from(data.controller_id), 0);
        if channel.respond(sqe, &[], answer(sqe, completion, 1)).is_err() {
            // It is this queue's end alone: the core sees it, and says so.
            channel.hang_up();
        }
        Ok(())
    }
}

impl Door {
    /// Takes note that an I/O queue of a host is being connected, and says in which epoch. A queue that the host ended a
    /// moment ago may still be on its core.
    fn reserve(host: &Host, fields: &ConnectFields) -> Result<u32, Refusal> {
        let deadline = Instant::now() + STRAGGLER;
        loop {
            {
                let mut controller = host.lock();
                host.take_ended(&mut controller);
                let epoch = host.link.epoch();
                match controller.check_queue(fields) {
                    Ok(()) if host.link.is_lost() => return Err(Status::COMMAND_SEQUENCE_ERROR.into()),
                    Ok(()) => {
                        controller.queue_connected(fields.qid);
                        return Ok(epoch);
                    }
                    Err(refused) if !controller.is_ready() || Instant::now() >= deadline => return Err(refused.into()),
                    Err(_) => {}
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A completion as it goes into a capsule; `sq_head` entries were taken so far.
pub(super) fn answer(sqe: &Sqe, completion: Completion, sq_head: u16) -> Cqe {
    let Completion { dword0, dword1, status } = completion;
    Cqe { dword0, dword1, sq_head, sq_id: 0, cid: sqe.cid(), status }
}
