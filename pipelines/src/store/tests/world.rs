//! One shard on one device, with buffers for values, driven step by step.

use std::cell::RefCell;
use std::rc::Rc;

use dataplane::Burst;
use dataplane::core::Ticks;
use dataplane::memory::{Arena, ArenaBuffer, HugePages, RegionSlot};
use dataplane::nvme::spec::kv::{Key, StoreOptions};
use dataplane::nvme::{BlockIo, BlockOp, BlockQueue};

use super::device::{CrashQueue, Medium};
use crate::store::{
    BlockId, Class, Extent, FormatOptions, Found, NewBlock, Published, Refusal, Shard, ShardConfig, format, load,
};

pub const TOKEN_BASE: u64 = 1 << 56;
pub const NAMESPACE: u32 = 7;
const VALUE_BUFFERS: usize = 4;
pub const MAX_VALUE: u32 = 48 << 10;

pub fn options() -> FormatOptions {
    FormatOptions {
        uuid: *b"a store of tests",
        shards: 1,
        segment_bytes: 256 << 10,
        mean_value_bytes: 2 << 10,
        max_value_bytes: MAX_VALUE,
    }
}

pub fn id(number: u64) -> BlockId {
    id_in(NAMESPACE, number)
}

pub fn id_in(namespace: u32, number: u64) -> BlockId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    BlockId::new(namespace, Key::new(bytes), 16)
}

/// The bytes of a version of a block: every word names both, so that torn or foreign bytes show.
pub fn value_of(id: &BlockId, version: u64, bytes: u32) -> Vec<u8> {
    let name = id.key.tag() as u64 ^ u64::from(id.space.bits()) << 32;
    let words = (0..bytes.div_ceil(16) as u64).flat_map(|at| {
        let mut both = [0; 16];
        both[..8].copy_from_slice(&(name.wrapping_add(at << 48)).to_le_bytes());
        both[8..].copy_from_slice(&version.to_le_bytes());
        both
    });
    words.take(bytes as usize).collect()
}

/// A device write of a value that is under way.
pub struct Storing {
    pub id: BlockId,
    pub version: u64,
    pub class: Class,
    extent: Extent,
    buffer: usize,
    state: Option<bool>,
}

pub struct World {
    pub medium: Rc<RefCell<Medium>>,
    pub blocks: CrashQueue,
    pub shard: Shard,
    values: Vec<ArenaBuffer>,
    free: Vec<usize>,
    pub storing: Vec<Storing>,
    pub now: u64,
    pub ended: Vec<(u64, bool)>,
    read_state: Option<bool>,
    /// Whether what was published last found an older value.
    pub superseded: bool,
}

impl World {
    /// A freshly formatted store.
    pub fn new(segments: u64, volatile: bool, seed: u64) -> Self {
        Self::with_options(segments, &options(), volatile, seed)
    }

    /// As [`new`](Self::new), cut otherwise.
    pub fn with_options(segments: u64, options: &FormatOptions, volatile: bool, seed: u64) -> Self {
        let medium = Medium::new((1 << 20) + segments * options.segment_bytes, volatile, seed);
        Self::format_with(&medium, options);
        Self::open(&medium)
    }

    pub fn format(medium: &Rc<RefCell<Medium>>) {
        Self::format_with(medium, &options());
    }

    fn format_with(medium: &Rc<RefCell<Medium>>, options: &FormatOptions) {
        let (mut blocks, mut buffers, _) = Self::parts(medium);
        format(&mut blocks, &buffers.remove(0), options).unwrap();
    }

    fn parts(medium: &Rc<RefCell<Medium>>) -> (CrashQueue, Vec<ArenaBuffer>, ArenaBuffer) {
        let need = Shard::<()>::STAGING_BYTES as usize;
        let mut arena =
            Arena::new(need + (VALUE_BUFFERS + 1) * MAX_VALUE as usize, HugePages::Off, RegionSlot(0)).unwrap();
        let staging = arena.alloc(need, 4096).unwrap();
        let values = (0..=VALUE_BUFFERS).map(|_| arena.alloc(MAX_VALUE as usize, 4096).unwrap()).collect();
        let mut blocks = CrashQueue::new(medium);
        blocks.attach(arena.region().clone()).unwrap();
        (blocks, values, staging)
    }

    /// Opens whatever stands on the medium. Recovery has not begun.
    pub fn open(medium: &Rc<RefCell<Medium>>) -> Self {
        let (mut blocks, values, staging) = Self::parts(medium);
        let superblock = load(&mut blocks, &values[0]).unwrap();
        let seed = medium.borrow_mut().dice.next();
        let config =
            ShardConfig { entries: 2000, commit_ticks: 50, ..ShardConfig::new(superblock, 0, TOKEN_BASE, seed) };
        let shard = Shard::open(config, staging).unwrap();
        Self {
            medium: Rc::clone(medium),
            blocks,
            shard,
            // The last buffer is for reads.
            free: (0..VALUE_BUFFERS).collect(),
            values,
            storing: Vec::new(),
            now: 0,
            ended: Vec::new(),
            read_state: None,
            superseded: false,
        }
    }

    /// One turn of a reactor.
    pub fn turn(&mut self) {
        self.now += 1;
        self.shard.poll(Ticks(self.now), &mut self.blocks);
        self.complete();
    }

    fn complete(&mut self) {
        let mut done = Burst::new();
        self.blocks.ring();
        self.blocks.poll(&mut done);
        for ended in done {
            match ended.token {
                token if token >= TOKEN_BASE => self.shard.done(token, ended.result, &mut self.blocks),
                token if token < VALUE_BUFFERS as u64 => {
                    let storing = self.storing.iter_mut().find(|storing| storing.buffer as u64 == token).unwrap();
                    storing.state = Some(ended.result.is_ok());
                }
                _ => self.read_state = Some(ended.result.is_ok()),
            }
        }
        let mut tickets = Burst::new();
        self.shard.committed(&mut tickets);
        self.ended.extend(tickets);
    }

    pub fn until(&mut self, what: &str, mut reached: impl FnMut(&mut Self) -> bool) {
        for _ in 0..200_000 {
            if reached(self) {
                return;
            }
            self.turn();
        }
        panic!("never: {what}; {:?}", self.shard.stats());
    }

    pub fn recover(&mut self) {
        self.until("recovery", |world| world.shard.is_ready());
    }

    /// Begins to store a value: reserves and writes.
    pub fn begin(&mut self, id: BlockId, version: u64, bytes: u32, class: Class) -> Result<(), Refusal> {
        let Some(&buffer) = self.free.last() else { return Err(Refusal::Wait) };
        if self.blocks.room() == 0 {
            return Err(Refusal::Wait);
        }
        let extent = self.shard.reserve(id.space.namespace(), bytes, class, None)?;
        self.free.pop();
        let value = value_of(&id, version, bytes);
        self.values[buffer].write(0, &value).unwrap();
        let memory = self.values[buffer].sub(0, extent.blocks() * 512).unwrap();
        let io = BlockIo {
            op: BlockOp::write(false),
            lba: extent.lba(),
            blocks: extent.blocks(),
            memory,
            token: buffer as u64,
        };
        self.blocks.push(io).unwrap();
        self.storing.push(Storing { id, version, class, extent, buffer, state: None });
        Ok(())
    }

    /// Publishes a value whose write ended, with its version as the ticket.
    pub fn publish(&mut self) -> Option<(BlockId, u64, Class, Option<Published>)> {
        let at = self.storing.iter().position(|storing| storing.state.is_some())?;
        let storing = self.storing.swap_remove(at);
        self.free.push(storing.buffer);
        let Storing { id, version, class, extent, state, .. } = storing;
        if state == Some(false) {
            self.shard.abandon(extent);
            return Some((id, version, class, None));
        }
        self.superseded = self.find(&id).is_some();
        let block = NewBlock {
            id,
            hash: self.shard.hash(&id),
            bytes: extent.bytes(),
            checksum: version,
            parent: version << 1,
            class,
            condition: StoreOptions::default(),
        };
        Some((id, version, class, Some(self.shard.publish(extent, block, version))))
    }

    /// Stores a value and waits for its acknowledgement.
    pub fn put(&mut self, id: BlockId, version: u64, bytes: u32, class: Class) -> bool {
        self.until("room", |world| world.begin(id, version, bytes, class).is_ok());
        let mut told = None;
        self.until("publish", |world| {
            told = world.publish();
            told.is_some()
        });
        match told.and_then(|(.., published)| published) {
            Some(Published::Visible) => true,
            Some(Published::Pending) => self.ticket(version),
            _ => false,
        }
    }

    pub fn ticket(&mut self, ticket: u64) -> bool {
        self.until("ticket", |world| world.ended.iter().any(|ended| ended.0 == ticket));
        self.ended.iter().any(|&(name, ok)| name == ticket && ok)
    }

    pub fn find(&self, id: &BlockId) -> Option<Found> {
        self.shard.find(self.shard.hash(id), id)
    }

    /// Reads a value through a hold, with other work going on meanwhile. `None` if the device failed.
    pub fn read(&mut self, found: &Found) -> Option<Vec<u8>> {
        let hold = self.shard.hold(found);
        self.until("room to read", |world| world.blocks.room() > 0);
        let buffer = VALUE_BUFFERS;
        let memory = self.values[buffer].sub(0, found.blocks() * 512).unwrap();
        let io = BlockIo { op: BlockOp::Read, lba: found.lba(), blocks: found.blocks(), memory, token: 1 << 20 };
        self.read_state = None;
        self.blocks.push(io).unwrap();
        self.until("read", |world| world.read_state.is_some());
        let mut bytes = vec![0; found.bytes as usize];
        self.values[buffer].read(0, &mut bytes).unwrap();
        self.shard.release(hold);
        self.read_state.take().unwrap().then_some(bytes)
    }

    /// Ends everything that is under way without power.
    pub fn crash(self) -> Rc<RefCell<Medium>> {
        let Self { medium, blocks, shard, storing, .. } = self;
        let mut shard = shard;
        storing.into_iter().for_each(|storing| shard.abandon(storing.extent));
        blocks.crash();
        medium
    }

    /// Shuts down in order.
    pub fn shut_down(mut self) -> Rc<RefCell<Medium>> {
        for _ in 0..200_000 {
            self.now += 1;
            if self.shard.drain(Ticks(self.now), &mut self.blocks) {
                return self.crash();
            }
            self.complete();
        }
        panic!("the drain never ends: {:?}", self.shard.stats());
    }
}
