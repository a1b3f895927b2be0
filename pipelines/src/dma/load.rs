//! A value on its way from flash to the client.

use dataplane::fabric::Completion;
use dataplane::nvme::spec::Status;
use dataplane::nvme::{BlockError, BlockOp};

use super::pieces::Pieces;
use crate::classify::{Ended, Origin};
use crate::placement::PlacedLoad;
use crate::store::{Hold, Shard};

pub(super) struct Load<D> {
    origin: Origin,
    pub(super) pieces: Pieces<D>,
    /// Taken when the value has moved.
    hold: Option<Hold>,
    shard: usize,
    bytes: u32,
    value_bytes: u32,
    checksum: u32,
}

impl<D: Clone> Load<D> {
    #[inline]
    pub(super) fn new(origin: Origin, data: D, placed: PlacedLoad) -> Self {
        let PlacedLoad { shard, hold, lba, bytes, value_bytes, checksum, .. } = placed;
        Self {
            origin,
            pieces: Pieces::new(BlockOp::Read, data, lba, bytes),
            hold: Some(hold),
            shard,
            bytes,
            value_bytes,
            checksum,
        }
    }

    /// A piece could not be read. What the medium does not give back is dropped at once; the rest of the pieces go on.
    #[cold]
    #[inline(never)]
    pub(super) fn note_failure(&self, error: BlockError, shards: &mut [Shard]) {
        if let Some(hold) = self.hold.as_ref().filter(|_| error.is_unreadable()) {
            shards[self.shard].drop_unreadable(hold);
        }
    }

    /// Ends the command if all its pieces are back.
    #[inline]
    pub(super) fn finish(&mut self, shards: &mut [Shard]) -> Option<Ended> {
        self.pieces.outcome().map(|outcome| self.end(outcome, shards))
    }

    /// Ends the command. What is left is an empty shell.
    #[inline]
    pub(super) fn end(&mut self, outcome: Result<(), Status>, shards: &mut [Shard]) -> Ended {
        if let Some(hold) = self.hold.take() {
            shards[self.shard].release(hold);
        }
        let origin = self.origin.take();
        match outcome {
            Ok(()) => {
                let completion = Completion::success(self.value_bytes, self.checksum);
                Ended { origin, completion, value_bytes: self.bytes }
            }
            Err(status) => origin.fail(status),
        }
    }
}
