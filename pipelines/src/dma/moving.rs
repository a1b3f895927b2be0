//! One command whose bytes move: what is still to issue, what is on its way, and how it went.

use dataplane::fabric::{Completion, Fabric};
use dataplane::memory::{DmaSlice, SlotId};
use dataplane::nvme::spec::Status;
use dataplane::nvme::{BlockError, BlockIo, BlockOp, BlockQueue, Geometry, WriteHint};

use super::pacing::Allowance;
use super::staging::{STAGING_BYTES, Staging, StagingId};
use super::{Direction, Settled};
use crate::classify::{Ended, Origin};
use crate::placement::Transfer;
use crate::store::{BlockId, Class, Shard, hint};

/// Whether every piece of a command was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Issued,
    /// No room in the queue, no staging buffer, or no allowance: go on later from here.
    Blocked,
}

/// The token of a piece: the slot in the low 40 bits, the staging buffer plus one in the next 15. The top byte is
/// zero, which says that the token is this stage's.
fn token(id: SlotId, staged: Option<StagingId>) -> u64 {
    id.to_bits() | (staged.map_or(0, |staged| u64::from(staged.0) + 1) << SlotId::BITS)
}

pub(super) fn parse_token(token: u64) -> (SlotId, Option<StagingId>) {
    let staged = (token >> SlotId::BITS) as u16 & 0x7FFF;
    (SlotId::from_bits(token), staged.checked_sub(1).map(StagingId))
}

pub(super) struct Moving<D> {
    origin: Origin,
    data: D,
    shard: usize,
    /// Taken when the outcome is settled.
    transfer: Option<Transfer>,
    /// Bytes still to issue, and the block where they begin.
    remaining: u32,
    lba: u64,
    /// Pieces on their way and the bytes they carry.
    pieces: u32,
    piece_bytes: u64,
    /// Issued since it was last asked.
    issued: u64,
    hint: WriteHint,
    /// Bytes of value that the command moves when all goes well.
    moved_bytes: u32,
    failed: Option<Status>,
}

impl<D: Clone> Moving<D> {
    #[inline]
    pub(super) fn new(origin: Origin, data: D, shard: usize, transfer: Transfer) -> Self {
        let (remaining, lba) = match &transfer {
            Transfer::Load { lba, bytes, .. } => (*bytes, *lba),
            Transfer::Save { extent, block } => (block.bytes, extent.lba()),
            Transfer::Erase { .. } => (0, 0),
        };
        let hint = match &transfer {
            Transfer::Save { block, .. } => hint::of_class(block.class),
            _ => WriteHint::NONE,
        };
        Self {
            origin,
            data,
            shard,
            transfer: Some(transfer),
            remaining,
            lba,
            pieces: 0,
            piece_bytes: 0,
            issued: 0,
            hint,
            moved_bytes: remaining,
            failed: None,
        }
    }

    pub(super) fn shard(&self) -> usize {
        self.shard
    }

    #[inline]
    pub(super) fn direction(&self) -> Direction {
        match self.transfer {
            Some(Transfer::Load { .. }) => Direction::Load,
            _ => Direction::Save,
        }
    }

    pub(super) fn erasure(&self) -> Option<(u64, BlockId, Class)> {
        match &self.transfer {
            Some(Transfer::Erase { hash, id, class }) => Some((*hash, *id, *class)),
            _ => None,
        }
    }

    pub(super) fn take_issued(&mut self) -> u64 {
        std::mem::take(&mut self.issued)
    }

    /// All pieces are back and none is left to issue.
    #[inline]
    fn is_idle(&self) -> bool {
        self.pieces == 0 && (self.remaining == 0 || self.failed.is_some())
    }

    /// Issues pieces until all are or something is short.
    pub(super) fn issue<B: BlockQueue, F: Fabric<Data = D>>(
        &mut self,
        id: SlotId,
        mut allowance: Allowance,
        staging: &mut Staging<D>,
        blocks: &mut B,
        fabric: &mut F,
    ) -> Step {
        let geometry = *blocks.geometry();
        while self.remaining > 0 && self.failed.is_none() {
            if blocks.room() <= allowance.spare_commands.min(geometry.depth as usize / 4) || allowance.bytes == 0 {
                return Step::Blocked;
            }
            let most = (self.remaining).min(allowance.piece_bytes.max(geometry.lba_bytes)).min(geometry.max_transfer);
            match self.next_piece(most, &geometry, staging, fabric) {
                Ok(Some(piece)) => {
                    allowance.bytes = allowance.bytes.saturating_sub(u64::from(piece.memory.bytes()));
                    if !self.push(id, &piece, &geometry, blocks) {
                        // There was room a moment ago; a queue that says otherwise is broken, and the command
                        // must still end and give back what it holds.
                        self.failed = Some(Status::INTERNAL_ERROR);
                        if let Some(staged) = piece.staged {
                            let _ = staging.finish(staged, false, fabric);
                        }
                    }
                }
                Ok(None) => return Step::Blocked,
                Err(status) => self.failed = Some(status),
            }
        }
        Step::Issued
    }

    /// The next piece, of at most `most` bytes of value: straight to or from the client where the memory allows,
    /// else staged. `None` when no staging buffer is free.
    #[inline]
    fn next_piece<F: Fabric<Data = D>>(
        &mut self,
        most: u32,
        geometry: &Geometry,
        staging: &mut Staging<D>,
        fabric: &mut F,
    ) -> Result<Option<Piece>, Status> {
        let whole = most / geometry.lba_bytes * geometry.lba_bytes;
        if whole > 0 {
            let place = self.data.clone();
            let window = fabric.window(&mut self.data, whole)?;
            let direct = window.bytes() / geometry.lba_bytes * geometry.lba_bytes;
            if direct > 0 && window.address().is_multiple_of(u64::from(geometry.memory_align)) {
                if direct < window.bytes() {
                    self.data = place;
                    skip(fabric, &mut self.data, direct)?;
                }
                return Ok(Some(Piece { memory: window.split_at(direct).0, value_bytes: direct, staged: None }));
            }
            self.data = place;
        }
        if !staging.has_room() {
            return Ok(None);
        }
        let bytes = if whole > 0 { whole.min(STAGING_BYTES) } else { most };
        self.stage(bytes, bytes.next_multiple_of(geometry.lba_bytes), staging, fabric)
    }

    fn stage<F: Fabric<Data = D>>(
        &mut self,
        bytes: u32,
        padded: u32,
        staging: &mut Staging<D>,
        fabric: &mut F,
    ) -> Result<Option<Piece>, Status> {
        let taken = match self.direction() {
            Direction::Save => staging.for_save(&mut self.data, bytes, padded, fabric)?,
            Direction::Load => {
                let target = self.data.clone();
                skip(fabric, &mut self.data, bytes)?;
                staging.for_load(target, bytes, padded)
            }
        };
        Ok(taken.map(|(staged, memory)| Piece { memory, value_bytes: bytes, staged: Some(staged) }))
    }

    #[inline]
    fn push<B: BlockQueue>(&mut self, id: SlotId, piece: &Piece, geometry: &Geometry, blocks: &mut B) -> bool {
        let count = piece.memory.bytes() / geometry.lba_bytes;
        let op = match self.direction() {
            Direction::Load => BlockOp::Read,
            Direction::Save => BlockOp::Write { fua: false, hint: self.hint },
        };
        let io = BlockIo { op, lba: self.lba, blocks: count, memory: piece.memory, token: token(id, piece.staged) };
        if blocks.push(io).is_err() {
            return false;
        }
        self.lba += u64::from(count);
        self.remaining -= piece.value_bytes;
        self.pieces += 1;
        self.piece_bytes += u64::from(piece.memory.bytes());
        self.issued += u64::from(piece.memory.bytes());
        true
    }

    /// Takes a piece back. Returns how many bytes no longer are on their way; the last piece answers for all of
    /// them, because completions do not say how long their command was.
    #[inline]
    pub(super) fn piece_done<F: Fabric<Data = D>>(
        &mut self,
        result: Result<(), BlockError>,
        staged: Option<StagingId>,
        staging: &mut Staging<D>,
        fabric: &mut F,
    ) -> u64 {
        self.pieces = self.pieces.saturating_sub(1);
        if result.is_err() {
            self.failed.get_or_insert(match self.direction() {
                Direction::Load => Status::UNRECOVERED_ERROR,
                Direction::Save => Status::INTERNAL_ERROR,
            });
        }
        if let Some(staged) = staged
            && let Err(status) = staging.finish(staged, result.is_ok(), fabric)
        {
            self.failed.get_or_insert(status);
        }
        if self.pieces == 0 { std::mem::take(&mut self.piece_bytes) } else { 0 }
    }

    /// Ends the transfer at the store.
    #[inline]
    fn settle(&mut self, shard: &mut Shard, ticket: u64) -> Settled {
        match (self.transfer.take(), self.failed) {
            (Some(Transfer::Load { hold, value_bytes, checksum, .. }), failed) => {
                shard.release(hold);
                Settled::Completed(match failed {
                    None => Completion::success(value_bytes, checksum),
                    Some(status) => Completion::failed(status),
                })
            }
            (Some(Transfer::Save { extent, .. }), Some(status)) => {
                shard.abandon(extent);
                Settled::Completed(Completion::failed(status))
            }
            (Some(Transfer::Save { extent, block }), None) => shard.publish(extent, block, ticket).into(),
            (Some(Transfer::Erase { .. }) | None, _) => Settled::Waiting,
        }
    }

    /// Ends the command at the store if all its pieces are back; `None` if it has to go on or wait for a commit.
    #[inline]
    pub(super) fn finish(&mut self, id: SlotId, shards: &mut [Shard]) -> Option<Ended> {
        if !self.is_idle() {
            return None;
        }
        match self.settle(&mut shards[self.shard], id.to_bits()) {
            Settled::Waiting => None,
            Settled::Completed(completion) => Some(self.end(completion)),
        }
    }

    /// Takes out who asked, with the answer. What is left is an empty shell.
    #[inline]
    pub(super) fn end(&mut self, completion: Completion) -> Ended {
        let value_bytes = if completion.status.is_success() { self.moved_bytes } else { 0 };
        let Origin { permit, session, kind, received } = &mut self.origin;
        let origin = Origin { permit: permit.take(), session: *session, kind: *kind, received: *received };
        Ended { origin, completion, value_bytes }
    }

    pub(super) fn committed(&mut self, durable: bool) -> Ended {
        let completion = if durable { Completion::success(0, 0) } else { Completion::failed(Status::INTERNAL_ERROR) };
        self.end(completion)
    }

    /// Ends a command for which there was no slot after all.
    pub(super) fn refuse(mut self, shards: &mut [Shard]) -> Ended {
        self.failed = Some(Status::INTERNAL_ERROR);
        let shard = &mut shards[self.shard];
        if !matches!(self.transfer, Some(Transfer::Erase { .. })) {
            let _ = self.settle(shard, 0);
        }
        self.origin.fail(Status::INTERNAL_ERROR)
    }
}

struct Piece {
    memory: DmaSlice,
    value_bytes: u32,
    staged: Option<StagingId>,
}

/// Moves a cursor on without looking at the bytes.
fn skip<F: Fabric>(fabric: &mut F, data: &mut F::Data, bytes: u32) -> Result<(), Status> {
    let mut left = bytes;
    while left > 0 {
        match fabric.window(data, left)?.bytes() {
            0 => return Err(Status::DATA_TRANSFER_ERROR),
            bytes => left -= bytes.min(left),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_slot_and_staging_buffer() {
        let id = SlotId::from_bits(0x00AB_CDEF_1234);
        assert_eq!(parse_token(token(id, None)), (id, None));
        assert_eq!(parse_token(token(id, Some(StagingId(0x7FFE)))), (id, Some(StagingId(0x7FFE))));
        assert_eq!(token(id, Some(StagingId(0x7FFE))) >> 56, 0);
    }
}
