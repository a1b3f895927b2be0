//! A core's end of both carriers that are simulated: memory in common with the client, and NVMe/TCP.

use dataplane::Burst;
use dataplane::fabric::message::{CoreCommand, MessageFabric, StagedData, carrier};
use dataplane::fabric::{Capsule, Completion, Fabric, Permit, QueuePairInfo};
use dataplane::memory::{DmaSlice, SlotId};
use dataplane::nvme::BlockQueue;
use dataplane::nvme::spec::Status;

use crate::fabric::{SimCommand, SimData, SimFabric};
use crate::wire::{SimStreams, Socket};

/// One core's end.
pub struct SimCarriers {
    /// Of the clients on this machine.
    pub local: SimFabric,
    /// Of those that come by TCP: what the daemon has, on other streams.
    pub message: MessageFabric<SimStreams>,
    tcp_first: bool,
    /// Values lent to TCP.
    pub lent: u64,
    /// Those of them that were copied after all, because somebody wanted their place.
    pub recalled: u64,
    /// Those that TCP looks at now, the oldest first.
    out: Vec<(SlotId, u64)>,
    turns: u64,
}

/// Now and then a value is wanted back without need, for evictions that wait for one are rare.
const RECALL_EVERY: u64 = 16;

/// Where a command's data lies, as its carrier knows it.
#[derive(Clone, Debug)]
pub enum SimCarrierData {
    /// With the client.
    Local(SimData),
    /// In a staging buffer.
    Staged(StagedData),
}

/// What the simulation asks of a core's end.
pub enum SimCarrierCommand {
    /// About a client on this machine.
    Local(SimCommand),
    /// About one that comes by TCP.
    Message(CoreCommand<Socket>),
}

impl SimCarriers {
    /// An end without clients.
    #[must_use]
    pub fn new(core: u16) -> Self {
        Self {
            local: SimFabric::new(core),
            message: MessageFabric::new(core),
            tcp_first: false,
            lent: 0,
            recalled: 0,
            out: Vec::new(),
            turns: 0,
        }
    }
}

impl Fabric for SimCarriers {
    type Data = SimCarrierData;
    type Command = SimCarrierCommand;

    fn command<B: BlockQueue>(&mut self, command: SimCarrierCommand, blocks: &mut B) {
        match command {
            SimCarrierCommand::Local(command) => self.local.command(command, blocks),
            SimCarrierCommand::Message(command) => self.message.command(command, blocks),
        }
    }

    fn settle<B: BlockQueue>(&mut self, blocks: &mut B) {
        self.local.settle(blocks);
        self.message.settle(blocks);
    }

    fn outstanding(&self) -> usize {
        self.local.outstanding() + self.message.outstanding()
    }

    fn poll(&mut self, capsules: &mut Burst<Capsule>) {
        self.tcp_first = !self.tcp_first;
        if self.tcp_first {
            self.message.poll(capsules);
            self.local.poll(capsules);
        } else {
            self.local.poll(capsules);
            self.message.poll(capsules);
        }
    }

    fn data(&self, capsule: &Capsule) -> SimCarrierData {
        if capsule.permit.carrier() == carrier::TCP {
            SimCarrierData::Staged(self.message.data(capsule))
        } else {
            SimCarrierData::Local(self.local.data(capsule))
        }
    }

    fn complete(&mut self, permit: Permit, completion: Completion) {
        if permit.carrier() == carrier::TCP {
            self.message.complete(permit, completion);
        } else {
            self.local.complete(permit, completion);
        }
    }

    fn borrows(&self, permit: &Permit) -> bool {
        permit.carrier() == carrier::TCP && self.message.borrows(permit)
    }

    fn lend(&mut self, permit: &Permit, bytes: DmaSlice, loan: u64) -> bool {
        let lent = permit.carrier() == carrier::TCP && self.message.lend(permit, bytes, loan);
        self.lent += u64::from(lent);
        self.out.extend(lent.then(|| (permit.queue(), loan)));
        lent
    }

    fn recall(&mut self, queue: SlotId, loan: u64, _overdue: bool) -> u32 {
        // Every host here goes on in the end.
        let copied = self.message.recall(queue, loan, false);
        self.recalled += u64::from(copied > 0);
        copied
    }

    fn take_returned(&mut self, into: &mut Burst<u64>) {
        let before = into.len();
        self.message.take_returned(into);
        self.out.retain(|(_, loan)| !into[before..].contains(loan));
    }

    fn flush(&mut self) {
        self.turns += 1;
        if self.turns.is_multiple_of(RECALL_EVERY)
            && let Some(&(queue, loan)) = self.out.first()
        {
            self.recall(queue, loan, false);
        }
        self.local.flush();
        self.message.flush();
    }

    fn is_moving(&self) -> bool {
        self.message.is_moving()
    }

    fn window(&mut self, data: &mut SimCarrierData, max: u32) -> Result<DmaSlice, Status> {
        match data {
            SimCarrierData::Local(data) => self.local.window(data, max),
            SimCarrierData::Staged(data) => self.message.window(data, max),
        }
    }

    fn copy_from_client(&mut self, data: &mut SimCarrierData, into: &mut [u8]) -> Result<(), Status> {
        match data {
            SimCarrierData::Local(data) => self.local.copy_from_client(data, into),
            SimCarrierData::Staged(data) => self.message.copy_from_client(data, into),
        }
    }

    fn copy_to_client(&mut self, data: &mut SimCarrierData, from: &[u8]) -> Result<(), Status> {
        match data {
            SimCarrierData::Local(data) => self.local.copy_to_client(data, from),
            SimCarrierData::Staged(data) => self.message.copy_to_client(data, from),
        }
    }

    fn copied_bytes(&self) -> u64 {
        self.local.copied_bytes() + self.message.copied_bytes()
    }

    fn queue_pairs(&self, into: &mut Vec<QueuePairInfo>) {
        self.local.queue_pairs(into);
        self.message.queue_pairs(into);
    }
}
