//! A disk with a volatile cache, and what goes wrong with disks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use dataplane::Burst;
use dataplane::memory::{DmaSlice, Region, RegionSlot};
use dataplane::nvme::{AttachError, BlockDone, BlockError, BlockIo, BlockOp, BlockQueue, Geometry, QueueFull};

use crate::random::Random;

/// The slot of the disk's own memory. Others have slots of their own.
const VIEW_SLOT: RegionSlot = RegionSlot(99);

/// How often things go wrong, in thousandths of commands.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFaults {
    /// A read fails.
    pub read_error: u32,
    /// A write fails after writing a part of its blocks.
    pub write_error: u32,
    /// A write goes to the wrong place and says that all is well.
    pub misdirected: u32,
    /// A flush fails.
    pub flush_error: u32,
}

impl DiskFaults {
    /// Whether acknowledged data may be gone for no fault of kvplane.
    #[must_use]
    pub fn destroys(&self) -> bool {
        self.misdirected > 0 || self.read_error > 0 || self.write_error > 0 || self.flush_error > 0
    }
}

/// The medium and the cache in front of it, shared by all cores' queues.
pub struct Disk {
    geometry: Geometry,
    /// What reads see.
    view: Arc<Region>,
    /// Whether it is memory itself, whose bytes others may use where they lie.
    is_memory: bool,
    /// What survives a power cut.
    durable: Vec<u8>,
    /// Writes that completed since the last flush, in order.
    unflushed: Vec<(u64, Vec<u8>)>,
    faults: DiskFaults,
    random: Random,
}

impl Disk {
    /// A blank disk.
    #[must_use]
    pub fn new(
        blocks: u64,
        lba_bytes: u32,
        volatile_cache: bool,
        faults: DiskFaults,
        random: Random,
    ) -> Rc<RefCell<Self>> {
        let geometry = Geometry {
            lba_bytes,
            blocks,
            memory_align: 512,
            max_transfer: 256 * 1024,
            volatile_cache,
            deallocate: true,
            depth: 256,
        };
        let bytes = geometry.bytes() as usize;
        Rc::new(RefCell::new(Self {
            geometry,
            view: Arc::new(Region::anonymous(bytes, VIEW_SLOT).expect("memory for a disk")),
            is_memory: false,
            durable: vec![0; bytes],
            unflushed: Vec::new(),
            faults,
            random,
        }))
    }

    /// Makes it one that is memory itself.
    pub fn be_memory(&mut self) {
        self.is_memory = true;
    }

    /// Turns faults on or off.
    pub fn set_faults(&mut self, faults: DiskFaults) {
        self.faults = faults;
    }

    /// The power goes: of each write in the cache all, a part, or nothing reached the medium.
    pub fn power_cut(&mut self) {
        for (at, bytes) in std::mem::take(&mut self.unflushed) {
            let kept = match self.random.below(3) {
                0 => 0,
                1 => bytes.len(),
                _ => self.torn(bytes.len()),
            };
            self.durable[at as usize..at as usize + kept].copy_from_slice(&bytes[..kept]);
        }
        self.view.write(0, &self.durable).expect("as long as it");
    }

    /// A part of a write, in whole 512-byte sectors: what a device writes in one piece.
    fn torn(&mut self, bytes: usize) -> usize {
        self.random.below((bytes / 512) as u64) as usize * 512
    }

    fn write(&mut self, at: u64, bytes: &[u8], fua: bool) {
        let range = at as usize..at as usize + bytes.len();
        self.view.write(at, bytes).expect("inside");
        if fua || !self.geometry.volatile_cache {
            self.durable[range].copy_from_slice(bytes);
        } else {
            self.unflushed.push((at, bytes.to_vec()));
        }
    }

    fn flush(&mut self) {
        for (at, bytes) in std::mem::take(&mut self.unflushed) {
            self.durable[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        }
    }

    fn perform(&mut self, io: &BlockIo, regions: &HashMap<RegionSlot, Arc<Region>>) -> Result<(), BlockError> {
        let at = io.lba * u64::from(self.geometry.lba_bytes);
        let bytes = u64::from(io.blocks) * u64::from(self.geometry.lba_bytes);
        match io.op {
            BlockOp::Read => {
                if self.random.chance(self.faults.read_error) {
                    // One is of the medium, after which the store drops the block, the other says nothing of it.
                    let error = if self.random.chance(500) { libc::ENODATA } else { libc::EIO };
                    return Err(BlockError::Media(error));
                }
                let region = copy(regions, &io.memory).ok_or(BlockError::Invalid)?;
                let into = offset(regions, &io.memory);
                self.view.copy_to(at, region, into, bytes as usize).ok_or(BlockError::Invalid)?;
            }
            BlockOp::Write { fua, .. } => {
                let mut buffer = vec![0; bytes as usize];
                let region = copy(regions, &io.memory).ok_or(BlockError::Invalid)?;
                let _ = region.read(offset(regions, &io.memory), &mut buffer);
                if self.random.chance(self.faults.write_error) {
                    let kept = self.torn(buffer.len());
                    self.write(at, &buffer[..kept], false);
                    return Err(BlockError::Media(5));
                }
                let at = if self.random.chance(self.faults.misdirected) {
                    let lbas = self.geometry.blocks - u64::from(io.blocks);
                    self.random.below(lbas) * u64::from(self.geometry.lba_bytes)
                } else {
                    at
                };
                self.write(at, &buffer, fua);
            }
            BlockOp::Flush => {
                if self.random.chance(self.faults.flush_error) {
                    return Err(BlockError::Media(5));
                }
                self.flush();
            }
            BlockOp::Deallocate => {
                // What a deallocated block reads as is undefined, so make it something that hurts.
                let waste: Vec<u8> = (0..bytes).map(|_| 0xDE).collect();
                self.write(at, &waste, false);
            }
        }
        Ok(())
    }
}

fn copy<'a>(regions: &'a HashMap<RegionSlot, Arc<Region>>, slice: &DmaSlice) -> Option<&'a Arc<Region>> {
    regions.get(&slice.slot()).filter(|region| region.contains(slice))
}

fn offset(regions: &HashMap<RegionSlot, Arc<Region>>, slice: &DmaSlice) -> u64 {
    regions.get(&slice.slot()).map_or(0, |region| slice.address() - region.base())
}

struct Outstanding {
    io: BlockIo,
    /// Flushes answer only for writes that completed before they were pushed, so they wait for their turn.
    due: u64,
}

/// One core's queue on the disk.
pub struct SimQueue {
    disk: Rc<RefCell<Disk>>,
    geometry: Geometry,
    regions: HashMap<RegionSlot, Arc<Region>>,
    outstanding: Vec<Outstanding>,
    random: Random,
    turn: u64,
    slowest: u64,
}

impl SimQueue {
    /// A queue whose commands complete in any order, within `slowest` turns.
    #[must_use]
    pub fn new(disk: &Rc<RefCell<Disk>>, random: Random, slowest: u64) -> Self {
        let geometry = disk.borrow().geometry;
        Self {
            disk: Rc::clone(disk),
            geometry,
            regions: HashMap::new(),
            outstanding: Vec::new(),
            random,
            turn: 0,
            slowest,
        }
    }

    /// The power goes while commands are under way: each happened, or did not.
    pub fn cut(&mut self) {
        for command in std::mem::take(&mut self.outstanding) {
            if matches!(command.io.op, BlockOp::Write { .. }) && self.random.chance(500) {
                let mut io = command.io;
                io.op = BlockOp::write(false);
                let _ = self.disk.borrow_mut().perform(&io, &self.regions);
            }
        }
    }

    fn is_valid(&self, io: &BlockIo) -> bool {
        let bytes = u64::from(io.blocks) * u64::from(self.geometry.lba_bytes);
        let in_range = io.lba.checked_add(u64::from(io.blocks)).is_some_and(|end| end <= self.geometry.blocks);
        let moves = matches!(io.op, BlockOp::Read | BlockOp::Write { .. });
        let memory_fits = !moves
            || (u64::from(io.memory.bytes()) == bytes
                && bytes > 0
                && bytes <= u64::from(self.geometry.max_transfer)
                && io.memory.address().is_multiple_of(u64::from(self.geometry.memory_align))
                && copy(&self.regions, &io.memory).is_some());
        in_range && memory_fits
    }
}

impl BlockQueue for SimQueue {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn room(&self) -> usize {
        self.geometry.depth as usize - self.outstanding.len()
    }

    fn push(&mut self, io: BlockIo) -> Result<(), QueueFull> {
        if self.room() == 0 {
            return Err(QueueFull(io));
        }
        let due = self.turn + self.random.below(self.slowest);
        self.outstanding.push(Outstanding { io, due });
        Ok(())
    }

    fn ring(&mut self) {}

    fn poll(&mut self, done: &mut Burst<BlockDone>) {
        self.turn += 1;
        while !done.is_full() {
            let ready: Vec<usize> =
                (0..self.outstanding.len()).filter(|&at| self.outstanding[at].due <= self.turn).collect();
            if ready.is_empty() {
                break;
            }
            let pick = ready[self.random.below(ready.len() as u64) as usize];
            let Outstanding { io, .. } = self.outstanding.swap_remove(pick);
            let result = if self.is_valid(&io) {
                self.disk.borrow_mut().perform(&io, &self.regions)
            } else {
                Err(BlockError::Invalid)
            };
            done.push(BlockDone { token: io.token, result });
        }
    }

    fn in_flight(&self) -> usize {
        self.outstanding.len()
    }

    fn attach(&mut self, region: Arc<Region>) -> Result<(), AttachError> {
        if self.regions.contains_key(&region.slot()) {
            return Err(AttachError::SlotTaken(region.slot()));
        }
        self.regions.insert(region.slot(), region);
        Ok(())
    }

    fn memory(&self) -> Vec<Arc<Region>> {
        let disk = self.disk.borrow();
        if disk.is_memory { vec![Arc::clone(&disk.view)] } else { Vec::new() }
    }

    fn resident(&mut self, lba: u64, blocks: u32) -> Option<DmaSlice> {
        let disk = self.disk.borrow();
        let bytes = blocks.checked_mul(self.geometry.lba_bytes)?;
        disk.view.slice(lba.checked_mul(u64::from(self.geometry.lba_bytes))?, bytes).filter(|_| disk.is_memory)
    }

    fn detach(&mut self, slot: RegionSlot) -> Result<(), AttachError> {
        let busy = self.outstanding.iter().filter(|command| command.io.memory.slot() == slot).count();
        if busy > 0 {
            return Err(AttachError::Busy(busy as u32));
        }
        self.regions.remove(&slot).map(drop).ok_or(AttachError::NoSuchSlot(slot))
    }
}
