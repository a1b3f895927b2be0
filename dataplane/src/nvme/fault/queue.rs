//! A queue around a queue.

use std::sync::Arc;

use super::plan::{Chooser, Fault, FaultPlan, FaultSite, FaultStats};
use crate::memory::{Region, RegionSlot, SlotId, SlotPool};
use crate::nvme::{AttachError, BlockDone, BlockError, BlockIo, BlockOp, BlockQueue, Geometry, QueueFull};
use crate::{BURST, Burst};

/// The error number of a media error.
const EIO: BlockError = BlockError::Media(libc::EIO);

/// A command that came in.
#[derive(Debug)]
struct Command {
    token: u64,
    memory: Option<RegionSlot>,
    /// What is told in place of how it really ended.
    verdict: Option<BlockError>,
    delay: u32,
}

/// A completion that waits to be told.
#[derive(Debug)]
struct Held {
    id: SlotId,
    result: Result<(), BlockError>,
    due: u64,
}

/// Passes commands on to the queue inside, and makes some of them fail.
///
/// What it tells the queue inside stays valid, and a fault never reaches memory or blocks that the command does not
/// name, except the blocks that a misdirected write lands on.
pub struct FaultInjector<B> {
    inner: B,
    chooser: Chooser,
    commands: SlotPool<Command>,
    held: Vec<Held>,
    polls: u64,
    gone: bool,
    stats: FaultStats,
}

impl<B: BlockQueue> FaultInjector<B> {
    /// Wraps a queue.
    #[must_use]
    pub fn new(inner: B, plan: FaultPlan) -> Self {
        let depth = inner.geometry().depth.clamp(1, u32::from(u16::MAX)) as u16;
        Self {
            inner,
            chooser: Chooser::new(plan),
            commands: SlotPool::new(depth),
            held: Vec::with_capacity(usize::from(depth)),
            polls: 0,
            gone: false,
            stats: FaultStats::default(),
        }
    }

    /// Adds a fault at an exact place.
    pub fn strike(&mut self, site: FaultSite) {
        self.chooser.sites.push(site);
    }

    /// Changes the chances from here on. Chance itself goes on where it was; the seed is not looked at.
    pub fn set_plan(&mut self, plan: FaultPlan) {
        self.chooser.plan = plan;
    }

    /// Takes the device away: commands from now on, and those whose completion has not been told, end with
    /// [`BlockError::Gone`].
    pub fn disappear(&mut self) {
        self.gone = true;
        for held in &mut self.held {
            held.result = Err(BlockError::Gone);
            held.due = 0;
        }
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> FaultStats {
        self.stats
    }

    /// The queue inside.
    #[must_use]
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// Notes a command under a name of the injector's own.
    fn note(&mut self, io: &BlockIo, verdict: Option<BlockError>, delay: u32) -> Result<SlotId, QueueFull> {
        let memory = matches!(io.op, BlockOp::Read | BlockOp::Write { .. }).then(|| io.memory.slot());
        self.commands.insert(Command { token: io.token, memory, verdict, delay }).map_err(|_| QueueFull(*io))
    }

    /// Ends a command without the queue inside.
    fn end(&mut self, io: &BlockIo, error: BlockError) -> Result<(), QueueFull> {
        let id = self.note(io, None, 0)?;
        self.held.push(Held { id, result: Err(error), due: 0 });
        Ok(())
    }

    /// Passes a command on, as `sent`.
    fn pass(&mut self, io: &BlockIo, sent: BlockIo, verdict: Option<BlockError>, delay: u32) -> Result<(), QueueFull> {
        let id = self.note(io, verdict, delay)?;
        if self.inner.push(BlockIo { token: id.to_bits(), ..sent }).is_err() {
            self.commands.remove(id);
            return Err(QueueFull(*io));
        }
        Ok(())
    }

    fn inflict(&mut self, io: &BlockIo, fault: Fault) -> Result<(), QueueFull> {
        let is_write = matches!(io.op, BlockOp::Write { .. });
        let geometry = *self.inner.geometry();
        match fault {
            Fault::TornWrite(blocks) if is_write && (1..io.blocks).contains(&blocks) && whole(io, &geometry) => {
                let (memory, _) = io.memory.split_at(blocks * geometry.lba_bytes);
                self.pass(io, BlockIo { blocks, memory, ..*io }, Some(EIO), 0)?;
                self.stats.torn += 1;
            }
            Fault::MediaError | Fault::TornWrite(_) => {
                self.end(io, EIO)?;
                self.stats.errors += 1;
            }
            Fault::MisdirectedWrite(lba) if is_write && whole(io, &geometry) => {
                let lba = lba.min(geometry.blocks - u64::from(io.blocks));
                self.pass(io, BlockIo { lba, ..*io }, None, 0)?;
                self.stats.misdirected += 1;
            }
            Fault::MisdirectedWrite(_) => self.pass(io, *io, None, 0)?,
            Fault::Delay(polls) => {
                self.pass(io, *io, None, polls)?;
                self.stats.delayed += 1;
            }
        }
        Ok(())
    }

    /// Takes what completed inside.
    fn gather(&mut self) {
        let mut inside = Burst::new();
        self.inner.poll(&mut inside);
        for BlockDone { token, result } in inside {
            let id = SlotId::from_bits(token);
            let Some(command) = self.commands.get_mut(id) else { continue };
            let told = match (self.gone, command.verdict) {
                (true, _) => Err(BlockError::Gone),
                (_, Some(error)) if result.is_ok() => Err(error),
                _ => result,
            };
            let due = if self.gone { 0 } else { self.polls + u64::from(command.delay) };
            self.held.push(Held { id, result: told, due });
        }
    }

    /// Which held completion to tell next.
    fn next_due(&mut self) -> Option<usize> {
        let polls = self.polls;
        let due = |held: &Held| held.due <= polls;
        if !self.chooser.plan.reorder {
            return self.held.iter().position(due);
        }
        let count = self.held.iter().filter(|held| due(held)).count() as u64;
        let chosen = self.chooser.random.below(count) as usize;
        self.held.iter().enumerate().filter(|(_, held)| due(held)).map(|(index, _)| index).nth(chosen)
    }
}

/// Whether a command's range and memory agree, so that a part of it can be sent. One that is not valid is passed on
/// as it is, for the queue inside to say so.
fn whole(io: &BlockIo, geometry: &Geometry) -> bool {
    let bytes = u64::from(io.blocks) * u64::from(geometry.lba_bytes);
    let in_range = io.lba.checked_add(u64::from(io.blocks)).is_some_and(|end| end <= geometry.blocks);
    io.blocks > 0 && in_range && bytes == u64::from(io.memory.bytes())
}

impl<B: BlockQueue> BlockQueue for FaultInjector<B> {
    fn geometry(&self) -> &Geometry {
        self.inner.geometry()
    }

    fn room(&self) -> usize {
        self.commands.available().min(self.inner.room())
    }

    fn push(&mut self, io: BlockIo) -> Result<(), QueueFull> {
        if self.room() == 0 {
            return Err(QueueFull(io));
        }
        let blocks = self.inner.geometry().blocks;
        self.gone |= self.chooser.plan.gone_after.is_some_and(|after| self.stats.commands >= after);
        self.stats.commands += 1;
        if self.gone {
            self.stats.gone += 1;
            return self.end(&io, BlockError::Gone);
        }
        match self.chooser.choose(&io, blocks) {
            Some(fault) => self.inflict(&io, fault),
            None => self.pass(&io, io, None, 0),
        }
    }

    fn ring(&mut self) {
        self.inner.ring();
    }

    fn poll(&mut self, done: &mut Burst<BlockDone>) {
        self.polls += 1;
        // No more is taken out than was put in, so the list never outgrows the queue's depth.
        self.gather();
        for _ in 0..BURST {
            if done.is_full() {
                break;
            }
            let Some(index) = self.next_due() else { break };
            let Held { id, result, .. } = self.held.remove(index);
            if let Some(command) = self.commands.remove(id) {
                done.push(BlockDone { token: command.token, result });
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.commands.in_use()
    }

    fn attach(&mut self, region: Arc<Region>) -> Result<(), AttachError> {
        self.inner.attach(region)
    }

    fn detach(&mut self, slot: RegionSlot) -> Result<(), AttachError> {
        // Those that were completed inside and not told yet count as well.
        let ids: Vec<_> = self.commands.ids().collect();
        let named = |id: &SlotId| self.commands.get_mut(*id).is_some_and(|command| command.memory == Some(slot));
        let busy = ids.iter().copied().filter(named).count() as u32;
        if busy > 0 { Err(AttachError::Busy(busy)) } else { self.inner.detach(slot) }
    }
}
