//! Entry points for fuzzers. Not part of the interface.

use crate::fabric::{ControllerIdentity, NamespaceInfo};
use crate::nvme::spec::fabrics::{
    ConnectData, ConnectFields, DiscoveryEntry, FABRICS_OPCODE, FabricsCommand, TransportType, read_discovery_header,
};
use crate::nvme::spec::vendor::OwnerMap;
use crate::nvme::spec::{Sqe, Status};

use super::admin::opcode;
use super::events::REQUEST_LIMIT;
use super::identify::IDENTIFY_BYTES;
use super::{AdminAction, Controller, ControllerLimits, FabricsLimits, Kind, RegisterEffect, offset};

const CONTROLLER_ID: u16 = 7;

/// A host that does anything, and a carrier that does what it is told.
struct Play {
    controller: Controller,
    /// Command identifiers of the requests for events that wait.
    waiting: Vec<u16>,
}

/// Lets a host do what `input` says: its first byte picks the kind of controller, then come steps of one byte and
/// what belongs to it. Holds every answer against what must be so whatever a host does. Says how many steps there were.
#[must_use]
pub fn play(input: &[u8]) -> u32 {
    let Some((kind, mut rest)) = input.split_first() else { return 0 };
    let mut play = Play { controller: controller(*kind), waiting: Vec::new() };
    let mut steps = 0;
    while let Some((step, after)) = rest.split_first() {
        rest = play.step(*step, after);
        play.check();
        steps += 1;
    }
    steps
}

fn controller(kind: u8) -> Controller {
    let fabrics = FabricsLimits {
        io_capsule_bytes: 64 + 8192,
        response_bytes: 16,
        in_capsule_offset: 0,
        max_sgl_descriptors: 1,
        keyed_sgl: kind & 0b100 != 0,
    };
    let identity = ControllerIdentity {
        subsystem_nqn: "nqn.2026-01.io.kvplane:tier".into(),
        serial: "SN1".into(),
        model: "kvplane".into(),
        firmware: "1.0".into(),
        controller_id: CONTROLLER_ID,
        max_transfer_bytes: 1 << 20,
        owners: OwnerMap { shards: 4, cores: 2 },
    };
    let fabrics = (kind & 0b11 != 0).then_some(fabrics);
    let limits = ControllerLimits { max_queue_entries: 128, io_queues: 8, vectors: 8, cores: 2, fabrics };
    if kind & 0b11 == 0b11 {
        return Controller::discovery(identity, limits);
    }
    Controller::new(identity, namespaces(0b11), limits)
}

/// Namespaces 1 to 8 whose bit is set.
fn namespaces(bits: u8) -> Vec<NamespaceInfo> {
    (1..=8)
        .filter(|nsid| bits & (1 << (nsid - 1)) != 0)
        .map(|nsid| NamespaceInfo {
            nsid,
            size_bytes: 1 << 30,
            used_bytes: 0,
            max_value_bytes: 1 << 20,
            max_keys: 0,
            granularity: 4096,
            nguid: [nsid as u8; 16],
        })
        .collect()
}

fn entries(count: u8) -> Vec<DiscoveryEntry> {
    let address = ([192, 0, 2, 1], 4420).into();
    (0..count).map(|port| DiscoveryEntry::nvme(TransportType::Tcp, address, u16::from(port), "nqn.x")).collect()
}

impl Play {
    /// One step of the host or of time. Returns what is left of the input.
    fn step<'a>(&mut self, step: u8, input: &'a [u8]) -> &'a [u8] {
        match step % 8 {
            0..=2 => {
                let Some((command, rest)) = input.split_first_chunk::<64>() else { return &[] };
                let sqe: Sqe = zerocopy::transmute!(*command);
                if sqe.opcode() == FABRICS_OPCODE {
                    self.fabrics(&sqe)
                } else {
                    self.admin(&sqe)
                }
                rest
            }
            3 => {
                if let Some((cid, _)) = self.controller.take_event() {
                    let at = self.waiting.iter().position(|waiting| *waiting == cid).expect("nobody waits for it");
                    self.waiting.remove(at);
                }
                input
            }
            4 => {
                let Some((number, rest)) = input.split_first() else { return input };
                self.controller.set_discovery(u64::from(*number), entries(number % 5));
                rest
            }
            5 => {
                let Some((bits, rest)) = input.split_first() else { return input };
                self.controller.set_namespaces(namespaces(*bits));
                rest
            }
            6 => {
                let Some((value, rest)) = input.split_first_chunk::<4>() else { return &[] };
                let (at, value) = (u64::from(value[0] % 16) * 4, u32::from_le_bytes(*value) >> 8);
                if self.controller.kind == Kind::Memory {
                    let effect = self.controller.write(at, &value.to_le_bytes());
                    self.carry_out(effect);
                } else {
                    self.controller.queue_lost(value as u16 % 16);
                }
                rest
            }
            _ => {
                let (data, rest) = input.split_at(input.len().min(1024));
                read_any(data);
                rest
            }
        }
    }

    fn admin(&mut self, sqe: &Sqe) {
        let memory = self.controller.kind == Kind::Memory;
        let ready = self.controller.is_ready();
        let action = self.controller.admin(sqe);
        assert!(memory || ready || matches!(&action, AdminAction::Complete(it) if !it.status.is_success()));
        match action {
            AdminAction::Complete(_) => {}
            AdminAction::Send(data) => self.check_data(sqe, &data),
            AdminAction::Wait => self.waiting.push(sqe.cid()),
            _ if !memory => panic!("a queue in shared memory, of a message carrier"),
            AdminAction::CreateCompletionQueue(queue) => self.controller.completion_queue_made(&queue),
            AdminAction::CreateSubmissionQueue(queue) => self.controller.submission_queue_made(&queue),
            AdminAction::DeleteSubmissionQueue(qid) => self.controller.submission_queue_ended(qid),
            AdminAction::DeleteCompletionQueue(qid) => self.controller.completion_queue_ended(qid),
        }
    }

    fn fabrics(&mut self, sqe: &Sqe) {
        let Ok(command) = FabricsCommand::decode(sqe) else { return };
        assert_eq!(FabricsCommand::decode(&command.encode(sqe.cid())), Ok(command), "it says again what it said");
        match command {
            FabricsCommand::PropertyGet { offset, size8 } => {
                let got = self.controller.property_get(offset, size8);
                assert!(size8 || got.is_ok_and(|value| value <= u64::from(u32::MAX)) || got.is_err());
            }
            FabricsCommand::PropertySet { offset, size8, value } => {
                if let Ok(effect) = self.controller.property_set(offset, size8, value) {
                    self.carry_out(effect);
                }
            }
            FabricsCommand::Connect(fields) if fields.qid == 0 => {
                if self.controller.limits.check_connect(&fields).is_ok() {
                    self.controller.connected(&fields);
                }
            }
            FabricsCommand::Connect(fields) => self.connect_queue(&fields),
            FabricsCommand::Disconnect => {}
        }
    }

    fn connect_queue(&mut self, fields: &ConnectFields) {
        if self.controller.check_queue(fields).is_ok() {
            assert!(self.controller.is_ready() && (1..=8).contains(&fields.qid) && fields.sqsize < 128);
            assert_ne!(self.controller.kind, Kind::Discovery, "it has no I/O queues");
            self.controller.queue_connected(fields.qid);
            let again = self.controller.check_queue(fields).map_err(|refusal| refusal.status);
            assert_eq!(again, Err(Status::COMMAND_SEQUENCE_ERROR), "a queue is connected once");
        }
    }

    fn carry_out(&mut self, effect: RegisterEffect) {
        let memory = self.controller.kind == Kind::Memory;
        match effect {
            RegisterEffect::None => {}
            RegisterEffect::Enable(_) => assert!(memory && self.controller.is_ready()),
            RegisterEffect::Ready => assert!(!memory && self.controller.is_ready()),
            RegisterEffect::Reset | RegisterEffect::Shutdown => {
                self.controller.queues_ended();
                self.waiting.clear();
            }
        }
    }

    /// Data for the host: as long as the command says.
    fn check_data(&self, sqe: &Sqe, data: &[u8]) {
        if sqe.opcode() == opcode::IDENTIFY {
            assert_eq!(data.len(), IDENTIFY_BYTES);
            if sqe.dword(10) as u8 == 0x01 {
                assert_eq!(data[78..80], CONTROLLER_ID.to_le_bytes());
            }
            return;
        }
        assert_eq!(sqe.opcode(), opcode::GET_LOG_PAGE, "nothing else sends data");
        let dwords = u64::from(sqe.dword(10) >> 16) | (u64::from(sqe.dword(11) & 0xFFFF) << 16);
        assert_eq!(data.len() as u64, (dwords + 1) * 4);
        if Controller::reads_discovery(sqe) && sqe.quadword(12) == 0 && data.len() >= 18 {
            assert!(read_discovery_header(data).is_some_and(|(_, entries)| entries < 5));
        }
    }

    fn check(&self) {
        assert!(self.waiting.len() <= REQUEST_LIMIT);
        assert!(self.controller.keep_alive_ms().is_none_or(|timeout| timeout > 0 && timeout.is_multiple_of(1000)));
        let mut capabilities = [0; 8];
        self.controller.read(offset::CAP, &mut capabilities);
        let property = self.controller.property_get(offset::CAP as u32, true);
        assert_eq!(property, Ok(u64::from_le_bytes(capabilities)));
    }
}

/// What a host sends with Connect, and what a target tells a host: read, or refused; and what is read, is written the
/// same.
fn read_any(data: &[u8]) {
    let mut bytes = [0; 1024];
    bytes[..data.len()].copy_from_slice(data);
    if let Ok(connect) = ConnectData::decode(&bytes) {
        assert_eq!(ConnectData::decode(&connect.encode()), Ok(connect));
    }
    if let Some(entry) = DiscoveryEntry::decode(&bytes) {
        assert_eq!(DiscoveryEntry::decode(&entry.encode()), Some(entry));
    }
}
