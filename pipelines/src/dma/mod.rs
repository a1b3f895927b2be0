//! Stage 4: the bytes move between the device and the client's memory, and when they have moved the block becomes
//! visible (Store) or the client hears of it (Retrieve).
//!
//! A value is cut into pieces, one device command each. A piece goes straight between device and client wherever
//! the client's memory and the length allow it; what is not aligned to the device's blocks goes through a staging
//! buffer. Reads are issued before writes, and writes are paced while reads are about ([`pacing`]).

mod erasure;
mod load;
mod loans;
pub mod pacing;
mod pieces;
mod save;
mod staging;
mod token;

pub use staging::{STAGING_BYTES, Staging, StagingBuffers};

use std::collections::VecDeque;

use dataplane::core::Ticks;
use dataplane::fabric::Fabric;
use dataplane::memory::{SlotId, SlotPool};
use dataplane::nvme::spec::Status;
use dataplane::nvme::{BlockDone, BlockQueue};
use dataplane::{BURST, Burst};

use crate::classify::{Ended, Origin};
use crate::lines::Lines;
use crate::placement::{PlacedBurst, PlacedErasure, PlacedLoad, PlacedSave};
use crate::store::Shard;
use erasure::{Erased, Erasure};
use load::Load;
use loans::Loans;
use pacing::Pacing;
use pieces::Step;
use save::Save;
use token::Ticket;

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
    loads: SlotPool<Load<D>>,
    saves: SlotPool<Save<D>>,
    erasures: SlotPool<Erasure>,
    loans: Loans,
    capacity: usize,
    staging: Staging<D>,
    /// Loads and saves with pieces still to issue, in order of arrival.
    loads_to_issue: VecDeque<SlotId>,
    saves_to_issue: VecDeque<SlotId>,
    /// Erasures that the store has not taken yet.
    erasures_to_make: VecDeque<SlotId>,
    pacing: Pacing,
}

impl<D: Clone> Dma<D> {
    /// A stage that holds at most `capacity` commands at once.
    #[must_use]
    pub fn new(capacity: u16, staging: StagingBuffers, pacing: Pacing) -> Self {
        let line = || VecDeque::with_capacity(usize::from(capacity));
        Self {
            loads: SlotPool::new(capacity),
            saves: SlotPool::new(capacity),
            erasures: SlotPool::new(capacity),
            loans: Loans::new(),
            capacity: usize::from(capacity),
            staging: Staging::new(staging),
            loads_to_issue: line(),
            saves_to_issue: line(),
            erasures_to_make: line(),
            pacing,
        }
    }

    /// Commands it could still take.
    #[must_use]
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.in_use())
    }

    /// Commands in it.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.loads.in_use() + self.saves.in_use() + self.erasures.in_use()
    }

    /// Values that carriers look at where they lie, for commands that have left it.
    #[inline]
    #[must_use]
    pub fn lent(&self) -> usize {
        self.loans.count()
    }

    /// A carrier does not look at a value any more.
    pub fn returned(&mut self, loan: u64, shards: &mut [Shard]) {
        self.loans.returned(loan, shards);
    }

    /// Asks carriers for the values back that eviction waits for. Hosts that do not take in `patience` ticks what they are
    /// being sent of them are ended.
    pub fn recall<F: Fabric>(&self, fabric: &mut F, shards: &[Shard], patience: u64) {
        self.loans.recall(fabric, shards, patience);
    }

    /// Bytes that went through staging buffers because they were not aligned.
    #[must_use]
    pub fn staged_bytes(&self) -> u64 {
        self.staging.staged_bytes()
    }

    /// Takes a burst of placed commands; there is room for it, because the caller looked at [`room`](Self::room). Loads
    /// begin at once.
    pub fn start<B: BlockQueue, F: Fabric<Data = D>>(
        &mut self,
        burst: &mut PlacedBurst,
        around: &mut Surroundings<'_, B, F>,
        ended: &mut Burst<Ended>,
    ) {
        let Lines { capsules, notes, loads, saves, erasures, .. } = burst.lines();
        for placed in loads.drain(..) {
            let PlacedLoad { lane, .. } = placed;
            let capsule = &mut capsules[lane];
            let (data, origin) = (around.fabric.data(capsule), notes[lane].take_origin(capsule));
            if around.fabric.borrows(&origin.permit) {
                ended.extend(self.lend_or_load(origin, data, placed, around));
            } else {
                ended.extend(self.start_load(Load::new(origin, data, placed), around));
            }
        }
        for placed in saves.drain(..) {
            let PlacedSave { lane, .. } = placed;
            let capsule = &mut capsules[lane];
            let (data, origin) = (around.fabric.data(capsule), notes[lane].take_origin(capsule));
            match self.saves.insert(Save::new(origin, data, placed)) {
                Ok(id) => self.saves_to_issue.push_back(id),
                Err(mut save) => ended.push(save.refuse(around.shards)),
            }
        }
        for placed in erasures.drain(..) {
            let PlacedErasure { lane, .. } = placed;
            let origin = notes[lane].take_origin(&mut capsules[lane]);
            match self.erasures.insert(Erasure::new(origin, placed)) {
                // Nothing has to move: only an erasure that the store cannot take now stands in line.
                Ok(id) if self.erase(id, around.shards, ended) => {}
                Ok(id) => self.erasures_to_make.push_back(id),
                Err(mut erasure) => ended.push(erasure.end(Err(Status::INTERNAL_ERROR))),
            }
        }
    }

    #[inline(never)]
    fn lend_or_load<B: BlockQueue, F: Fabric<Data = D>>(
        &mut self,
        origin: Origin,
        data: D,
        placed: PlacedLoad,
        around: &mut Surroundings<'_, B, F>,
    ) -> Option<Ended> {
        match self.loans.lend(origin, placed, around) {
            Ok(ended) => Some(ended),
            Err((origin, placed)) => self.start_load(Load::new(origin, data, placed), around),
        }
    }

    #[inline]
    fn start_load<B: BlockQueue, F: Fabric<Data = D>>(
        &mut self,
        load: Load<D>,
        around: &mut Surroundings<'_, B, F>,
    ) -> Option<Ended> {
        let (id, load) = match self.loads.insert_mut(load) {
            Ok(taken) => taken,
            Err(mut load) => return Some(load.end(Err(Status::INTERNAL_ERROR), around.shards)),
        };
        // Behind those that wait already.
        let step = if self.loads_to_issue.is_empty() {
            load.pieces.issue(Direction::Load, id, &mut self.staging, &mut self.pacing, around)
        } else {
            Step::Blocked
        };
        if step == Step::Blocked {
            self.loads_to_issue.push_back(id);
            return None;
        }
        if load.pieces.is_under_way() {
            return None;
        }
        self.loads.free_with(id, |load| load.finish(around.shards))
    }

    /// Issues pieces: those of loads first, then those of saves within the budget that pacing allows. Commands
    /// that turn out to be impossible end here. Returns how many commands it moved on.
    pub fn issue<B: BlockQueue, F: Fabric<Data = D>>(
        &mut self,
        around: &mut Surroundings<'_, B, F>,
        ended: &mut Burst<Ended>,
    ) -> usize {
        if self.loads_to_issue.is_empty() && self.saves_to_issue.is_empty() && self.erasures_to_make.is_empty() {
            return 0;
        }
        let mut moved = self.issue_loads(around, ended);
        moved += self.issue_saves(around, ended);
        // Last, for each takes a place in `ended`, which loads and saves hardly need.
        let mut erased = 0;
        while !ended.is_full()
            && erased < BURST
            && let Some(&id) = self.erasures_to_make.front()
            && self.erase(id, around.shards, ended)
        {
            self.erasures_to_make.pop_front();
            erased += 1;
        }
        moved + erased
    }

    fn issue_loads<B: BlockQueue, F: Fabric<Data = D>>(
        &mut self,
        around: &mut Surroundings<'_, B, F>,
        ended: &mut Burst<Ended>,
    ) -> usize {
        let mut moved = 0;
        while !ended.is_full()
            && moved < BURST
            && let Some(&id) = self.loads_to_issue.front()
        {
            if let Some(load) = self.loads.get_mut(id)
                && load.pieces.issue(Direction::Load, id, &mut self.staging, &mut self.pacing, around) == Step::Blocked
            {
                break;
            }
            self.loads_to_issue.pop_front();
            moved += 1;
            ended.extend(self.loads.free_with(id, |load| load.finish(around.shards)));
        }
        moved
    }

    fn issue_saves<B: BlockQueue, F: Fabric<Data = D>>(
        &mut self,
        around: &mut Surroundings<'_, B, F>,
        ended: &mut Burst<Ended>,
    ) -> usize {
        let mut moved = 0;
        while !ended.is_full()
            && moved < BURST
            && let Some(&id) = self.saves_to_issue.front()
        {
            if let Some(save) = self.saves.get_mut(id)
                && save.pieces.issue(Direction::Save, id, &mut self.staging, &mut self.pacing, around) == Step::Blocked
            {
                break;
            }
            self.saves_to_issue.pop_front();
            moved += 1;
            let ticket = Ticket::Save(id).to_bits();
            ended.extend(self.saves.free_with(id, |save| save.finish(ticket, around.shards)));
        }
        moved
    }

    /// Takes one completion of the device that carries this stage's token.
    #[inline]
    pub fn done<B: BlockQueue, F: Fabric<Data = D>>(
        &mut self,
        done: BlockDone,
        around: &mut Surroundings<'_, B, F>,
        ended: &mut Burst<Ended>,
    ) {
        let Self { loads, saves, staging, pacing, .. } = self;
        let (direction, id, staged) = token::parse_piece(done.token);
        ended.extend(match direction {
            Direction::Load => loads.free_with(id, |load| {
                if let Err(error) = done.result {
                    load.note_failure(error, around.shards);
                }
                let bytes = load.pieces.came_back(direction, done.result, staged, staging, around.fabric);
                pacing.finished(direction, bytes, around.now);
                load.finish(around.shards)
            }),
            Direction::Save => saves.free_with(id, |save| {
                let bytes = save.pieces.came_back(direction, done.result, staged, staging, around.fabric);
                pacing.finished(direction, bytes, around.now);
                save.finish(Ticket::Save(id).to_bits(), around.shards)
            }),
        });
    }

    /// Takes the outcome of a commit that a durable Store or Delete waited for.
    pub fn committed(&mut self, ticket: u64, durable: bool, ended: &mut Burst<Ended>) {
        let outcome = if durable { Ok(()) } else { Err(Status::INTERNAL_ERROR) };
        ended.extend(match Ticket::from_bits(ticket) {
            Ticket::Save(id) => self.saves.free_with(id, |save| Some(save.end(outcome))),
            Ticket::Erasure(id) => self.erasures.free_with(id, |erasure| Some(erasure.end(outcome))),
        });
    }

    /// False if the store cannot take the erasure now.
    fn erase(&mut self, id: SlotId, shards: &mut [Shard], ended: &mut Burst<Ended>) -> bool {
        let mut taken = true;
        let ticket = Ticket::Erasure(id).to_bits();
        ended.extend(self.erasures.free_with(id, |erasure| match erasure.carry_out(ticket, shards) {
            Erased::Wait => {
                taken = false;
                None
            }
            Erased::Pending => None,
            Erased::Done(command) => Some(command),
        }));
        taken
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
