//! The replay's loop: requests arrive, look up their prefix, load what is there and store what is not.
//!
//! It acts only in [`Engine::turn`], which never waits, and takes the time from a clock that it is given: tests drive
//! it by hand.

use std::collections::VecDeque;

use dataplane::Burst;
use dataplane::core::Clock;
use dataplane::nvme::spec::kv::Key;

use super::chain::{self, STRIPE_BLOCKS};
use super::{Counts, Settings, Speed};
use crate::measure::{Latency, Timeline};
use crate::target::{Command, Done, Op, Outcome, Span, Target, TargetError};
use crate::trace::Request;
use crate::value::{Identity, SECTOR_BYTES, Verify};

/// What a job does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Lookup,
    Load,
    Store,
}

/// A request on its way.
#[derive(Debug)]
struct Job {
    keys: Vec<Key>,
    arrival: u64,
    phase: Phase,
    /// Leading blocks present, per stripe.
    stripe_hits: Vec<u32>,
    /// Blocks that this phase is about, first to last, and how many of them were sent.
    todo: Vec<u32>,
    sent: usize,
    in_flight: u32,
    /// Blocks that the lookup found and that were gone when they were asked for.
    gone: Vec<u32>,
    hits: u32,
}

/// A place for one command.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    job: usize,
    block: u32,
    start: u64,
    op: Option<Op>,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// Counts.
    pub counts: Counts,
    /// From arrival to the last hit retrieved, of requests that had a hit.
    pub load: Latency,
    /// From arrival to the answer of the lookup.
    pub lookup: Latency,
    /// Of single retrieves.
    pub retrieve: Latency,
    /// Of single stores.
    pub store: Latency,
    /// Throughput over time.
    pub timeline: Timeline,
    /// What the last failure was.
    pub failure: Option<String>,
}

/// A replay under way.
pub struct Engine<'a> {
    requests: &'a [Request],
    settings: Settings,
    slot_bytes: u64,
    next: usize,
    jobs: Vec<Option<Job>>,
    /// Jobs under way, oldest first.
    order: VecDeque<usize>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    stores: usize,
    begin: u64,
    now: u64,
    measured: Measured,
}

impl<'a> Engine<'a> {
    /// Prepares a replay. The target's memory must hold [`Self::memory_bytes`].
    #[must_use]
    pub fn new(requests: &'a [Request], settings: Settings, begin: u64) -> Self {
        let depth = settings.depth.max(1);
        Self {
            requests,
            settings,
            slot_bytes: slot_bytes(&settings),
            next: 0,
            jobs: (0..settings.concurrency.max(1)).map(|_| None).collect(),
            order: VecDeque::new(),
            slots: vec![Slot::default(); depth as usize],
            free: (0..depth).rev().collect(),
            stores: 0,
            begin,
            now: begin,
            measured: Measured::default(),
        }
    }

    /// Bytes of registered memory that a replay with these settings needs.
    #[must_use]
    pub fn memory_bytes(settings: &Settings) -> usize {
        (slot_bytes(settings) * u64::from(settings.depth.max(1))) as usize
    }

    /// Requests that are done.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.measured.counts.requests
    }

    /// What was measured up to now.
    #[must_use]
    pub fn measured(&self) -> &Measured {
        &self.measured
    }

    /// What was measured, and the nanoseconds it took.
    #[must_use]
    pub fn finish(self) -> (Measured, u64) {
        (self.measured, self.now - self.begin)
    }

    /// Handles what ended, lets requests arrive, sends commands. True when the trace is done.
    ///
    /// # Errors
    /// If the target is gone.
    pub fn turn<T: Target>(&mut self, target: &mut T, clock: &impl Clock) -> Result<bool, TargetError> {
        let mut done = Burst::new();
        target.poll(&mut done)?;
        self.now = clock.nanos_of_ticks(clock.now().0);
        for end in &done {
            self.end(target, end);
        }
        self.arrive();
        while self.send(target)? {}
        target.ring();
        Ok(self.next == self.requests.len() && self.order.is_empty())
    }

    fn due(&self, request: &Request) -> u64 {
        match self.settings.speed {
            Speed::Max => self.now,
            Speed::Times(factor) => {
                let first = self.requests.first().map_or(0, |first| first.timestamp);
                self.begin + ((request.timestamp - first) as f64 * 1e6 / factor) as u64
            }
        }
    }

    fn arrive(&mut self) {
        while let Some(request) = self.requests.get(self.next) {
            let arrival = self.due(request);
            let Some(place) = self.jobs.iter().position(Option::is_none).filter(|_| arrival <= self.now) else {
                return;
            };
            self.next += 1;
            let keys = chain::keys(&request.hash_ids, self.settings.block_bytes, self.settings.salt);
            let stripes = keys.len().div_ceil(STRIPE_BLOCKS);
            self.measured.counts.blocks += keys.len() as u64;
            let mut job = Job {
                arrival,
                phase: Phase::Lookup,
                stripe_hits: vec![0; stripes],
                todo: (0..stripes as u32).collect(),
                sent: 0,
                in_flight: 0,
                gone: Vec::new(),
                hits: 0,
                keys,
            };
            if self.proceed(&mut job) {
                continue;
            }
            self.jobs[place] = Some(job);
            self.order.push_back(place);
        }
    }

    /// Sends one command, of a job that loads if there is one. False if there is nothing to send or no room.
    fn send<T: Target>(&mut self, target: &mut T) -> Result<bool, TargetError> {
        let Some(&slot) = self.free.last() else { return Ok(false) };
        let waiting = |place: &&usize, store: bool| {
            let job = self.jobs[**place].as_ref();
            job.is_some_and(|job| (job.phase == Phase::Store) == store && job.sent < job.todo.len())
        };
        // Stores never take the last quarter of the depth, so that a load that arrives finds room.
        let room = self.stores < self.slots.len() - self.slots.len() / 4;
        let loads = self.order.iter().find(|place| waiting(place, false));
        let Some(&place) = loads.or_else(|| self.order.iter().find(|place| room && waiting(place, true))) else {
            return Ok(false);
        };
        let Some(job) = self.jobs[place].as_mut() else { return Ok(false) };
        let block = job.todo[job.sent];
        let command = command(target, job, block, slot, self.slot_bytes, &self.settings);
        if !target.submit(command)? {
            return Ok(false);
        }
        job.sent += 1;
        job.in_flight += 1;
        self.free.pop();
        self.stores += usize::from(command.op == Op::Store);
        self.slots[slot as usize] = Slot { job: place, block, start: self.now, op: Some(command.op) };
        Ok(true)
    }

    fn end<T: Target>(&mut self, target: &T, end: &Done) {
        let Some(slot) = self.slots.get_mut(end.token as usize) else { return };
        let Some(op) = slot.op.take() else { return };
        let slot = *slot;
        self.free.push(end.token);
        let Some(mut job) = self.jobs[slot.job].take() else { return };
        job.in_flight -= 1;
        if end.outcome == Outcome::Failed {
            self.measured.counts.errors += 1;
            self.measured.failure = target.last_failure();
        }
        match op {
            Op::Lookup => {
                if let Outcome::Prefix(hits) = end.outcome {
                    job.stripe_hits[slot.block as usize] = hits;
                }
            }
            Op::Retrieve => self.retrieved(target, &mut job, &slot, end),
            _ => self.stored(&slot, end),
        }
        if job.in_flight == 0 && job.sent == job.todo.len() && self.proceed(&mut job) {
            self.order.retain(|place| *place != slot.job);
        } else {
            self.jobs[slot.job] = Some(job);
        }
    }

    fn retrieved<T: Target>(&mut self, target: &T, job: &mut Job, slot: &Slot, end: &Done) {
        self.measured.retrieve.record(self.now - slot.start);
        let block_bytes = self.settings.block_bytes;
        let Outcome::Hit(bytes) = end.outcome else {
            self.measured.counts.gone += u64::from(end.outcome == Outcome::Miss);
            job.gone.push(slot.block);
            return;
        };
        job.hits += 1;
        self.measured.counts.hit_blocks += 1;
        self.measured.counts.retrieved_bytes += u64::from(bytes);
        self.measured.timeline.count(self.now - self.begin, 1, u64::from(bytes), 0);
        if self.settings.verify == Verify::Off {
            return;
        }
        self.measured.counts.wrong_bytes += if bytes == block_bytes {
            let base = u64::from(end.token) * self.slot_bytes;
            let identity = Identity::new(&job.keys[slot.block as usize], 0);
            identity.wrong_bytes(block_bytes as usize, self.settings.verify, |at, into| {
                target.read(base + at as u64, into);
            })
        } else {
            // A value of another length is wrong as a whole.
            u64::from(bytes.max(block_bytes))
        };
    }

    fn stored(&mut self, slot: &Slot, end: &Done) {
        self.stores -= 1;
        self.measured.store.record(self.now - slot.start);
        if let Outcome::Hit(_) = end.outcome {
            let bytes = u64::from(self.settings.block_bytes);
            self.measured.counts.stored_blocks += 1;
            self.measured.counts.stored_bytes += bytes;
            self.measured.timeline.count(self.now - self.begin, 1, 0, bytes);
        }
    }

    /// Goes on to the next phase that has something to do; true if the job is done.
    fn proceed(&mut self, job: &mut Job) -> bool {
        while job.sent == job.todo.len() {
            match job.phase {
                Phase::Lookup => {
                    self.measured.lookup.record(self.now - job.arrival);
                    job.todo = (0..prefix(&job.stripe_hits)).collect();
                    job.phase = Phase::Load;
                }
                Phase::Load => {
                    if job.hits > 0 {
                        self.measured.load.record(self.now - job.arrival);
                    }
                    let first = job.todo.len() as u32;
                    job.gone.sort_unstable();
                    job.todo = std::mem::take(&mut job.gone);
                    job.todo.extend(first..job.keys.len() as u32);
                    job.phase = Phase::Store;
                }
                Phase::Store => {
                    self.measured.counts.requests += 1;
                    return true;
                }
            }
            job.sent = 0;
        }
        false
    }
}

fn slot_bytes(settings: &Settings) -> u64 {
    u64::from(settings.block_bytes).next_multiple_of(SECTOR_BYTES as u64)
}

/// Leading blocks present, over all stripes: a stripe counts only if all before it are present as a whole.
fn prefix(stripe_hits: &[u32]) -> u32 {
    let full = stripe_hits.iter().take_while(|hits| **hits as usize == STRIPE_BLOCKS).count();
    (full * STRIPE_BLOCKS) as u32 + stripe_hits.get(full).copied().unwrap_or(0)
}

fn command<T: Target>(target: &mut T, job: &Job, block: u32, slot: u32, slot_bytes: u64, how: &Settings) -> Command {
    let base = u64::from(slot) * slot_bytes;
    let value = Span { offset: base, bytes: how.block_bytes };
    let (op, first, span) = match job.phase {
        Phase::Lookup => {
            let first = block as usize * STRIPE_BLOCKS;
            let stripe = &job.keys[first..job.keys.len().min(first + STRIPE_BLOCKS)];
            for (place, key) in (0u64..).zip(stripe) {
                target.write(base + place * 16, key.bytes());
            }
            (Op::Lookup, first, Span { offset: base, bytes: stripe.len() as u32 * 16 })
        }
        Phase::Load => (Op::Retrieve, block as usize, value),
        Phase::Store => (Op::Store, block as usize, value),
    };
    let key = job.keys[first];
    if op == Op::Store && how.verify != Verify::Off {
        Identity::new(&key, 0).fill(how.block_bytes as usize, |at, bytes| target.write(base + at as u64, bytes));
    }
    let parent = first.checked_sub(1).filter(|_| op == Op::Store).map(|before| job.keys[before]);
    Command { op, key, span, parent, token: slot }
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn a_gap_ends_the_prefix() {
        assert_eq!(prefix(&[]), 0);
        assert_eq!(prefix(&[5]), 5);
        assert_eq!(prefix(&[64, 64, 3]), 131);
        assert_eq!(prefix(&[64, 0, 64]), 64);
        assert_eq!(prefix(&[63, 64]), 63);
    }
}
