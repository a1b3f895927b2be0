//! A device with a volatile cache that can lose power: what was not flushed is lost or kept block by block.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use dataplane::Burst;
use dataplane::memory::{Region, RegionSlot};
use dataplane::nvme::{AttachError, BlockDone, BlockError, BlockIo, BlockOp, BlockQueue, Geometry, QueueFull};

/// A small random number generator (xorshift64*, Vigna 2016): the same figures for the same seed for ever.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// An error that says nothing of the medium, and one that does.
pub const EIO: i32 = 5;
pub const ENODATA: i32 = 61;

/// Says of a command whether it fails.
type Fails = Box<dyn FnMut(&BlockIo) -> bool>;

/// The medium. Outlives the queues.
pub struct Medium {
    geometry: Geometry,
    durable: Vec<u8>,
    /// Versions of a block that are in the cache, oldest first, with the time at which their write completed.
    cached: HashMap<u64, Vec<(u64, Vec<u8>)>>,
    time: u64,
    pub dice: Dice,
    /// Percent of commands that fail.
    pub errors: u64,
    /// Commands that fail if this says so.
    pub fails: Option<Fails>,
    /// With which system error.
    pub error: i32,
    pub reads: u64,
    /// Blocks that are gone for good.
    pub gone: Option<std::ops::Range<u64>>,
}

impl Medium {
    pub fn new(bytes: u64, volatile_cache: bool, seed: u64) -> Rc<RefCell<Self>> {
        let lba_bytes = 512;
        let geometry = Geometry {
            lba_bytes,
            blocks: bytes / u64::from(lba_bytes),
            memory_align: 512,
            max_transfer: 1 << 20,
            volatile_cache,
            deallocate: true,
            depth: 16,
        };
        Rc::new(RefCell::new(Self {
            geometry,
            durable: vec![0; bytes as usize],
            cached: HashMap::new(),
            time: 0,
            dice: Dice::new(seed),
            errors: 0,
            fails: None,
            error: EIO,
            reads: 0,
            gone: None,
        }))
    }

    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.durable
    }

    fn read(&self, lba: u64, block: &mut [u8]) {
        match self.cached.get(&lba).and_then(|versions| versions.last()) {
            Some((_, bytes)) => block.copy_from_slice(bytes),
            None => block.copy_from_slice(&self.durable[lba as usize * block.len()..][..block.len()]),
        }
    }

    fn write(&mut self, lba: u64, block: &[u8], through: bool) {
        if through || !self.geometry.volatile_cache {
            self.cached.remove(&lba);
            self.durable[lba as usize * block.len()..][..block.len()].copy_from_slice(block);
        } else {
            self.cached.entry(lba).or_default().push((self.time, block.to_vec()));
        }
    }

    fn flush(&mut self, before: u64) {
        let size = self.geometry.lba_bytes as usize;
        for (lba, versions) in &mut self.cached {
            let done = versions.iter().take_while(|(time, _)| *time < before).count();
            if let Some((_, bytes)) = versions.drain(..done).next_back() {
                self.durable[*lba as usize * size..][..size].copy_from_slice(&bytes);
            }
        }
        self.cached.retain(|_, versions| !versions.is_empty());
    }

    /// Power goes: of each block any version may be left that was not flushed.
    pub fn crash(&mut self) {
        let size = self.geometry.lba_bytes as usize;
        let mut cached: Vec<_> = self.cached.drain().collect();
        cached.sort_unstable_by_key(|(lba, _)| *lba);
        let mood = self.dice.below(3);
        for (lba, versions) in cached {
            let pick = match mood {
                0 => 0,
                1 => versions.len() as u64,
                _ => self.dice.below(versions.len() as u64 + 1),
            };
            if let Some((_, bytes)) = (pick as usize).checked_sub(1).map(|at| &versions[at]) {
                self.durable[lba as usize * size..][..size].copy_from_slice(bytes);
            }
        }
    }
}

struct Sent {
    io: BlockIo,
    pushed: u64,
}

/// A queue pair of the medium. Completes in any order.
pub struct CrashQueue {
    medium: Rc<RefCell<Medium>>,
    geometry: Geometry,
    region: Option<Arc<Region>>,
    sent: Vec<Sent>,
}

impl CrashQueue {
    pub fn new(medium: &Rc<RefCell<Medium>>) -> Self {
        let geometry = medium.borrow().geometry;
        Self { medium: Rc::clone(medium), geometry, region: None, sent: Vec::new() }
    }

    fn carry_out(&self, medium: &mut Medium, sent: &Sent, keep: impl Fn(&mut Dice) -> bool) {
        let size = self.geometry.lba_bytes as usize;
        let region = self.region.as_ref().expect("attached");
        let io = &sent.io;
        let mut block = vec![0; size];
        for at in 0..u64::from(io.blocks) {
            let offset = io.memory.address().wrapping_sub(region.base()) + at * size as u64;
            match io.op {
                BlockOp::Read => {
                    medium.read(io.lba + at, &mut block);
                    region.write(offset, &block).expect("inside");
                }
                BlockOp::Write { fua, .. } => {
                    if keep(&mut medium.dice) {
                        region.read(offset, &mut block).expect("inside");
                        medium.write(io.lba + at, &block, fua);
                    }
                }
                BlockOp::Deallocate => {
                    if keep(&mut medium.dice) {
                        medium.write(io.lba + at, &vec![0xDD; size], true);
                    }
                }
                BlockOp::Flush => {}
            }
        }
    }

    /// Power goes with commands under way: each of their blocks may or may not have been written.
    pub fn crash(mut self) {
        let medium = Rc::clone(&self.medium);
        let mut medium = medium.borrow_mut();
        for sent in std::mem::take(&mut self.sent) {
            if !matches!(sent.io.op, BlockOp::Read | BlockOp::Flush) {
                self.carry_out(&mut medium, &sent, |dice| dice.chance(50));
            }
        }
        medium.crash();
    }
}

impl BlockQueue for CrashQueue {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn room(&self) -> usize {
        self.geometry.depth as usize - self.sent.len()
    }

    fn push(&mut self, io: BlockIo) -> Result<(), QueueFull> {
        if self.room() == 0 {
            return Err(QueueFull(io));
        }
        assert!(io.lba + u64::from(io.blocks) <= self.geometry.blocks, "{io:?}");
        let moves = matches!(io.op, BlockOp::Read | BlockOp::Write { .. });
        assert_eq!(io.memory.bytes(), if moves { io.blocks * self.geometry.lba_bytes } else { 0 }, "{io:?}");
        let mut medium = self.medium.borrow_mut();
        medium.time += 1;
        let pushed = medium.time;
        drop(medium);
        self.sent.push(Sent { io, pushed });
        Ok(())
    }

    fn ring(&mut self) {}

    fn poll(&mut self, done: &mut Burst<BlockDone>) {
        let medium = Rc::clone(&self.medium);
        let mut medium = medium.borrow_mut();
        while !self.sent.is_empty() && !done.is_full() && !medium.dice.chance(20) {
            let at = medium.dice.below(self.sent.len() as u64) as usize;
            let sent = self.sent.swap_remove(at);
            medium.time += 1;
            let errors = medium.errors;
            let mut fails = medium.fails.take();
            let failed = medium.dice.chance(errors) || fails.as_mut().is_some_and(|fails| fails(&sent.io));
            medium.fails = fails;
            if failed {
                if sent.io.op != BlockOp::Flush && sent.io.op != BlockOp::Read {
                    self.carry_out(&mut medium, &sent, |dice| dice.chance(50));
                }
                done.push(BlockDone { token: sent.io.token, result: Err(BlockError::Media(medium.error)) });
                continue;
            }
            if sent.io.op == BlockOp::Flush {
                medium.flush(sent.pushed);
            }
            medium.reads += if sent.io.op == BlockOp::Read { u64::from(sent.io.memory.bytes()) } else { 0 };
            self.carry_out(&mut medium, &sent, |_| true);
            done.push(BlockDone { token: sent.io.token, result: Ok(()) });
        }
    }

    fn in_flight(&self) -> usize {
        self.sent.len()
    }

    fn gone_devices(&self) -> usize {
        usize::from(self.medium.borrow().gone.is_some())
    }

    fn is_gone(&self, lba: u64) -> bool {
        self.medium.borrow().gone.as_ref().is_some_and(|gone| gone.contains(&lba))
    }

    fn attach(&mut self, region: Arc<Region>) -> Result<(), AttachError> {
        self.region = Some(region);
        Ok(())
    }

    fn detach(&mut self, _: RegionSlot) -> Result<(), AttachError> {
        self.region = None;
        Ok(())
    }
}
