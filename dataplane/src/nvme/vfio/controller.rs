//! A controller, as a daemon sees it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::board::Board;
use super::control::Control;
use super::dma_memory::DmaMemory;
use super::dma_space::DmaSpace;
use super::lifecycle;
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

impl ControllerState {
    /// Whether a controller in this state can be asked anything.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        match self {
            Self::Ready => Ok(()),
            Self::Resetting => Err(OpenError::Resetting),
            Self::Failed(why) => Err(OpenError::Failed(why.clone())),
            Self::Removed => Err(OpenError::Gone),
        }
    }
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
    pub(super) space: DmaSpace,
    /// Locked last.
    pub(super) board: Arc<Mutex<Board>>,
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
        // Whoever had it before may have left it running, and with addresses of its own: no memory is shown to it before it
        // was stopped. This turns its registers on as well.
        function.set_bus_master(false)?;
        let capabilities = lifecycle::stop(function.as_ref())?;
        let space = DmaSpace::new(Arc::clone(&function));
        let control = Control::new(Arc::clone(&function), options, capabilities, &space)?;
        let board = Arc::clone(&control.board);
        // From here on the destructor cleans up.
        let shared = Arc::new(Shared { function, options, control: Mutex::new(control), space, board });
        {
            let mut control = lock(&shared.control);
            control.start()?;
            control.introduce(&shared.space)?;
            control.mark_power()?;
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
        lock(&self.shared.board).info.clone()
    }

    /// The active namespaces that can be driven.
    #[must_use]
    pub fn namespaces(&self) -> Vec<NamespaceInfo> {
        lock(&self.shared.board).namespaces.clone()
    }

    /// The active namespaces that cannot be driven, and why.
    #[must_use]
    pub fn refused_namespaces(&self) -> Vec<(u32, String)> {
        lock(&self.shared.board).refused.clone()
    }

    /// I/O queues that the controller granted.
    #[must_use]
    pub fn queues(&self) -> u16 {
        lock(&self.shared.board).granted
    }

    /// A namespace, from which each core gets its queue.
    ///
    /// # Errors
    /// [`OpenError::NoNamespace`], or why the namespace cannot be driven.
    pub fn namespace(&self, nsid: u32) -> Result<VfioDevice, OpenError> {
        let board = lock(&self.shared.board);
        if let Some(namespace) = board.namespaces.iter().find(|namespace| namespace.nsid == nsid) {
            return Ok(VfioDevice::new(Arc::clone(&self.shared), &board.info, *namespace));
        }
        if let Some((_, why)) = board.refused.iter().find(|(refused, _)| *refused == nsid) {
            return Err(OpenError::Unusable(why.clone()));
        }
        let active = board.namespaces.iter().map(|info| info.nsid).collect();
        Err(OpenError::NoNamespace { nsid, active })
    }

    /// Whether it works. Does not wait, as [`status`](Self::status).
    #[must_use]
    pub fn state(&self) -> ControllerState {
        lock(&self.shared.board).status.state.clone()
    }

    /// How it is doing. Does not wait: while the control side is busy, in a reset for instance, as it was told last.
    #[must_use]
    pub fn status(&self) -> ControllerStatus {
        if let Ok(control) = self.shared.control.try_lock() {
            control.publish(&self.shared.space);
        }
        lock(&self.shared.board).status.clone()
    }

    /// Maps a region before queues attach it. Pinning memory takes long: whoever does this on a control thread keeps
    /// the queues' cores from it. To be taken back by [`release_memory`](Self::release_memory).
    ///
    /// # Errors
    /// Why the controller cannot reach it; limits on mappings, addresses and locked memory say how to raise them.
    pub fn hold_memory(&self, region: &Arc<Region>) -> std::io::Result<()> {
        self.shared.space.hold(region).map(|_| ())
    }

    /// Takes back what [`hold_memory`](Self::hold_memory) gave; unmaps the region if no queue knows it any more.
    ///
    /// # Errors
    /// If it could not be unmapped. It is kept then.
    pub fn release_memory(&self, region: &Arc<Region>) -> std::io::Result<()> {
        self.shared.space.release(region)
    }

    /// Reads the health log page. Waits for the controller, if that is ready.
    ///
    /// # Errors
    /// What the controller said, that it did not answer, or why it is not ready.
    pub fn health(&self) -> Result<HealthInfo, OpenError> {
        self.ask(Control::health)
    }

    /// Reads the error log page: 64 entries at most. Waits for the controller, if that is ready.
    ///
    /// # Errors
    /// As [`health`](Self::health).
    pub fn errors(&self) -> Result<Vec<ErrorEntry>, OpenError> {
        self.ask(Control::errors)
    }

    fn ask<T>(&self, question: impl FnOnce(&mut Control) -> Result<T, OpenError>) -> Result<T, OpenError> {
        // Without waiting for the end of a reset.
        let state = lock(&self.shared.board).status.state.clone();
        state.check()?;
        let mut control = lock(&self.shared.control);
        control.state.check()?;
        question(&mut control)
    }

    /// Takes the events that the controller sent since this was last called; the last 64 are kept.
    #[must_use]
    pub fn take_events(&self) -> Vec<ControllerEvent> {
        lock(&self.shared.board).events.drain(..).collect()
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
        let unknown = matches!(record.link.state(), LinkState::Stopped | LinkState::Ready | LinkState::Dead);
        let forgotten = unknown && !record.uncertain;
        let mut held = regions;
        held.push(Arc::clone(memory.region()));
        // One that is not ready would not answer.
        let ready = control.state == ControllerState::Ready;
        if forgotten || (ready && control.delete_queue(qid).is_ok()) {
            control.queues[slot] = None;
            for region in held {
                if let Err(error) = self.space.release(&region) {
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
        self.space.unmap_all();
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
