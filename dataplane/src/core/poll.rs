//! What a poller tells the reactor.

use std::sync::Arc;

use super::{Ticks, WakeEvent};

/// Whether a poll found work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Nothing to do: the cycles are charged as idle.
    Idle,
    /// That many items were handled: the cycles are charged as busy.
    Busy(u32),
}

impl Poll {
    /// Both outcomes as one.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Idle, other) => other,
            (mine, Self::Idle) => mine,
            (Self::Busy(a), Self::Busy(b)) => Self::Busy(a.saturating_add(b)),
        }
    }

    /// Busy if `items` is not zero.
    #[must_use]
    pub const fn of(items: usize) -> Self {
        if items == 0 { Self::Idle } else { Self::Busy(items as u32) }
    }
}

/// What can end the sleep of an idle core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// All work comes by mailbox: the core may sleep until its event is set.
    Event,
    /// Work may also come through memory that others write to (doorbells, a device's completions), which wakes
    /// nobody: the core may only nap, 50 microseconds to 1 millisecond.
    Timed,
}

/// Something a reactor calls over and over. It must return soon and never wait.
pub trait Poller {
    /// Does what there is to do now. `now` was read once for this turn of the reactor.
    fn poll(&mut self, now: Ticks) -> Poll;

    /// What can end a sleep now. Asked before each one.
    fn wake_source(&self) -> Wake {
        Wake::Timed
    }

    /// The event that the poller's mailboxes set, so that the reactor can sleep on it. Asked once, at the start.
    fn wake_event(&self) -> Option<Arc<WakeEvent>> {
        None
    }

    /// Called instead of [`poll`](Self::poll) once the core is to stop, until it says that nothing is outstanding any
    /// more, or the time for that is up.
    fn drain(&mut self, now: Ticks) -> bool {
        let _ = now;
        true
    }
}
