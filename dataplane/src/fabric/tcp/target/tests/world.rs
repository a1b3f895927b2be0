//! Hosts, streams and a store: whatever is split, merged, delayed or reordered, every command is answered once, with the
//! right bytes; and nothing is left behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::super::wire::{Alignment, Decoder, Digests, End, Framing, Limits};
use super::super::connection::NewTcpQueue;
use super::super::core_end::TcpEnd;
use super::super::fuzzing::pipes::{Pipe, Pipes};
use super::host::{Host, Told, is_miss};
use crate::Burst;
use crate::fabric::message::{HostLink, Staging, StagingLayout, StagingMap, carrier};
use crate::fabric::{Capsule, Completion, SessionId};
use crate::memory::{Region, RegionSlot, SlotId};
use crate::nvme::fault::random::SplitMix64 as Random;
use crate::nvme::spec::kv::KeyFields;
use crate::nvme::spec::{Sqe, Status, kv};

pub(super) const MAX_TRANSFER: u32 = 1 << 20;
/// Values that may be lent at once.
const PLACES: u64 = 8;

pub(super) struct World {
    pub end: TcpEnd<Pipes>,
    pub staging: Staging,
    pub hosts: Vec<Host>,
    pub links: Vec<Arc<HostLink>>,
    pub random: Random,
    store: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Commands that were taken, and how long each takes yet.
    running: Vec<(SlotId, Sqe, u64)>,
    pub told: Vec<Told>,
    /// The memory of a device, in places of [`MAX_TRANSFER`], and which of them are free.
    device: Arc<Region>,
    free_places: Vec<u64>,
    /// Values that were lent, with their commands, and how many in all.
    lent: BTreeMap<u64, SlotId>,
    pub loans: u64,
    /// The store completes nothing.
    pub frozen: bool,
    all_bytes: u32,
}

impl World {
    pub fn new(seed: u64, buffer_bytes: u32) -> Self {
        let layout = StagingLayout { areas: 256, area_bytes: 32 << 10, buffer_bytes };
        let region = Region::anonymous(layout.bytes() as usize, RegionSlot(1)).unwrap();
        let map = StagingMap::new(layout, vec![Arc::new(region)]).unwrap();
        let staging = Staging::new(0, map).unwrap();
        let mut end = TcpEnd::<Pipes>::new(0, &staging).unwrap();
        let device = Arc::new(Region::anonymous(PLACES as usize * MAX_TRANSFER as usize, RegionSlot(7)).unwrap());
        end.lend_from(&[Arc::clone(&device)]);
        end.streams_mut().random = Random::new(seed ^ 0x5EED);
        let all_bytes = staging.free_bytes();
        Self {
            end,
            staging,
            hosts: Vec::new(),
            links: Vec::new(),
            random: Random::new(seed),
            store: BTreeMap::new(),
            running: Vec::new(),
            told: Vec::new(),
            device,
            free_places: (0..PLACES).collect(),
            lent: BTreeMap::new(),
            loans: 0,
            frozen: false,
            all_bytes,
        }
    }

    pub fn connect(&mut self, digests: Digests, entries: u32) -> usize {
        self.connect_link(digests, entries, HostLink::of(&format!("nqn.2026-01.test:{}", self.hosts.len())))
    }

    /// A further session of a host that may have one already.
    pub fn connect_as(&mut self, host: &str, entries: u32) -> usize {
        self.connect_link(Digests::NONE, entries, HostLink::of(host))
    }

    fn connect_link(&mut self, digests: Digests, entries: u32, link: HostLink) -> usize {
        let stream = self.hosts.len();
        self.end.streams_mut().pipes.insert(stream, Pipe::default());
        let framing = Framing { digests, alignment: Alignment::DWORD };
        let mut decoder = Decoder::new(End::Controller);
        (decoder.initialized, decoder.framing) = (true, framing);
        decoder.limits = Limits { capsule_data: 8192, h2c_data: 16 << 20 };
        let link = Arc::new(link);
        let (session, qid) = (SessionId(stream as u16), 1);
        let max_transfer_bytes = MAX_TRANSFER;
        let queue = NewTcpQueue {
            stream,
            session,
            qid,
            entries,
            decoder,
            framing,
            max_transfer_bytes,
            link: Arc::clone(&link),
        };
        self.end.take(queue, &mut self.staging).unwrap();
        self.hosts.push(Host::new(stream, framing, entries));
        self.links.push(link);
        stream
    }

    pub fn pipe(&mut self, host: usize) -> &mut Pipe {
        self.end.streams_mut().pipes.get_mut(&host).unwrap()
    }

    /// Acts as a host, with its end of the stream.
    pub fn with_host(&mut self, host: usize, act: impl FnOnce(&mut Host, &mut Pipe, &mut Random)) {
        let pipe = self.end.streams_mut().pipes.get_mut(&host).unwrap();
        act(&mut self.hosts[host], pipe, &mut self.random);
    }

    /// One turn of the core, in which the store completes what has taken its time, in any order.
    pub fn turn(&mut self) {
        let mut capsules = Burst::new();
        self.end.harvest(&mut self.staging);
        self.end.poll(&mut capsules);
        for Capsule { sqe, permit, .. } in capsules {
            assert_eq!((permit.carrier(), permit.core()), (carrier::TCP, 0));
            let (id, _) = permit.redeem();
            let ticks = self.random.below(6);
            self.running.push((id, sqe, ticks));
        }
        let mut at = 0;
        while at < self.running.len() && !self.frozen {
            if self.running[at].2 > 0 {
                self.running[at].2 -= 1;
                at += 1;
                continue;
            }
            let (id, sqe, _) = self.running.swap_remove(at);
            let completion = self.carry_out(id, &sqe);
            self.end.complete(id, completion, &mut self.staging);
        }
        if self.random.below(8) == 0 {
            self.recall(false);
        }
        self.end.flush(&mut self.staging);
        self.take_back();
        let pipes = &mut self.end.streams_mut().pipes;
        for host in &mut self.hosts {
            let pipe = pipes.get_mut(&host.stream).unwrap();
            host.turn(pipe, &mut self.random, &mut self.told);
            // Whoever is told what it did wrong closes the connection.
            pipe.cut |= host.terminated && pipe.ended;
        }
    }

    /// The keys of the commands that the store has, in the order in which it got them.
    pub fn running_keys(&self) -> Vec<u8> {
        self.running.iter().map(|(_, sqe, _)| sqe.key_bytes()[0]).collect()
    }

    /// Turns until it is so.
    pub fn turn_until(&mut self, so: impl Fn(&Self) -> bool) {
        for _ in 0..100_000 {
            if so(self) {
                return;
            }
            self.turn();
        }
        panic!("it does not come to that");
    }

    /// Takes loans back, and overwrites what was lent: nobody may look at it any more.
    fn take_back(&mut self) {
        let mut returned = Burst::new();
        self.end.take_returned(&mut returned);
        for place in returned {
            assert!(self.lent.remove(&place).is_some(), "came back twice");
            self.device.fill(place * u64::from(MAX_TRANSFER), MAX_TRANSFER as usize, 0xEE).unwrap();
            self.free_places.push(place);
        }
    }

    /// Asks for everything back that was lent.
    fn recall(&mut self, overdue: bool) {
        for (&place, &id) in &self.lent {
            self.end.recall(id, place, overdue, &mut self.staging);
        }
    }

    /// Lends a value to the end, now and then, if that would look at it.
    fn lend(&mut self, id: SlotId, value: &[u8]) -> bool {
        if value.is_empty() || self.random.below(2) == 0 || !self.end.borrows(id) {
            return false;
        }
        let Some(place) = self.free_places.pop() else { return false };
        let at = place * u64::from(MAX_TRANSFER);
        self.device.write(at, value).unwrap();
        assert!(self.end.lend(id, self.device.slice(at, value.len() as u32).unwrap(), place));
        assert!(!self.end.borrows(id), "a value is lent once");
        self.lent.insert(place, id);
        self.loans += 1;
        true
    }

    fn carry_out(&mut self, id: SlotId, sqe: &Sqe) -> Completion {
        let (unit, bytes) = (sqe.quadword(6) as u32, sqe.quadword(8) as u32);
        let key = sqe.key_bytes().to_vec();
        let map = self.staging.map();
        match sqe.opcode() {
            kv::opcode::STORE => {
                let mut value = vec![0; bytes as usize];
                map.read(0, unit, 0, &mut value).unwrap();
                self.store.insert(key, value);
                Completion::success(0, 0)
            }
            kv::opcode::RETRIEVE => {
                let Some(value) = self.store.get(&key) else { return Completion::failed(Status::KEY_DOES_NOT_EXIST) };
                let (length, moved) = (value.len() as u32, value.len().min(bytes as usize));
                let value = value[..moved].to_vec();
                if !self.lend(id, &value) {
                    let map = self.staging.map();
                    map.write(0, unit, 0, &value).unwrap();
                    map.note_filled(0, unit, moved as u32);
                }
                Completion::success(length, 0)
            }
            _ if self.store.contains_key(&key) => Completion::success(0, 0),
            _ => Completion::failed(Status::KEY_DOES_NOT_EXIST),
        }
    }

    /// Turns until nothing is under way.
    pub fn settle(&mut self) {
        for _ in 0..200_000 {
            self.turn();
            let pipes = &self.end.streams_mut().pipes;
            let busy = |host: &Host| !pipes[&host.stream].cut && host.under_way() > 0 && !host.terminated;
            let idle = !self.hosts.iter().any(busy);
            if idle && self.running.is_empty() && !self.end.is_moving(&self.staging) {
                return;
            }
        }
        panic!("it does not come to an end");
    }

    /// Cuts every stream, and checks that nothing is left.
    pub fn end_all(&mut self) {
        for pipe in self.end.streams_mut().pipes.values_mut() {
            pipe.cut = true;
        }
        for _ in 0..1000 {
            self.turn();
        }
        assert_eq!((self.end.connections(), self.end.outstanding()), (0, 0));
        assert_eq!(self.staging.free_bytes(), self.all_bytes, "a buffer was lost");
        assert!(self.lent.is_empty(), "a loan was lost");
    }
}

fn value_of(key: u8, version: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at as u8).wrapping_mul(31) ^ key ^ version.rotate_left(3)).collect()
}

fn one_run(seed: u64, digests: Digests, cut: bool) {
    let mut random = Random::new(seed);
    // Scarce memory now and then, so that commands wait for buffers.
    let mut world = World::new(seed, if random.below(2) == 0 { 6 << 20 } else { 32 << 20 });
    let hosts = 1 + random.below(3) as usize;
    for _ in 0..hosts {
        world.connect(digests, 4 + random.below(30) as u32);
    }
    let cut_at = if cut { random.below(60) } else { u64::MAX };
    for step in 0..60 {
        let host = random.below(hosts as u64) as usize;
        if step == cut_at {
            world.pipe(host).cut = true;
        }
        if world.hosts[host].under_way() < world.hosts[host].entries as usize && !world.pipe(host).cut {
            let (kind, key) = (random.below(4), random.below(8) as u8);
            let large = random.below(3) == 0;
            let bytes = 1 + random.below(if large { u64::from(MAX_TRANSFER) } else { 12_000 }) as usize;
            world.with_host(host, |host, pipe, _| match kind {
                0 | 1 => host.store(pipe, key, value_of(key, step as u8, bytes), bytes <= 8192 && kind == 0),
                2 => host.retrieve(pipe, key, bytes as u32),
                _ => host.exist(pipe, key),
            });
        }
        for _ in 0..random.below(4) {
            world.turn();
        }
    }
    world.settle();
    for Told { sqe, cqe, value } in &world.told {
        if sqe.opcode() == kv::opcode::RETRIEVE && cqe.status.is_success() {
            let key = sqe.key_bytes()[0];
            assert_eq!(value.len(), (cqe.dword0 as usize).min(sqe.dword(10) as usize));
            let same = |version: u8| *value == value_of(key, version, value.len());
            assert!((0..60).any(same), "bytes that nobody stored under this key");
        } else {
            assert!(cqe.status.is_success() || is_miss(cqe.status), "{}", cqe.status);
        }
    }
    world.end_all();
    let ended = |link: &Arc<HostLink>| !link.is_lost() && link.take_ended().eq([1]);
    assert!(world.links.iter().all(ended), "the control side is told of every end, and none was a breach");
}

#[test]
fn values_are_sent_from_where_they_lie() {
    let mut world = World::new(3, 32 << 20);
    let plain = world.connect(Digests { header: true, data: false }, 16);
    let digests = world.connect(Digests { header: false, data: true }, 16);
    let value = value_of(1, 0, 300_000);
    world.with_host(plain, |host, pipe, _| host.store(pipe, 1, value.clone(), false));
    world.settle();
    for _ in 0..8 {
        world.with_host(digests, |host, pipe, _| host.retrieve(pipe, 1, 300_000));
    }
    world.settle();
    assert_eq!(world.loans, 0, "a digest is not made of what lies elsewhere");
    for _ in 0..16 {
        world.with_host(plain, |host, pipe, _| host.retrieve(pipe, 1, 200_001));
    }
    world.settle();
    assert!(world.loans > 0);
    let values = world.told.iter().filter(|told| told.sqe.opcode() == kv::opcode::RETRIEVE).map(|told| &told.value);
    assert!(values.clone().all(|told| *told == value[..told.len()]));
    assert_eq!(values.clone().filter(|told| told.len() == 200_001).count(), 16);
    world.end_all();
}

/// A host that takes nothing, with values on their way to it, and others that wait to be sent; what had to come back has.
fn deaf(seed: u64) -> (World, Vec<u8>) {
    let mut world = World::new(seed, 32 << 20);
    world.connect(Digests::NONE, 16);
    let value = value_of(1, 0, 900_000);
    world.with_host(0, |host, pipe, _| host.store(pipe, 1, value.clone(), false));
    world.settle();
    world.told.clear();
    world.pipe(0).deaf = true;
    for _ in 0..16 {
        world.with_host(0, |host, pipe, _| host.retrieve(pipe, 1, 900_000));
    }
    for _ in 0..500 {
        world.turn();
    }
    (world, value)
}

#[test]
fn values_come_back_though_their_host_takes_nothing() {
    let (mut world, value) = deaf(3);
    assert!(world.loans > 4);
    assert!(world.lent.len() <= 2, "but for those that are being sent: {} are out", world.lent.len());
    let copied = world.end.copied_bytes();
    assert!(copied >= (world.loans - 2) * 900_000, "{copied}");
    world.pipe(0).deaf = false;
    world.settle();
    assert!(world.told.len() == 16 && world.told.iter().all(|told| told.value == value));
    world.end_all();
}

#[test]
fn a_host_that_does_not_take_what_is_overdue_is_ended() {
    let lends_the_first = |(world, _): &(World, Vec<u8>)| !world.lent.is_empty();
    let (mut world, _) = (1..50).map(deaf).find(lends_the_first).expect("some seed does");
    assert!(!world.links[0].is_lost());
    world.recall(true);
    world.turn_until(|world| world.lent.is_empty());
    assert!(world.links[0].is_lost());
    world.end_all();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_command_is_answered_once_with_its_bytes(seed: u64, header: bool, data: bool) {
        one_run(seed, Digests { header, data }, false);
    }

    #[test]
    fn a_stream_that_is_cut_leaves_nothing_behind(seed: u64, header: bool, data: bool) {
        one_run(seed, Digests { header, data }, true);
    }
}
