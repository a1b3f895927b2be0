//! What a poller tells the reactor.

use super::Ticks;

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

/// Something a reactor calls over and over. It must return soon and never wait.
pub trait Poller {
    /// Does what there is to do now. `now` was read once for this turn of the reactor.
    fn poll(&mut self, now: Ticks) -> Poll;
}
