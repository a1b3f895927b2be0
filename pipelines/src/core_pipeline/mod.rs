//! One core's pipeline: the poller that a reactor runs. Ties fabric, stages, shards and device together, once a
//! turn, and exchanges mail with the other cores.
//!
//! A turn: completions of the device -> mail (orders, then work) -> new capsules through classify, policy, placement and dma -> lists
//! -> the store's own work -> doorbells and completions out.

mod assembly;
mod exchange;
mod leases;
mod lists;
mod mail;
mod turn;

pub use assembly::{AssemblyError, CorePlan};
pub use leases::{LONGEST_LEASE_MS, Leases};
pub use lists::ListJob;
pub use mail::{CoreMailbox, CorePostbox, Mail, Snapshot, Wants, core_mailbox};

use std::collections::VecDeque;
use std::sync::Arc;

use dataplane::core::{Clock, Poll, Poller, Ticks, WakeEvent};
use dataplane::fabric::Fabric;
use dataplane::nvme::BlockQueue;

use crate::accounting::{FlightRecorder, Operations, StageMeter};
use crate::dma::pacing::{Pacing, PacingConfig};
use crate::dma::{Dma, StagingBuffers};
use crate::lines::CapsuleBurst;
use crate::placement::Ownership;
use crate::policy::{Admitted, PolicyTable};
use crate::store::Shard;

/// Commands that may move bytes on one core at once.
pub const MOVING_COMMANDS: u16 = 2048;
/// Lists of keys that one core's clients may have on their way at once.
pub const LIST_JOBS: usize = 32;

/// What a core pipeline is made of.
pub struct Parts<B, F: Fabric, C> {
    /// This core and the owner map.
    pub ownership: Ownership,
    /// The core's queue on the device.
    pub blocks: B,
    /// The core's end of the carrier.
    pub fabric: F,
    /// The clock, for the boundaries between stages.
    pub clock: C,
    /// The shards it owns, in rising order: every `cores`-th one.
    pub shards: Vec<Shard>,
    /// Staging memory.
    pub staging: StagingBuffers,
    /// How writes are paced.
    pub pacing: PacingConfig,
    /// Its mailbox.
    pub mailbox: CoreMailbox<F>,
    /// The other cores' mailboxes, by core; its own place is not used.
    pub peers: Vec<CorePostbox<F>>,
    /// The policy to begin with.
    pub policy: Arc<PolicyTable>,
}

/// One core's pipeline.
pub struct CorePipeline<B, F: Fabric, C> {
    ownership: Ownership,
    blocks: B,
    fabric: F,
    clock: C,
    shards: Vec<Shard>,
    dma: Dma<F::Data>,
    mailbox: CoreMailbox<F>,
    peers: Vec<CorePostbox<F>>,
    /// Mail that did not fit a peer's mailbox, orders and work. While there is any, no new commands are taken.
    outgoing: [VecDeque<(u16, Mail<F>)>; 2],
    policy: Arc<PolicyTable>,
    /// Stores that wait until the store has made room, and lists that wait for a context.
    waiting: VecDeque<Admitted>,
    waiting_lists: VecDeque<Admitted>,
    lists: VecDeque<Box<ListJob<F::Data>>>,
    spare_lists: Vec<Box<ListJob<F::Data>>>,
    /// Namespaces to be purged that some shard has not begun with.
    purges: Vec<u32>,
    /// The memory for the next burst, on its way through the stages for the length of a call.
    burst: Option<CapsuleBurst>,
    leases: Leases,
    meter: StageMeter,
    operations: Operations,
    recorder: FlightRecorder,
    forwarded: u64,
    hinted: u64,
    draining: bool,
}

impl<B: BlockQueue, F: Fabric, C: Clock> CorePipeline<B, F, C> {
    /// Puts a pipeline together. Allocates all it will ever need.
    #[must_use]
    pub fn new(parts: Parts<B, F, C>) -> Self {
        let Parts { ownership, blocks, fabric, clock, shards, staging, pacing, mailbox, peers, policy } = parts;
        let capacity = usize::from(MOVING_COMMANDS);
        Self {
            ownership,
            blocks,
            fabric,
            clock,
            shards,
            dma: Dma::new(MOVING_COMMANDS, staging, Pacing::new(pacing)),
            mailbox,
            peers,
            outgoing: [(); 2].map(|()| VecDeque::with_capacity(capacity * 2)),
            policy,
            waiting: VecDeque::with_capacity(capacity),
            waiting_lists: VecDeque::with_capacity(capacity),
            lists: VecDeque::with_capacity(capacity),
            spare_lists: (0..LIST_JOBS).map(|_| Box::new(ListJob::new(ownership.core))).collect(),
            purges: Vec::with_capacity(64),
            burst: Some(CapsuleBurst::new()),
            leases: Leases::new(ownership.core),
            meter: StageMeter::new(),
            operations: Operations::new(),
            recorder: FlightRecorder::new(),
            forwarded: 0,
            hinted: 0,
            draining: false,
        }
    }

    /// Whether every shard has recovered.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shards.iter().all(Shard::is_ready)
    }

    /// Commands of this core's clients that are not completed, and commands of others that it works on.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        let listed = self.waiting_lists.len() + self.lists.len();
        self.fabric.outstanding()
            + self.dma.in_use()
            + self.dma.lent()
            + self.waiting.len()
            + listed
            + self.outgoing.iter().map(VecDeque::len).sum::<usize>()
    }

    /// Carries out a command of the carrier's control side at once, as if it had come by mail.
    pub fn command(&mut self, command: F::Command) {
        self.fabric.command(command, &mut self.blocks);
    }

    /// The core's end of the carrier, for those who look from outside: tests and the simulator.
    #[must_use]
    pub fn fabric(&self) -> &F {
        &self.fabric
    }

    /// As [`fabric`](Self::fabric), to act on it.
    pub fn fabric_mut(&mut self) -> &mut F {
        &mut self.fabric
    }

    /// The core's queue on the device, for those who look from outside.
    pub fn blocks_mut(&mut self) -> &mut B {
        &mut self.blocks
    }

    /// The core's shards, for those who look from outside.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }
}

impl<B: BlockQueue, F: Fabric, C: Clock> Poller for CorePipeline<B, F, C> {
    fn poll(&mut self, now: Ticks) -> Poll {
        self.turn(now)
    }

    fn wake_event(&self) -> Option<Arc<WakeEvent>> {
        Some(Arc::clone(self.mailbox.event()))
    }

    /// Stops taking commands, ends those under way and makes everything durable.
    fn drain(&mut self, now: Ticks) -> bool {
        self.draining = true;
        self.turn(now);
        if self.outstanding() > 0 {
            return false;
        }
        let mut drained = true;
        for shard in &mut self.shards {
            drained &= shard.drain(now, &mut self.blocks);
        }
        self.blocks.ring();
        drained && self.blocks.in_flight() == 0
    }
}
