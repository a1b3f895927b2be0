//! Starts the reactors, each with its arena, its queue on the device, its shards and its pipeline.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::core::{IdlePolicy, Reactor, ReactorHandle, SpawnError, TscClock};
use dataplane::fabric::carriers::Carriers;
use dataplane::memory::{ArenaError, HugePages};
use dataplane::nvme::span::SpanQueue;
use dataplane::nvme::{AttachError, BlockQueue};

use super::device::QueueSource;
use super::port::Cores;
use super::volume::Volume;
use crate::core_pipeline::{AssemblyError, CoreMailbox, CorePipeline, CorePlan, CorePostbox, Parts, Wants};
use crate::dma::pacing::PacingConfig;
use crate::policy::PolicyTable;

/// What every core needs to start.
pub(super) struct Setup {
    pub(super) plans: Vec<CorePlan>,
    /// The processor of each core.
    pub(super) cpus: Vec<u32>,
    pub(super) huge: HugePages,
    pub(super) idle: IdlePolicy,
    pub(super) clock: TscClock,
    pub(super) pacing: PacingConfig,
    pub(super) mailboxes: Vec<CoreMailbox<Carriers>>,
    pub(super) postboxes: Vec<CorePostbox<Carriers>>,
}

/// Why a core could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum CoreError {
    #[error("{0}")]
    Arena(#[from] ArenaError),
    #[error("cannot set up its queue on the device: {0}")]
    Queue(#[from] io::Error),
    #[error("cannot register its memory with the device: {0}")]
    Attach(#[from] AttachError),
    #[error("{0}")]
    Assembly(#[from] AssemblyError),
}

impl Setup {
    /// Starts one reactor a core. If one does not start, those that did are stopped.
    pub(super) fn spawn<S: QueueSource>(self, volume: &Volume<S>) -> Result<Vec<ReactorHandle>, SpawnError<CoreError>> {
        let Self { plans, cpus, huge, idle, clock, pacing, mailboxes, postboxes } = self;
        let mut reactors = Vec::new();
        for ((plan, cpu), mailbox) in plans.into_iter().zip(cpus).zip(mailboxes) {
            let (volume, peers) = (volume.clone(), postboxes.clone());
            let name = format!("reactor_{cpu}");
            let core = move || core_pipeline(&volume, plan, huge, clock, pacing, mailbox, peers);
            reactors.push(Reactor::spawn(cpu, &name, idle, clock, core)?);
        }
        Ok(reactors)
    }
}

/// Made on the reactor's own thread: a ring belongs to the thread that makes it, and memory that is touched first
/// there lies on its node.
fn core_pipeline<S: QueueSource>(
    volume: &Volume<S>,
    plan: CorePlan,
    huge: HugePages,
    clock: TscClock,
    pacing: PacingConfig,
    mailbox: CoreMailbox<Carriers>,
    peers: Vec<CorePostbox<Carriers>>,
) -> Result<CorePipeline<SpanQueue<S::Queue>, Carriers, TscClock>, CoreError> {
    let mut arena = volume.arena(plan.arena_bytes(), huge)?;
    tracing::info!(core = plan.ownership.core, bytes = plan.arena_bytes(), backing = %arena.backing(), "arena");
    if let Some(note) = arena.note() {
        tracing::warn!(core = plan.ownership.core, "{note}");
    }
    let (shards, staging) = plan.assemble(&mut arena)?;
    arena.seal();
    let mut blocks = volume.queue()?;
    blocks.attach(Arc::clone(arena.region()))?;
    Ok(CorePipeline::new(Parts {
        ownership: plan.ownership,
        blocks,
        fabric: Carriers::new(plan.ownership.core),
        clock,
        shards,
        staging,
        pacing,
        mailbox,
        peers,
        policy: Arc::new(PolicyTable::deny_all()),
    }))
}

/// Waits until every shard has recovered, telling of progress. Large stores take a while; a core that stops
/// answering does not.
pub(super) fn wait_for_recovery(cores: &Cores, shards: u32) -> Result<(), String> {
    let began = Instant::now();
    let mut told = Instant::now();
    loop {
        let snapshots = cores.ask_all(Wants::default());
        if snapshots.len() < usize::from(cores.count()) {
            return Err("a core stopped while its shards recovered; see the log lines above".into());
        }
        let stats = || snapshots.iter().flat_map(|snapshot| &snapshot.shards).map(|(_, stats)| stats.recovery);
        let (records, bytes): (u64, u64) =
            stats().fold((0, 0), |sum, stats| (sum.0 + stats.records, sum.1 + stats.bytes_read));
        if snapshots.iter().all(|snapshot| snapshot.ready) {
            let millis = began.elapsed().as_millis() as u64;
            tracing::info!(shards, records, bytes_read = bytes, millis, "store recovered");
            return Ok(());
        }
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            tracing::info!(records, bytes_read = bytes, "recovering");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
