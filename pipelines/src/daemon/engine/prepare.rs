//! From a plan to an engine that only needs to be started. Everything that can be wrong with the plan is found here,
//! before a core runs.

use std::sync::Arc;

use dataplane::core::{Clock, IdlePolicy, ReactorHandle, SpawnError, TscClock};
use dataplane::fabric::Admission;
use dataplane::memory::{ArenaError, HugePages};
use dataplane::nvme::span::SpanQueue;
use dataplane::nvme::spec::vendor::OwnerMap;
use dataplane::nvme::uring::OpenError;
use dataplane::nvme::{AttachError, BlockQueue};

use super::cores::{CoreError, Setup, wait_for_recovery};
use super::device::{FormatPolicy, QueueSource, StoreKind, StoreSource, open_file, open_null, open_ram};
use super::live::{Launch, LiveEngine};
use super::nvme::{self, Controllers, DeviceError};
use super::port::Cores;
use super::reports::{DeviceFacts, StoreFacts};
use super::volume::{Joined, Meters, Opened, Volume, join};
use crate::control::{EngineError, Shape};
use crate::core_pipeline::{CorePlan, core_mailbox};
use crate::dma::pacing::PacingConfig;
use crate::placement::Ownership;
use crate::store::{self, FormatOptions, StoreError, Superblock};

/// How long records of the cache class wait for their commit: what a crash may cost, about twice that, against a flush
/// that holds up every write.
const COMMIT_MICROS: u64 = 500_000;
/// Messages that each queue of a core's mailbox holds.
const MAILBOX: usize = 4096;
/// Staging buffers of a core.
const STAGING_BUFFERS: u32 = 64;
/// Segments are not made smaller than this to suit a small device.
const SMALLEST_SEGMENT: u64 = 4 << 20;
/// The most bytes that one command may move, as controllers announce it.
const MAX_TRANSFER_BYTES: u32 = 16 << 20;

/// What to build.
#[derive(Clone, Debug)]
pub struct EnginePlan {
    /// The processors to run on, one core each, the first of them for core 0.
    pub cpus: Vec<u32>,
    /// The store.
    pub store: StoreSource,
    /// Memory for devices.
    pub huge: HugePages,
    /// What idle cores do.
    pub idle: IdlePolicy,
    /// Bytes that the indexes of all shards may take together; `None` to follow from the store's size.
    pub index_bytes: Option<u64>,
    /// Seeds the hash of the index.
    pub seed: u64,
}

/// Why an engine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The file or device could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The NVMe controller cannot be driven.
    #[error("{name}: {cause}")]
    Device {
        /// The device.
        name: String,
        /// Why not.
        cause: DeviceError,
    },
    /// The devices do not make one store.
    #[error("{name}: {why}")]
    Set {
        /// The device that does not fit.
        name: String,
        /// Why, and what to do.
        why: String,
    },
    /// What it holds is not a store that can be used.
    #[error("{name}: {cause}")]
    Store {
        /// The store.
        name: String,
        /// Why not.
        cause: StoreError,
    },
    /// More cores than shards.
    #[error(
        "{name} was formatted with {shards} shards, which {cores} cores cannot share; use at most {shards} cores \
         (--cpumask), or format it anew with shards={cores}"
    )]
    TooManyCores {
        /// The store.
        name: String,
        /// Its shards.
        shards: u32,
        /// The cores.
        cores: u32,
    },
    /// No memory.
    #[error(transparent)]
    Memory(#[from] ArenaError),
    /// Something of the system is not to be had.
    #[error("{what}: {cause}")]
    System {
        /// What.
        what: &'static str,
        /// Why not.
        cause: std::io::Error,
    },
    /// The scratch memory could not be registered.
    #[error("cannot register memory with the device: {0}")]
    Attach(#[from] AttachError),
}

/// Opens the device, reads or writes the superblock, and puts an engine together. Its cores do not run yet.
///
/// # Errors
/// See [`PrepareError`].
pub fn prepare(
    plan: EnginePlan,
    admission: Arc<dyn Admission>,
) -> Result<Arc<dyn crate::control::Engine>, PrepareError> {
    match plan.store.kind.clone() {
        StoreKind::File { path, create_bytes } => {
            if let Some(bytes) = create_bytes.filter(|_| !path.exists()) {
                // What cannot be formatted must not leave a file behind.
                let settings = format_options(&plan, bytes).superblock(store::UNIT_BYTES, bytes);
                settings.map_err(|cause| PrepareError::Store { name: plan.store.name(), cause })?;
            }
            let device = open_file(&path, create_bytes)?;
            prepare_on(plan, vec![sole("Uring0", device)], Controllers::default(), admission)
        }
        StoreKind::Devices(addresses) => {
            let opened = nvme::open(&addresses, plan.cpus.len());
            let (controllers, opened) = opened.map_err(|(name, cause)| PrepareError::Device { name, cause })?;
            prepare_on(plan, opened, controllers, admission)
        }
        StoreKind::Ram { bytes } => {
            let device =
                open_ram(bytes).map_err(|cause| PrepareError::System { what: "cannot map the store", cause })?;
            prepare_on(plan, vec![sole("Malloc0", device)], Controllers::default(), admission)
        }
        StoreKind::Null { bytes } => {
            prepare_on(plan, vec![sole("Null0", open_null(bytes))], Controllers::default(), admission)
        }
    }
}

/// The one device under a store.
fn sole<S>(name: &str, source: S) -> Opened<S> {
    Opened { name: name.to_owned(), source, meters: Meters::default() }
}

fn prepare_on<S: QueueSource>(
    plan: EnginePlan,
    opened: Vec<Opened<S>>,
    controllers: Controllers,
    admission: Arc<dyn Admission>,
) -> Result<Arc<dyn crate::control::Engine>, PrepareError> {
    let joined = join(&plan, opened)?;
    let superblock = superblock(&plan, &joined)?;
    let volume = joined.volume;
    let controllers = Arc::new(controllers);
    let cores = plan.cpus.len() as u32;
    if cores > superblock.shards {
        let name = plan.store.name();
        return Err(PrepareError::TooManyCores { name, shards: superblock.shards, cores });
    }
    let clock = TscClock::new();
    let map = OwnerMap { shards: superblock.shards, cores };
    let entries = plan.index_bytes.map(|bytes| {
        let each = bytes / u64::from(superblock.shards) / 48;
        each.clamp(1024, u64::from(u32::MAX - 1)) as u32
    });
    let plans = (0..cores as u16)
        .map(|core| CorePlan {
            superblock,
            ownership: Ownership { map, core },
            seed: plan.seed,
            entries,
            commit_ticks: clock.ticks_of_micros(COMMIT_MICROS),
            staging_buffers: STAGING_BUFFERS,
        })
        .collect();
    let what = "cannot make a mailbox";
    let boxes: Result<Vec<_>, _> = (0..cores).map(|_| core_mailbox(MAILBOX)).collect();
    let (postboxes, mailboxes): (Vec<_>, Vec<_>) =
        boxes.map_err(|cause| PrepareError::System { what, cause })?.into_iter().unzip();
    let setup = Setup {
        plans,
        cpus: plan.cpus.clone(),
        huge: plan.huge,
        idle: plan.idle,
        clock,
        pacing: PacingConfig {
            write_window_bytes: 512 << 10,
            write_piece_bytes: 128 << 10,
            quiet_ticks: clock.ticks_of_micros(10_000),
        },
        mailboxes,
        postboxes: postboxes.clone(),
    };
    let devices = DeviceFacts::of(&plan.store.kind, &volume, &controllers);
    let new_port = || Cores::new(postboxes.clone(), Arc::clone(&controllers));
    let launch = launch(setup, volume, new_port(), superblock.shards);
    let shape = Shape {
        tick_rate: clock.ticks_per_second(),
        cores,
        shards: superblock.shards,
        capacity_bytes: superblock.data_bytes()
            * u64::from(superblock.segments_per_shard)
            * u64::from(superblock.shards),
        max_value_bytes: superblock.max_value_bytes,
        max_transfer_bytes: MAX_TRANSFER_BYTES,
        granularity: 4096,
    };
    let facts = facts(&plan, &superblock);
    Ok(Arc::new(LiveEngine::new(shape, clock, facts, devices, plan.cpus, new_port(), admission, launch)))
}

fn launch<S: QueueSource>(setup: Setup, volume: Volume<S>, cores: Cores, shards: u32) -> Launch {
    Box::new(move || {
        let reactors: Vec<ReactorHandle> = setup.spawn(&volume).map_err(spawn_failed)?;
        wait_for_recovery(&cores, shards).map_err(|message| EngineError { errno: libc::EIO, message })?;
        Ok(reactors)
    })
}

fn spawn_failed(error: SpawnError<CoreError>) -> EngineError {
    let errno = match &error {
        SpawnError::Poller { cause: CoreError::Arena(_), .. } => libc::ENOMEM,
        SpawnError::Pin { .. } => libc::EINVAL,
        _ => libc::EIO,
    };
    EngineError { errno, message: error.to_string() }
}

fn facts(plan: &EnginePlan, superblock: &Superblock) -> StoreFacts {
    let hex: String = superblock.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    StoreFacts {
        name: plan.store.name(),
        uuid: format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]),
        shards: superblock.shards,
        segment_bytes: superblock.segment_bytes,
        segments: u64::from(superblock.shards) * u64::from(superblock.segments_per_shard),
    }
}

/// Reads the superblock, or formats as the plan says.
fn superblock<S: QueueSource>(plan: &EnginePlan, joined: &Joined<S>) -> Result<Superblock, PrepareError> {
    let mut arena = joined.volume.arena(store::UNIT_BYTES as usize, HugePages::Off)?;
    let what = "cannot set up a queue on the device";
    let mut blocks = joined.volume.queue().map_err(|cause| PrepareError::System { what, cause })?;
    blocks.attach(Arc::clone(arena.region()))?;
    let scratch = arena.alloc(store::UNIT_BYTES as usize, 4096).ok_or(ArenaError::Empty)?;
    let failed = |cause| PrepareError::Store { name: plan.store.name(), cause };
    let format = |blocks: &mut SpanQueue<S::Queue>| store::format(blocks, &scratch, &joined.options).map_err(failed);
    // Nothing can be read back from a null device, so its superblock is only ever made.
    let null = matches!(plan.store.kind, StoreKind::Null { .. });
    if null || plan.store.format == FormatPolicy::Force {
        return format(&mut blocks);
    }
    match store::load(&mut blocks, &scratch) {
        Err(StoreError::Blank) if plan.store.format == FormatPolicy::IfBlank => format(&mut blocks),
        Ok(found) if joined.uuid.is_some_and(|uuid| uuid != found.uuid) => {
            let why = "its superblock is of another store than its label; format=force begins anew".to_owned();
            Err(PrepareError::Set { name: plan.store.name(), why })
        }
        result => result.map_err(failed),
    }
}

/// Segments as the plan says, or so large that a shard has at least sixteen; values so long that a segment holds
/// at least two.
pub(super) fn format_options(plan: &EnginePlan, device_bytes: u64) -> FormatOptions {
    let shards = plan.store.shards.unwrap_or(plan.cpus.len() as u32);
    let mut options = FormatOptions::new(new_uuid(plan.seed), shards);
    options.segment_bytes = plan.store.segment_bytes.unwrap_or_else(|| {
        let mut bytes = options.segment_bytes;
        while bytes > SMALLEST_SEGMENT && device_bytes / bytes / u64::from(shards.max(1)) < 16 {
            bytes /= 2;
        }
        bytes
    });
    options.max_value_bytes = options.max_value_bytes.min((options.segment_bytes / 2) as u32);
    options
}

fn new_uuid(seed: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..].copy_from_slice(&seed.rotate_left(29).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    // Version 4, variant 1 (RFC 9562).
    bytes[6] = (bytes[6] & 0x0F) | 0x40;
    bytes[8] = (bytes[8] & 0x3F) | 0x80;
    bytes
}
