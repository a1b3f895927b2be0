//! A driver for NVMe controllers that this process owns: queues in memory that it shares with the controller, doorbells
//! that it rings itself, completions that it polls for.
//!
//! [`PciFunction`] is all that the driver asks of the bus: [`kernel`] gives access by VFIO, the vfio-user initiator
//! ([`fabric`](crate::fabric::vfio_user::initiator)) to a controller that is another process, and [`model`] is a
//! controller in software, that lies if told to.
//!
//! A [`Controller`] is opened and looked after on a control thread ([`Attendant`]). Each core drives a [`VfioQueue`] of
//! its own. The two meet in a few atomic words; `ARCHITECTURE.md` has the state machine.

mod admin;
mod attendant;
mod barrier;
mod board;
mod control;
mod controller;
mod device;
mod dma_memory;
mod dma_space;
mod doorbell;
mod error;
mod events;
mod identify;
pub mod kernel;
mod lifecycle;
mod link;
mod log_pages;
pub mod model;
mod options;
pub mod pci;
mod placement;
mod power;
mod prp;
mod queue;
mod recovery;
mod registers;
mod rings;
mod slot;
mod terms;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use attendant::Attendant;
pub use controller::{Controller, ControllerState, ControllerStatus};
pub use device::VfioDevice;
pub use error::OpenError;
pub use identify::{ControllerInfo, NamespaceInfo};
pub use log_pages::{ControllerEvent, ErrorEntry, HealthInfo};
pub use options::ControllerOptions;
pub use pci::{DmaLimits, DoorbellArea, PciError, PciFunction};
pub use queue::{VfioQueue, VfioStats};

/// Locks, also after a thread panicked with the lock: what is protected here is brought back by a reset at worst.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
