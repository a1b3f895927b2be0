//! What the methods of the socket work on.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::Control;

/// How far start-up has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// Waiting for `framework_start_init`; nothing was touched yet.
    Waiting,
    /// Cores and devices are being set up.
    Starting,
    /// Serving.
    Ready,
    /// Start-up failed; the process is about to end.
    Failed(String),
    /// Draining.
    Stopping,
}

/// Sets up cores and devices. Runs once.
pub type Starter = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// The life of the process: how far it is, and what brings it on.
pub struct Framework {
    lifecycle: watch::Sender<Lifecycle>,
    starter: Mutex<Option<Starter>>,
}

impl Framework {
    /// Waiting for its start.
    #[must_use]
    pub fn new(starter: Starter) -> Self {
        Self { lifecycle: watch::Sender::new(Lifecycle::Waiting), starter: Mutex::new(Some(starter)) }
    }

    /// How far it is.
    #[must_use]
    pub fn lifecycle(&self) -> Lifecycle {
        self.lifecycle.borrow().clone()
    }

    /// Follows it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Lifecycle> {
        self.lifecycle.subscribe()
    }

    /// Sets up cores and devices. May take seconds.
    ///
    /// # Errors
    /// `None` if that was done already, else what failed.
    pub fn start(&self) -> Result<(), Option<String>> {
        let starter = self.starter.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(None)?;
        self.lifecycle.send_replace(Lifecycle::Starting);
        let started = starter();
        // A signal may have begun to stop it meanwhile.
        self.lifecycle.send_if_modified(|now| {
            let starting = *now == Lifecycle::Starting;
            if starting {
                *now = started.clone().map_or_else(Lifecycle::Failed, |()| Lifecycle::Ready);
            }
            starting
        });
        started.map_err(Some)
    }

    /// Announces that it stops.
    pub fn stopping(&self) {
        self.lifecycle.send_replace(Lifecycle::Stopping);
    }
}

/// The levels of SPDK's log, least talkative first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// And warnings.
    Warning,
    /// And events that an operator wants to see.
    Notice,
    /// And what a developer wants to see.
    Info,
    /// Everything.
    Debug,
}

impl LogLevel {
    /// The names, least talkative first.
    pub const NAMES: &[&str] = &["ERROR", "WARNING", "NOTICE", "INFO", "DEBUG"];
    const ALL: [Self; 5] = [Self::Error, Self::Warning, Self::Notice, Self::Info, Self::Debug];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The level of a name, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(name))
    }
}

/// What can be set about the log while the process runs.
pub trait LogControl: Send + Sync {
    /// The level.
    fn level(&self) -> LogLevel;
    /// Sets the level.
    fn set_level(&self, level: LogLevel);
    /// Every flag (a part of the program that can be made to log everything) and whether it is set.
    fn flags(&self) -> Vec<(&'static str, bool)>;
    /// Sets or clears a flag, or all with `all`; `false` if there is none of that name.
    fn set_flag(&self, flag: &str, on: bool) -> bool;
}

/// What the methods of the socket work on.
pub struct Context {
    /// The state.
    pub control: Control,
    /// The life of the process.
    pub framework: Arc<Framework>,
    /// The log.
    pub log: Arc<dyn LogControl>,
    /// Sends a signal, by its number, to this process.
    pub kill: Box<dyn Fn(i32) + Send + Sync>,
}
