//! A carrier without a client, for measuring what lies behind it: it yields commands from a list, over and over,
//! and counts their completions.

use std::sync::Arc;

use super::{Capsule, Completion, Fabric, Permit, QueuePairInfo, SessionId};
use crate::Burst;
use crate::memory::{DmaSlice, Region, SlotId};
use crate::nvme::BlockQueue;
use crate::nvme::spec::{Sqe, Status};

/// The data of a command: the same span of the region for every one.
#[derive(Clone, Copy, Debug)]
pub struct NullData {
    position: u64,
}

/// What completions said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Completions with success.
    pub succeeded: u64,
    /// Completions with any other status.
    pub failed: u64,
}

/// One core's end of nothing.
pub struct NullFabric {
    core: u16,
    region: Arc<Region>,
    commands: Vec<Sqe>,
    next: usize,
    /// Commands still to yield, and how many may be under way at once.
    budget: u64,
    depth: usize,
    outstanding: usize,
    tally: Tally,
    copied: u64,
}

impl NullFabric {
    /// An end whose commands all name the bytes of `region`, which must be attached to the core's block queue, with
    /// at most `depth` commands under way at once.
    #[must_use]
    pub fn new(core: u16, region: Arc<Region>, depth: usize) -> Self {
        Self {
            core,
            region,
            commands: Vec::new(),
            next: 0,
            budget: 0,
            depth,
            outstanding: 0,
            tally: Tally::default(),
            copied: 0,
        }
    }

    /// Sets the commands, and how many to yield of them, round and round.
    pub fn load(&mut self, commands: Vec<Sqe>, budget: u64) {
        self.budget = if commands.is_empty() { 0 } else { budget };
        self.commands = commands;
        self.next = 0;
    }

    /// Yields `budget` commands more.
    pub fn again(&mut self, budget: u64) {
        self.budget = if self.commands.is_empty() { 0 } else { budget };
    }

    /// Whether everything was yielded and completed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.budget == 0 && self.outstanding == 0
    }

    /// What completions said since the last time this was asked.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// The memory that all commands name.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }
}

impl Fabric for NullFabric {
    type Data = NullData;
    type Command = std::convert::Infallible;

    fn command<B: BlockQueue>(&mut self, command: Self::Command, _blocks: &mut B) {
        match command {}
    }

    fn settle<B: BlockQueue>(&mut self, _blocks: &mut B) {}

    fn outstanding(&self) -> usize {
        self.outstanding
    }

    #[inline]
    fn poll(&mut self, capsules: &mut Burst<Capsule>) {
        while self.budget > 0 && self.outstanding < self.depth && !capsules.is_full() {
            let sqe = self.commands[self.next];
            self.next = if self.next + 1 == self.commands.len() { 0 } else { self.next + 1 };
            self.budget -= 1;
            self.outstanding += 1;
            let permit = Permit::issue(self.core, SlotId::from_bits(0), sqe.cid());
            capsules.push(Capsule { sqe, session: SessionId(0), permit });
        }
    }

    #[inline]
    fn data(&self, _capsule: &Capsule) -> NullData {
        NullData { position: 0 }
    }

    #[inline]
    fn complete(&mut self, permit: Permit, completion: Completion) {
        let _ = permit.redeem();
        self.outstanding -= 1;
        if completion.status.is_success() {
            self.tally.succeeded += 1;
        } else {
            self.tally.failed += 1;
        }
    }

    fn flush(&mut self) {}

    #[inline]
    fn window(&mut self, data: &mut NullData, max: u32) -> Result<DmaSlice, Status> {
        let left = self.region.bytes() as u64 - data.position;
        let bytes = u64::from(max).min(left) as u32;
        let slice = self.region.slice(data.position, bytes).filter(|slice| slice.bytes() > 0);
        data.position += u64::from(bytes);
        slice.ok_or(Status::DATA_SGL_LENGTH_INVALID)
    }

    fn copy_from_client(&mut self, data: &mut NullData, into: &mut [u8]) -> Result<(), Status> {
        self.region.read(data.position, into).ok_or(Status::DATA_SGL_LENGTH_INVALID)?;
        data.position += into.len() as u64;
        self.copied += into.len() as u64;
        Ok(())
    }

    fn copy_to_client(&mut self, data: &mut NullData, from: &[u8]) -> Result<(), Status> {
        self.region.write(data.position, from).ok_or(Status::DATA_SGL_LENGTH_INVALID)?;
        data.position += from.len() as u64;
        self.copied += from.len() as u64;
        Ok(())
    }

    fn copied_bytes(&self) -> u64 {
        self.copied
    }

    fn queue_pairs(&self, _into: &mut Vec<QueuePairInfo>) {}
}
