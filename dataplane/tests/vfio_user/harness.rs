//! A target inside this process: cores that run a toy pipeline over the real fabric.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataplane::Burst;
use dataplane::fabric::QueuePairInfo;
use dataplane::fabric::vfio_user::{CoreCommand, Cursor, Target, TargetOptions, VfioUserFabric};
use dataplane::fabric::{
    Admission, Capsule, Completion, ControllerIdentity, CorePort, Fabric, NamespaceInfo, Peer, Refused, RefusedKind,
    Session, SessionId,
};
use dataplane::memory::{Region, RegionSlot};
use dataplane::nvme::spec::kv::{KeyFields, opcode};
use dataplane::nvme::spec::vendor::OwnerMap;
use dataplane::nvme::spec::{Sqe, Status};
use dataplane::nvme::{AttachError, BlockDone, BlockIo, BlockQueue, Geometry, QueueFull};

/// A device that moves nothing but keeps track of memory.
pub struct Registry {
    geometry: Geometry,
    regions: Vec<Arc<Region>>,
    count: Arc<AtomicUsize>,
}

impl BlockQueue for Registry {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    fn room(&self) -> usize {
        0
    }
    fn push(&mut self, io: BlockIo) -> Result<(), QueueFull> {
        Err(QueueFull(io))
    }
    fn ring(&mut self) {}
    fn poll(&mut self, _done: &mut Burst<BlockDone>) {}
    fn in_flight(&self) -> usize {
        0
    }
    fn attach(&mut self, region: Arc<Region>) -> Result<(), AttachError> {
        if self.regions.iter().any(|other| other.slot() == region.slot()) {
            return Err(AttachError::SlotTaken(region.slot()));
        }
        self.regions.push(region);
        self.count.store(self.regions.len(), Ordering::Release);
        Ok(())
    }
    fn detach(&mut self, slot: RegionSlot) -> Result<(), AttachError> {
        let before = self.regions.len();
        self.regions.retain(|region| region.slot() != slot);
        self.count.store(self.regions.len(), Ordering::Release);
        if self.regions.len() < before { Ok(()) } else { Err(AttachError::NoSuchSlot(slot)) }
    }
}

/// What a core of the rig shows to the test.
#[derive(Default)]
pub struct CoreView {
    pub regions: Arc<AtomicUsize>,
    pub sessions: AtomicUsize,
    pub outstanding: AtomicUsize,
    pub queue_pairs: Mutex<Vec<QueuePairInfo>>,
    /// While set, commands are taken but not completed.
    pub hold: AtomicBool,
    pub taken: AtomicU64,
}

struct Ports(Vec<SyncSender<CoreCommand>>);

impl CorePort<CoreCommand> for Ports {
    fn cores(&self) -> u16 {
        self.0.len() as u16
    }
    fn send(&self, core: u16, command: CoreCommand) -> Result<(), CoreCommand> {
        self.0[core as usize].send(command).map_err(|error| error.0)
    }
}

/// What sessions say, for all clients of a rig.
pub struct Shared {
    pub namespaces: Mutex<Vec<NamespaceInfo>>,
    pub generation: AtomicU64,
    free: Mutex<Vec<u16>>,
    pub open: AtomicUsize,
    pub deny: AtomicBool,
    cores: u32,
}

impl Shared {
    fn new(cores: u16) -> Self {
        Self {
            namespaces: Mutex::new(vec![namespace(1), namespace(3)]),
            generation: AtomicU64::new(0),
            free: Mutex::new((0..64).rev().collect()),
            open: AtomicUsize::new(0),
            deny: AtomicBool::new(false),
            cores: u32::from(cores),
        }
    }
}

pub fn namespace(nsid: u32) -> NamespaceInfo {
    NamespaceInfo {
        nsid,
        size_bytes: 1 << 40,
        used_bytes: 4096,
        max_value_bytes: 1 << 20,
        max_keys: 0,
        granularity: 4096,
        nguid: [nsid as u8; 16],
    }
}

struct OpenSession {
    id: u16,
    shared: Arc<Shared>,
}

impl Session for OpenSession {
    fn id(&self) -> SessionId {
        SessionId(self.id)
    }
    fn identity(&self) -> ControllerIdentity {
        ControllerIdentity {
            subsystem_nqn: "nqn.2026-01.io.kvplane:test".into(),
            serial: "TEST0001".into(),
            model: "kvplane test".into(),
            firmware: "0.1".into(),
            controller_id: self.id,
            max_transfer_bytes: 1 << 20,
            owners: OwnerMap { shards: self.shared.cores, cores: self.shared.cores },
        }
    }
    fn namespaces(&self) -> Vec<NamespaceInfo> {
        self.shared.namespaces.lock().unwrap().clone()
    }
    fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.shared.free.lock().unwrap().push(self.id);
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Gate(Arc<Shared>);

impl Admission for Gate {
    fn open(&self, peer: &Peer) -> Result<Box<dyn Session>, Refused> {
        assert_eq!(peer.pid, Some(std::process::id() as i32));
        if self.0.deny.load(Ordering::Acquire) {
            return Err(Refused::new(RefusedKind::HostNotAllowed, "the test denies everybody"));
        }
        let full = Refused::new(RefusedKind::Full, "no session left");
        let id = self.0.free.lock().unwrap().pop().ok_or(full)?;
        self.0.open.fetch_add(1, Ordering::AcqRel);
        Ok(Box::new(OpenSession { id, shared: Arc::clone(&self.0) }))
    }
}

/// A target with cores, in a folder of its own.
pub struct Rig {
    pub target: Option<Target>,
    pub cores: Vec<Arc<CoreView>>,
    pub shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    dir: tempfile::TempDir,
}

impl Rig {
    pub fn new(cores: u16) -> Self {
        Self::with_options(cores, TargetOptions::default())
    }

    pub fn with_options(cores: u16, options: TargetOptions) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared::new(cores));
        let (mut views, mut threads, mut senders) = (Vec::new(), Vec::new(), Vec::new());
        for core in 0..cores {
            let (sender, receiver) = sync_channel(64);
            let view = Arc::new(CoreView::default());
            let (own, stop) = (Arc::clone(&view), Arc::clone(&stop));
            threads.push(std::thread::spawn(move || run_core(core, &receiver, &own, &stop)));
            views.push(view);
            senders.push(sender);
        }
        let dir = tempfile::tempdir().unwrap();
        let gate = Arc::new(Gate(Arc::clone(&shared)));
        let target = Target::listen(dir.path(), options, Arc::new(Ports(senders)), gate).unwrap();
        Self { target: Some(target), cores: views, shared, threads, stop, dir }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Admits everybody, for targets with cores of their own.
    pub fn gate() -> Arc<dyn Admission> {
        Arc::new(Gate(Arc::new(Shared::new(1))))
    }

    /// What another target in the same folder would be given.
    pub fn parts(&self) -> (Arc<dyn CorePort<CoreCommand>>, Arc<dyn Admission>) {
        (Arc::new(Ports(Vec::new())), Arc::new(Gate(Arc::clone(&self.shared))))
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("cntrl")
    }

    /// Ends the cores while clients may be connected.
    #[allow(dead_code)] // Not every test crate that has the harness ends cores early.
    pub fn stop_cores(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }

    /// Waits until every client is gone without a trace.
    pub fn wait_clean(&self) {
        wait_until("every client is gone without a trace", || {
            self.shared.open.load(Ordering::Acquire) == 0
                && self.cores.iter().all(|core| {
                    core.regions.load(Ordering::Acquire) == 0
                        && core.sessions.load(Ordering::Acquire) == 0
                        && core.outstanding.load(Ordering::Acquire) == 0
                        && core.queue_pairs.lock().unwrap().is_empty()
                })
        });
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for core in &self.cores {
            core.hold.store(false, Ordering::Release);
        }
        drop(self.target.take());
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// Waits for a condition, ten seconds at most.
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn run_core(core: u16, commands: &Receiver<CoreCommand>, view: &CoreView, stop: &AtomicBool) {
    let mut fabric = VfioUserFabric::new(core);
    let geometry = Geometry {
        lba_bytes: 4096,
        blocks: 1,
        memory_align: 4096,
        max_transfer: 4096,
        volatile_cache: false,
        deallocate: false,
        depth: 1,
    };
    let mut blocks = Registry { geometry, regions: Vec::new(), count: Arc::clone(&view.regions) };
    let mut store = HashMap::new();
    let mut held: Vec<Capsule> = Vec::new();
    let mut capsules = Burst::new();
    while !stop.load(Ordering::Acquire) {
        match commands.try_recv() {
            Ok(command) => fabric.command(command, &mut blocks),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
        }
        fabric.settle(&mut blocks);
        fabric.poll(&mut capsules);
        view.taken.fetch_add(capsules.len() as u64, Ordering::AcqRel);
        held.extend(capsules.drain(..));
        let idle = held.is_empty();
        if !view.hold.load(Ordering::Acquire) {
            for capsule in held.drain(..) {
                let mut data = fabric.data(&capsule);
                let completion = execute(&mut fabric, &mut store, &capsule.sqe, &mut data);
                fabric.complete(capsule.permit, completion);
            }
            fabric.flush();
        }
        view.sessions.store(fabric.sessions(), Ordering::Release);
        view.outstanding.store(fabric.outstanding(), Ordering::Release);
        let mut pairs = Vec::new();
        fabric.queue_pairs(&mut pairs);
        *view.queue_pairs.lock().unwrap() = pairs;
        if idle {
            std::thread::yield_now();
        }
    }
    assert!(held.is_empty());
}

type Values = HashMap<(u32, [u8; 16]), Vec<u8>>;

fn execute(fabric: &mut VfioUserFabric, store: &mut Values, sqe: &Sqe, data: &mut Cursor) -> Completion {
    let key = (sqe.nsid(), sqe.key_bytes());
    match sqe.opcode() {
        opcode::STORE => {
            if sqe.buffer_bytes() > 1 << 20 {
                return Completion::failed(Status::INVALID_VALUE_SIZE);
            }
            let mut value = vec![0; sqe.buffer_bytes() as usize];
            match fabric.copy_from_client(data, &mut value) {
                Ok(()) => {
                    store.insert(key, value);
                    Completion::success(0, 0)
                }
                Err(status) => Completion::failed(status),
            }
        }
        opcode::RETRIEVE => match store.get(&key) {
            None => Completion::failed(Status::KEY_DOES_NOT_EXIST),
            Some(value) => {
                let bytes = value.len().min(sqe.buffer_bytes() as usize);
                match fabric.copy_to_client(data, &value[..bytes]) {
                    Ok(()) => Completion::success(value.len() as u32, 0),
                    Err(status) => Completion::failed(status),
                }
            }
        },
        opcode::EXIST if store.contains_key(&key) => Completion::success(0, 0),
        opcode::EXIST => Completion::failed(Status::KEY_DOES_NOT_EXIST),
        // Walks the data pointer without touching the bytes, as a device would.
        0xC1 => {
            let mut left = sqe.buffer_bytes();
            let mut windows = 0;
            while left > 0 {
                match fabric.window(data, left) {
                    Ok(slice) => {
                        assert!(slice.bytes() > 0 && slice.bytes() <= left);
                        left -= slice.bytes();
                        windows += 1;
                    }
                    Err(status) => return Completion::failed(status),
                }
            }
            Completion::success(windows, 0)
        }
        _ => Completion::success(0, 0),
    }
}
