//! The loop.

use std::sync::Arc;

use anyhow::{Context, bail};
use dataplane::Burst;
use dataplane::core::Clock;
use dataplane::memory::{Region, RegionSlot};
use dataplane::nvme::{BlockIo, BlockOp, BlockQueue};

use crate::measure::Latency;
use crate::random::Random;

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Bytes of each read, a multiple of the device's blocks.
    pub bytes: u32,
    /// Reads in flight.
    pub depth: u32,
    /// Seed of the order.
    pub seed: u64,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct ReadMeasured {
    /// Reads that ended after the warm-up.
    pub reads: u64,
    /// Nanoseconds from the end of the warm-up to the last of them.
    pub nanos: u64,
    /// Of those that began after the warm-up.
    pub latency: Latency,
}

/// A queue that reads at random places, each a multiple of the read's length.
pub struct RandomReads<Q> {
    queue: Q,
    region: Arc<Region>,
    pattern: Pattern,
    blocks: u32,
    places: u64,
    random: Random,
    /// When the read of each slot began, in nanoseconds.
    begun: Vec<u64>,
    free: Vec<u32>,
}

impl<Q: BlockQueue> RandomReads<Q> {
    /// Gives the queue memory to read into.
    ///
    /// # Errors
    /// If reads of this length do not fit the device, or there is no memory that it can reach.
    pub fn new(mut queue: Q, pattern: Pattern) -> anyhow::Result<Self> {
        let geometry = *queue.geometry();
        let fits = pattern.bytes > 0 && pattern.bytes <= geometry.max_transfer;
        if !fits || !pattern.bytes.is_multiple_of(geometry.lba_bytes) {
            let (block, most) = (geometry.lba_bytes, geometry.max_transfer);
            bail!("the device reads multiples of {block} bytes, {most} at most, not {}", pattern.bytes);
        }
        let blocks = pattern.bytes / geometry.lba_bytes;
        let places = geometry.blocks / u64::from(blocks);
        if places == 0 {
            bail!("the device holds less than {} bytes", pattern.bytes);
        }
        let region = Region::anonymous(pattern.bytes as usize * pattern.depth as usize, RegionSlot(0));
        let region = Arc::new(region.context("no memory to read into")?);
        queue.attach(Arc::clone(&region)).context("the device cannot be given memory")?;
        let (begun, free) = (vec![0; pattern.depth as usize], (0..pattern.depth).collect());
        Ok(Self { queue, region, pattern, blocks, places, random: Random::new(pattern.seed), begun, free })
    }

    /// Reads for some time, and until nothing is in flight.
    ///
    /// # Errors
    /// If a read fails.
    pub fn run(&mut self, warm_up: u64, duration: u64, clock: &impl Clock) -> anyhow::Result<ReadMeasured> {
        let now = || clock.nanos_of_ticks(clock.now().0);
        let mut measured = ReadMeasured::default();
        let count_from = now() + warm_up;
        let stop_at = count_from + duration;
        let mut time = now();
        while time < stop_at || self.queue.in_flight() > 0 {
            if time < stop_at {
                self.fill(time)?;
            }
            let mut done = Burst::new();
            self.queue.poll(&mut done);
            time = now();
            for done in done {
                let slot = done.token as u32;
                if let Err(error) = done.result {
                    bail!("a read of {} bytes failed: {error}", self.pattern.bytes);
                }
                let begun = self.begun.get(slot as usize).copied().context("a read ended that was not begun")?;
                self.free.push(slot);
                if time >= count_from && time < stop_at {
                    measured.reads += 1;
                    measured.nanos = time - count_from;
                    if begun >= count_from {
                        measured.latency.record(time - begun);
                    }
                }
            }
        }
        Ok(measured)
    }

    fn fill(&mut self, time: u64) -> anyhow::Result<()> {
        if self.free.is_empty() {
            return Ok(());
        }
        while let Some(slot) = self.free.pop() {
            let offset = u64::from(slot) * u64::from(self.pattern.bytes);
            let memory = self.region.slice(offset, self.pattern.bytes).context("memory is too short")?;
            let lba = self.random.below(self.places) * u64::from(self.blocks);
            let io = BlockIo { op: BlockOp::Read, lba, blocks: self.blocks, memory, token: u64::from(slot) };
            if self.queue.push(io).is_err() {
                bail!("the queue holds fewer than {} commands", self.pattern.depth);
            }
            if let Some(begun) = self.begun.get_mut(slot as usize) {
                *begun = time;
            }
        }
        self.queue.ring();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dataplane::core::TscClock;
    use dataplane::nvme::spec::Status;
    use dataplane::nvme::vfio::model::{Fault, Model, ModelOptions, ModelThread};
    use dataplane::nvme::vfio::{Controller, ControllerOptions, VfioQueue};

    use super::*;

    const PATTERN: Pattern = Pattern { bytes: 8192, depth: 8, seed: 1 };

    fn queue(model: &Model, depth: u32) -> VfioQueue {
        let controller = Controller::open(Arc::new(model.clone()), ControllerOptions::default()).unwrap();
        controller.namespace(1).unwrap().queue(depth, 1).unwrap()
    }

    #[test]
    fn reads_are_counted_and_failures_end_it() {
        let model = Model::new(ModelOptions::default()).unwrap();
        let _work = ModelThread::start(model.clone()).unwrap();
        let mut reads = RandomReads::new(queue(&model, 8), PATTERN).unwrap();
        // As long as it takes until one ended in time.
        let mut measured = ReadMeasured::default();
        while measured.reads == 0 {
            measured = reads.run(0, 50_000_000, &TscClock::new()).unwrap();
        }
        assert!(
            measured.latency.count() == measured.reads && (1..50_000_000).contains(&measured.nanos),
            "{measured:?}"
        );
        model.inject(Fault::Status(Status::UNRECOVERED_ERROR));
        let failed = reads.run(0, 10_000_000_000, &TscClock::new()).unwrap_err().to_string();
        assert!(failed.contains("8192 bytes failed"), "{failed}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let model = Model::new(ModelOptions { lba_bytes: 4096, ..ModelOptions::default() }).unwrap();
        let _work = ModelThread::start(model.clone()).unwrap();
        for bytes in [0, 512, 4097, 1 << 30] {
            let refused = RandomReads::new(queue(&model, 8), Pattern { bytes, ..PATTERN }).err();
            assert!(refused.is_some_and(|error| error.to_string().contains("multiples of 4096")), "{bytes}");
        }
        let mut shallow = RandomReads::new(queue(&model, 4), PATTERN).unwrap();
        let refused = shallow.run(0, 1_000_000, &TscClock::new()).unwrap_err().to_string();
        assert!(refused.contains("fewer than 8"), "{refused}");
    }
}
