//! A value on its way from the client to flash, and then into the index.

use dataplane::fabric::Completion;
use dataplane::nvme::BlockOp;
use dataplane::nvme::spec::Status;

use super::pieces::Pieces;
use crate::classify::{Ended, Origin};
use crate::placement::PlacedSave;
use crate::store::{Extent, NewBlock, Published, Shard, hint};

pub(super) struct Save<D> {
    origin: Origin,
    pub(super) pieces: Pieces<D>,
    /// Taken when the value has moved.
    place: Option<(Extent, NewBlock)>,
    shard: usize,
    bytes: u32,
}

impl<D: Clone> Save<D> {
    #[inline]
    pub(super) fn new(origin: Origin, data: D, placed: PlacedSave) -> Self {
        let PlacedSave { shard, extent, block, .. } = placed;
        let bytes = block.bytes;
        let op = BlockOp::Write { fua: false, hint: hint::of_class(block.class) };
        Self { origin, pieces: Pieces::new(op, data, extent.lba(), bytes), place: Some((extent, block)), shard, bytes }
    }

    /// Ends the command if all its pieces are back; `None` as well if it has to wait for the commit `ticket`.
    #[inline]
    pub(super) fn finish(&mut self, ticket: u64, shards: &mut [Shard]) -> Option<Ended> {
        let outcome = self.pieces.outcome()?;
        let (extent, block) = self.place.take()?;
        let shard = &mut shards[self.shard];
        if let Err(status) = outcome {
            shard.abandon(extent);
            return Some(self.end(Err(status)));
        }
        let published = match shard.publish(extent, block, ticket) {
            Published::Pending => return None,
            Published::Visible => Ok(()),
            Published::KeyExists => Err(Status::KEY_EXISTS),
            Published::KeyMissing => Err(Status::KEY_DOES_NOT_EXIST),
            Published::IndexFull => Err(Status::CAPACITY_EXCEEDED),
        };
        Some(self.end(published))
    }

    /// Ends a command whose value goes nowhere.
    pub(super) fn refuse(&mut self, shards: &mut [Shard]) -> Ended {
        if let Some((extent, _)) = self.place.take() {
            shards[self.shard].abandon(extent);
        }
        self.end(Err(Status::INTERNAL_ERROR))
    }

    /// Ends the command. What is left is an empty shell.
    #[inline]
    pub(super) fn end(&mut self, outcome: Result<(), Status>) -> Ended {
        let origin = self.origin.take();
        match outcome {
            Ok(()) => Ended { origin, completion: Completion::success(0, 0), value_bytes: self.bytes },
            Err(status) => origin.fail(status),
        }
    }
}
