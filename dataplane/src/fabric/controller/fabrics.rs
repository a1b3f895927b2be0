//! What only controllers of message carriers have: Connect, properties as commands, keep alive (base, "Fabrics Command
//! Set", "Keep Alive").

use crate::fabric::Completion;
use crate::nvme::spec::Status;
use crate::nvme::spec::fabrics::{ConnectFields, ConnectInvalid, DiscoveryEntry};

use super::{Controller, ControllerLimits, RegisterEffect};

/// What a message carrier can do, as Identify Controller tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FabricsLimits {
    /// Bytes of the longest command capsule of an I/O queue: 64, and the most data that may come in it; a multiple of
    /// 16. Identify IOCCSZ.
    pub io_capsule_bytes: u32,
    /// Bytes of the longest response capsule of an I/O queue: 16, as responses carry no data. Identify IORCSZ.
    pub response_bytes: u32,
    /// Bytes between a command and its data in the capsule: 0, which is all that Linux takes. Identify ICDOFF.
    pub in_capsule_offset: u16,
    /// The most SGL data blocks of a command. Identify MSDBD.
    pub max_sgl_descriptors: u8,
    /// Whether data is named by keyed SGL data blocks (RDMA); else by transport ones (TCP).
    pub keyed_sgl: bool,
}

impl ControllerLimits {
    /// The most bytes one command may move, of which the carrier could move `wanted`: a keyed descriptor has 24 bits
    /// for them, and Identify can only tell a power of two.
    pub(super) fn transfer_bytes(&self, wanted: u32) -> u32 {
        let keyed = self.fabrics.is_some_and(|fabrics| fabrics.keyed_sgl);
        if keyed { wanted.min(8 << 20) } else { wanted }
    }

    /// Checks what Connect asks for, of the admin queue and of I/O queues.
    ///
    /// # Errors
    /// The completion that refuses it: 80h for another format, 82h with the place of the identifier or size that is
    /// not valid.
    pub fn check_connect(&self, fields: &ConnectFields) -> Result<(), Completion> {
        if fields.record_format != 0 {
            return Err(Completion::failed(Status::CONNECT_INCOMPATIBLE_FORMAT));
        }
        if fields.qid > self.io_queues {
            return Err(invalid(ConnectFields::QID_OFFSET));
        }
        // Every target takes admin queues of that many.
        let admin = u32::from(DiscoveryEntry::ADMIN_QUEUE_ENTRIES);
        let most = if fields.qid == 0 { self.max_queue_entries.max(admin) } else { self.max_queue_entries };
        if fields.sqsize == 0 || u32::from(fields.sqsize) >= most {
            return Err(invalid(ConnectFields::SQSIZE_OFFSET));
        }
        Ok(())
    }
}

fn invalid(offset: u16) -> Completion {
    let dword0 = ConnectInvalid::in_entry(offset).dword0();
    Completion { dword0, ..Completion::failed(Status::CONNECT_INVALID_PARAMETERS) }
}

impl Controller {
    /// Property Get: what goes into DW0 and DW1.
    ///
    /// # Errors
    /// Invalid Field for a property that there is not, or that has another size.
    pub fn property_get(&self, offset: u32, size8: bool) -> Result<u64, Status> {
        self.registers.property(offset, size8)
    }

    /// Property Set.
    ///
    /// # Errors
    /// Invalid Field for a property that there is not, that is read only, or that has another size.
    pub fn property_set(&mut self, offset: u32, size8: bool, value: u64) -> Result<RegisterEffect, Status> {
        self.registers.set_property(offset, size8, value)
    }

    /// The admin queue was connected: takes over its keep alive timeout, which a reset returns to.
    pub fn connected(&mut self, fields: &ConnectFields) {
        self.features.set_connected_keep_alive(fields.keep_alive_ms);
    }

    /// How long the host may be silent before its controller ends, in milliseconds, as Connect or Set Features said;
    /// `None`: for ever. A multiple of 1,000, which is what Identify KAS promises.
    #[must_use]
    pub fn keep_alive_ms(&self) -> Option<u64> {
        self.features.keep_alive_ms()
    }

    /// Checks Connect of an I/O queue of this controller.
    ///
    /// # Errors
    /// The completion that refuses it: as [`ControllerLimits::check_connect`]; Command Sequence Error if the controller
    /// is not ready, or was told to reset or to shut down, or the queue is connected already.
    pub fn check_queue(&self, fields: &ConnectFields) -> Result<(), Completion> {
        self.limits.check_connect(fields)?;
        if fields.qid == 0 {
            return Err(invalid(ConnectFields::QID_OFFSET));
        }
        if !self.registers.takes_queues() || self.queues.has_submission(fields.qid) {
            return Err(Completion::failed(Status::COMMAND_SEQUENCE_ERROR));
        }
        Ok(())
    }

    /// An I/O queue was connected.
    pub fn queue_connected(&mut self, qid: u16) {
        self.queues.connect(qid);
    }

    /// Whether an I/O queue is connected.
    #[cfg(test)]
    pub(crate) fn has_queue(&self, qid: u16) -> bool {
        self.queues.has_submission(qid)
    }

    /// An I/O queue was disconnected, or its connection was lost.
    pub fn queue_lost(&mut self, qid: u16) {
        self.queues.disconnect(qid);
    }
}
