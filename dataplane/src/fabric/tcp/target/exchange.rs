//! One command of a host, from its capsule to its response.

use crate::fabric::message::{AccountId, Buffer};
use crate::fabric::{Completion, SessionId};
use crate::memory::{DmaSlice, SlotId};
use crate::nvme::spec::fabrics::CapsuleData;
use crate::nvme::spec::kv::transfer_bytes;
use crate::nvme::spec::{DataPointer, Sqe, Status};

/// How far a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for a buffer.
    Starved,
    /// Its data is to be asked for.
    Asking,
    /// Its data was asked for, and comes in.
    Receiving,
    /// Waits to be taken.
    Ready,
    /// Taken: its completion will come.
    Running,
    /// Has its completion, which the host has not been sent yet.
    Answered(Completion),
}

/// Bytes in the memory of a device, to be sent in the place of what lies in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lent {
    pub bytes: DmaSlice,
    /// What the lender calls them, to be told when they are no longer looked at.
    pub loan: u64,
    /// Whether the lender wants them back as soon as what is being sent of them is out.
    pub recalled: bool,
}

/// One command.
#[derive(Debug)]
pub(super) struct Exchange {
    /// The connection on which it came.
    pub connection: SlotId,
    pub session: SessionId,
    /// Its host's account.
    pub account: AccountId,
    /// The host's command identifier.
    pub cid: u16,
    pub sqe: Sqe,
    pub route: Route,
    pub buffer: Option<Buffer>,
    pub lent: Option<Lent>,
    /// Bytes that the buffer counts for on its host's account.
    pub held: u32,
    /// Whether some of its data did not match its digest.
    pub spoilt: bool,
    /// When its data was asked for, as the connection's pace has it.
    pub asked: u32,
    /// Bytes that came in.
    pub received: u32,
    pub phase: Phase,
}

/// Which way a command's data goes, and how much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub to_host: bool,
    pub from_host: bool,
    /// Where the data begins in the capsule's data, if it came along.
    pub in_capsule: Option<u32>,
    pub bytes: u32,
}

impl Route {
    /// Reads the data pointer of a command that came with `capsule_bytes` of data, of which `max_bytes` may move.
    ///
    /// # Errors
    /// The status to end the command with.
    pub fn of(sqe: &Sqe, capsule_bytes: u32, max_bytes: u32) -> Result<Self, Status> {
        let bytes = transfer_bytes(sqe);
        let (from_host, to_host) = (sqe.opcode() & 0b01 != 0, sqe.opcode() & 0b10 != 0);
        let mut route = Self { to_host, from_host, in_capsule: None, bytes };
        if bytes == 0 {
            return Ok(Self { to_host: false, from_host: false, ..route });
        }
        if bytes > max_bytes {
            return Err(Status::INVALID_FIELD);
        }
        // PSDT 01b and 10b are SGLs; fabrics have nothing else (base, "Data Transfer").
        let Some(DataPointer::Sgl(descriptor)) = sqe.data_pointer() else { return Err(Status::INVALID_FIELD) };
        let data = descriptor.capsule_data().ok_or(Status::SGL_TYPE_INVALID)?;
        if data.length() < bytes {
            return Err(Status::DATA_SGL_LENGTH_INVALID);
        }
        match data {
            CapsuleData::InCapsule { offset, .. } if from_host => {
                let end = offset.checked_add(u64::from(bytes));
                if end.is_none_or(|end| end > u64::from(capsule_bytes)) {
                    return Err(Status::SGL_OFFSET_INVALID);
                }
                route.in_capsule = Some(offset as u32);
            }
            CapsuleData::Transport { .. } => {}
            _ => return Err(Status::SGL_TYPE_INVALID),
        }
        Ok(route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(opcode: u8, bytes: u32, sgl: (u64, u32, u8)) -> Sqe {
        let mut sqe = Sqe::new(opcode, 1);
        sqe.set_dword(0, sqe.dword(0) | (0b01 << 14));
        sqe.set_dword(10, bytes);
        sqe.set_quadword(6, sgl.0);
        sqe.set_dword(8, sgl.1);
        sqe.set_dword(9, u32::from(sgl.2) << 24);
        sqe
    }

    #[test]
    fn data_pointers_are_checked() {
        let of = |sqe: &Sqe, capsule| Route::of(sqe, capsule, 1 << 20);
        let store = |bytes, sgl| command(0x01, bytes, sgl);
        assert_eq!(of(&store(100, (0, 100, 0x01)), 100).unwrap().in_capsule, Some(0));
        assert_eq!(of(&store(100, (0, 100, 0x5A)), 0).unwrap().in_capsule, None);
        assert_eq!(of(&store(100, (1, 100, 0x01)), 100), Err(Status::SGL_OFFSET_INVALID));
        assert_eq!(of(&store(100, (u64::MAX, 100, 0x01)), 100), Err(Status::SGL_OFFSET_INVALID));
        assert_eq!(of(&store(100, (0, 99, 0x5A)), 0), Err(Status::DATA_SGL_LENGTH_INVALID));
        assert_eq!(of(&store(2 << 20, (0, 2 << 20, 0x5A)), 0), Err(Status::INVALID_FIELD));
        assert_eq!(of(&store(100, (0, 100, 0x40)), 0), Err(Status::SGL_TYPE_INVALID));
        // A Retrieve has nothing in its capsule; an Exist moves nothing whatever its data pointer says.
        assert_eq!(of(&command(0x02, 100, (0, 100, 0x01)), 100), Err(Status::SGL_TYPE_INVALID));
        assert_eq!(of(&command(0x14, 100, (0, 0, 0xFF)), 0).unwrap().bytes, 0);
        let mut prp = store(100, (0, 100, 0x5A));
        prp.set_prp(4096, 0);
        assert_eq!(of(&prp, 0), Err(Status::INVALID_FIELD));
    }
}
