//! All the carriers of a core as one.

use super::message::{self, MessageFabric, StagedData};
use super::vfio_user::{self, Cursor, VfioUserFabric};
use super::{Capsule, Completion, Fabric, Permit, QueuePairInfo};
use crate::Burst;
use crate::memory::{DmaSlice, SlotId};
use crate::nvme::BlockQueue;
use crate::nvme::spec::Status;

/// One core's end of every carrier that the program has.
#[derive(Debug)]
pub struct Carriers {
    vfio_user: VfioUserFabric,
    message: MessageFabric,
    /// Whose turn it is to be asked first.
    message_first: bool,
}

/// Where a command's data lies, as its carrier knows it.
#[derive(Clone, Debug)]
pub enum CarrierData {
    /// In memory that the client lends.
    VfioUser(Cursor),
    /// In a staging buffer.
    Staged(StagedData),
}

/// What control threads ask of a core's end.
#[derive(Debug)]
pub enum CarrierCommand {
    /// Of its vfio-user part.
    VfioUser(vfio_user::CoreCommand),
    /// Of its message part.
    Message(message::CoreCommand),
}

impl Carriers {
    /// The end of core `core`.
    #[must_use]
    pub fn new(core: u16) -> Self {
        Self { vfio_user: VfioUserFabric::new(core), message: MessageFabric::new(core), message_first: false }
    }
}

impl Fabric for Carriers {
    type Data = CarrierData;
    type Command = CarrierCommand;

    fn command<B: BlockQueue>(&mut self, command: CarrierCommand, blocks: &mut B) {
        match command {
            CarrierCommand::VfioUser(command) => self.vfio_user.command(command, blocks),
            CarrierCommand::Message(command) => self.message.command(command, blocks),
        }
    }

    fn settle<B: BlockQueue>(&mut self, blocks: &mut B) {
        self.vfio_user.settle(blocks);
        self.message.settle(blocks);
    }

    fn outstanding(&self) -> usize {
        self.vfio_user.outstanding() + self.message.outstanding()
    }

    #[inline]
    fn poll(&mut self, capsules: &mut Burst<Capsule>) {
        // In turns, so that neither keeps the other out by filling every burst.
        self.message_first = !self.message_first;
        if self.message_first {
            self.message.poll(capsules);
            self.vfio_user.poll(capsules);
        } else {
            self.vfio_user.poll(capsules);
            self.message.poll(capsules);
        }
    }

    #[inline]
    fn data(&self, capsule: &Capsule) -> CarrierData {
        if capsule.permit.carrier() == 0 {
            CarrierData::VfioUser(self.vfio_user.data(capsule))
        } else {
            CarrierData::Staged(self.message.data(capsule))
        }
    }

    #[inline]
    fn complete(&mut self, permit: Permit, completion: Completion) {
        if permit.carrier() == 0 {
            self.vfio_user.complete(permit, completion);
        } else {
            self.message.complete(permit, completion);
        }
    }

    #[inline]
    fn borrows(&self, permit: &Permit) -> bool {
        permit.carrier() != 0 && self.message.borrows(permit)
    }

    #[inline]
    fn lend(&mut self, permit: &Permit, bytes: DmaSlice, loan: u64) -> bool {
        permit.carrier() != 0 && self.message.lend(permit, bytes, loan)
    }

    fn recall(&mut self, queue: SlotId, loan: u64, overdue: bool) -> u32 {
        // Nobody else borrows.
        self.message.recall(queue, loan, overdue)
    }

    #[inline]
    fn take_returned(&mut self, into: &mut Burst<u64>) {
        self.message.take_returned(into);
    }

    fn flush(&mut self) {
        self.vfio_user.flush();
        self.message.flush();
    }

    fn is_moving(&self) -> bool {
        self.message.is_moving()
    }

    #[inline]
    fn window(&mut self, data: &mut CarrierData, max: u32) -> Result<DmaSlice, Status> {
        match data {
            CarrierData::VfioUser(data) => self.vfio_user.window(data, max),
            CarrierData::Staged(data) => self.message.window(data, max),
        }
    }

    fn copy_from_client(&mut self, data: &mut CarrierData, into: &mut [u8]) -> Result<(), Status> {
        match data {
            CarrierData::VfioUser(data) => self.vfio_user.copy_from_client(data, into),
            CarrierData::Staged(data) => self.message.copy_from_client(data, into),
        }
    }

    fn copy_to_client(&mut self, data: &mut CarrierData, from: &[u8]) -> Result<(), Status> {
        match data {
            CarrierData::VfioUser(data) => self.vfio_user.copy_to_client(data, from),
            CarrierData::Staged(data) => self.message.copy_to_client(data, from),
        }
    }

    fn copied_bytes(&self) -> u64 {
        self.vfio_user.copied_bytes() + self.message.copied_bytes()
    }

    fn queue_pairs(&self, into: &mut Vec<QueuePairInfo>) {
        self.vfio_user.queue_pairs(into);
        self.message.queue_pairs(into);
    }
}
