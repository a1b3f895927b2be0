//! Any other queue, made to fail: by chance from a seed, or at exact places. The same seed and commands give the same
//! faults.

mod plan;
mod queue;
pub(crate) mod random;
#[cfg(test)]
mod tests;

pub use plan::{Fault, FaultPlan, FaultSite, FaultStats, OpKind};
pub use queue::FaultInjector;
