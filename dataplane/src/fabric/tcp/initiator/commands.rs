//! The commands of a queue, and what the controller may still do for each. No I/O.

use super::super::wire::{C2hData, FatalStatus, PduFault, R2t, field};
use super::regions::Place;
use crate::nvme::spec::fabrics::{FABRICS_OPCODE, fctype};
use crate::nvme::spec::{Cqe, Sqe, Status, kv};

/// Where CID stands in a CapsuleResp: in the completion, which follows the common header.
const RESPONSE_CID: u32 = 8 + 12;

/// R2Ts that the host takes at once for one command.
pub(super) const MAX_R2TS: u16 = 4;

/// Which way a command's data goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Direction {
    pub(super) to_controller: bool,
    pub(super) to_host: bool,
}

impl Direction {
    /// As the opcode says (base, "Opcode": bits 1:0), and FCTYPE for Fabrics commands.
    pub(super) fn of(sqe: &Sqe) -> Self {
        let bits = match sqe.opcode() {
            FABRICS_OPCODE if sqe.nsid() as u8 == fctype::CONNECT => 0b01,
            FABRICS_OPCODE => 0b00,
            opcode => opcode & 0b11,
        };
        Self { to_controller: bits & 0b01 != 0, to_host: bits & 0b10 != 0 }
    }
}

/// A command between its submission and its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    pub(super) sqe: Sqe,
    /// Its data; `None` for a command that moves none.
    pub(super) place: Option<Place>,
    direction: Direction,
    /// Its data goes with the capsule, so that no R2T may come.
    pub(super) in_capsule: bool,
    /// The capsule has left.
    sent: bool,
    /// Bytes that R2Ts asked for so far.
    requested: u32,
    /// R2Ts whose data has not all been handed to the socket.
    r2ts: u16,
    /// Bytes that came, and whether they were the last.
    received: u32,
    last: bool,
    /// A data digest did not match.
    corrupt: bool,
    /// PDUs that are on their way out and name its data.
    pub(super) leaving: u16,
    /// Its completion, kept until they have left.
    ended: Option<Cqe>,
}

impl Command {
    /// Whether data that an R2T asked for is still to be handed to the socket.
    pub(super) fn awaits_data(&self) -> bool {
        self.r2ts > 0
    }

    /// Whether a Retrieve ends with less data than it says: its DW0 is the length of the value (KV command set,
    /// "Retrieve command"), of which comes what the buffer has room for.
    fn lacks_data(&self, cqe: &Cqe) -> bool {
        let room = self.place.map_or(0, |place| place.bytes);
        self.sqe.opcode() == kv::opcode::RETRIEVE && self.received < cqe.dword0.min(room)
    }
}

/// Every command of a queue, by identifier.
pub(super) struct Commands {
    slots: Vec<Option<Command>>,
    free: Vec<u16>,
    /// Commands for which data may come.
    expecting: usize,
}

/// What a PDU with data means for its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) cid: u16,
    /// Where the bytes go.
    pub(super) place: Place,
    /// The command ends with them.
    pub(super) success: bool,
}

impl Commands {
    pub(super) fn new(depth: u16) -> Self {
        Self { slots: vec![None; usize::from(depth)], free: (0..depth).rev().collect(), expecting: 0 }
    }

    pub(super) fn room(&self) -> usize {
        self.free.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether data may come, so that what follows a header may not be a header.
    pub(super) fn expect_data(&self) -> bool {
        self.expecting > 0
    }

    /// Takes a command in; the identifier is in its entry, too. `None` if all are in use.
    pub(super) fn begin(&mut self, mut sqe: Sqe, place: Option<Place>, in_capsule: bool) -> Option<u16> {
        let cid = self.free.pop()?;
        sqe.set_cid(cid);
        let direction = if place.is_some() { Direction::of(&sqe) } else { Direction::default() };
        self.expecting += usize::from(direction.to_host);
        self.slots[usize::from(cid)] = Some(Command {
            sqe,
            place,
            direction,
            in_capsule,
            sent: false,
            requested: 0,
            r2ts: 0,
            received: 0,
            last: false,
            corrupt: false,
            leaving: 0,
            ended: None,
        });
        Some(cid)
    }

    pub(super) fn get(&self, cid: u16) -> Option<&Command> {
        self.slots.get(usize::from(cid))?.as_ref()
    }

    pub(super) fn get_mut(&mut self, cid: u16) -> Option<&mut Command> {
        self.slots.get_mut(usize::from(cid))?.as_mut()
    }

    /// A command that the controller knows of and has not ended.
    fn known(&mut self, cid: u16, fault: PduFault) -> Result<&mut Command, PduFault> {
        let command = self.get_mut(cid).filter(|command| command.ended.is_none()).ok_or(fault)?;
        if command.sent { Ok(command) } else { Err(PduFault::SEQUENCE) }
    }

    /// The capsule has left.
    pub(super) fn sent(&mut self, cid: u16) {
        if let Some(command) = self.get_mut(cid) {
            command.sent = true;
        }
    }

    /// The last byte that an R2T asked for is on its way.
    pub(super) fn served(&mut self, cid: u16) {
        if let Some(command) = self.get_mut(cid) {
            command.r2ts = command.r2ts.saturating_sub(1);
        }
    }

    /// The controller asks for data (TCP transport, 3.3.2.2). Where that lies.
    pub(super) fn ready(&mut self, r2t: &R2t) -> Result<Place, PduFault> {
        let command = self.known(r2t.cid, PduFault::invalid(field::COMMAND_ID))?;
        if !command.direction.to_controller || command.in_capsule || r2t.offset != command.requested {
            return Err(PduFault::SEQUENCE);
        }
        if command.r2ts >= MAX_R2TS {
            return Err(PduFault::plain(FatalStatus::R2T_LIMIT_EXCEEDED));
        }
        let out_of_range = PduFault::plain(FatalStatus::DATA_OUT_OF_RANGE);
        let place = command.place.and_then(|place| place.part(r2t.offset, r2t.length)).ok_or(out_of_range)?;
        command.requested += r2t.length;
        command.r2ts += 1;
        Ok(place)
    }

    /// Data comes (3.3.2.1). Where it goes.
    pub(super) fn data(&mut self, data: &C2hData) -> Result<Transfer, PduFault> {
        let command = self.known(data.cid, PduFault::invalid(field::COMMAND_ID))?;
        if !command.direction.to_host || command.last || data.offset != command.received {
            return Err(PduFault::SEQUENCE);
        }
        let out_of_range = PduFault::plain(FatalStatus::DATA_OUT_OF_RANGE);
        let place = command.place.and_then(|place| place.part(data.offset, data.length)).ok_or(out_of_range)?;
        command.received += data.length;
        command.last = data.last;
        Ok(Transfer { cid: data.cid, place, success: data.success })
    }

    /// Data that came did not match its digest. The command fails when it ends (3.5, "Digest Error handling").
    pub(super) fn spoiled(&mut self, cid: u16) {
        if let Some(command) = self.get_mut(cid) {
            command.corrupt = true;
        }
    }

    /// The controller ended a command: one of the KV command set, if it is of an I/O queue.
    pub(super) fn end(&mut self, mut cqe: Cqe, of_io: bool) -> Result<(), PduFault> {
        let command = self.known(cqe.cid, PduFault::invalid(RESPONSE_CID))?;
        let spoilt = command.corrupt || of_io && command.lacks_data(&cqe);
        if spoilt && cqe.status.is_success() {
            cqe.status = Status::TRANSIENT_TRANSPORT_ERROR;
        }
        command.ended = Some(cqe);
        Ok(())
    }

    /// The completion of a command that has ended and of which nothing is on its way any more. Its identifier stays taken
    /// until [`release`](Self::release): who does not know of the end yet would take it for that of another command.
    pub(super) fn take_ended(&mut self, cid: u16) -> Option<(Cqe, Option<Place>)> {
        let slot = self.slots.get_mut(usize::from(cid))?;
        let command = slot.as_ref().filter(|command| command.leaving == 0)?;
        let (cqe, place) = (command.ended?, command.place);
        self.expecting -= usize::from(command.direction.to_host);
        *slot = None;
        Some((cqe, place))
    }

    /// The completion of a command was handed out: its identifier is free.
    pub(super) fn release(&mut self, cid: u16) {
        self.free.push(cid);
    }
}
