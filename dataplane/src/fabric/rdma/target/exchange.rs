//! One command of a host, from its capsule to its response.

use crate::fabric::message::{AccountId, Buffer};
use crate::fabric::rdma::verbs::RemotePlace;
use crate::fabric::{Completion, SessionId};
use crate::memory::SlotId;
use crate::nvme::spec::fabrics::CapsuleData;
use crate::nvme::spec::kv::transfer_bytes;
use crate::nvme::spec::{DataPointer, Sqe, Status};

/// How far a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for a buffer.
    Starved,
    /// Its data is read from the host's memory.
    Reading,
    /// Waits to be taken.
    Ready,
    /// Taken: its completion will come.
    Running,
    /// Has its completion, of which the host does not know yet.
    Answered(Completion),
}

/// One command.
#[derive(Debug)]
pub(super) struct Exchange {
    /// The queue on which it came.
    pub queue: SlotId,
    /// Whose it is; `None` of a first command, which is never yielded.
    pub session: Option<SessionId>,
    /// Whom its buffer counts for.
    pub account: AccountId,
    /// The host's command identifier.
    pub cid: u16,
    pub sqe: Sqe,
    pub route: Route,
    pub buffer: Option<Buffer>,
    /// Whose the buffer is, if the data came along: port and receive.
    pub receive: Option<(usize, u16)>,
    /// What the buffer counts for among those of the host.
    pub held: u32,
    pub phase: Phase,
}

/// Which way a command's data goes, and how much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub to_host: bool,
    pub from_host: bool,
    pub bytes: u32,
    /// Where in the host's memory; `None` if the data came along.
    pub place: Option<RemotePlace>,
    /// The key that the host wants to be invalidated with the response.
    pub invalidate: Option<u32>,
}

impl Route {
    /// Reads the data pointer of a command that came with `capsule_bytes` of data, of which `max_bytes` may move.
    ///
    /// # Errors
    /// The status to end the command with.
    pub fn of(sqe: &Sqe, capsule_bytes: u32, max_bytes: u32) -> Result<Self, Status> {
        let (from_host, to_host) = (sqe.opcode() & 0b01 != 0, sqe.opcode() & 0b10 != 0);
        Self::with_bytes(sqe, transfer_bytes(sqe), (from_host, to_host), capsule_bytes, max_bytes)
    }

    /// As [`of`](Self::of) for a command that moves `bytes` from or to the host.
    pub fn with_bytes(
        sqe: &Sqe,
        bytes: u32,
        (from_host, to_host): (bool, bool),
        capsule_bytes: u32,
        max_bytes: u32,
    ) -> Result<Self, Status> {
        let mut route = Self { to_host, from_host, bytes, place: None, invalidate: None };
        // Fabrics have SGLs only (base, "Data Transfer"), and one descriptor a command here.
        let data = match sqe.data_pointer() {
            Some(DataPointer::Sgl(descriptor)) => descriptor.capsule_data(),
            _ => None,
        };
        if let Some(CapsuleData::Keyed { key, invalidate: true, .. }) = data {
            route.invalidate = Some(key);
        }
        if bytes == 0 {
            return Ok(Self { to_host: false, from_host: false, ..route });
        }
        if bytes > max_bytes || !matches!(sqe.data_pointer(), Some(DataPointer::Sgl(_))) {
            return Err(Status::INVALID_FIELD);
        }
        let data = data.ok_or(Status::SGL_TYPE_INVALID)?;
        if data.length() < bytes {
            return Err(Status::DATA_SGL_LENGTH_INVALID);
        }
        match data {
            CapsuleData::Keyed { address, key, .. } => route.place = Some(RemotePlace { address, key }),
            // What goes to the host needs a place there, whatever comes along.
            CapsuleData::InCapsule { .. } if to_host => return Err(Status::SGL_TYPE_INVALID),
            // It lies at the beginning of a buffer of its own, so that nobody has to copy it.
            CapsuleData::InCapsule { offset, .. } if offset != 0 => return Err(Status::SGL_OFFSET_INVALID),
            CapsuleData::InCapsule { .. } if bytes > capsule_bytes => return Err(Status::DATA_SGL_LENGTH_INVALID),
            CapsuleData::InCapsule { .. } => {}
            CapsuleData::Transport { .. } => return Err(Status::SGL_TYPE_INVALID),
        }
        Ok(route)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::FromBytes;

    use super::*;
    use crate::nvme::spec::SglDescriptor;

    fn command(opcode: u8, bytes: u32, sgl: SglDescriptor) -> Sqe {
        let mut sqe = Sqe::new(opcode, 1);
        sqe.set_dword(10, bytes);
        sqe.set_sgl(sgl);
        sqe
    }

    #[test]
    fn data_pointers_are_checked() {
        let of = |sqe: &Sqe, capsule| Route::of(sqe, capsule, 1 << 20);
        let keyed = |length| SglDescriptor::keyed(0x1000, length, 7, false);
        let place = Some(RemotePlace { address: 0x1000, key: 7 });
        assert_eq!(of(&command(1, 100, keyed(100)), 0).unwrap().place, place);
        assert_eq!(of(&command(2, 100, keyed(200)), 0).unwrap().place, place);
        assert_eq!(of(&command(2, 100, keyed(99)), 0), Err(Status::DATA_SGL_LENGTH_INVALID));
        assert_eq!(of(&command(2, 2 << 20, keyed(2 << 20)), 0), Err(Status::INVALID_FIELD));
        let along = |offset, length| SglDescriptor::in_capsule(offset, length);
        assert_eq!(of(&command(1, 100, along(0, 100)), 100).unwrap().place, None);
        assert_eq!(of(&command(1, 100, along(0, 100)), 99), Err(Status::DATA_SGL_LENGTH_INVALID));
        assert_eq!(of(&command(1, 100, along(16, 100)), 200), Err(Status::SGL_OFFSET_INVALID));
        assert_eq!(of(&command(1, 100, SglDescriptor::transport(100)), 0), Err(Status::SGL_TYPE_INVALID));
        assert_eq!(of(&command(1, 100, SglDescriptor::data_block(0x1000, 100)), 0), Err(Status::SGL_TYPE_INVALID));
        // A Retrieve has nothing in its capsule; an Exist moves nothing whatever its data pointer says.
        assert_eq!(of(&command(2, 100, along(0, 100)), 100), Err(Status::SGL_TYPE_INVALID));
        // What goes both ways comes from a place of the host's, and goes back there.
        assert_eq!(of(&command(0x83, 100, along(0, 100)), 100), Err(Status::SGL_TYPE_INVALID));
        assert_eq!(of(&command(0x83, 100, keyed(100)), 0).unwrap().place, place);
        assert_eq!(of(&command(0x14, 100, along(5, 1)), 0).unwrap().bytes, 0);
        let inv = command(2, 100, SglDescriptor::keyed(0x1000, 100, 9, true));
        assert_eq!(of(&inv, 0).unwrap().invalidate, Some(9));
        let mut prp = command(1, 100, keyed(100));
        prp.set_prp(4096, 0);
        assert_eq!(of(&prp, 0), Err(Status::INVALID_FIELD));
    }

    proptest! {
        #[test]
        fn a_route_stays_within_what_was_agreed(bytes: [u8; 64], capsule in 0..8192u32, most in 1..(16u32 << 20)) {
            let sqe = Sqe::read_from_bytes(&bytes).unwrap();
            if let Ok(route) = Route::of(&sqe, capsule, most) {
                prop_assert!(route.bytes == 0 || route.bytes <= most);
                let along = !route.to_host && route.bytes <= capsule;
                prop_assert!(route.bytes == 0 || route.place.is_some() || along);
                prop_assert!(route.bytes > 0 || !route.to_host && !route.from_host);
            }
        }
    }
}
