//! After start-up, turns of a core do not allocate. A counting allocator tells.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use dataplane::Burst;
use dataplane::memory::{Region, RegionSlot};
use dataplane::nvme::null::NullDevice;
use dataplane::nvme::ram::{RamDevice, RamOptions};
use dataplane::nvme::span::{SpanPart, SpanQueue};
use dataplane::nvme::spec::kv::{KeyFields, opcode};
use dataplane::nvme::spec::{Sqe, Status, vendor};
use dataplane::nvme::vfio::model::{Model, ModelOptions};
use dataplane::nvme::vfio::{Controller, ControllerOptions, VfioQueue};
use dataplane::nvme::{AttachError, BlockDone, BlockIo, BlockQueue, Geometry, QueueFull};
use e2e::lone_core::LoneCore;
use pipelines::policy::Durability;

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

impl Counting {
    fn note() {
        if COUNTING.with(Cell::get) {
            COUNT.with(|count| count.set(count.get() + 1));
        }
    }
}

// SAFETY: every call is handed on to the system's allocator unchanged; counting touches only constant-initialised
// thread-local cells without destructors, which do not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Self::note();
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::note();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DEPTH: u64 = 64;
const KEYS: u64 = 512;
const VALUE: u32 = 8192;
/// Each command under way has a place of its own in the client's memory.
const PLACE: u64 = 64 << 10;
const LIST_KEYS: u64 = 32;
const LIST_BYTES: u32 = LIST_KEYS as u32 * vendor::LIST_ENTRY_BYTES;

/// What the driver sends again and again.
struct Load {
    name: &'static str,
    opcode: u8,
    bytes: u32,
    /// Where in its place the data begins: what is not aligned is staged.
    skew: u64,
    /// The most that one window of the data holds.
    fragment: u16,
    /// The statuses that may come back besides success.
    fair: &'static [Status],
}

const fn of(name: &'static str, opcode: u8, bytes: u32) -> Load {
    Load { name, opcode, bytes, skew: 0, fragment: 0, fair: &[Status::KEY_DOES_NOT_EXIST] }
}

const LOADS: &[Load] = &[
    of("store", opcode::STORE, VALUE),
    Load { skew: 1, ..of("store, not aligned", opcode::STORE, VALUE - 5) },
    Load { fragment: 4096, ..of("store, page by page", opcode::STORE, VALUE) },
    of("retrieve", opcode::RETRIEVE, VALUE),
    Load { skew: 3, ..of("retrieve, not aligned", opcode::RETRIEVE, VALUE) },
    Load { fragment: 4096, ..of("retrieve, page by page", opcode::RETRIEVE, VALUE) },
    of("exist", opcode::EXIST, 0),
    of("delete", opcode::DELETE, 0),
    of("store again", opcode::STORE, VALUE),
    of("list", opcode::LIST, 4096),
    of("lookup prefix", vendor::opcode::LOOKUP_PREFIX, LIST_BYTES),
    of("lookup state", vendor::opcode::LOOKUP_STATE, LIST_BYTES),
    of("hint", vendor::opcode::HINT, LIST_BYTES),
    Load { fair: &[Status::INVALID_OPCODE], ..of("nonsense", 0x7C, 0) },
];

fn command(load: &Load, number: u64, cid: u16) -> Sqe {
    let mut sqe = Sqe::new(load.opcode, cid);
    sqe.set_nsid(1);
    sqe.set_dword(10, load.bytes);
    if load.opcode < 0x80 && load.opcode != opcode::LIST {
        sqe.set_key(e2e::key(number % KEYS).bytes());
    }
    if load.opcode == vendor::opcode::HINT {
        sqe.set_dword(11, vendor::HintKind::Demote as u32);
    }
    sqe
}

fn prepare<B: BlockQueue>(core: &LoneCore<B>, load: &Load, number: u64, cid: u16) {
    if load.opcode >= 0xC0 {
        for entry in 0..LIST_KEYS {
            let at = u64::from(cid) * PLACE + load.skew + 16 * entry;
            core.memory.write(at, e2e::key((number + entry) % KEYS).bytes()).unwrap();
        }
    }
}

/// Sends so many commands of a kind, and counts what turns allocate or free meanwhile.
fn drive<B: BlockQueue>(core: &mut LoneCore<B>, load: &Load, commands: u64) -> u64 {
    let mut free: Vec<u16> = (0..DEPTH as u16).collect();
    let (mut sent, mut done, mut good, mut turns) = (0, 0, 0, 0u64);
    COUNT.set(0);
    while done < commands {
        while sent < commands
            && let Some(cid) = free.pop()
        {
            prepare(core, load, sent, cid);
            core.submit(command(load, sent, cid), u64::from(cid) * PLACE + load.skew, load.bytes, load.fragment);
            sent += 1;
        }
        COUNTING.set(true);
        core.poll();
        COUNTING.set(false);
        core.take(|cid, completion| {
            let status = completion.status;
            assert!(status.is_success() || load.fair.contains(&status), "{}: {status}", load.name);
            free.push(cid);
            good += u64::from(status.is_success());
            done += 1;
            turns = 0;
        });
        turns += 1;
        assert!(turns < 10_000_000, "{}: {done} of {commands} commands came back", load.name);
    }
    assert!(good > 0 || load.name == "nonsense", "{}: nothing succeeded, so nothing was tried", load.name);
    COUNT.get()
}

fn allocates_nothing<B: BlockQueue>(blocks: B, class: Durability) {
    let mut core = LoneCore::new(blocks, 4 << 20, class);
    for load in LOADS {
        drive(&mut core, load, 2000);
    }
    for load in LOADS {
        let commands = if load.opcode == opcode::STORE { 20_000 } else { 5000 };
        assert_eq!(drive(&mut core, load, commands), 0, "{}: turns of the core allocate", load.name);
    }
}

/// Small enough that segments are evicted all the time.
fn ram() -> RamDevice {
    RamDevice::new(RamOptions { bytes: 64 << 20, lba_bytes: 4096, volatile_cache: true }).unwrap()
}

#[test]
fn a_core_on_memory_allocates_nothing_in_the_cache_class() {
    allocates_nothing(ram().queue(256, 8), Durability::Cache);
}

#[test]
fn a_core_on_memory_allocates_nothing_in_the_durable_class() {
    allocates_nothing(ram().queue(256, 8), Durability::Durable);
}

/// A queue on a controller in software, which works when it is polled, and is not counted.
struct Stepped {
    queue: VfioQueue,
    model: Model,
}

impl BlockQueue for Stepped {
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
        let counting = COUNTING.replace(false);
        self.model.step();
        COUNTING.set(counting);
        self.queue.poll(done);
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

#[test]
fn a_core_on_two_nvme_controllers_allocates_nothing() {
    let part = |_| {
        let options = ModelOptions { namespaces: vec![32 << 8], ..ModelOptions::default() };
        let model = Model::new(options).unwrap();
        let controller = Controller::open(Arc::new(model.clone()), ControllerOptions::default()).unwrap();
        let queue = controller.namespace(1).unwrap().queue(256, 8).unwrap();
        SpanPart { queue: Stepped { queue, model }, first_byte: 0, bytes: 29 << 20, counters: Arc::default() }
    };
    allocates_nothing(SpanQueue::new((0..2).map(part).collect()).unwrap(), Durability::Durable);
}

#[test]
fn a_core_on_nothing_allocates_nothing() {
    allocates_nothing(NullDevice::new(16 << 10).queue(256, 8), Durability::Cache);
}

/// The counter counts: without this the others would prove nothing.
#[test]
fn an_allocation_is_counted() {
    COUNT.set(0);
    COUNTING.set(true);
    let kept = std::hint::black_box(Box::new(7));
    COUNTING.set(false);
    assert_eq!((COUNT.get(), *kept), (1, 7));
}
