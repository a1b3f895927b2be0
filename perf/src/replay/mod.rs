//! `kvperf replay`: the life of a KV cache under a trace of requests.
//!
//! Each request looks up how far its prompt's chain is present, retrieves those blocks, all at once, and stores the
//! rest. A block that was evicted between lookup and retrieve counts as a miss and is stored again. Within the depth, loading goes
//! before storing.

mod chain;
mod engine;
mod report;

use std::str::FromStr;

use dataplane::core::Clock;
use serde::Serialize;

use crate::target::{Target, TargetError};
use crate::trace::Request;
use crate::value::Verify;

pub use engine::{Engine, Measured};
pub use report::ReplayReport;

/// How fast requests arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// At the trace's times, divided by this factor.
    Times(f64),
    /// Whenever one of the requests under way is done.
    Max,
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "max" => Ok(Self::Max),
            "real" => Ok(Self::Times(1.0)),
            _ => match text.trim_end_matches('x').parse::<f64>() {
                Ok(factor) if factor.is_finite() && factor > 0.0 => Ok(Self::Times(factor)),
                _ => Err(format!("\"{text}\" is not a speed; write real, max, or a factor such as 2x")),
            },
        }
    }
}

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Times(factor) => write!(f, "{factor}x"),
        }
    }
}

/// How to replay.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How fast requests arrive.
    pub speed: Speed,
    /// Bytes of a block's value.
    pub block_bytes: u32,
    /// Goes into every key: replays with other numbers do not meet each other's values.
    pub salt: u32,
    /// The most commands in flight.
    pub depth: u32,
    /// The most requests under way; further ones wait, and their waiting counts.
    pub concurrency: u32,
    /// How much of each value is checked.
    pub verify: Verify,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Requests done.
    pub requests: u64,
    /// Blocks of their prompts.
    pub blocks: u64,
    /// Blocks that were retrieved.
    pub hit_blocks: u64,
    /// Blocks that the lookup found and the retrieve did not.
    pub gone: u64,
    /// Blocks that were stored.
    pub stored_blocks: u64,
    /// Bytes retrieved.
    pub retrieved_bytes: u64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// Bytes that were not as they must be. Anything but zero is a defect.
    pub wrong_bytes: u64,
    /// Commands that failed.
    pub errors: u64,
}

/// Replays a trace to its end. `progress` is told the number of requests done, now and then.
///
/// # Errors
/// If the target has no memory or is gone.
pub fn replay<T: Target>(
    target: &mut T,
    clock: &impl Clock,
    requests: &[Request],
    settings: Settings,
    mut progress: impl FnMut(&Measured),
) -> Result<(Measured, u64), TargetError> {
    target.allocate(Engine::memory_bytes(&settings))?;
    let mut engine = Engine::new(requests, settings, clock.nanos_of_ticks(clock.now().0));
    let mut told = 0;
    while !engine.turn(target, clock)? {
        if engine.done() != told {
            told = engine.done();
            progress(engine.measured());
        }
    }
    Ok(engine.finish())
}

#[cfg(test)]
mod tests;
