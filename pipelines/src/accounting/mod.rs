//! What a core counts: calls, items and ticks of each stage; outcomes and latencies of each operation; the flight
//! recorder. All of it is the core's own and is read by asking the core.

mod operations;
mod recorder;
mod stages;

pub use operations::{OperationCounters, Operations, Outcome};
pub use recorder::{FlightRecorder, TraceEntry};
pub use stages::{Stage, StageCounters, StageMeter};
