//! A controller, as a daemon sees it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::control::Control;
use super::dma_memory::DmaMemory;
use super::dma_space::DmaSpace;
use super::link::LinkState;
use super::pci::{PciFunction, config};
use super::{
    ControllerEvent, ControllerInfo, ControllerOptions, ErrorEntry, HealthInfo, NamespaceInfo, OpenError, VfioDevice,
    lock,
};
use crate::memory::Region;

/// Whether a controller works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControllerState {
    /// It does.
    Ready,
    /// It was stopped and is not back yet.
    Resetting,
    /// It was given up; why. Its queues end every command with [`BlockError::Gone`](crate::nvme::BlockError::Gone).
    Failed(String),
    /// It was pulled.
    Removed,
}

/// How a controller is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerStatus {
    /// Whether it works.
    pub state: ControllerState,
    /// Times that it was reset.
    pub resets: u64,
    /// Commands that were aborted because they took too long.
    pub aborts: u64,
    /// Asynchronous events that it sent.
    pub events: u64,
    /// Completions that named no outstanding command: it lies.
    pub stray_completions: u64,
    /// I/O queues in use.
    pub queues: u16,
    /// Regions of memory that it can reach.
    pub mappings: usize,
}

pub(super) struct Shared {
    pub(super) function: Arc<dyn PciFunction>,
    pub(super) options: ControllerOptions,
    pub(super) control: Mutex<Control>,
    /// Locked after `control`, where both are.
    pub(super) space: Mutex<DmaSpace>,
}

/// An NVMe controller that this process owns. Clones are the same controller; it is shut down when they, its devices and
/// its queues are gone.
#[derive(Clone)]
pub struct Controller {
    pub(super) shared: Arc<Shared>,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("function", &self.shared.function.name()).finish_non_exhaustive()
    }
}

impl Controller {
    /// Resets a controller, gets it ready and asks it what it is. Takes as long as the controller takes; not for a
    /// reactor's thread.
    ///
    /// # Errors
    /// See [`OpenError`]. The controller can reach no memory then.
    pub fn open(function: Arc<dyn PciFunction>, options: ControllerOptions) -> Result<Self, OpenError> {
        check_class(function.as_ref())?;
        let space = Mutex::new(DmaSpace::new(Arc::clone(&function)));
        let control = Control::new(Arc::clone(&function), options, &space)?;
        // From here on the destructor cleans up.
        let shared = Arc::new(Shared { function, options, control: Mutex::new(control), space });
        {
            let mut control = lock(&shared.control);
            // Whoever had it before may have left it running. This turns its registers on as well.
            shared.function.set_bus_master(false)?;
            control.stop()?;
            control.start()?;
            control.introduce(&shared.space)?;
        }
        Ok(Self { shared })
    }

    /// The function's name: its address on the bus, or its socket.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.function.name()
    }

    /// What the controller says of itself.
    #[must_use]
    pub fn info(&self) -> ControllerInfo {
        lock(&self.shared.control).info.clone()
    }

    /// The active namespaces that can be driven.
    #[must_use]
    pub fn namespaces(&self) -> Vec<NamespaceInfo> {
        lock(&self.shared.control).namespaces.clone()
    }

    /// The active namespaces that cannot be driven, and why.
    #[must_use]
    pub fn refused_namespaces(&self) -> Vec<(u32, String)> {
        lock(&self.shared.control).refused.clone()
    }

    /// I/O queues that the controller granted.
    #[must_use]
    pub fn queues(&self) -> u16 {
        lock(&self.shared.control).granted
    }

    /// A namespace, from which each core gets its queue.
    ///
    /// # Errors
    /// [`OpenError::NoNamespace`], or why the namespace cannot be driven.
    pub fn namespace(&self, nsid: u32) -> Result<VfioDevice, OpenError> {
        let control = lock(&self.shared.control);
        if let Some(info) = control.namespaces.iter().find(|info| info.nsid == nsid) {
            return VfioDevice::new(Arc::clone(&self.shared), &control, *info);
        }
        if let Some((_, why)) = control.refused.iter().find(|(refused, _)| *refused == nsid) {
            return Err(OpenError::Unusable(why.clone()));
        }
        let active = control.namespaces.iter().map(|info| info.nsid).collect();
        Err(OpenError::NoNamespace { nsid, active })
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> ControllerStatus {
        let control = lock(&self.shared.control);
        let records = || control.queues.iter().flatten();
        ControllerStatus {
            state: control.state.clone(),
            resets: control.counters.resets,
            aborts: control.counters.aborts,
            events: control.counters.events,
            stray_completions: control.admin.strays() + records().map(|record| record.link.strays()).sum::<u64>(),
            queues: records().filter(|record| record.left.is_none()).count() as u16,
            mappings: lock(&self.shared.space).len(),
        }
    }

    /// Reads the health log page. Waits for the controller.
    ///
    /// # Errors
    /// What the controller said, or that it did not answer.
    pub fn health(&self) -> Result<HealthInfo, OpenError> {
        lock(&self.shared.control).health()
    }

    /// Reads the error log page: 64 entries at most. Waits for the controller.
    ///
    /// # Errors
    /// As [`health`](Self::health).
    pub fn errors(&self) -> Result<Vec<ErrorEntry>, OpenError> {
        lock(&self.shared.control).errors()
    }

    /// Takes the events that the controller sent since this was last called; the last 64 are kept.
    #[must_use]
    pub fn take_events(&self) -> Vec<ControllerEvent> {
        lock(&self.shared.control).events.drain(..).collect()
    }

    /// Resets the controller. Commands that are outstanding are sent again once it is back, so nothing is lost. Waits for
    /// the controller, and not for queues that nobody polls: those come back when they are polled.
    ///
    /// # Errors
    /// Why the controller did not come back. It was given up then.
    pub fn reset(&self) -> Result<(), OpenError> {
        lock(&self.shared.control).reset(&self.shared.space, "somebody asked for it")
    }

    /// Looks after the controller: removal, failure, events, commands that take too long, queues that wait to come
    /// back. To be called every so often (a tenth of a second) on a control thread, see [`Attendant`](super::Attendant);
    /// `elapsed` is the time since the last call. It waits for the controller when there is something to mend.
    pub fn service(&self, elapsed: Duration) {
        lock(&self.shared.control).service(&self.shared.space, elapsed);
    }
}

impl Shared {
    /// Takes back a queue whose core let go of it, with its memory and the regions that it knew.
    pub(super) fn retire(&self, qid: u16, memory: DmaMemory, regions: Vec<Arc<Region>>) {
        let mut control = lock(&self.control);
        control.late.retain(|(other, _)| *other != qid);
        let slot = usize::from(qid) - 1;
        let Some(record) = control.queues.get_mut(slot).and_then(Option::as_mut) else { return };
        // In these states the controller does not know the queue.
        let forgotten = matches!(record.link.state(), LinkState::Stopped | LinkState::Ready | LinkState::Dead);
        let mut held = regions;
        held.push(Arc::clone(memory.region()));
        if forgotten || control.delete_queue(qid).is_ok() {
            control.queues[slot] = None;
            let mut space = lock(&self.space);
            for region in held {
                if let Err(error) = space.release(&region) {
                    tracing::error!(function = self.function.name(), %error, "memory stays mapped");
                }
            }
        } else if let Some(record) = control.queues.get_mut(slot).and_then(Option::as_mut) {
            tracing::error!(function = self.function.name(), qid, "the queue was not deleted; its memory is kept");
            record.left = Some(held);
        }
    }
}

impl Drop for Shared {
    /// Nobody uses the controller any more: it is shut down, and memory that it could reach still is not given back.
    fn drop(&mut self) {
        self.control.get_mut().unwrap_or_else(PoisonError::into_inner).shut_down();
        self.space.get_mut().unwrap_or_else(PoisonError::into_inner).unmap_all();
    }
}

fn check_class(function: &dyn PciFunction) -> Result<(), OpenError> {
    let mut class = [0; 4];
    function.config_read(config::REVISION, &mut class)?;
    let class = u32::from_le_bytes(class) >> 8;
    match class {
        config::CLASS_NVME => Ok(()),
        0xFF_FFFF => Err(OpenError::Gone),
        other => Err(OpenError::NotNvme(other)),
    }
}
