//! The engine that `kvplaned` runs: devices, cores and listeners put together.

mod cores;
mod device;
mod listeners;
mod live;
mod nvme;
mod port;
mod prepare;
mod reports;
mod volume;

pub use device::{FormatPolicy, StoreKind, StoreSource};
pub use nvme::{DeviceAddress, DeviceError};
pub use prepare::{EnginePlan, PrepareError, prepare};
