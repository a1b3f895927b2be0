//! Two cores' pipelines in this process, turned by hand. Their device can be made to stand still.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use dataplane::Burst;
use dataplane::core::{Clock, ManualClock, Poll, Poller};
use dataplane::memory::{Region, RegionSlot, SlotId};
use dataplane::nvme::ram::{RamDevice, RamOptions, RamQueue};
use dataplane::nvme::spec::Sqe;
use dataplane::nvme::spec::vendor::OwnerMap;
use dataplane::nvme::{AttachError, BlockDone, BlockIo, BlockQueue, Geometry, QueueFull};
use pipelines::core_pipeline::{CorePipeline, CorePostbox, core_mailbox};
use pipelines::placement::Ownership;
use pipelines::policy::Durability;
use simulator::fabric::{SimData, SimFabric};

use crate::lone_core::{CLIENT_SLOT, SESSION, client_memory, format, policy, start};

const MAP: OwnerMap = OwnerMap { shards: 2, cores: 2 };
/// Messages in each queue of a mailbox.
const MAILBOX: usize = 64;

/// Two cores with a shard each, and their one client, whose namespace 1 is of the cache class.
pub struct CorePair {
    cores: Vec<CorePipeline<Stalling, SimFabric, ManualClock>>,
    clock: ManualClock,
    /// The ways to their mailboxes.
    pub postboxes: Vec<CorePostbox<SimFabric>>,
    /// The client's memory.
    pub memory: Arc<Region>,
    stands_still: Rc<Cell<bool>>,
}

impl CorePair {
    /// On an empty store in memory.
    ///
    /// # Panics
    /// If there is no memory.
    #[must_use]
    pub fn new() -> Self {
        let device = RamDevice::new(RamOptions { bytes: 64 << 20, lba_bytes: 4096, volatile_cache: false }).unwrap();
        let superblock = format(&mut device.queue(256, 8), 4 << 20, MAP.shards);
        let (clock, memory, stands_still) = (ManualClock::new(), client_memory(), Rc::new(Cell::new(false)));
        let (postboxes, mailboxes): (Vec<CorePostbox<SimFabric>>, Vec<_>) =
            (0..MAP.cores).map(|_| core_mailbox(MAILBOX).unwrap()).unzip();
        let policy = policy(Durability::Cache);
        let cores = (0u16..).zip(mailboxes).map(|(core, mailbox)| {
            let blocks = Stalling { queue: device.queue(256, 8), stands_still: Rc::clone(&stands_still) };
            let (ownership, mail) = (Ownership { map: MAP, core }, (mailbox, postboxes.clone()));
            start(blocks, superblock, ownership, mail, Arc::clone(&policy), (&clock, &memory))
        });
        let mut it = Self { cores: cores.collect(), clock, postboxes, memory, stands_still };
        crate::await_that("the empty store has recovered", || {
            it.turn(0);
            it.turn(1);
            it.cores.iter().all(CorePipeline::is_ready)
        });
        it
    }

    /// The client submits a command to a core, whose data lies at the begin of its memory.
    pub fn submit(&mut self, core: usize, sqe: Sqe, bytes: u32) {
        let data = SimData { slot: CLIENT_SLOT, offset: 0, bytes, position: 0, fragment: 0 };
        self.cores[core].fabric_mut().submit(SlotId::from_bits(0), SESSION, sqe, data);
    }

    /// A turn of one core, a microsecond after the last.
    pub fn turn(&mut self, core: usize) -> Poll {
        self.clock.advance_micros(1);
        let now = self.clock.now();
        self.cores[core].poll(now)
    }

    /// What a core has completed, by command identifier.
    pub fn take(&mut self, core: usize) -> Vec<(u16, dataplane::fabric::Completion)> {
        self.cores[core].fabric_mut().completions.drain(..).map(|(_, cid, completion)| (cid, completion)).collect()
    }

    /// Has the device end nothing, or go on.
    pub fn stand_still(&self, stands_still: bool) {
        self.stands_still.set(stands_still);
    }

    /// Which core a key belongs to.
    #[must_use]
    pub fn owner(key: &kvplane::Key) -> u32 {
        MAP.owner_core(key.tag())
    }
}

impl Default for CorePair {
    fn default() -> Self {
        Self::new()
    }
}

/// A queue that ends nothing while it stands still.
struct Stalling {
    queue: RamQueue,
    stands_still: Rc<Cell<bool>>,
}

impl BlockQueue for Stalling {
    fn geometry(&self) -> &Geometry {
        self.queue.geometry()
    }
    fn room(&self) -> usize {
        self.queue.room()
    }
    fn push(&mut self, io: BlockIo) -> Result<(), QueueFull> {
        self.queue.push(io)
    }
    fn ring(&mut self) {
        self.queue.ring();
    }
    fn poll(&mut self, done: &mut Burst<BlockDone>) {
        if !self.stands_still.get() {
            self.queue.poll(done);
        }
    }
    fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }
    fn attach(&mut self, region: Arc<Region>) -> Result<(), AttachError> {
        self.queue.attach(region)
    }
    fn detach(&mut self, slot: RegionSlot) -> Result<(), AttachError> {
        self.queue.detach(slot)
    }
}
