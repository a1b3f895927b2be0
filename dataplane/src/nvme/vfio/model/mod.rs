//! An NVMe controller in software, for tests and measurements: registers, admin commands, I/O queues, memory that it can
//! reach by I/O virtual addresses only. It keeps to the specification, and holds the driver to it, unless it is told to
//! lie ([`Lies`], [`Fault`]).
//!
//! Registers and admin commands act at once, inside the driver's own calls. I/O queues are worked by [`Model::step`],
//! by hand or on a thread ([`ModelThread`]).

mod admin;
mod data;
mod function;
mod host;
mod io;
mod lies;
mod media;
mod structures;
mod thread;

use std::collections::VecDeque;
use std::io as std_io;
use std::sync::{Arc, Mutex};

pub use lies::{Fault, Lies};
pub use thread::ModelThread;

use super::lock;
use super::pci::DoorbellArea;
use crate::memory::{Region, RegionSlot};
use admin::AdminSide;
use host::HostMemory;
use io::IoPair;
use media::Media;

/// What no doorbell is ever written with: it stands in the register until the next write.
const SILENT: u32 = u32::MAX;
/// Where doorbells lie in their memory: as far from its beginning as from that of BAR0.
const FIRST_DOORBELL: u64 = 0x1000;
const NO_SLOT: RegionSlot = RegionSlot(u16::MAX);
/// Violations that are kept.
const KEPT_VIOLATIONS: usize = 64;

/// What a model should look like.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Capacity of each namespace in logical blocks; as many namespaces as there are entries, numbered from 1.
    pub namespaces: Vec<u64>,
    /// Bytes in a logical block: a power of two from 512 on.
    pub lba_bytes: u32,
    /// Largest transfer: 4096 bytes shifted left by this; 0 for no limit.
    pub mdts: u8,
    /// Boundary that reads and writes had better not cross, in logical blocks; 0 for none.
    pub optimal_boundary: u16,
    /// I/O queues that it has.
    pub queues: u16,
    /// Entries of its longest queue.
    pub queue_entries: u16,
    /// Bytes between doorbells: 4 shifted left by this, up to 4.
    pub doorbell_stride: u8,
    /// Whether it takes SGLs.
    pub sgl: bool,
    /// Whether it has shadow doorbells.
    pub shadow_doorbells: bool,
    /// Whether it has a volatile write cache.
    pub volatile_cache: bool,
    /// Whether it takes Dataset Management.
    pub deallocate: bool,
    /// How many regions it may reach at once.
    pub mappings: u32,
    /// Reclaim unit handles of each namespace; 0 for a controller without Flexible Data Placement.
    pub placement_handles: u16,
    /// Placement identifier of the first of them; the others follow, with gaps.
    pub first_placement: u16,
    /// Aborts that it takes at once, from 1 on.
    pub abort_limit: u16,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            namespaces: vec![4096],
            lba_bytes: 4096,
            mdts: 8,
            optimal_boundary: 0,
            queues: 8,
            queue_entries: 1024,
            doorbell_stride: 0,
            sgl: false,
            shadow_doorbells: false,
            volatile_cache: true,
            deallocate: true,
            mappings: 1024,
            placement_handles: 0,
            first_placement: 0x4000,
            abort_limit: 4,
        }
    }
}

/// What the model did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelCounters {
    /// I/O commands fetched.
    pub commands: u64,
    /// Doorbell registers found written.
    pub doorbells: u64,
    /// I/O commands whose data was described by an SGL.
    pub sgls: u64,
    /// I/O commands whose data was described by a PRP list.
    pub prp_lists: u64,
    /// Ranges deallocated.
    pub deallocations: u64,
    /// Writes with force unit access.
    pub forced: u64,
    /// Resets of the function.
    pub function_resets: u64,
    /// Admin commands fetched.
    pub admin_commands: u64,
    /// Times that the controller was enabled.
    pub enables: u64,
}

/// The controller's registers and what they stand for.
#[derive(Debug, Default)]
struct Registers {
    command: u16,
    configuration: u32,
    status: u32,
    admin_attributes: u32,
    admin_sq: u64,
    admin_cq: u64,
    /// Looks at CSTS until it will have stopped; it goes on working meanwhile.
    stopping: u32,
}

struct Core {
    options: ModelOptions,
    lies: Lies,
    registers: Registers,
    host: HostMemory,
    media: Vec<Media>,
    damaged: Vec<(u64, u64)>,
    admin: AdminSide,
    /// By queue identifier, less one.
    pairs: Vec<Option<IoPair>>,
    /// Completion queues that were made, by identifier, less one: address and entries.
    completion_queues: Vec<Option<(u64, u32)>>,
    shadow: Option<(u64, u64)>,
    faults: VecDeque<Fault>,
    removed: bool,
    /// CSTS.NSSRO.
    subsystem_was_reset: bool,
    power_cycles: u64,
    unsafe_shutdowns: u64,
    counters: ModelCounters,
    violations: Vec<String>,
    /// Blocks written to each reclaim unit handle.
    placed: Vec<u64>,
    doorbells: Arc<Region>,
}

/// The controller. Clones are the same one.
#[derive(Clone)]
pub struct Model {
    core: Arc<Mutex<Core>>,
    doorbells: DoorbellArea,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").finish_non_exhaustive()
    }
}

impl Model {
    /// Bytes of doorbells.
    pub const DOORBELL_BYTES: u64 = 16384;

    /// A controller that is there and disabled. Its blocks are zeros.
    ///
    /// # Errors
    /// If there is no memory for its blocks.
    pub fn new(options: ModelOptions) -> std_io::Result<Self> {
        let doorbells = Arc::new(Region::shared((FIRST_DOORBELL + Self::DOORBELL_BYTES) as usize, NO_SLOT)?);
        let media = |blocks: &u64| Media::new((*blocks * u64::from(options.lba_bytes)) as usize);
        let media = options.namespaces.iter().map(media).collect::<std_io::Result<_>>()?;
        let placed = vec![0; usize::from(options.placement_handles)];
        let mut core = Core {
            pairs: (0..options.queues).map(|_| None).collect(),
            completion_queues: vec![None; usize::from(options.queues)],
            options,
            lies: Lies::default(),
            registers: Registers::default(),
            host: HostMemory::default(),
            media,
            damaged: Vec::new(),
            admin: AdminSide::default(),
            shadow: None,
            faults: VecDeque::new(),
            removed: false,
            subsystem_was_reset: false,
            power_cycles: 1,
            unsafe_shutdowns: 0,
            counters: ModelCounters::default(),
            violations: Vec::new(),
            placed,
            doorbells: Arc::clone(&doorbells),
        };
        core.silence_doorbells();
        Ok(Self {
            core: Arc::new(Mutex::new(core)),
            doorbells: DoorbellArea { region: doorbells, offset: FIRST_DOORBELL },
        })
    }

    /// Works the I/O queues: up to 64 commands each. Gives how many commands it completed, which is zero when there was
    /// nothing to do.
    #[inline(never)]
    pub fn step(&self) -> usize {
        lock(&self.core).step()
    }

    /// Changes the lies that it tells from now on.
    pub fn lie(&self, change: impl FnOnce(&mut Lies)) {
        change(&mut lock(&self.core).lies);
    }

    /// Changes what it is, as new firmware or a format would. Registers and structures follow at once; queues that exist
    /// keep what they were made with. Blocks stay as they are.
    pub fn alter(&self, change: impl FnOnce(&mut ModelOptions)) {
        change(&mut lock(&self.core).options);
    }

    /// Makes the next I/O commands that it fetches end wrongly, one for each call.
    pub fn inject(&self, fault: Fault) {
        lock(&self.core).faults.push_back(fault);
    }

    /// Carries out the commands that it lost, after all: [`Fault::Lose`].
    pub fn release(&self) {
        lock(&self.core).release();
    }

    /// Makes blocks of the first namespace unreadable, from `first` to the one before `end`.
    pub fn damage(&self, first: u64, end: u64) {
        lock(&self.core).damaged.push((first, end));
    }

    /// Sets CSTS.CFS: it gives up, until it is reset.
    pub fn fail(&self) {
        lock(&self.core).registers.status |= 0b10;
    }

    /// Takes its power away for a moment: what it had in its volatile cache is lost, and it is disabled.
    pub fn lose_power(&self) {
        let mut core = lock(&self.core);
        core.power_cycles += 1;
        core.unsafe_shutdowns += 1;
        core.subsystem_was_reset = false;
        core.lose_cache();
    }

    /// Resets it as somebody else may: another controller of its subsystem, or a management controller. It loses its
    /// volatile cache with it, as it may, and is disabled.
    pub fn reset_subsystem(&self) {
        let mut core = lock(&self.core);
        core.subsystem_was_reset = true;
        core.lose_cache();
    }

    /// Pulls it: registers read as ones, and it touches no memory any more.
    pub fn remove(&self) {
        lock(&self.core).removed = true;
    }

    /// Sends an asynchronous event, if the driver asked to be told; DW0 of its completion. Whether it did.
    #[must_use]
    pub fn send_event(&self, dword0: u32) -> bool {
        lock(&self.core).send_event(dword0)
    }

    /// What it did so far.
    #[must_use]
    pub fn counters(&self) -> ModelCounters {
        lock(&self.core).counters
    }

    /// What the driver did against the specification, or what would have gone wrong on the bus. Empty for a good driver.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        lock(&self.core).violations.clone()
    }

    /// Blocks that were written with a hint, by reclaim unit handle.
    #[must_use]
    pub fn placed(&self) -> Vec<u64> {
        lock(&self.core).placed.clone()
    }

    /// Regions that it can reach.
    #[must_use]
    pub fn mappings(&self) -> usize {
        lock(&self.core).host.len()
    }

    /// First address and bytes of each region that it can reach.
    #[must_use]
    pub fn windows(&self) -> Vec<(u64, u64)> {
        lock(&self.core).host.windows()
    }

    /// Whether it knows an I/O completion queue of this identifier.
    #[must_use]
    pub fn has_completion_queue(&self, qid: u16) -> bool {
        lock(&self.core).completion_queues.get(usize::from(qid) - 1).is_some_and(Option::is_some)
    }

    /// I/O commands that it fetched and neither completed nor aborted.
    #[must_use]
    pub fn held(&self) -> usize {
        lock(&self.core).pairs.iter().flatten().map(|pair| pair.held.len()).sum()
    }

    /// Looks at the blocks of a namespace (from 1 on) behind the queues' backs. `None` if they do not lie inside.
    #[must_use]
    pub fn peek(&self, nsid: u32, offset: u64, into: &mut [u8]) -> Option<()> {
        lock(&self.core).media.get(nsid.checked_sub(1)? as usize)?.blocks.read(offset, into)
    }
}

impl Core {
    fn violation(&mut self, what: String) {
        if self.violations.len() < KEPT_VIOLATIONS {
            self.violations.push(what);
        }
    }

    fn silence_doorbells(&mut self) {
        let _ = self.doorbells.fill(FIRST_DOORBELL, Model::DOORBELL_BYTES as usize, 0xFF);
    }

    fn enabled(&self) -> bool {
        self.registers.status & 0b11 == 1
    }

    fn bus_master(&self) -> bool {
        self.registers.command & super::pci::config::COMMAND_BUS_MASTER != 0
    }

    /// Reads the host's memory, as a bus would let it.
    fn dma_read(&mut self, address: u64, into: &mut [u8]) -> Option<()> {
        let read = if self.bus_master() { self.host.read(address, into) } else { None };
        if read.is_none() {
            self.violation(format!("read of {} bytes at {address:#x}, which is not mapped", into.len()));
        }
        read
    }

    /// Writes the host's memory.
    fn dma_write(&mut self, address: u64, from: &[u8]) -> Option<()> {
        let written = if self.bus_master() { self.host.write(address, from) } else { None };
        if written.is_none() {
            self.violation(format!("write of {} bytes at {address:#x}, which is not mapped", from.len()));
        }
        written
    }

    fn dma_words<const N: usize>(&mut self, address: u64) -> Option<[u64; N]> {
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            let mut bytes = [0; 8];
            self.dma_read(address + 8 * index as u64, &mut bytes)?;
            *word = u64::from_le_bytes(bytes);
        }
        Some(words)
    }

    fn lose_cache(&mut self) {
        self.registers = Registers::default();
        self.forget_queues();
        self.media.iter_mut().for_each(Media::lose_power);
    }

    /// Everything that a reset of the controller ends.
    fn forget_queues(&mut self) {
        self.pairs.iter_mut().for_each(|pair| *pair = None);
        self.completion_queues.fill(None);
        self.shadow = None;
        self.admin = AdminSide::default();
        self.silence_doorbells();
    }
}
