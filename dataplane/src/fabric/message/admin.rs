//! The admin queue of a host, served on the thread of its connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::channel::{AdminCapsule, Channel, ChannelError};
use super::door::answer;
use super::hosts::{Host, Hosts};
use crate::fabric::controller::{AdminAction, Controller, ControllerLimits, RegisterEffect};
use crate::fabric::{Completion, ControllerIdentity, Peer};
use crate::nvme::spec::fabrics::{ConnectFields, DISCOVERY_NQN, FABRICS_OPCODE, FabricsCommand};
use crate::nvme::spec::vendor::OwnerMap;
use crate::nvme::spec::{Cqe, Sqe, Status};

/// How long to wait for a command before looking whether anything else has happened.
const WAIT: Duration = Duration::from_millis(50);
/// How often to ask what the discovery service has.
const DISCOVERY: Duration = Duration::from_millis(500);
/// How long a host may stay with the discovery service without Keep Alive.
const DISCOVERY_IDLE: Duration = Duration::from_secs(120);

/// Whose queue it is.
enum Party {
    /// A host of a subsystem. Its queues and its session end with the queue.
    Host(Arc<Host>),
    /// A host that asks what there is.
    Discovery(Box<Asker>),
}

struct Asker {
    peer: Peer,
    controller: Controller,
    asked: Instant,
}

/// An admin queue that is connected. Dropping it ends the host's I/O queues and its session.
pub(super) struct AdminQueue {
    hosts: Hosts,
    party: Party,
    entries: u32,
    sq_head: u16,
    generation: u64,
    /// When the host was last heard of.
    heard: Instant,
}

impl AdminQueue {
    /// The queue of a host of a subsystem.
    pub fn of(hosts: Hosts, host: Arc<Host>, entries: u32) -> Self {
        hosts.add(&host);
        let generation = host.session.generation();
        Self { hosts, party: Party::Host(host), entries, sq_head: 1, generation, heard: Instant::now() }
    }

    /// The queue of a host that asks the discovery service.
    pub fn discovery(hosts: Hosts, peer: Peer, limits: ControllerLimits, fields: &ConnectFields) -> Self {
        let mut controller = Controller::discovery(discovery_identity(), limits);
        controller.connected(fields);
        let found = hosts.admission().discover(&peer);
        controller.set_discovery(found.generation, found.entries);
        let asker = Asker { peer, controller, asked: Instant::now() };
        let entries = u32::from(fields.sqsize) + 1;
        Self {
            hosts,
            party: Party::Discovery(Box::new(asker)),
            entries,
            sq_head: 1,
            generation: 0,
            heard: Instant::now(),
        }
    }

    /// Whether its host only asks what there is.
    pub fn is_discovery(&self) -> bool {
        matches!(self.party, Party::Discovery(_))
    }

    /// The answer to Connect.
    pub fn connected(&self, cid: u16) -> Cqe {
        let controller_id = match &self.party {
            Party::Host(host) => host.name.controller_id,
            Party::Discovery(_) => 1,
        };
        let dword0 = u32::from(controller_id);
        Cqe { dword0, dword1: 0, sq_head: self.sq_head, sq_id: 0, cid, status: Status::SUCCESS }
    }

    /// Serves the queue until the host leaves, breaks the protocol or falls silent, or until it is to end.
    pub fn serve(mut self, channel: &mut impl Channel, ends: impl Fn() -> bool) -> Result<(), ChannelError> {
        while !ends() && !self.is_lost() {
            self.look_around();
            while let Some((cid, dword0)) = self.with_controller(Controller::take_event) {
                let cqe = Cqe { dword0, dword1: 0, sq_head: self.sq_head, sq_id: 0, cid, status: Status::SUCCESS };
                channel.respond(&Sqe::new(0, cid), &[], cqe)?;
            }
            if let Some(capsule) = channel.receive(WAIT)? {
                self.heard = Instant::now();
                self.sq_head = ((u32::from(self.sq_head) + 1) % self.entries) as u16;
                self.command(channel, &capsule)?;
            } else if self.is_silent() {
                info!(party = %self.name(), "an NVMe-oF host fell silent: its keep alive timer has expired");
                break;
            }
        }
        Ok(())
    }

    fn name(&self) -> &str {
        match &self.party {
            Party::Host(host) => &host.name.host_nqn,
            Party::Discovery(asker) => asker.peer.host_nqn.as_deref().unwrap_or_default(),
        }
    }

    fn is_lost(&self) -> bool {
        matches!(&self.party, Party::Host(host) if host.link.is_lost())
    }

    fn with_controller<R>(&mut self, act: impl FnOnce(&mut Controller) -> R) -> R {
        match &mut self.party {
            Party::Host(host) => act(&mut host.lock()),
            Party::Discovery(asker) => act(&mut asker.controller),
        }
    }

    /// Whether the host should have been heard of by now.
    fn is_silent(&mut self) -> bool {
        let limit = self.with_controller(|controller| controller.keep_alive_ms()).map(Duration::from_millis);
        let limit = match self.party {
            Party::Host(_) => limit,
            // Anybody may ask; nobody may stay for as long as they like.
            Party::Discovery(_) => Some(limit.unwrap_or(DISCOVERY_IDLE).min(DISCOVERY_IDLE)),
        };
        limit.is_some_and(|limit| self.heard.elapsed() > limit)
    }

    /// Looks for what has changed without the host's doing.
    fn look_around(&mut self) {
        match &mut self.party {
            Party::Host(host) => {
                host.take_ended(&mut host.lock());
                let generation = host.session.generation();
                if generation != self.generation {
                    self.generation = generation;
                    let namespaces = host.session.namespaces();
                    host.lock().set_namespaces(namespaces);
                }
            }
            Party::Discovery(asker) if asker.asked.elapsed() > DISCOVERY => {
                asker.asked = Instant::now();
                let found = self.hosts.admission().discover(&asker.peer);
                asker.controller.set_discovery(found.generation, found.entries);
            }
            Party::Discovery(_) => {}
        }
    }

    fn command(&mut self, channel: &mut impl Channel, capsule: &AdminCapsule) -> Result<(), ChannelError> {
        let sqe = &capsule.sqe;
        let result = if sqe.opcode() == FABRICS_OPCODE { self.fabrics(sqe) } else { self.admin(sqe) };
        let (data, completion) = match result {
            Some(Ok((data, completion))) => (data, completion),
            Some(Err(status)) => (Vec::new(), Completion::failed(status)),
            None => return Ok(()),
        };
        channel.respond(sqe, &data, answer(sqe, completion, self.sq_head))
    }

    fn admin(&mut self, sqe: &Sqe) -> Option<Result<(Vec<u8>, Completion), Status>> {
        if let Party::Host(host) = &self.party
            && Controller::reads_namespaces(sqe)
        {
            // What namespaces hold changes without a new generation; Identify should tell what is so now.
            let namespaces = host.session.namespaces();
            host.lock().set_namespaces(namespaces);
        }
        match self.with_controller(|controller| controller.admin(sqe)) {
            AdminAction::Complete(completion) => Some(Ok((Vec::new(), completion))),
            AdminAction::Wait => None,
            AdminAction::Send(data) => {
                let room = sqe.dword(8) & if sqe.quadword(8) >> 60 == 4 { 0x00FF_FFFF } else { u32::MAX };
                if (room as usize) < data.len() {
                    return Some(Err(Status::DATA_SGL_LENGTH_INVALID));
                }
                Some(Ok((data, Completion::success(0, 0))))
            }
            // Queues are connections here; the controller does not take these commands.
            _ => Some(Err(Status::INVALID_OPCODE)),
        }
    }

    fn fabrics(&mut self, sqe: &Sqe) -> Option<Result<(Vec<u8>, Completion), Status>> {
        let command = match FabricsCommand::decode(sqe) {
            Ok(command) => command,
            Err(status) => return Some(Err(status)),
        };
        let outcome = match command {
            FabricsCommand::PropertyGet { offset, size8 } => self
                .with_controller(|controller| controller.property_get(offset, size8))
                .map(|value| Completion::success(value as u32, (value >> 32) as u32)),
            FabricsCommand::PropertySet { offset, size8, value } => self
                .with_controller(|controller| controller.property_set(offset, size8, value))
                .map(|effect| self.apply(&effect))
                .map(|()| Completion::success(0, 0)),
            FabricsCommand::Connect(_) => Err(Status::COMMAND_SEQUENCE_ERROR),
            // Only I/O queues can be deleted one by one.
            FabricsCommand::Disconnect => Err(Status::INVALID_FIELD),
        };
        Some(outcome.map(|completion| (Vec::new(), completion)))
    }

    fn apply(&mut self, effect: &RegisterEffect) {
        if !matches!(effect, RegisterEffect::Reset | RegisterEffect::Shutdown) {
            return;
        }
        if let Party::Host(host) = &self.party {
            host.link.begin_epoch();
            self.hosts.end_queues(host.session.id());
            host.take_ended(&mut host.lock());
        }
        self.with_controller(Controller::queues_ended);
    }
}

impl Drop for AdminQueue {
    fn drop(&mut self) {
        let Party::Host(host) = &self.party else { return };
        host.link.lose();
        self.hosts.remove(host);
        let session = host.session.id().0;
        if self.hosts.end_queues(host.session.id()) {
            info!(session, "NVMe-oF host left");
        } else {
            // Were the number given to another host, that one would reach what the core still holds of this one.
            warn!(session, "a session is kept: a core may still know it");
            std::mem::forget(Arc::clone(&host.session));
        }
    }
}

/// What the discovery service says of itself.
fn discovery_identity() -> ControllerIdentity {
    ControllerIdentity {
        subsystem_nqn: DISCOVERY_NQN.to_owned(),
        serial: "KVPLANE-DISCOVERY".to_owned(),
        model: "kvplane discovery".to_owned(),
        firmware: env!("CARGO_PKG_VERSION").chars().take(8).collect(),
        controller_id: 1,
        max_transfer_bytes: 1 << 20,
        owners: OwnerMap { shards: 1, cores: 1 },
    }
}
