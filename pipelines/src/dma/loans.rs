//! Values that a carrier sends from where they lie, on a device that is memory itself: nothing has to move.

use dataplane::fabric::{Completion, Fabric};
use dataplane::memory::{SlotId, SlotPool};
use dataplane::nvme::BlockQueue;

use super::Surroundings;
use crate::classify::{Ended, Origin};
use crate::placement::PlacedLoad;
use crate::store::Shard;

/// Loans of a core at once; what goes beyond is moved as on any device.
const MOST: u16 = 128;

/// Bytes that are copied in one turn to have values back.
const COPIED_A_TURN: u32 = 1 << 20;

/// A value that a carrier looks at.
struct Loan {
    placed: PlacedLoad,
    /// What the carrier knows the command by.
    queue: SlotId,
}

/// The values of a core that carriers look at.
pub(super) struct Loans {
    out: SlotPool<Loan>,
}

impl Loans {
    pub(super) fn new() -> Self {
        Self { out: SlotPool::new(MOST) }
    }

    /// How many there are.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.out.in_use()
    }

    /// Has the carrier send a value from where it lies, which ends the command.
    ///
    /// # Errors
    /// The command as it was, if the value has to be moved.
    pub(super) fn lend<B: BlockQueue, F: Fabric>(
        &mut self,
        origin: Origin,
        placed: PlacedLoad,
        around: &mut Surroundings<'_, B, F>,
    ) -> Result<Ended, (Origin, PlacedLoad)> {
        let blocks = placed.bytes.div_ceil(around.blocks.geometry().lba_bytes);
        if blocks == 0 || self.count() == usize::from(MOST) {
            return Err((origin, placed));
        }
        let Some(resident) = around.blocks.resident(placed.lba, blocks) else { return Err((origin, placed)) };
        // What follows the value in its last block is nobody's business.
        let bytes = resident.split_at(placed.bytes).0;
        let completion = Completion::success(placed.value_bytes, placed.checksum);
        let ended = Ended { origin, completion, value_bytes: placed.bytes };
        let queue = ended.origin.permit.queue();
        let id = match self.out.insert(Loan { placed, queue }) {
            Ok(id) => id,
            Err(Loan { placed, .. }) => return Err((ended.origin, placed)),
        };
        if around.fabric.lend(&ended.origin.permit, bytes, id.to_bits()) {
            return Ok(ended);
        }
        match self.out.remove(id) {
            Some(Loan { placed, .. }) => Err((ended.origin, placed)),
            None => Ok(ended),
        }
    }

    /// The carrier does not look at a value any more.
    pub(super) fn returned(&mut self, loan: u64, shards: &mut [Shard]) {
        if let Some(Loan { placed: PlacedLoad { hold, shard, .. }, .. }) = self.out.remove(SlotId::from_bits(loan)) {
            shards[shard].release(hold);
        }
    }

    /// Asks carriers for the values back whose segments are to be freed. A host that takes its time must not hold up
    /// everybody's Stores: what it has yet to be sent is copied, as it would have been on any other device; and what it
    /// is being sent it has `patience` ticks to take.
    #[cold]
    pub(super) fn recall<F: Fabric>(&self, fabric: &mut F, shards: &[Shard], patience: u64) {
        let mut copied = 0;
        for id in self.out.ids() {
            let Some(Loan { placed, queue }) = self.out.get(id) else { continue };
            let waited = shards.get(placed.shard).map_or(0, |shard| shard.awaits(&placed.hold));
            if waited > 0 {
                copied += fabric.recall(*queue, id.to_bits(), waited >= patience);
            }
            if copied >= COPIED_A_TURN {
                return;
            }
        }
    }
}
