//! Names that go with commands to the device and with commits to the store, and come back.
//!
//! The token of a piece: the slot in the low 40 bits, the staging buffer plus one in the next 15, and in bit 55 the
//! direction. The top byte is zero, which says that the token is this stage's. A ticket is the slot, and in bit 40
//! whether it is an erasure's.

use dataplane::memory::SlotId;

use super::Direction;
use super::staging::StagingId;

const SAVE: u64 = 1 << 55;
const STAGED: u64 = 0x7FFF;
const ERASURE: u64 = 1 << SlotId::BITS;

#[inline]
pub(super) fn of_piece(direction: Direction, id: SlotId, staged: Option<StagingId>) -> u64 {
    let way = match direction {
        Direction::Load => 0,
        Direction::Save => SAVE,
    };
    way | id.to_bits() | (staged.map_or(0, |staged| u64::from(staged.0) + 1) << SlotId::BITS)
}

#[inline]
pub(super) fn parse_piece(token: u64) -> (Direction, SlotId, Option<StagingId>) {
    let direction = if token & SAVE == 0 { Direction::Load } else { Direction::Save };
    let staged = (token >> SlotId::BITS & STAGED) as u16;
    (direction, SlotId::from_bits(token), staged.checked_sub(1).map(StagingId))
}

/// Whose commit a ticket stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ticket {
    Save(SlotId),
    Erasure(SlotId),
}

impl Ticket {
    pub(super) fn to_bits(self) -> u64 {
        match self {
            Self::Save(id) => id.to_bits(),
            Self::Erasure(id) => id.to_bits() | ERASURE,
        }
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        let id = SlotId::from_bits(bits);
        if bits & ERASURE == 0 { Self::Save(id) } else { Self::Erasure(id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_direction_slot_and_staging_buffer() {
        let id = SlotId::from_bits(0x00AB_CDEF_1234);
        for direction in [Direction::Load, Direction::Save] {
            for staged in [None, Some(StagingId(0)), Some(StagingId(0x7FFE))] {
                let token = of_piece(direction, id, staged);
                assert_eq!(parse_piece(token), (direction, id, staged));
                assert_eq!(token >> 56, 0);
            }
        }
    }

    #[test]
    fn tickets_tell_whose_they_are() {
        let id = SlotId::from_bits(0x00FF_FFFF_FFFF);
        for ticket in [Ticket::Save(id), Ticket::Erasure(id)] {
            assert_eq!(Ticket::from_bits(ticket.to_bits()), ticket);
        }
    }
}
