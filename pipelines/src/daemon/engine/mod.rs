//! The engine that `kvplaned` runs: devices, cores and listeners put together.

mod cores;
mod device;
mod live;
mod port;
mod prepare;
mod reports;

pub use device::{FormatPolicy, StoreKind, StoreSource};
pub use prepare::{EnginePlan, PrepareError, prepare};
