//! One core's pipeline in this process: no daemon, no socket, no other thread. For tests that look at what a turn does
//! to the process, and for fuzzers.

use std::sync::Arc;

use dataplane::core::{Clock, ManualClock, Poll, Poller};
use dataplane::fabric::{Completion, SessionId};
use dataplane::memory::{Arena, HugePages, Region, RegionSlot, SlotId};
use dataplane::nvme::BlockQueue;
use dataplane::nvme::spec::Sqe;
use dataplane::nvme::spec::vendor::OwnerMap;
use pipelines::core_pipeline::{CoreMailbox, CorePipeline, CorePlan, CorePostbox, Parts, core_mailbox};
use pipelines::dma::pacing::PacingConfig;
use pipelines::placement::Ownership;
use pipelines::policy::{Durability, Grant, PolicyTable};
use pipelines::store::{self, FormatOptions, Superblock};
use simulator::fabric::{SimCommand, SimData, SimFabric};

/// Bytes of the client's memory.
pub const MEMORY_BYTES: usize = 4 << 20;
/// The longest value.
pub const MAX_VALUE_BYTES: u32 = 1 << 20;
/// Commands that may be under way without the carrier having to grow.
const DEPTH: usize = 4096;
pub(crate) const SESSION: SessionId = SessionId(0);
pub(crate) const CLIENT_SLOT: RegionSlot = RegionSlot(1);

/// The core, its one client and its clock.
pub struct LoneCore<B: BlockQueue> {
    core: CorePipeline<B, SimFabric, ManualClock>,
    clock: ManualClock,
    /// The client's memory.
    pub memory: Arc<Region>,
}

/// A formatted store for `shards` shards of segments of `segment_bytes`.
pub(crate) fn format(blocks: &mut impl BlockQueue, segment_bytes: u64, shards: u32) -> Superblock {
    let mut scratch = Arena::new(store::UNIT_BYTES as usize, HugePages::Off, RegionSlot(0)).unwrap();
    blocks.attach(Arc::clone(scratch.region())).unwrap();
    let options = FormatOptions {
        segment_bytes,
        mean_value_bytes: 4096,
        max_value_bytes: MAX_VALUE_BYTES.min(segment_bytes as u32 / 2),
        ..FormatOptions::new([7; 16], shards)
    };
    let page = scratch.alloc(store::UNIT_BYTES as usize, 4096).unwrap();
    let superblock = store::format(blocks, &page, &options).unwrap();
    blocks.detach(RegionSlot(0)).unwrap();
    superblock
}

/// What the one client may do, in its namespace 1.
pub(crate) fn policy(class: Durability) -> Arc<PolicyTable> {
    let mut policy = PolicyTable::builder();
    let grant =
        Grant { ns28: 1, namespace: 0, class, quota_bytes: None, max_value_bytes: MAX_VALUE_BYTES, writable: true };
    let view = policy.view([(1, grant)]);
    policy.session(SESSION, view);
    Arc::new(policy.build())
}

/// A core on a formatted store, with its one client's memory attached.
pub(crate) fn start<B: BlockQueue>(
    mut blocks: B,
    superblock: Superblock,
    ownership: Ownership,
    (mailbox, peers): (CoreMailbox<SimFabric>, Vec<CorePostbox<SimFabric>>),
    policy: Arc<PolicyTable>,
    (clock, memory): (&ManualClock, &Arc<Region>),
) -> CorePipeline<B, SimFabric, ManualClock> {
    let plan = CorePlan { superblock, ownership, seed: 1, entries: None, commit_ticks: 1_000_000, staging_buffers: 4 };
    let mut arena = Arena::new(plan.arena_bytes(), HugePages::Off, RegionSlot(0)).unwrap();
    blocks.attach(Arc::clone(arena.region())).unwrap();
    let (shards, staging) = plan.assemble(&mut arena).unwrap();
    let mut core = CorePipeline::new(Parts {
        ownership,
        blocks,
        fabric: SimFabric::new(ownership.core),
        clock: clock.clone(),
        shards,
        staging,
        pacing: PacingConfig { write_window_bytes: 8 << 20, write_piece_bytes: 1 << 20, quiet_ticks: 50_000 },
        mailbox,
        peers,
        policy,
    });
    core.command(SimCommand::Attach(Arc::clone(memory)));
    core.fabric_mut().completions.reserve(DEPTH);
    core
}

/// The one client's memory.
pub(crate) fn client_memory() -> Arc<Region> {
    Arc::new(Region::anonymous(MEMORY_BYTES, CLIENT_SLOT).unwrap())
}

impl<B: BlockQueue> LoneCore<B> {
    /// Formats a store of segments of `segment_bytes` on a device and starts a core on it, with one client, whose
    /// namespace 1 is of a class.
    ///
    /// # Panics
    /// If the device cannot hold a store.
    #[must_use]
    pub fn new(mut blocks: B, segment_bytes: u64, class: Durability) -> Self {
        let superblock = format(&mut blocks, segment_bytes, 1);
        let ownership = Ownership { map: OwnerMap { shards: 1, cores: 1 }, core: 0 };
        let (postbox, mailbox) = core_mailbox(64).unwrap();
        let (clock, memory) = (ManualClock::new(), client_memory());
        let mail = (mailbox, vec![postbox]);
        let core = start(blocks, superblock, ownership, mail, policy(class), (&clock, &memory));
        let mut it = Self { core, clock, memory };
        crate::await_that("the empty store has recovered", || {
            it.poll();
            it.core.is_ready()
        });
        it
    }

    /// The client submits a command whose data lies at an offset of its memory, in pieces of `fragment` bytes (0: in one).
    pub fn submit(&mut self, sqe: Sqe, offset: u64, bytes: u32, fragment: u16) {
        let data = SimData { slot: CLIENT_SLOT, offset, bytes, position: 0, fragment };
        self.core.fabric_mut().submit(SlotId::from_bits(0), SESSION, sqe, data);
    }

    /// One turn, a microsecond after the last.
    pub fn poll(&mut self) -> Poll {
        self.clock.advance_micros(1);
        let now = self.clock.now();
        self.core.poll(now)
    }

    /// Lets some time pass.
    pub fn pass_micros(&mut self, micros: u64) {
        self.clock.advance_micros(micros);
    }

    /// Hands out the completions that there are: command identifiers and what they say.
    pub fn take(&mut self, mut each: impl FnMut(u16, Completion)) {
        self.core.fabric_mut().completions.drain(..).for_each(|(_, cid, completion)| each(cid, completion));
    }

    /// Commands that lack their completion.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.core.outstanding()
    }
}
