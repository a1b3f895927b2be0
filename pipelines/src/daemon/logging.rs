//! The log: to standard error, as text or JSON, with a level and flags that can be changed at run time.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::control::{LogControl, LogLevel};

/// The parts of the program that can be made to log everything, with where they are.
const FLAGS: &[(&str, &str)] = &[
    ("core", "dataplane::core"),
    ("memory", "dataplane::memory"),
    ("nvme", "dataplane::nvme"),
    ("fabric", "dataplane::fabric"),
    ("vfio_user", "dataplane::fabric::vfio_user"),
    ("store", "pipelines::store"),
    ("control", "pipelines::control"),
    ("rpc", "pipelines::control::rpc"),
];

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Checks the name of a flag.
pub(super) fn check_flag(name: &str) -> Result<String, String> {
    if name == "all" || FLAGS.iter().any(|(flag, _)| *flag == name) {
        return Ok(name.to_owned());
    }
    let known: Vec<_> = FLAGS.iter().map(|(flag, _)| *flag).collect();
    Err(format!("there is no such flag; there are: all, {}", known.join(", ")))
}

/// The log's settings.
pub struct Logging {
    settings: Mutex<Settings>,
    handle: reload::Handle<Targets, Registry>,
}

struct Settings {
    level: LogLevel,
    flags: BTreeSet<&'static str>,
}

impl Settings {
    fn targets(&self) -> Targets {
        let level = match self.level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warning => LevelFilter::WARN,
            LogLevel::Notice => LevelFilter::INFO,
            LogLevel::Info => LevelFilter::DEBUG,
            LogLevel::Debug => LevelFilter::TRACE,
        };
        let set = FLAGS.iter().filter(|(flag, _)| self.flags.contains(flag));
        Targets::new().with_default(level).with_targets(set.map(|(_, target)| (*target, LevelFilter::TRACE)))
    }
}

impl Logging {
    /// Starts to log, for the whole process; only the first call of a process does.
    #[must_use]
    pub fn start(level: LogLevel, flags: &[String], format: LogFormat) -> Self {
        let (targets, handle) = reload::Layer::new(Targets::new());
        let registry = tracing_subscriber::registry().with(targets);
        let base = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
        // Fails if something logs already, which then goes on.
        let _ = match format {
            LogFormat::Text => registry.with(base).try_init(),
            LogFormat::Json => registry.with(base.json()).try_init(),
        };
        let logging = Self { settings: Mutex::new(Settings { level, flags: BTreeSet::new() }), handle };
        logging.set_level(level);
        for flag in flags {
            logging.set_flag(flag, true);
        }
        logging
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut settings);
        // Fails if this log was not the one that started.
        let _ = self.handle.reload(settings.targets());
    }
}

impl LogControl for Logging {
    fn level(&self) -> LogLevel {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).level
    }

    fn set_level(&self, level: LogLevel) {
        self.change(|settings| settings.level = level);
    }

    fn flags(&self) -> Vec<(&'static str, bool)> {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        FLAGS.iter().map(|(flag, _)| (*flag, settings.flags.contains(flag))).collect()
    }

    fn set_flag(&self, flag: &str, on: bool) -> bool {
        let chosen: Vec<_> =
            FLAGS.iter().map(|(name, _)| *name).filter(|name| flag == "all" || *name == flag).collect();
        self.change(|settings| {
            for name in &chosen {
                let _ = if on { settings.flags.insert(*name) } else { settings.flags.remove(name) };
            }
        });
        !chosen.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn a_flag_lets_everything_of_its_part_through() {
        let mut settings = Settings { level: LogLevel::Notice, flags: BTreeSet::new() };
        let shown = |settings: &Settings, target, level| settings.targets().would_enable(target, &level);
        assert!(shown(&settings, "pipelines::store", Level::INFO));
        assert!(!shown(&settings, "pipelines::store", Level::DEBUG));
        settings.flags.insert("store");
        assert!(shown(&settings, "pipelines::store::index", Level::TRACE));
        assert!(!shown(&settings, "pipelines::control", Level::DEBUG));
        settings.level = LogLevel::Error;
        assert!(!shown(&settings, "pipelines::control", Level::WARN));
    }
}
