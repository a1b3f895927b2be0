//! Noticing that the target is gone, in bounded time and without reading a clock for every command.

use std::time::{Duration, Instant};

use crate::transport::Transport;
use crate::{Client, Error, Outcome, ReconnectPolicy, SubmitError};

/// Sweeps in a deadline. Sweeps are numbered and at least a quarter of the deadline apart; a command notes the
/// number of the sweep in which it was sent.
const SWEEPS: u32 = 4;

/// A command this many sweeps old has waited for at least `SWEEPS` whole intervals, hence the deadline.
const OVERDUE: u32 = SWEEPS + 1;

/// The clock is read after this much weight of polls, where a poll that found nothing weighs as much as
/// [`IDLE_WEIGHT`] that found something, because it is so much shorter.
const LOOK_AFTER: u32 = 4096;
const IDLE_WEIGHT: u32 = 16;

/// Asking whether the target lives may be a system call, so it is not asked more often than this.
pub(crate) const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// What is known about the life of a connection.
pub(crate) struct Liveness {
    weight: u32,
    sweep: u32,
    swept: Instant,
    looked: Instant,
    /// Attempts to connect again that failed, and when the last one was made.
    failures: u32,
    tried: Option<Instant>,
}

impl Liveness {
    pub fn new(now: Instant) -> Self {
        Self { weight: 0, sweep: 0, swept: now, looked: now, failures: 0, tried: None }
    }

    /// The number of the sweep that is going on.
    pub fn sweep(&self) -> u32 {
        self.sweep
    }

    /// Notes a poll; true if it is time for a look.
    #[inline]
    pub fn polled(&mut self, found: bool) -> bool {
        self.weight += if found { 1 } else { IDLE_WEIGHT };
        if self.weight < LOOK_AFTER {
            return false;
        }
        self.weight = 0;
        true
    }
}

impl Client {
    /// Looks whether the target lives and whether a command is overdue, if it is time to. Says whether it was: queues may
    /// then have completions that no longer wake anybody.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        if now.duration_since(self.liveness.looked) < LOOK_PERIOD {
            return false;
        }
        self.liveness.looked = now;
        let Some(link) = &mut self.link else { return false };
        if !link.is_alive() {
            // What the target completed before it went still counts.
            while self.take_completions() > 0 {}
            self.lose(&Error::Disconnected);
            return true;
        }
        if now.duration_since(self.liveness.swept) >= self.options.deadline / SWEEPS {
            self.liveness.swept = now;
            self.liveness.sweep = self.liveness.sweep.wrapping_add(1);
            self.give_up_overdue();
        }
        true
    }

    /// Gives the connection up if a command is overdue.
    fn give_up_overdue(&mut self) {
        let sweep = self.liveness.sweep;
        let ids: Vec<_> = self.slots.ids().filter(|id| !self.waiting.iter().any(|(_, other)| other == id)).collect();
        let overdue: Vec<_> = ids
            .into_iter()
            .filter(|id| self.slots.get_mut(*id).is_some_and(|one| sweep.wrapping_sub(one.sweep) >= OVERDUE))
            .collect();
        if overdue.is_empty() {
            return;
        }
        for id in overdue {
            if let Some(command) = self.slots.remove(id) {
                self.finish(id, &command, Outcome::Failed(Error::TimedOut));
            }
        }
        self.lose(&Error::Disconnected);
    }

    /// Drops the connection, if there is one, and fails everything in flight.
    pub(crate) fn lose(&mut self, cause: &Error) {
        let Some(link) = self.link.take() else { return };
        self.stats.unknown_completions += link.strays();
        self.stats.disconnects += 1;
        drop(link);
        self.waiting.clear();
        let ids: Vec<_> = self.slots.ids().collect();
        for id in ids {
            if let Some(command) = self.slots.remove(id) {
                self.finish(id, &command, Outcome::Failed(cause.clone()));
            }
        }
    }

    /// Without a connection: connects again if the policy says so and the wait since the last attempt is over.
    pub(crate) fn reconnect_if_due(&mut self) -> Result<(), SubmitError> {
        if self.options.reconnect == ReconnectPolicy::Manual {
            return Err(SubmitError::Disconnected);
        }
        if let (Some(tried), Some(delay)) = (self.liveness.tried, self.options.reconnect.delay(self.liveness.failures))
            && tried.elapsed() < delay
        {
            return Err(SubmitError::Disconnected);
        }
        if self.reconnect().is_err() {
            self.liveness.failures = self.liveness.failures.saturating_add(1);
            self.liveness.tried = Some(Instant::now());
            return Err(SubmitError::Disconnected);
        }
        Ok(())
    }
}
