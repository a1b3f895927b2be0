//! Turning events into figures.

mod latency;
mod spread;
mod timeline;

pub use latency::{Latency, Percentiles};
pub use spread::Spread;
pub use timeline::{Bin, Point, Timeline};
