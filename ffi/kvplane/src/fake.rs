//! A target in this process, for tests: the KV and vendor commands over a hash map, and ways to misbehave.
#![allow(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

use dataplane::Burst;
use dataplane::fabric::NamespaceInfo;
use dataplane::memory::{Region, RegionSlot};
use dataplane::nvme::spec::kv::{KeyFields, opcode, store_options};
use dataplane::nvme::spec::vendor::{self, KeyState, OwnerMap, Tier};
use dataplane::nvme::spec::{Cqe, DataPointer, Sqe, Status};

use crate::transport::{Backing, Mapping, Transport};
use crate::wait::drain;
use crate::{ConnectOptions, DmaBuf, Error, Identity};

pub(crate) const MAX_VALUE: u32 = 1 << 20;

#[derive(Clone)]
pub(crate) struct FakeTarget {
    state: Arc<Mutex<State>>,
}

/// A value as the target keeps it.
#[derive(Clone, Default)]
pub(crate) struct Value {
    pub bytes: Vec<u8>,
    pub checksum: u64,
    pub parent: u64,
}

pub(crate) struct State {
    pub identity: Identity,
    pub store: KvMap,
    pub submitted: Vec<VecDeque<Sqe>>,
    pub completed: Vec<VecDeque<Cqe>>,
    /// Leave commands in their queues until [`FakeTarget::run`].
    pub hold: bool,
    /// Carry the newest command out first.
    pub newest_first: bool,
    pub dead: bool,
    pub refuse: bool,
    /// Answers for the next commands, which are not carried out.
    pub answers: VecDeque<Status>,
    /// Changes completions before they are seen.
    pub rewrite: Option<fn(&mut Cqe)>,
    /// Queue and opcode of every command carried out.
    pub seen: Vec<(usize, u8)>,
    regions: Vec<(u64, Arc<Region>)>,
    next_iova: u64,
    interrupts: Vec<OwnedFd>,
}

impl FakeTarget {
    pub fn new(cores: u32, shards: u32) -> Self {
        let owners = Some(OwnerMap { shards, cores });
        let identity = Identity { subsystem_nqn: "nqn.fake".into(), owners, ..Identity::default() };
        let state = State {
            identity,
            store: KvMap::default(),
            submitted: vec![VecDeque::new(); cores as usize],
            completed: vec![VecDeque::new(); cores as usize],
            hold: false,
            newest_first: false,
            dead: false,
            refuse: false,
            answers: VecDeque::new(),
            rewrite: None,
            seen: Vec::new(),
            regions: Vec::new(),
            next_iova: 1 << 32,
            interrupts: (0..cores).map(|_| eventfd()).collect(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Carries out everything that was submitted.
    pub fn run(&self) {
        self.lock().run();
    }

    pub fn connect(&self, options: &ConnectOptions) -> Result<FakeTransport, Error> {
        let mut state = self.lock();
        if state.refuse || state.dead {
            return Err(Error::Connect { address: "fake".into(), reason: "refused".into() });
        }
        state.regions.clear();
        let queues = state.submitted.len();
        state.submitted.iter_mut().for_each(VecDeque::clear);
        state.completed.iter_mut().for_each(VecDeque::clear);
        Ok(FakeTransport {
            target: self.clone(),
            free: (0..queues).map(|_| (0..options.queue_depth).rev().collect()).collect(),
            pushed: vec![Vec::new(); queues],
            interrupts: state.interrupts.iter().map(|fd| fd.try_clone().unwrap()).collect(),
        })
    }
}

impl State {
    fn run(&mut self) {
        for queue in 0..self.submitted.len() {
            while let Some(sqe) =
                if self.newest_first { self.submitted[queue].pop_back() } else { self.submitted[queue].pop_front() }
            {
                self.seen.push((queue, sqe.opcode()));
                let (dword0, dword1, status) = match self.answers.pop_front() {
                    Some(status) => (0, 0, status),
                    None => self.execute(&sqe),
                };
                let mut cqe = Cqe { dword0, dword1, sq_head: 0, sq_id: queue as u16 + 1, cid: sqe.cid(), status };
                if let Some(rewrite) = self.rewrite {
                    rewrite(&mut cqe);
                }
                self.completed[queue].push_back(cqe);
                let one = 1u64.to_ne_bytes();
                // SAFETY: an eventfd takes eight bytes, which `one` has.
                unsafe { libc::write(self.interrupts[queue].as_raw_fd(), one.as_ptr().cast(), 8) };
            }
        }
    }

    fn execute(&mut self, sqe: &Sqe) -> (u32, u32, Status) {
        let mut data = Registered { regions: &self.regions, sqe };
        self.store.execute(sqe, &mut data)
    }
}

/// The data of a command, wherever it lies.
pub(crate) trait ClientData {
    /// Copies the first bytes out.
    fn read(&mut self, bytes: usize) -> Vec<u8>;
    /// Copies bytes in, as many as there is room for.
    fn write(&mut self, from: &[u8]);
}

struct Registered<'a> {
    regions: &'a [(u64, Arc<Region>)],
    sqe: &'a Sqe,
}

impl Registered<'_> {
    fn at(&self) -> (&Region, u64, usize) {
        let Some(DataPointer::Sgl(data)) = self.sqe.data_pointer() else { panic!("no SGL") };
        let (iova, region) = self
            .regions
            .iter()
            .find(|(iova, region)| (*iova..=iova + region.bytes() as u64).contains(&data.address))
            .expect("an address that was registered");
        (region, data.address - iova, data.length as usize)
    }
}

impl ClientData for Registered<'_> {
    fn read(&mut self, bytes: usize) -> Vec<u8> {
        let (region, offset, length) = self.at();
        assert_eq!(bytes, length);
        let mut into = vec![0; bytes];
        region.read(offset, &mut into).expect("inside the region");
        into
    }

    fn write(&mut self, from: &[u8]) {
        let (region, offset, bytes) = self.at();
        region.write(offset, &from[..from.len().min(bytes)]).expect("inside the region");
    }
}

/// The KV and vendor commands over a hash map.
#[derive(Default)]
pub(crate) struct KvMap {
    pub values: HashMap<[u8; 16], Value>,
    pub leases: Vec<u32>,
}

impl KvMap {
    pub fn execute(&mut self, sqe: &Sqe, data: &mut impl ClientData) -> (u32, u32, Status) {
        let ok = (0, 0, Status::SUCCESS);
        let miss = (0, 0, Status::KEY_DOES_NOT_EXIST);
        let key = sqe.key_bytes();
        let bytes = sqe.buffer_bytes() as usize;
        match sqe.opcode() {
            opcode::STORE => self.store(sqe, data),
            opcode::RETRIEVE => {
                let Some(value) = self.values.get(&key) else { return miss };
                data.write(&value.bytes[..value.bytes.len().min(bytes)]);
                (value.bytes.len() as u32, value.checksum as u32, Status::SUCCESS)
            }
            opcode::EXIST if self.values.contains_key(&key) => ok,
            opcode::DELETE if self.values.remove(&key).is_some() => ok,
            opcode::EXIST | opcode::DELETE => miss,
            vendor::opcode::LOOKUP_PREFIX => {
                let hits = keys(data, bytes).iter().take_while(|key| self.values.contains_key(*key)).count();
                let lease = if sqe.dword(11) & vendor::LOOKUP_TAKE_LEASE != 0 { 77 } else { 0 };
                self.leases.extend((lease != 0).then_some(lease));
                (hits as u32, lease, Status::SUCCESS)
            }
            vendor::opcode::LOOKUP_STATE => {
                let states: Vec<KeyState> = keys(data, bytes).iter().map(|key| self.state_of(key)).collect();
                let bytes: Vec<u8> = states.iter().flat_map(KeyState::to_bytes).collect();
                data.write(&bytes);
                (states.iter().filter(|state| state.present).count() as u32, 0, Status::SUCCESS)
            }
            vendor::opcode::RELEASE => match self.leases.iter().position(|lease| *lease == sqe.dword(10)) {
                Some(at) => {
                    self.leases.remove(at);
                    ok
                }
                None => (0, 0, Status::INVALID_FIELD),
            },
            vendor::opcode::HINT => (keys(data, bytes).len() as u32, 0, Status::SUCCESS),
            _ => (0, 0, Status::INVALID_OPCODE),
        }
    }

    fn store(&mut self, sqe: &Sqe, data: &mut impl ClientData) -> (u32, u32, Status) {
        let key = sqe.key_bytes();
        let options = store_options(sqe.options()).unwrap();
        if options.must_not_exist && self.values.contains_key(&key) {
            return (0, 0, Status::KEY_EXISTS);
        }
        if options.must_exist && !self.values.contains_key(&key) {
            return (0, 0, Status::KEY_DOES_NOT_EXIST);
        }
        let flag = |bit: u32, word: u64| if sqe.dword(11) & bit != 0 { word } else { 0 };
        let value = Value {
            bytes: data.read(sqe.buffer_bytes() as usize),
            checksum: flag(vendor::STORE_HAS_CHECKSUM, sqe.quadword(12)),
            parent: flag(vendor::STORE_HAS_PARENT, sqe.quadword(4)),
        };
        self.values.insert(key, value);
        (0, 0, Status::SUCCESS)
    }

    fn state_of(&self, key: &[u8; 16]) -> KeyState {
        self.values.get(key).map_or(KeyState::MISSING, |value| KeyState {
            present: true,
            tier: Tier::Flash,
            value_bytes: value.bytes.len() as u32,
            checksum: value.checksum,
        })
    }
}

fn keys(data: &mut impl ClientData, bytes: usize) -> Vec<[u8; 16]> {
    data.read(bytes).chunks_exact(16).map(|key| key.try_into().unwrap()).collect()
}

pub(crate) struct FakeTransport {
    target: FakeTarget,
    free: Vec<Vec<u16>>,
    pushed: Vec<Vec<Sqe>>,
    interrupts: Vec<OwnedFd>,
}

impl Transport for FakeTransport {
    fn identity(&self) -> Identity {
        self.target.lock().identity.clone()
    }

    fn namespaces(&mut self) -> Result<Vec<NamespaceInfo>, Error> {
        Ok(vec![namespace()])
    }

    fn queues(&self) -> usize {
        self.free.len()
    }

    fn allocate(&mut self, bytes: usize, _hugepages: bool) -> Result<Mapping, Error> {
        let mut mapping =
            Mapping { region: Arc::new(map(bytes.next_multiple_of(4096))), iova: 0, backing: Backing::Fake };
        self.register_again(&mut mapping)?;
        Ok(mapping)
    }

    fn register_again(&mut self, mapping: &mut Mapping) -> Result<(), Error> {
        let mut state = self.target.lock();
        mapping.iova = state.next_iova;
        state.next_iova += mapping.region.bytes() as u64 + 4096;
        state.regions.push((mapping.iova, mapping.region.clone()));
        Ok(())
    }

    fn unregister(&mut self, mapping: &Mapping) -> Result<(), Error> {
        self.target.lock().regions.retain(|(iova, _)| *iova != mapping.iova);
        Ok(())
    }

    /// Any file stands for a device's memory.
    fn register_dma_buf(&mut self, buffer: &DmaBuf) -> Result<u64, Error> {
        let region = map_file(libc::MAP_SHARED, buffer.file.as_raw_fd(), buffer.offset, buffer.bytes);
        let mut state = self.target.lock();
        let iova = state.next_iova;
        state.next_iova += buffer.bytes as u64 + 4096;
        state.regions.push((iova, Arc::new(region)));
        Ok(iova)
    }

    fn unregister_dma_buf(&mut self, iova: u64) -> Result<(), Error> {
        self.target.lock().regions.retain(|(known, _)| *known != iova);
        Ok(())
    }

    fn push(&mut self, queue: usize, mut sqe: Sqe) -> Result<u16, Sqe> {
        let Some(cid) = self.free[queue].pop() else { return Err(sqe) };
        sqe.set_cid(cid);
        self.pushed[queue].push(sqe);
        Ok(cid)
    }

    fn ring(&mut self, queue: usize) {
        self.target.lock().submitted[queue].extend(self.pushed[queue].drain(..));
    }

    fn poll(&mut self, queue: usize, completions: &mut Burst<Cqe>) {
        let mut state = self.target.lock();
        if !state.hold && !state.dead {
            state.run();
        }
        while !completions.is_full()
            && let Some(cqe) = state.completed[queue].pop_front()
        {
            if !self.free[queue].contains(&cqe.cid) {
                self.free[queue].push(cqe.cid);
            }
            completions.push(cqe);
        }
    }

    fn interrupt(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        Some(self.interrupts[queue].as_fd())
    }

    fn interrupted(&self, queue: usize) {
        drain(self.interrupts[queue].as_fd());
    }

    fn is_alive(&mut self) -> bool {
        !self.target.lock().dead
    }

    fn strays(&self) -> u64 {
        0
    }
}

/// The one namespace of the targets in tests.
pub(crate) fn namespace() -> NamespaceInfo {
    NamespaceInfo {
        nsid: 1,
        size_bytes: 1 << 30,
        used_bytes: 0,
        max_value_bytes: MAX_VALUE,
        max_keys: 0,
        granularity: 4096,
        nguid: [1; 16],
    }
}

fn eventfd() -> OwnedFd {
    // SAFETY: the call takes no pointers; its result is checked and owned by nobody else.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_NONBLOCK);
        assert!(fd >= 0, "no eventfd");
        OwnedFd::from_raw_fd(fd)
    }
}

fn map(bytes: usize) -> Region {
    map_file(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0, bytes)
}

fn map_file(flags: i32, file: i32, offset: u64, bytes: usize) -> Region {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh mapping, whose address is checked before the region takes it over.
    unsafe {
        let base = libc::mmap(std::ptr::null_mut(), bytes, protection, flags, file, offset as libc::off_t);
        assert_ne!(base, libc::MAP_FAILED);
        Region::from_mapping(NonNull::new(base.cast()).unwrap(), bytes, RegionSlot(1))
    }
}
