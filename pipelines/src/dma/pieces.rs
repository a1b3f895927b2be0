//! A value on its way, cut into pieces of one device command each: what is still to issue, what is under way, and
//! whether it went well.

use dataplane::fabric::Fabric;
use dataplane::memory::{DmaSlice, SlotId};
use dataplane::nvme::spec::Status;
use dataplane::nvme::{BlockError, BlockIo, BlockOp, BlockQueue, Geometry};

use super::pacing::Pacing;
use super::staging::{STAGING_BYTES, Staging, StagingId};
use super::{Direction, Surroundings, token};

/// Whether every piece of a command was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Issued,
    /// No room in the queue, no staging buffer, or no allowance: go on later from here.
    Blocked,
}

pub(super) struct Pieces<D> {
    /// What the device does with each.
    op: BlockOp,
    data: D,
    /// Bytes still to issue, and the block where they begin.
    remaining: u32,
    lba: u64,
    /// Pieces on their way, and the bytes that they and those that are back carry.
    under_way: u32,
    bytes: u64,
    failed: Option<Status>,
}

impl<D: Clone> Pieces<D> {
    /// A value of `bytes`, from block `lba` on.
    #[inline]
    pub(super) fn new(op: BlockOp, data: D, lba: u64, bytes: u32) -> Self {
        Self { op, data, remaining: bytes, lba, under_way: 0, bytes: 0, failed: None }
    }

    /// How it went, once all pieces are back and none is left to issue.
    #[inline]
    pub(super) fn outcome(&self) -> Option<Result<(), Status>> {
        match self.failed {
            _ if self.under_way > 0 => None,
            Some(status) => Some(Err(status)),
            None if self.remaining == 0 => Some(Ok(())),
            None => None,
        }
    }

    /// Whether the device works on any piece.
    #[inline]
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way > 0
    }

    /// Issues pieces until all are or something is short.
    #[inline]
    pub(super) fn issue<B: BlockQueue, F: Fabric<Data = D>>(
        &mut self,
        direction: Direction,
        id: SlotId,
        staging: &mut Staging<D>,
        pacing: &mut Pacing,
        around: &mut Surroundings<'_, B, F>,
    ) -> Step {
        let mut allowance = pacing.allowance(direction, around.now);
        let before = self.bytes;
        let mut step = Step::Issued;
        while self.remaining > 0 && self.failed.is_none() {
            let geometry = around.blocks.geometry();
            let spare = allowance.spare_commands.min(geometry.depth as usize / 4);
            if around.blocks.room() <= spare || allowance.bytes == 0 {
                step = Step::Blocked;
                break;
            }
            let most = self.remaining.min(allowance.piece_bytes.max(geometry.lba_bytes)).min(geometry.max_transfer);
            match self.next_piece(direction, most, staging, around) {
                Ok(Some(piece)) => {
                    allowance.bytes = allowance.bytes.saturating_sub(u64::from(piece.memory.bytes()));
                    self.push(direction, id, &piece, staging, around);
                }
                Ok(None) => {
                    step = Step::Blocked;
                    break;
                }
                Err(status) => self.failed = Some(status),
            }
        }
        pacing.issued(direction, self.bytes - before, around.now);
        step
    }

    /// The next piece, of at most `most` bytes of value: straight to or from the client where the memory allows,
    /// else staged. `None` when no staging buffer is free.
    #[inline]
    fn next_piece<B: BlockQueue, F: Fabric<Data = D>>(
        &mut self,
        direction: Direction,
        most: u32,
        staging: &mut Staging<D>,
        around: &mut Surroundings<'_, B, F>,
    ) -> Result<Option<Piece>, Status> {
        let Geometry { lba_bytes, memory_align, .. } = *around.blocks.geometry();
        // Logical blocks are a power of two.
        let whole = most & !(lba_bytes - 1);
        if whole > 0 {
            let place = self.data.clone();
            let window = around.fabric.window(&mut self.data, whole)?;
            let direct = window.bytes() & !(lba_bytes - 1);
            if direct > 0 && window.address() & u64::from(memory_align - 1) == 0 {
                if direct < window.bytes() {
                    self.data = place;
                    skip(around.fabric, &mut self.data, direct)?;
                }
                return Ok(Some(Piece { memory: window.split_at(direct).0, value_bytes: direct, staged: None }));
            }
            self.data = place;
        }
        if !staging.has_room() {
            return Ok(None);
        }
        let bytes = if whole > 0 { whole.min(STAGING_BYTES) } else { most };
        self.stage(direction, bytes, bytes.next_multiple_of(lba_bytes), staging, around.fabric)
    }

    #[cold]
    fn stage<F: Fabric<Data = D>>(
        &mut self,
        direction: Direction,
        bytes: u32,
        padded: u32,
        staging: &mut Staging<D>,
        fabric: &mut F,
    ) -> Result<Option<Piece>, Status> {
        let taken = match direction {
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
    fn push<B: BlockQueue, F: Fabric<Data = D>>(
        &mut self,
        direction: Direction,
        id: SlotId,
        piece: &Piece,
        staging: &mut Staging<D>,
        around: &mut Surroundings<'_, B, F>,
    ) {
        let blocks = piece.memory.bytes() >> around.blocks.geometry().lba_bytes.trailing_zeros();
        let token = token::of_piece(direction, id, piece.staged);
        if around.blocks.push(BlockIo { op: self.op, lba: self.lba, blocks, memory: piece.memory, token }).is_err() {
            // There was room a moment ago; a queue that says otherwise is broken, and the command must still end and
            // give back what it holds.
            self.failed = Some(Status::INTERNAL_ERROR);
            if let Some(staged) = piece.staged {
                let _ = staging.finish(staged, false, around.fabric);
            }
            return;
        }
        self.lba += u64::from(blocks);
        self.remaining -= piece.value_bytes;
        self.under_way += 1;
        self.bytes += u64::from(piece.memory.bytes());
    }

    /// Takes a piece back. Returns how many bytes no longer are on their way; the last piece answers for all of
    /// them, because completions do not say how long their command was.
    #[inline]
    pub(super) fn came_back<F: Fabric<Data = D>>(
        &mut self,
        direction: Direction,
        result: Result<(), BlockError>,
        staged: Option<StagingId>,
        staging: &mut Staging<D>,
        fabric: &mut F,
    ) -> u64 {
        self.under_way = self.under_way.saturating_sub(1);
        if result.is_err() {
            self.failed.get_or_insert(match direction {
                Direction::Load => Status::UNRECOVERED_ERROR,
                Direction::Save => Status::INTERNAL_ERROR,
            });
        }
        if let Some(staged) = staged
            && let Err(status) = staging.finish(staged, result.is_ok(), fabric)
        {
            self.failed.get_or_insert(status);
        }
        if self.under_way == 0 { std::mem::take(&mut self.bytes) } else { 0 }
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
