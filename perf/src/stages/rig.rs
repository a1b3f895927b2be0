//! A core's pipeline with a real vfio-user client in front of it and a null device behind it, in one process. The device
//! is not counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use dataplane::Burst;
use dataplane::core::{Clock, Poller, TscClock};
use dataplane::fabric::vfio_user::initiator::set_sgl;
use dataplane::fabric::vfio_user::{
    ClientMemory, ConnectOptions, CoreCommand, Initiator, InitiatorQueue, Iova, Target, TargetOptions, VfioUserFabric,
};
use dataplane::fabric::{Admission, ControllerIdentity, CorePort, NamespaceInfo, Peer, Refused, Session, SessionId};
use dataplane::memory::{Arena, HugePages, RegionSlot};
use dataplane::nvme::BlockQueue;
use dataplane::nvme::null::NullDevice;
use dataplane::nvme::spec::Sqe;
use dataplane::nvme::spec::kv::{self, KeyFields};
use dataplane::nvme::spec::vendor::OwnerMap;
use pipelines::accounting::{Stage, StageCounters};
use pipelines::core_pipeline::{
    CoreMailbox, CorePipeline, CorePlan, CorePostbox, Mail, Parts, Snapshot, Wants, core_mailbox,
};
use pipelines::dma::pacing::PacingConfig;
use pipelines::placement::Ownership;
use pipelines::policy::{Durability, Grant, PolicyTable};
use pipelines::store::{self, FormatOptions};

use super::uncounted::Uncounted;

/// The map of one core with one shard.
const ALONE: OwnerMap = OwnerMap { shards: 1, cores: 1 };
/// Bytes of the null device: enough that nothing is evicted while it is filled once.
const DEVICE_BYTES: u64 = 8 << 30;
/// How long connecting may take: under valgrind it is slow.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(120);
/// Commands in a burst: what the pipeline takes at once.
const BURST: usize = dataplane::BURST;

type Pipeline = CorePipeline<Uncounted, VfioUserFabric, TscClock>;

/// What could not be set up.
pub type RigError = Box<dyn std::error::Error + Send + Sync>;

/// The kinds of commands to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Exist, of keys that are there.
    Exist,
    /// Retrieve, of keys that are there, 4 KiB.
    Retrieve,
    /// Store, 4 KiB, over what is there.
    Store,
}

/// Client and core.
pub struct Rig {
    pipeline: Pipeline,
    clock: TscClock,
    queue: InitiatorQueue,
    iova: Iova,
    keys: Vec<[u8; 16]>,
    next: usize,
    postbox: CorePostbox<VfioUserFabric>,
    // In the order in which they must go: client, memory, listener, folder.
    _initiator: Initiator,
    _memory: ClientMemory,
    _target: Target,
    _folder: tempfile::TempDir,
}

struct Door(CorePostbox<VfioUserFabric>);

impl CorePort<CoreCommand> for Door {
    fn cores(&self) -> u16 {
        1
    }

    fn send(&self, _core: u16, command: CoreCommand) -> Result<(), CoreCommand> {
        self.0.post(Mail::Fabric(command)).map_err(|refused| match refused.into_inner() {
            Mail::Fabric(command) => command,
            _ => unreachable!("the same message comes back"),
        })
    }
}

struct Guest;

impl Session for Guest {
    fn id(&self) -> SessionId {
        SessionId(0)
    }

    fn identity(&self) -> ControllerIdentity {
        ControllerIdentity {
            subsystem_nqn: "nqn.2026-01.io.kvplane:stages".into(),
            serial: "STAGES".into(),
            model: "kvplane".into(),
            firmware: "0.1".into(),
            controller_id: 1,
            max_transfer_bytes: 1 << 20,
            owners: ALONE,
        }
    }

    fn namespaces(&self) -> Vec<NamespaceInfo> {
        vec![NamespaceInfo {
            nsid: 1,
            size_bytes: DEVICE_BYTES,
            used_bytes: 0,
            max_value_bytes: 1 << 20,
            max_keys: 0,
            granularity: 4096,
            nguid: [1; 16],
        }]
    }

    fn generation(&self) -> u64 {
        0
    }
}

impl Admission for Guest {
    fn open(&self, _peer: &Peer) -> Result<Box<dyn Session>, Refused> {
        Ok(Box::new(Guest))
    }
}

impl Rig {
    /// Sets everything up and stores `keys` values of 4 KiB.
    ///
    /// # Errors
    /// What could not be set up.
    pub fn new(keys: usize) -> Result<Self, RigError> {
        let clock = TscClock::new();
        let (postbox, mailbox) = core_mailbox(1024)?;
        let mut pipeline = pipeline(clock, mailbox, keys)?;
        let folder = tempfile::tempdir()?;
        let door = Arc::new(Door(postbox.clone()));
        let target = Target::listen(folder.path(), TargetOptions::default(), door, Arc::new(Guest))?;
        let (initiator, memory, queue, iova) = connect(&mut pipeline, clock, folder.path())?;
        let keys = (0..keys as u64).map(key).collect();
        let mut rig = Self {
            pipeline,
            clock,
            queue,
            iova,
            keys,
            next: 0,
            postbox,
            _initiator: initiator,
            _memory: memory,
            _target: target,
            _folder: folder,
        };
        while !rig.pipeline.is_ready() {
            rig.turn();
        }
        for _ in 0..rig.keys.len().div_ceil(BURST) {
            rig.send(Load::Store);
            rig.settle(Self::turn);
        }
        Ok(rig)
    }

    /// Sends `bursts` bursts of 32 commands and has the core answer each before the next. Returns the ticks that the
    /// core's turns took.
    ///
    /// # Errors
    /// If any command failed.
    pub fn measure(&mut self, load: Load, bursts: u64) -> Result<u64, RigError> {
        let mut ticks = 0;
        for _ in 0..bursts {
            self.send(load);
            let failed = self.settle(|rig| {
                let before = rig.clock.now();
                measured_turn(&mut rig.pipeline, before);
                ticks += rig.clock.now().since(before);
            });
            if failed > 0 {
                return Err(format!("{failed} of {BURST} commands failed").into());
            }
        }
        Ok(ticks)
    }

    /// The counters of the stages since the last call.
    pub fn take_stages(&mut self) -> Vec<(Stage, StageCounters)> {
        let (answer, answered) = sync_channel(1);
        let asked = self.postbox.post(Mail::Snapshot(Snapshot::blank(Wants::default()), answer)).is_ok()
            && self.postbox.post(Mail::ResetCounters).is_ok();
        if !asked {
            return Vec::new();
        }
        self.turn();
        answered.try_recv().map(|snapshot| snapshot.stages).unwrap_or_default()
    }

    /// Ticks in a second.
    #[must_use]
    pub fn ticks_per_second(&self) -> u64 {
        self.clock.ticks_per_second()
    }

    fn turn(&mut self) {
        let now = self.clock.now();
        self.pipeline.poll(now);
    }

    fn send(&mut self, load: Load) {
        for slot in 0..BURST as u64 {
            let opcode = match load {
                Load::Exist => kv::opcode::EXIST,
                Load::Retrieve => kv::opcode::RETRIEVE,
                Load::Store => kv::opcode::STORE,
            };
            let mut sqe = Sqe::new(opcode, 0);
            sqe.set_nsid(1);
            sqe.set_key(&self.keys[self.next]);
            self.next = (self.next + 1) % self.keys.len();
            if load != Load::Exist {
                sqe.set_dword(10, 4096);
                set_sgl(&mut sqe, Iova(self.iova.0 + slot * 4096), 4096);
            }
            let pushed = self.queue.push(sqe);
            debug_assert!(pushed.is_ok(), "the last burst was answered");
        }
        self.queue.ring();
    }

    /// Has the core work until the burst is answered. Returns how many commands failed.
    fn settle(&mut self, mut turn: impl FnMut(&mut Self)) -> usize {
        let mut failed = 0;
        while self.queue.in_flight() > 0 {
            turn(self);
            let mut done = Burst::new();
            self.queue.poll(&mut done);
            failed += done.iter().filter(|cqe| !cqe.status.is_success()).count();
        }
        failed
    }
}

/// The turn of a core that is measured. A function of its own, so that callgrind can count in it and nowhere else.
#[inline(never)]
fn measured_turn(pipeline: &mut Pipeline, now: dataplane::core::Ticks) {
    pipeline.poll(now);
}

fn pipeline(clock: TscClock, mailbox: CoreMailbox<VfioUserFabric>, keys: usize) -> Result<Pipeline, RigError> {
    let device = NullDevice::new(DEVICE_BYTES / 4096);
    let mut blocks = Uncounted(device.queue(1024, 1024));
    let mut scratch = Arena::new(store::UNIT_BYTES as usize, HugePages::Off, RegionSlot(0))?;
    blocks.attach(Arc::clone(scratch.region()))?;
    let buffer = scratch.alloc(store::UNIT_BYTES as usize, 4096).ok_or("no scratch memory")?;
    let superblock = store::format(&mut blocks, &buffer, &FormatOptions::new([7; 16], 1))?;
    blocks.detach(RegionSlot(0))?;
    let ownership = Ownership { map: ALONE, core: 0 };
    let plan = CorePlan {
        superblock,
        ownership,
        seed: 42,
        entries: Some((keys as u32 * 2).max(1024)),
        commit_ticks: clock.ticks_of_micros(100_000),
        staging_buffers: 8,
    };
    let mut arena = Arena::new(plan.arena_bytes(), HugePages::Off, RegionSlot(0))?;
    let (shards, staging) = plan.assemble(&mut arena)?;
    blocks.attach(Arc::clone(arena.region()))?;
    let mut policy = PolicyTable::builder();
    let view = policy.view([(
        1,
        Grant {
            ns28: 1,
            namespace: 0,
            class: Durability::Cache,
            quota_bytes: None,
            max_value_bytes: 1 << 20,
            writable: true,
        },
    )]);
    policy.session(SessionId(0), view);
    Ok(CorePipeline::new(Parts {
        ownership,
        blocks,
        fabric: VfioUserFabric::new(0),
        clock,
        shards,
        staging,
        pacing: PacingConfig { write_window_bytes: 512 << 10, write_piece_bytes: 128 << 10, quiet_ticks: 0 },
        mailbox,
        peers: Vec::new(),
        policy: Arc::new(policy.build()),
    }))
}

/// Connects from another thread while this one plays the core, for connecting needs the core's answers.
fn connect(
    pipeline: &mut Pipeline,
    clock: TscClock,
    folder: &std::path::Path,
) -> Result<(Initiator, ClientMemory, InitiatorQueue, Iova), RigError> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let connected = || -> Result<_, RigError> {
                let options = ConnectOptions { timeout: CONNECT_TIMEOUT };
                let mut initiator = Initiator::connect(folder, &options)?;
                let memory = ClientMemory::new(BURST as u64 * 4096, false)?;
                let iova = initiator.register(&memory)?;
                let queue = initiator.create_queue(4 * BURST as u32, false)?;
                Ok((initiator, memory, queue, iova))
            };
            let result = connected();
            done.store(true, Ordering::Release);
            result
        });
        while !done.load(Ordering::Acquire) {
            pipeline.poll(clock.now());
            // Valgrind runs one thread at a time, and a thread that never waits starves the others.
            std::thread::yield_now();
        }
        client.join().map_err(|_| "the connecting thread panicked")?
    })
}

/// Keys as engines make them: hashes.
fn key(number: u64) -> [u8; 16] {
    let mut random = crate::random::Random::new(number);
    let mut key = [0; 16];
    key[..8].copy_from_slice(&random.next().to_le_bytes());
    key[8..].copy_from_slice(&random.next().to_le_bytes());
    key
}
