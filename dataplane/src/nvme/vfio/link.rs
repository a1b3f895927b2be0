//! The words by which the control thread and one queue tell each other where they are.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Whose turn it is. Each state names who may leave it; only [`Dead`](Self::Dead) may come from any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum LinkState {
    /// The queue exists at the controller and its core drives it. Left by control, to `Stop`.
    Live = 0,
    /// Control wants to reset the controller. Left by the queue, to `Parked`.
    Stop = 1,
    /// The queue rings no more; what was outstanding still belongs to the controller. Left by control.
    Parked = 2,
    /// The controller was stopped: it reads and writes nothing of the queue's any more. Left by the queue.
    Stopped = 3,
    /// The queue's rings are empty and may be made known to the controller again. Left by control, to `Live`.
    Ready = 4,
    /// The controller is gone for good and reaches no memory. Never left.
    Dead = 5,
}

impl LinkState {
    const fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Live,
            1 => Self::Stop,
            2 => Self::Parked,
            3 => Self::Stopped,
            4 => Self::Ready,
            _ => Self::Dead,
        }
    }
}

/// A command that took too long, as the queue reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expired {
    pub(super) cid: u16,
    /// An abort was asked for before and did not help.
    pub(super) again: bool,
}

impl Expired {
    const VALID: u32 = 1 << 31;
    const AGAIN: u32 = 1 << 30;
}

/// One queue's words, in a cache line of their own.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Link {
    state: AtomicU32,
    /// Milliseconds since the controller was opened, as coarse as control is called.
    tick: AtomicU32,
    expired: AtomicU32,
    strays: AtomicU64,
}

impl Link {
    pub(super) fn new(tick: u32) -> Self {
        Self {
            state: AtomicU32::new(LinkState::Live as u32),
            tick: AtomicU32::new(tick),
            expired: AtomicU32::new(0),
            strays: AtomicU64::new(0),
        }
    }

    /// The state. What its last holder did before is seen after.
    #[inline(always)]
    pub(super) fn state(&self) -> LinkState {
        LinkState::from_word(self.state.load(Ordering::Acquire))
    }

    /// Goes from one state to another; `false` if it was not in the first.
    pub(super) fn step(&self, from: LinkState, to: LinkState) -> bool {
        self.state.compare_exchange(from as u32, to as u32, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The controller is gone for good.
    pub(super) fn kill(&self) {
        self.state.store(LinkState::Dead as u32, Ordering::Release);
    }

    #[inline(always)]
    pub(super) fn tick(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    pub(super) fn set_tick(&self, tick: u32) {
        self.tick.store(tick, Ordering::Relaxed);
    }

    /// Reports a command; `false` if the last report was not taken yet.
    pub(super) fn report(&self, expired: Expired) -> bool {
        let word = Expired::VALID | if expired.again { Expired::AGAIN } else { 0 } | u32::from(expired.cid);
        self.expired.compare_exchange(0, word, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Takes the report, if there is one.
    pub(super) fn take_expired(&self) -> Option<Expired> {
        let word = self.expired.swap(0, Ordering::AcqRel);
        let expired = Expired { cid: word as u16, again: word & Expired::AGAIN != 0 };
        (word & Expired::VALID != 0).then_some(expired)
    }

    /// Counts a completion that named no outstanding command.
    pub(super) fn count_stray(&self) {
        self.strays.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn strays(&self) -> u64 {
        self.strays.load(Ordering::Relaxed)
    }
}
