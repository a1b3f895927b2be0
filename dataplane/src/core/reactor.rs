//! A pinned thread that runs a poller over and over.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::idle::{Idle, Step};
use super::reactor_counters::Published;
use super::{Clock, IdlePolicy, Poll, Poller, ReactorCounters, Ticks, WakeEvent, thread};

/// After how many turns the counters are published: seldom enough to cost nothing, often enough for a reader.
const PUBLISH_TURNS: u64 = 1024;
/// How long a poller may take to drain, unless [`ReactorHandle::stop_within`] says otherwise.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Starts reactors.
pub struct Reactor;

/// Why a reactor was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError<E> {
    /// The thread cannot run on that core alone.
    #[error("cannot pin a thread to core {core}; is it online and allowed for this process (taskset, cpuset)?")]
    Pin {
        /// The core.
        core: u32,
    },
    /// No thread or no eventfd.
    #[error("cannot start the thread of core {core}: {cause}")]
    Thread {
        /// The core.
        core: u32,
        /// What the system said.
        cause: io::Error,
    },
    /// The poller was not made.
    #[error("cannot start core {core}: {cause}")]
    Poller {
        /// The core.
        core: u32,
        /// Why not.
        cause: E,
    },
    /// Making the poller panicked.
    #[error("core {core} panicked at its start: {message}")]
    Panicked {
        /// The core.
        core: u32,
        /// The panic's message.
        message: String,
    },
}

/// A poller panicked, and its core stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("core {core} panicked: {message}")]
pub struct ReactorPanicked {
    /// The core.
    pub core: u32,
    /// The panic's message.
    pub message: String,
}

/// How a reactor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReactorEnd {
    /// What it did.
    pub counters: ReactorCounters,
    /// Whether its poller had drained, and was not cut off.
    pub drained: bool,
}

struct Shared {
    stop: AtomicBool,
    drain_micros: AtomicU64,
    published: Published,
}

/// The control side's hold on a reactor. Dropping it asks the reactor to stop, and does not wait.
#[derive(Debug)]
pub struct ReactorHandle {
    core: u32,
    name: String,
    tid: i32,
    shared: Arc<Shared>,
    event: Arc<WakeEvent>,
    thread: Option<JoinHandle<Result<ReactorEnd, String>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("stop", &self.stop).finish_non_exhaustive()
    }
}

impl Reactor {
    /// Starts a thread named `name` (15 bytes count), pins it to `core` and runs the poller that `make_poller` makes
    /// there. Returns once the poller was made.
    ///
    /// # Errors
    /// See [`SpawnError`]; no thread is left behind then.
    pub fn spawn<P, E, C, F>(
        core: u32,
        name: &str,
        idle: IdlePolicy,
        clock: C,
        make_poller: F,
    ) -> Result<ReactorHandle, SpawnError<E>>
    where
        P: Poller,
        E: Send + 'static,
        C: Clock + Send + 'static,
        F: FnOnce() -> Result<P, E> + Send + 'static,
    {
        let system = |cause| SpawnError::Thread { core, cause };
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            drain_micros: AtomicU64::new(DRAIN_LIMIT.as_micros() as u64),
            published: Published::default(),
        });
        let own_event = Arc::new(WakeEvent::new().map_err(system)?);
        let (tell, told) = mpsc::sync_channel(1);
        let inner = Arc::clone(&shared);
        let body = move || {
            if !thread::pin_to(core) {
                let _ = tell.send(Err(SpawnError::Pin { core }));
                return Err(String::new());
            }
            thread::sleep_exactly();
            let poller = match make_poller() {
                Ok(poller) => poller,
                Err(cause) => {
                    let _ = tell.send(Err(SpawnError::Poller { core, cause }));
                    return Err(String::new());
                }
            };
            let event = poller.wake_event().unwrap_or(own_event);
            let _ = tell.send(Ok((thread::id(), Arc::clone(&event))));
            let idle = Idle::new(idle, &clock);
            let mut turns = Turns { poller, clock, idle, event, shared: inner, counters: ReactorCounters::default() };
            // Nothing of the poller is used after a panic: it is dropped by it.
            catch_unwind(AssertUnwindSafe(move || turns.run())).map_err(|panic| message_of(&*panic))
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(system)?;
        match told.recv() {
            Ok(Ok((tid, event))) => {
                Ok(ReactorHandle { core, name: name.to_owned(), tid, shared, event, thread: Some(thread) })
            }
            Ok(Err(error)) => {
                let _ = thread.join();
                Err(error)
            }
            Err(_) => {
                let message = thread.join().err().map_or_else(String::new, |panic| message_of(&*panic));
                Err(SpawnError::Panicked { core, message })
            }
        }
    }
}

impl ReactorHandle {
    /// The core.
    #[must_use]
    pub fn core(&self) -> u32 {
        self.core
    }

    /// The thread's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's id of the thread.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// What it did so far, as of at most 1024 turns or one sleep ago.
    #[must_use]
    pub fn snapshot(&self) -> ReactorCounters {
        self.shared.published.snapshot()
    }

    /// Whether the thread has ended, asked to or by a panic.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Asks the reactor to drain its poller, for 10 seconds at most, and end. Does not wait.
    pub fn stop(&self) {
        self.stop_within(DRAIN_LIMIT);
    }

    /// As [`stop`](Self::stop), with a time limit for the draining.
    pub fn stop_within(&self, limit: Duration) {
        let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        self.shared.drain_micros.store(micros, Ordering::Relaxed);
        self.shared.stop.store(true, Ordering::Release);
        self.event.wake();
    }

    /// Waits for the thread to end, which it does after [`stop`](Self::stop) or a panic.
    ///
    /// # Errors
    /// [`ReactorPanicked`] if the poller panicked.
    pub fn join(mut self) -> Result<ReactorEnd, ReactorPanicked> {
        let ended = match self.thread.take() {
            Some(thread) => thread.join().unwrap_or_else(|panic| Err(message_of(&*panic))),
            None => Err("joined before".to_owned()),
        };
        ended.map_err(|message| ReactorPanicked { core: self.core, message })
    }
}

impl Drop for ReactorHandle {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
        }
    }
}

/// What the thread holds while it runs.
struct Turns<P, C> {
    poller: P,
    clock: C,
    idle: Idle,
    event: Arc<WakeEvent>,
    shared: Arc<Shared>,
    counters: ReactorCounters,
}

impl<P: Poller, C: Clock> Turns<P, C> {
    fn run(&mut self) -> ReactorEnd {
        let mut now = self.clock.now();
        while !self.shared.stop.load(Ordering::Acquire) {
            let mut outcome = self.poller.poll(now);
            match self.account(outcome, now) {
                Step::Turn => {}
                Step::Pause => std::hint::spin_loop(),
                Step::Sleep(limit) => outcome = self.sleep(limit, now),
            }
            now = self.charge(now, outcome != Poll::Idle);
        }
        let drained = self.drain(now);
        self.shared.published.publish(&self.counters);
        ReactorEnd { counters: self.counters, drained }
    }

    /// Counts a turn, and decides what follows.
    fn account(&mut self, outcome: Poll, now: Ticks) -> Step {
        self.counters.turns += 1;
        if self.counters.turns.is_multiple_of(PUBLISH_TURNS) {
            self.shared.published.publish(&self.counters);
        }
        match outcome {
            Poll::Busy(items) => {
                self.counters.busy_turns += 1;
                self.counters.items += u64::from(items);
                self.idle.worked(now);
                Step::Turn
            }
            Poll::Idle => {
                let poller = &self.poller;
                self.idle.rested(now, || poller.wake_source())
            }
        }
    }

    /// Charges the time since `from`; gives the time now. The one reading of the clock in a turn.
    fn charge(&mut self, from: Ticks, busy: bool) -> Ticks {
        let now = self.clock.now();
        let spent = now.since(from);
        if busy {
            self.counters.busy_ticks += spent;
        } else {
            self.counters.idle_ticks += spent;
        }
        now
    }

    /// Sleeps, unless there is work after all once the sleep was announced. Says what that last look found.
    fn sleep(&mut self, limit: Duration, now: Ticks) -> Poll {
        self.event.announce_sleep();
        let outcome = self.poller.poll(now);
        if outcome != Poll::Idle || self.shared.stop.load(Ordering::SeqCst) {
            self.event.stay_awake();
            self.account(outcome, now);
            return outcome;
        }
        self.counters.sleeps += 1;
        self.shared.published.publish(&self.counters);
        if let Some(nanos) = self.event.wait(limit) {
            self.counters.woken(nanos);
        }
        Poll::Idle
    }

    /// Lets the poller finish what is outstanding. Says whether it did in time.
    fn drain(&mut self, began: Ticks) -> bool {
        let limit = self.clock.ticks_of_micros(self.shared.drain_micros.load(Ordering::Relaxed));
        let mut now = began;
        loop {
            if self.poller.drain(now) {
                return true;
            }
            if now.since(began) >= limit {
                return false;
            }
            now = self.charge(now, true);
        }
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests;
