//! The wrapper around every stage: counts calls, items and ticks.

use dataplane::core::{Clock, Ticks};

/// The stages of a request's life, in order, and the work beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Taking capsules from the fabric.
    Receive,
    /// What does the command ask for?
    Classify,
    /// May it?
    Policy,
    /// Where is it, or where shall it go?
    Placement,
    /// Moving bytes.
    Dma,
    /// Completions of the device.
    Device,
    /// Lists of keys.
    Lists,
    /// The store's own work: commits, eviction, recovery.
    Store,
    /// Completions to the client.
    Complete,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 9] = [
        Self::Receive,
        Self::Classify,
        Self::Policy,
        Self::Placement,
        Self::Dma,
        Self::Device,
        Self::Lists,
        Self::Store,
        Self::Complete,
    ];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Classify => "classify",
            Self::Policy => "policy",
            Self::Placement => "placement",
            Self::Dma => "dma",
            Self::Device => "device",
            Self::Lists => "lists",
            Self::Store => "store",
            Self::Complete => "complete",
        }
    }
}

/// What one stage did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageCounters {
    /// Times the stage ran with at least one item.
    pub calls: u64,
    /// Items it handled.
    pub items: u64,
    /// Ticks it took.
    pub ticks: u64,
}

/// The counters of all stages of a core, and the reading of the clock at the last boundary between two stages.
#[derive(Debug)]
pub struct StageMeter {
    counters: [StageCounters; Stage::ALL.len()],
    boundary: Ticks,
}

impl StageMeter {
    /// Everything zero.
    #[must_use]
    pub fn new() -> Self {
        Self { counters: [StageCounters::default(); Stage::ALL.len()], boundary: Ticks(0) }
    }

    /// Begins a turn at `now`, which the reactor has read already.
    pub fn begin(&mut self, now: Ticks) {
        self.boundary = now;
    }

    /// The last reading of the clock.
    #[must_use]
    pub fn boundary(&self) -> Ticks {
        self.boundary
    }

    /// Charges the time since the last boundary to a stage that handled `items`. With no items nothing is read and
    /// nothing charged: the time goes to the next stage that had work.
    #[inline]
    pub fn charge<C: Clock>(&mut self, stage: Stage, items: usize, clock: &C) {
        if items == 0 {
            return;
        }
        let now = clock.now();
        let counters = &mut self.counters[stage as usize];
        counters.calls += 1;
        counters.items += items as u64;
        counters.ticks += now.since(self.boundary);
        self.boundary = now;
    }

    /// The counters, by stage.
    pub fn iter(&self) -> impl Iterator<Item = (Stage, StageCounters)> + '_ {
        Stage::ALL.into_iter().map(|stage| (stage, self.counters[stage as usize]))
    }

    /// Sets every counter to zero.
    pub fn reset(&mut self) {
        self.counters = [StageCounters::default(); Stage::ALL.len()];
    }
}

impl Default for StageMeter {
    fn default() -> Self {
        Self::new()
    }
}
