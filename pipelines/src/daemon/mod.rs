//! The daemon `kvplaned`: options, start-up and shutdown.

mod assemble;
mod config_file;
mod device_option;
pub mod engine;
mod exit;
mod logging;
mod options;
mod run;
mod shortcuts;
mod signal;
pub mod size;
mod store_option;
#[cfg(test)]
mod tests;

pub use assemble::assemble;
pub use device_option::{DeviceOption, DeviceOptions};
pub use exit::{Exit, StartError};
pub use logging::{LogFormat, Logging};
pub use options::Options;
pub use run::{Assemble, run};
pub use shortcuts::{DEFAULT_NQN, HostOption, ListenOption, NamespaceOption};
pub use store_option::{Format, StoreOption};
