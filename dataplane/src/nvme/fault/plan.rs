//! Which faults happen, and where.

use std::ops::Range;

use super::random::SplitMix64;
use crate::nvme::{BlockIo, BlockOp};

/// What goes wrong with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with a media error (EIO). Nothing moves.
    MediaError,
    /// A write puts down its first so many blocks (fewer than all), then fails with a media error. On other commands
    /// as [`MediaError`](Self::MediaError).
    TornWrite(u32),
    /// A write puts its blocks down at this place and not where it should, and succeeds. On other commands without
    /// effect; a place beyond the device's end is moved back into it.
    MisdirectedWrite(u64),
    /// Its completion is held back for so many calls of `poll`.
    Delay(u32),
}

/// Kinds of commands that a site can be limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Reads.
    Read,
    /// Writes, with and without FUA.
    Write,
    /// Flushes. Their range is not looked at.
    Flush,
    /// Deallocations.
    Deallocate,
}

impl OpKind {
    const fn of(op: BlockOp) -> Self {
        match op {
            BlockOp::Read => Self::Read,
            BlockOp::Write { .. } => Self::Write,
            BlockOp::Flush => Self::Flush,
            BlockOp::Deallocate => Self::Deallocate,
        }
    }
}

/// A fault at an exact place: it strikes the `nth` command of its kind that touches the range, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultSite {
    /// Which commands.
    pub kind: OpKind,
    /// Logical blocks, at least one of which the command must touch.
    pub lbas: Range<u64>,
    /// Which of them, from 0.
    pub nth: u32,
    /// What goes wrong.
    pub fault: Fault,
}

impl FaultSite {
    fn touches(&self, io: &BlockIo) -> bool {
        let end = io.lba.saturating_add(u64::from(io.blocks));
        let meets = io.lba < self.lbas.end && self.lbas.start < end;
        OpKind::of(io.op) == self.kind && (meets || self.kind == OpKind::Flush)
    }
}

/// How often which fault happens by chance. Chances are per million commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// Where chance begins.
    pub seed: u64,
    /// Reads that fail.
    pub read_error: u32,
    /// Writes that fail with nothing written.
    pub write_error: u32,
    /// Flushes that fail.
    pub flush_error: u32,
    /// Writes that fail with a part written.
    pub torn_write: u32,
    /// Writes that land elsewhere.
    pub misdirected_write: u32,
    /// Completions of any command that are held back.
    pub delay: u32,
    /// The longest that one is held back, in calls of `poll`; at least one.
    pub max_delay: u32,
    /// Completions are handed over in random order.
    pub reorder: bool,
    /// After so many commands the device is gone, and so is every later one.
    pub gone_after: Option<u64>,
}

/// What an injector did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultStats {
    /// Commands pushed.
    pub commands: u64,
    /// Commands failed with nothing moved.
    pub errors: u64,
    /// Torn writes.
    pub torn: u64,
    /// Misdirected writes.
    pub misdirected: u64,
    /// Completions held back.
    pub delayed: u64,
    /// Commands to a device that was gone.
    pub gone: u64,
}

/// Chooses a fault for every command.
#[derive(Clone, Debug)]
pub(super) struct Chooser {
    pub(super) plan: FaultPlan,
    pub(super) random: SplitMix64,
    pub(super) sites: Vec<FaultSite>,
}

impl Chooser {
    pub(super) fn new(plan: FaultPlan) -> Self {
        Self { plan, random: SplitMix64::new(plan.seed), sites: Vec::new() }
    }

    /// The fault of a command; sites come before chance.
    pub(super) fn choose(&mut self, io: &BlockIo, device_blocks: u64) -> Option<Fault> {
        self.at_site(io).or_else(|| self.by_chance(io, device_blocks))
    }

    fn at_site(&mut self, io: &BlockIo) -> Option<Fault> {
        let mut struck = None;
        for (index, site) in self.sites.iter_mut().enumerate().filter(|(_, site)| site.touches(io)) {
            match site.nth {
                0 if struck.is_none() => struck = Some(index),
                0 => {}
                _ => site.nth -= 1,
            }
        }
        struck.map(|index| self.sites.remove(index).fault)
    }

    fn by_chance(&mut self, io: &BlockIo, device_blocks: u64) -> Option<Fault> {
        let FaultPlan { read_error, write_error, flush_error, torn_write, misdirected_write, delay, .. } = self.plan;
        let random = &mut self.random;
        let fault = match io.op {
            BlockOp::Read if random.chance(read_error) => Some(Fault::MediaError),
            BlockOp::Flush if random.chance(flush_error) => Some(Fault::MediaError),
            BlockOp::Write { .. } => {
                // All three are drawn, so that changing one chance does not change what the others draw.
                let (error, torn) = (random.chance(write_error), random.chance(torn_write));
                let (misdirected, draw) = (random.chance(misdirected_write), random.next());
                match (error, torn, misdirected) {
                    (true, ..) => Some(Fault::MediaError),
                    (_, true, _) => Some(Fault::TornWrite((draw % u64::from(io.blocks.max(1))) as u32)),
                    (.., true) => Some(Fault::MisdirectedWrite(draw % device_blocks.max(1))),
                    _ => None,
                }
            }
            _ => None,
        };
        let delayed = random.chance(delay).then(|| 1 + random.below(u64::from(self.plan.max_delay.max(1))) as u32);
        fault.or(delayed.map(Fault::Delay))
    }
}
