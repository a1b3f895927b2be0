//! A core's end, hosts at a device in software, and whoever carries their commands out.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use super::super::core_end::RdmaEnd;
use super::super::nic::{PortDevice, QueuePair};
use super::super::orders::{ExpectedQueue, RdmaOrder};
use super::device::{Carried, FakePair, FakePort, RECEIVES, Wires};
use crate::Burst;
use crate::fabric::message::{
    AdminCapsule, CoreError, HostLink, QueueTerms, Staging, StagingLayout, StagingMap, carrier,
};
use crate::fabric::rdma::verbs::EndpointId;
use crate::fabric::{Capsule, Completion, Permit, SessionId};
use crate::memory::{Region, RegionSlot};
use crate::nvme::spec::fabrics::{ConnectData, ConnectFields, FabricsCommand};
use crate::nvme::spec::{Cqe, SglDescriptor, Sqe, Status};

pub const ENTRIES: u32 = 32;
/// Bytes of staging buffers.
pub const BUFFERS: u32 = 16 << 20;

pub struct World {
    pub end: RdmaEnd<FakePort>,
    pub staging: Staging,
    pub port: Arc<FakePort>,
    pub wires: Rc<Wires>,
    pub hosts: Vec<Host>,
    /// Commands that were taken and not completed.
    pub running: Vec<(Sqe, Permit)>,
    /// Bytes of staging that are free while nobody is connected.
    pub idle_bytes: u32,
    /// The number of the device.
    pub device: usize,
}

pub struct Host {
    pub pair: Arc<FakePair>,
    pub connect: Receiver<AdminCapsule>,
    pub link: Arc<HostLink>,
}

impl World {
    pub fn new() -> Self {
        let layout = StagingLayout { areas: 4, area_bytes: 4096, buffer_bytes: BUFFERS };
        let region = Arc::new(Region::anonymous(layout.bytes() as usize, RegionSlot(1)).unwrap());
        let map = StagingMap::new(layout, vec![Arc::clone(&region)]).unwrap();
        let mut staging = Staging::new(0, map).unwrap();
        let wires = Wires::new(&region);
        let port = FakePort::new(&wires);
        let mut end = RdmaEnd::new(0, BUFFERS);
        let (answer, answered) = sync_channel(1);
        end.order(RdmaOrder::Open(0, Arc::clone(&port), answer), &mut staging);
        answered.recv().unwrap().unwrap();
        let idle_bytes = staging.free_bytes();
        Self { end, staging, port, wires, hosts: Vec::new(), running: Vec::new(), idle_bytes, device: 0 }
    }

    pub fn order(&mut self, order: RdmaOrder<FakePort>) {
        self.end.order(order, &mut self.staging);
    }

    /// A connection that is to become a queue of so many entries.
    pub fn expect(&mut self, entries: u32) -> Result<usize, CoreError> {
        self.expect_numbered(entries, self.hosts.len() as u32 + 1)
    }

    /// As [`expect`](Self::expect), with a number that the device gave its queue pair.
    pub fn expect_numbered(&mut self, entries: u32, number: u32) -> Result<usize, CoreError> {
        let host = self.hosts.len();
        let pair = FakePair::new(&self.wires, host as u64 + 1, number);
        let (connect, delivered) = sync_channel(1);
        let expected = ExpectedQueue {
            endpoint: Arc::clone(&pair),
            port: self.device,
            entries,
            reads: 2,
            send_entries: 2 * entries + 2,
            connect,
            room: Vec::with_capacity(ConnectData::BYTES),
        };
        let (answer, answered) = sync_channel(1);
        self.order(RdmaOrder::Expect(Box::new(expected), answer));
        answered.recv().unwrap()?;
        self.hosts.push(Host { pair, connect: delivered, link: Arc::default() });
        Ok(host)
    }

    pub fn id(host: usize) -> EndpointId {
        EndpointId(host as u64 + 1)
    }

    pub fn take(&mut self, host: usize, session: u16, entries: u32) -> Result<(), CoreError> {
        // Each session is one of another host.
        let link = Arc::new(HostLink::of(&format!("host of {session}")));
        self.hosts[host].link = Arc::clone(&link);
        let terms = QueueTerms { session: SessionId(session), qid: 1, entries, max_transfer_bytes: 1 << 20, link };
        let (answer, answered) = sync_channel(1);
        self.order(RdmaOrder::Take(Self::id(host), Box::new(terms), answer));
        answered.recv().unwrap()
    }

    /// A connection comes to its end.
    pub fn lose(&mut self, host: usize) {
        self.hosts[host].pair.fail();
        self.order(RdmaOrder::Lose(Self::id(host)));
    }

    pub fn respond(&mut self, host: usize, status: Status) {
        let cqe = Cqe { dword0: 0, dword1: 0, sq_head: 1, sq_id: 0, cid: 7, status };
        self.order(RdmaOrder::Respond(Self::id(host), cqe));
    }

    /// A host with a queue.
    pub fn connect(&mut self, session: u16) -> usize {
        let host = self.expect(ENTRIES).unwrap();
        assert!(self.send(host, &connect_command(SglDescriptor::in_capsule(0, 1024)), &[9; 1024]));
        self.turn();
        let capsule = self.hosts[host].connect.try_recv().expect("Connect is delivered");
        assert_eq!((capsule.sqe.cid(), capsule.data.len()), (7, 1024));
        self.take(host, session, ENTRIES).unwrap();
        self.respond(host, Status::SUCCESS);
        self.settle();
        assert_eq!(self.responses(host), [(7, Status::SUCCESS)]);
        host
    }

    pub fn send(&mut self, host: usize, sqe: &Sqe, data: &[u8]) -> bool {
        self.hosts[host].pair.send(&self.port, sqe, data)
    }

    /// What a host was answered since the last call.
    pub fn responses(&self, host: usize) -> Vec<(u16, Status)> {
        self.hosts[host].pair.responses.take().iter().map(|cqe| (cqe.cid, cqe.status)).collect()
    }

    /// One turn of the core; commands that it yields wait in `running`.
    pub fn turn(&mut self) {
        let mut capsules = Burst::new();
        self.end.settle();
        self.end.poll(&mut self.staging, &mut capsules);
        for Capsule { sqe, session, permit } in capsules {
            assert_eq!((permit.carrier(), permit.core()), (carrier::RDMA, 0));
            assert_ne!(session, SessionId(u16::MAX), "a command of nobody");
            self.running.push((sqe, permit));
        }
        self.end.flush(&mut self.staging);
        self.hosts.iter().for_each(|host| host.pair.carry_out());
    }

    /// Turns enough for everything that is under way.
    pub fn settle(&mut self) {
        for _ in 0..8 {
            self.turn();
        }
    }

    /// As a device that fills the buffer of a command that was taken, from its beginning on.
    pub fn fill(&self, running: usize, bytes: &[u8]) {
        let unit = self.running[running].0.quadword(6) as u32;
        self.staging.map().write(0, unit, 0, bytes).unwrap();
        self.staging.map().note_filled(0, unit, bytes.len() as u32);
    }

    /// What a host's end carried out since the last call.
    pub fn carried(&self, host: usize) -> Vec<Carried> {
        self.hosts[host].pair.carried.take()
    }

    /// Completes the commands that were taken.
    pub fn complete_all(&mut self) {
        for (_, permit) in std::mem::take(&mut self.running) {
            self.end.complete(permit.redeem().0, Completion::success(0, 0), &mut self.staging);
        }
        self.end.flush(&mut self.staging);
    }

    /// Connections that were handed back to be destroyed.
    pub fn buried(&self) -> usize {
        self.port.remains().len()
    }

    /// Nothing is left of anybody.
    pub fn assert_empty(&mut self) {
        self.complete_all();
        self.settle();
        assert_eq!((self.end.queues(), self.end.outstanding(), self.end.entries()), (0, 0, 0));
        assert!(!self.end.is_moving(&self.staging));
        assert!(self.port.wires.broken.get() || self.wires.receives.borrow().len() == RECEIVES as usize);
        assert_eq!(self.staging.free_bytes(), self.idle_bytes, "every buffer came back");
    }
}

pub fn connect_command(sgl: SglDescriptor) -> Sqe {
    let fields = ConnectFields { record_format: 0, qid: 1, sqsize: 31, attributes: 0, keep_alive_ms: 0 };
    let mut sqe = FabricsCommand::Connect(fields).encode(7);
    sqe.set_sgl(sgl);
    sqe
}

/// Exist: moves nothing.
pub fn exist(cid: u16) -> Sqe {
    Sqe::new(0x14, cid)
}

/// Store of bytes that come along.
pub fn store_along(cid: u16, bytes: u32) -> Sqe {
    command(1, cid, bytes, SglDescriptor::in_capsule(0, bytes))
}

/// Store (01h) or Retrieve (02h) with the host's memory.
pub fn keyed(opcode: u8, cid: u16, bytes: u32) -> Sqe {
    command(opcode, cid, bytes, SglDescriptor::keyed(0, bytes, 1, false))
}

/// A command of so many bytes.
pub fn command(opcode: u8, cid: u16, bytes: u32, sgl: SglDescriptor) -> Sqe {
    let mut sqe = Sqe::new(opcode, cid);
    sqe.set_dword(10, bytes);
    sqe.set_sgl(sgl);
    sqe
}
