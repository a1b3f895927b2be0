//! `kvperf run`: commands of a chosen mix against a set of keys, closed loop or open loop.

mod engine;
mod keys;
mod mix;
mod report;
mod schedule;
mod sizes;

use dataplane::core::Clock;

use crate::target::{Target, TargetError};
use crate::value::Verify;

pub use engine::{Engine, Measured, OpMeasured};
pub use keys::{Choice, Keys};
pub use mix::Mix;
pub use report::{OpReport, RunReport};
pub use schedule::{Arrivals, Schedule, Spacing};
pub use sizes::Sizes;

/// What to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Shares of the commands.
    pub mix: Mix,
    /// Sizes of the values.
    pub sizes: Sizes,
    /// Commands in flight at the most.
    pub depth: u32,
    /// When commands start.
    pub arrivals: Arrivals,
    /// Which key a command takes.
    pub choice: Choice,
    /// Number of keys.
    pub keys: u64,
    /// Keys in the list of a lookup.
    pub lookup_keys: u32,
    /// How much of each value is checked.
    pub verify: Verify,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Nanoseconds to run before anything is counted.
    pub warm_up: u64,
    /// Nanoseconds to count for; 0 for no such bound.
    pub duration: u64,
    /// Commands to count; 0 for no such bound.
    pub ops: u64,
}

/// Runs to the end that the settings name. `progress` is told now and then.
///
/// # Errors
/// If the target is gone or has no memory.
pub fn run<T: Target>(
    target: &mut T,
    clock: &impl Clock,
    settings: &Settings,
    keys: &mut Keys,
    mut progress: impl FnMut(&Measured),
) -> Result<Measured, TargetError> {
    target.allocate(Engine::memory_bytes(settings))?;
    let mut engine = Engine::new(settings, keys, clock.nanos_of_ticks(clock.now().0));
    let mut turns = 0u32;
    while !engine.turn(target, clock)? {
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(1 << 16) {
            progress(engine.measured());
        }
    }
    Ok(engine.finish())
}

/// Stores every key once, so that there is something to find.
///
/// # Errors
/// As [`run`].
pub fn populate<T: Target>(
    target: &mut T,
    clock: &impl Clock,
    settings: &Settings,
    keys: &mut Keys,
    progress: impl FnMut(&Measured),
) -> Result<Measured, TargetError> {
    let once = Settings {
        mix: Mix::only(crate::target::Op::Store),
        arrivals: Arrivals::Closed,
        choice: Choice::Sequential,
        warm_up: 0,
        duration: 0,
        ops: settings.keys,
        ..settings.clone()
    };
    run(target, clock, &once, keys, progress)
}

#[cfg(test)]
mod tests;
