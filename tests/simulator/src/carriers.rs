//! A core's end of both carriers that are simulated: memory in common with the client, and NVMe/TCP.

use dataplane::Burst;
use dataplane::fabric::message::{CoreCommand, MessageFabric, StagedData, carrier};
use dataplane::fabric::{Capsule, Completion, Fabric, Permit, QueuePairInfo};
use dataplane::memory::DmaSlice;
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
}

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
        Self { local: SimFabric::new(core), message: MessageFabric::new(core), tcp_first: false }
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

    fn flush(&mut self) {
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
