//! The control plane: what is configured, the policy compiled from it, and the socket that changes it.
//!
//! Nothing here runs on a polled core. The cores are reached through [`Engine`] alone.

pub(crate) mod config;
mod context;
mod engine;
mod error;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "for tests and fuzzing alone")]
pub mod fake;
pub mod report;
pub mod rpc;
pub mod state;

pub use context::{Context, Framework, Lifecycle, LogControl, LogLevel};
pub use engine::{Engine, EngineError, Shape, TransportLimits};
pub use error::ControlError;
pub use state::Control;
