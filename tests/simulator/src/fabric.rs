//! A carrier without a wire: simulated clients put capsules in, completions come out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use dataplane::Burst;
use dataplane::fabric::{Capsule, Completion, Fabric, Permit, QueuePairInfo, SessionId};
use dataplane::memory::{DmaSlice, Region, RegionSlot, SlotId};
use dataplane::nvme::BlockQueue;
use dataplane::nvme::spec::{Sqe, Status};

/// Where a command's data lies: a span of one region, handed out in windows of at most `fragment` bytes, as a list
/// of pages that are not adjacent would be.
#[derive(Clone, Debug)]
pub struct SimData {
    /// The client's region.
    pub slot: RegionSlot,
    /// Where in it the data begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u32,
    /// How much has been read.
    pub position: u32,
    /// The most bytes that one window holds; 0 for no limit.
    pub fragment: u16,
}

impl SimData {
    /// Stands in a command where others have their data pointer: the offset, then length, slot and fragment.
    fn put(&self, sqe: &mut Sqe) {
        let where_else = u64::from(self.slot.0) << 32 | u64::from(self.fragment) << 48;
        sqe.set_quadword(6, self.offset);
        sqe.set_quadword(8, u64::from(self.bytes) | where_else);
    }

    fn of(sqe: &Sqe) -> Self {
        let rest = sqe.quadword(8);
        Self {
            slot: RegionSlot((rest >> 32) as u16),
            offset: sqe.quadword(6),
            bytes: rest as u32,
            position: 0,
            fragment: (rest >> 48) as u16,
        }
    }
}

/// What the simulation asks of a core's end.
#[derive(Debug)]
pub enum SimCommand {
    /// Make a client's memory known.
    Attach(Arc<Region>),
    /// Forget a client's memory, when its DMA has ended.
    Detach(RegionSlot),
}

/// One core's end.
pub struct SimFabric {
    core: u16,
    inbox: VecDeque<Capsule>,
    /// What was completed: queue (the client), command id, completion.
    pub completions: Vec<(SlotId, u16, Completion)>,
    regions: HashMap<RegionSlot, Arc<Region>>,
    detaching: Vec<RegionSlot>,
    outstanding: usize,
    copied: u64,
}

impl SimFabric {
    /// An end without clients.
    #[must_use]
    pub fn new(core: u16) -> Self {
        Self {
            core,
            inbox: VecDeque::new(),
            completions: Vec::new(),
            regions: HashMap::new(),
            detaching: Vec::new(),
            outstanding: 0,
            copied: 0,
        }
    }

    /// A client submits a command.
    pub fn submit(&mut self, client: SlotId, session: SessionId, mut sqe: Sqe, data: SimData) {
        self.outstanding += 1;
        data.put(&mut sqe);
        let permit = Permit::issue(self.core, client, sqe.cid());
        self.inbox.push_back(Capsule { sqe, session, permit });
    }

    /// Regions that still wait for their DMA to end.
    #[must_use]
    pub fn detaching(&self) -> usize {
        self.detaching.len()
    }

    fn span(&self, data: &SimData, bytes: u32) -> Result<(&Region, u64), Status> {
        let region = self.regions.get(&data.slot).ok_or(Status::DATA_TRANSFER_ERROR)?;
        let left = data.bytes - data.position;
        if bytes > left {
            return Err(Status::DATA_SGL_LENGTH_INVALID);
        }
        Ok((region, data.offset + u64::from(data.position)))
    }
}

impl Fabric for SimFabric {
    type Data = SimData;
    type Command = SimCommand;

    fn command<B: BlockQueue>(&mut self, command: SimCommand, blocks: &mut B) {
        match command {
            SimCommand::Attach(region) => {
                blocks.attach(Arc::clone(&region)).expect("the simulation gives every region its own slot");
                self.regions.insert(region.slot(), region);
            }
            SimCommand::Detach(slot) => self.detaching.push(slot),
        }
    }

    fn settle<B: BlockQueue>(&mut self, blocks: &mut B) {
        self.detaching.retain(|&slot| blocks.detach(slot).is_err());
        self.regions.retain(|slot, _| !self.detaching.contains(slot));
    }

    fn outstanding(&self) -> usize {
        self.outstanding
    }

    fn poll(&mut self, capsules: &mut Burst<Capsule>) {
        while !capsules.is_full()
            && let Some(capsule) = self.inbox.pop_front()
        {
            capsules.push(capsule);
        }
    }

    fn data(&self, capsule: &Capsule) -> SimData {
        SimData::of(&capsule.sqe)
    }

    fn complete(&mut self, permit: Permit, completion: Completion) {
        assert_eq!(permit.core(), self.core, "a completion came to a core that never saw the command");
        let (client, cid) = permit.redeem();
        self.outstanding -= 1;
        self.completions.push((client, cid, completion));
    }

    fn flush(&mut self) {}

    fn window(&mut self, data: &mut SimData, max: u32) -> Result<DmaSlice, Status> {
        let left = data.bytes - data.position;
        if left == 0 || max == 0 {
            return Err(Status::DATA_SGL_LENGTH_INVALID);
        }
        let to_edge = match u32::from(data.fragment) {
            0 => u32::MAX,
            fragment => fragment - data.position % fragment,
        };
        let bytes = left.min(max).min(to_edge);
        let (region, offset) = self.span(data, bytes)?;
        let slice = region.slice(offset, bytes).ok_or(Status::DATA_TRANSFER_ERROR)?;
        data.position += bytes;
        Ok(slice)
    }

    fn copy_from_client(&mut self, data: &mut SimData, into: &mut [u8]) -> Result<(), Status> {
        let (region, offset) = self.span(data, into.len() as u32)?;
        region.read(offset, into).ok_or(Status::DATA_TRANSFER_ERROR)?;
        data.position += into.len() as u32;
        self.copied += into.len() as u64;
        Ok(())
    }

    fn copy_to_client(&mut self, data: &mut SimData, from: &[u8]) -> Result<(), Status> {
        let (region, offset) = self.span(data, from.len() as u32)?;
        region.write(offset, from).ok_or(Status::DATA_TRANSFER_ERROR)?;
        data.position += from.len() as u32;
        self.copied += from.len() as u64;
        Ok(())
    }

    fn copied_bytes(&self) -> u64 {
        self.copied
    }

    fn queue_pairs(&self, _into: &mut Vec<QueuePairInfo>) {}
}
