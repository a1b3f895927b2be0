//! A value that goes out of the index and the log. No byte of it moves.

use dataplane::fabric::Completion;
use dataplane::nvme::spec::Status;

use crate::classify::{Ended, Origin};
use crate::placement::PlacedErasure;
use crate::store::{BlockId, Class, Deleted, Shard};

pub(super) struct Erasure {
    origin: Origin,
    shard: usize,
    hash: u64,
    id: BlockId,
    class: Class,
}

/// How far the store has come with one.
pub(super) enum Erased {
    /// The store cannot take it now.
    Wait,
    /// A commit has to become durable first.
    Pending,
    Done(Ended),
}

impl Erasure {
    pub(super) fn new(origin: Origin, placed: PlacedErasure) -> Self {
        let PlacedErasure { shard, hash, id, class, .. } = placed;
        Self { origin, shard, hash, id, class }
    }

    /// Has the store erase it; `ticket` comes back when the commit that it may take is durable.
    pub(super) fn carry_out(&mut self, ticket: u64, shards: &mut [Shard]) -> Erased {
        match shards[self.shard].delete(self.hash, &self.id, self.class, ticket) {
            Deleted::Wait => Erased::Wait,
            Deleted::Pending => Erased::Pending,
            Deleted::Done => Erased::Done(self.end(Ok(()))),
            Deleted::Missing => Erased::Done(self.end(Err(Status::KEY_DOES_NOT_EXIST))),
        }
    }

    /// Ends the command. What is left is an empty shell.
    pub(super) fn end(&mut self, outcome: Result<(), Status>) -> Ended {
        let origin = self.origin.take();
        match outcome {
            Ok(()) => origin.end(Completion::success(0, 0)),
            Err(status) => origin.fail(status),
        }
    }
}
