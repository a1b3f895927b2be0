//! Stage 4: the bytes move between the device and the client's memory, and when they have moved the block becomes
//! visible (Store) or the client hears of it (Retrieve).
//!
//! A value is cut into pieces, one device command each. A piece goes straight between device and client wherever
//! the client's memory and the length allow it; what is not aligned to the device's blocks goes through a staging
//! buffer. Reads are issued before writes, and writes are paced while reads are about ([`pacing`]).

mod moving;
pub mod pacing;
mod staging;

pub use staging::{STAGING_BYTES, Staging, StagingBuffers};

use std::collections::VecDeque;

use dataplane::core::Ticks;
use dataplane::fabric::{Completion, Fabric};
use dataplane::memory::{SlotId, SlotPool};
use dataplane::nvme::spec::Status;
use dataplane::nvme::{BlockDone, BlockQueue};
use dataplane::{BURST, Burst};

use crate::classify::Ended;
use crate::lines::Lines;
use crate::placement::{Placed, PlacedBurst, Transfer};
use crate::store::{Deleted, Published, Shard};
use moving::{Moving, Step};
use pacing::Pacing;

/// What the stage needs to know of the device and the core it works on, for one call.
pub struct Surroundings<'a, B, F> {
    /// The core's queue on the device.
    pub blocks: &'a mut B,
    /// The core's end of the carrier.
    pub fabric: &'a mut F,
    /// The core's shards.
    pub shards: &'a mut [Shard],
    /// The time of this turn.
    pub now: Ticks,
}

/// The transfers of one core.
pub struct Dma<D> {
    moving: SlotPool<Moving<D>>,
    staging: Staging<D>,
    /// Loads and saves with pieces still to issue, in order of arrival.
    loads: VecDeque<SlotId>,
    saves: VecDeque<SlotId>,
    /// Deletes that the store has not taken yet.
    erasures: VecDeque<SlotId>,
    pacing: Pacing,
}

impl<D: Clone> Dma<D> {
    /// A stage that holds at most `capacity` commands at once.
    #[must_use]
    pub fn new(capacity: u16, staging: StagingBuffers, pacing: Pacing) -> Self {
        Self {
            moving: SlotPool::new(capacity),
            staging: Staging::new(staging),
            loads: VecDeque::with_capacity(usize::from(capacity)),
            saves: VecDeque::with_capacity(usize::from(capacity)),
            erasures: VecDeque::with_capacity(usize::from(capacity)),
            pacing,
        }
    }

    /// Commands it could still take.
    #[must_use]
    pub fn room(&self) -> usize {
        self.moving.available()
    }

    /// Commands in it.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.moving.in_use()
    }

    /// Bytes that went through staging buffers because they were not aligned.
    #[must_use]
    pub fn staged_bytes(&self) -> u64 {
        self.staging.staged_bytes()
    }

    /// Takes a burst of placed commands; there is room for it, because the caller looked at [`room`](Self::room).
    pub fn start<B: BlockQueue, F: Fabric<Data = D>>(
        &mut self,
        burst: &mut PlacedBurst,
        around: &mut Surroundings<'_, B, F>,
        ended: &mut Burst<Ended>,
    ) {
        let Lines { capsules, notes, placed, .. } = burst.lines();
        for Placed { lane, shard, transfer, .. } in placed.drain(..) {
            let capsule = &mut capsules[lane];
            let (data, origin) = (around.fabric.data(capsule), notes[lane].take_origin(capsule));
            let direction = match transfer {
                Transfer::Load { .. } => Some(Direction::Load),
                Transfer::Save { .. } => Some(Direction::Save),
                Transfer::Erase { .. } => None,
            };
            let id = match self.moving.insert(Moving::new(origin, data, shard, transfer)) {
                Ok(id) => id,
                Err(moving) => {
                    ended.push(moving.refuse(around.shards));
                    continue;
                }
            };
            match direction {
                Some(Direction::Load) => self.loads.push_back(id),
                Some(Direction::Save) => self.saves.push_back(id),
                // Nothing has to move: only a deletion that the store cannot take now stands in line.
                None if self.erase(id, around, ended) => {}
                None => self.erasures.push_back(id),
            }
        }
    }

    /// Issues pieces: those of loads first, then those of saves within the budget that pacing allows. Commands
    /// that turn out to be impossible end here. Returns how many commands it moved on.
    pub fn issue<B: BlockQueue, F: Fabric<Data = D>>(
        &mut self,
        around: &mut Surroundings<'_, B, F>,
        ended: &mut Burst<Ended>,
    ) -> usize {
        if self.loads.is_empty() && self.saves.is_empty() && self.erasures.is_empty() {
            return 0;
        }
        let mut moved = self.issue_queue(Direction::Load, around, ended);
        moved += self.issue_queue(Direction::Save, around, ended);
        // Last, for each takes a place in `ended`, which loads and saves hardly need.
        let mut erased = 0;
        while !ended.is_full()
            && erased < BURST
            && let Some(&id) = self.erasures.front()
            && self.erase(id, around, ended)
        {
            self.erasures.pop_front();
            erased += 1;
        }
        moved + erased
    }

    fn issue_queue<B: BlockQueue, F: Fabric<Data = D>>(
        &mut self,
        direction: Direction,
        around: &mut Surroundings<'_, B, F>,
        ended: &mut Burst<Ended>,
    ) -> usize {
        let mut moved = 0;
        while !ended.is_full() && moved < BURST {
            let queue = match direction {
                Direction::Load => &mut self.loads,
                Direction::Save => &mut self.saves,
            };
            let Some(&id) = queue.front() else { break };
            let Some(moving) = self.moving.get_mut(id) else {
                queue.pop_front();
                continue;
            };
            let allowance = self.pacing.allowance(direction, around.now);
            let step = moving.issue(id, allowance, &mut self.staging, around.blocks, around.fabric);
            self.pacing.issued(direction, moving.take_issued(), around.now);
            match step {
                Step::Blocked => break,
                Step::Issued => {}
            }
            queue.pop_front();
            moved += 1;
            if let Some(command) = moving.finish(id, around.shards) {
                ended.push(command);
                self.moving.free(id);
            }
        }
        moved
    }

    /// Takes one completion of the device that carries this stage's token.
    pub fn done<B: BlockQueue, F: Fabric<Data = D>>(
        &mut self,
        done: BlockDone,
        around: &mut Surroundings<'_, B, F>,
        ended: &mut Burst<Ended>,
    ) {
        let (id, staged) = moving::parse_token(done.token);
        let Some(moving) = self.moving.get_mut(id) else { return };
        let direction = moving.direction();
        let bytes = moving.piece_done(done.result, staged, &mut self.staging, around.fabric);
        self.pacing.finished(direction, bytes, around.now);
        if let Some(command) = moving.finish(id, around.shards) {
            ended.push(command);
            self.moving.free(id);
        }
    }

    /// Takes the outcome of a commit that a durable Store or Delete waited for.
    pub fn committed(&mut self, ticket: u64, durable: bool, ended: &mut Burst<Ended>) {
        let id = SlotId::from_bits(ticket);
        if let Some(moving) = self.moving.get_mut(id) {
            ended.push(moving.committed(durable));
            self.moving.free(id);
        }
    }

    /// False if the store cannot take the deletion now.
    fn erase<B, F>(&mut self, id: SlotId, around: &mut Surroundings<'_, B, F>, ended: &mut Burst<Ended>) -> bool {
        let Some(moving) = self.moving.get_mut(id) else { return true };
        let shard = &mut around.shards[moving.shard()];
        let Some((hash, block, class)) = moving.erasure() else { return true };
        let completion = match shard.delete(hash, &block, class, id.to_bits()) {
            Deleted::Wait => return false,
            Deleted::Pending => return true,
            Deleted::Done => Completion::success(0, 0),
            Deleted::Missing => Completion::failed(Status::KEY_DOES_NOT_EXIST),
        };
        ended.push(moving.end(completion));
        self.moving.free(id);
        true
    }
}

/// Which way a value moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Device to client.
    Load,
    /// Client to device.
    Save,
}

/// What became of a command whose pieces have all come back.
enum Settled {
    /// A commit has to become durable first.
    Waiting,
    Completed(Completion),
}

impl From<Published> for Settled {
    fn from(published: Published) -> Self {
        Self::Completed(match published {
            Published::Pending => return Self::Waiting,
            Published::Visible => Completion::success(0, 0),
            Published::KeyExists => Completion::failed(Status::KEY_EXISTS),
            Published::KeyMissing => Completion::failed(Status::KEY_DOES_NOT_EXIST),
            Published::IndexFull => Completion::failed(Status::CAPACITY_EXCEEDED),
        })
    }
}
