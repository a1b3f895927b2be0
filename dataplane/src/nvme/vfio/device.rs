//! A namespace of a controller, from which each core gets its queue.

use std::sync::Arc;

use super::control::{Control, NotMade, QueueRecord};
use super::controller::Shared;
use super::dma_memory::DmaMemory;
use super::doorbell::Doorbell;
use super::link::Link;
use super::prp;
use super::queue::{QueueParts, VfioQueue};
use super::rings::{Doorbells, Layout};
use super::terms::Terms;
use super::{ControllerInfo, NamespaceInfo, OpenError, lock};
use crate::nvme::Geometry;

/// The most commands that one queue has outstanding.
pub(super) const MAX_DEPTH: u32 = 4095;
/// A boundary closer than this is not heeded: it is only a hint, and would cut everything into crumbs.
const MIN_BOUNDARY_BYTES: u64 = 64 << 10;
/// Blocks of one Read or Write at most.
const MAX_BLOCKS: u64 = 1 << 16;

/// A namespace. Cheap to clone; it and its queues keep the controller.
#[derive(Clone)]
pub struct VfioDevice {
    shared: Arc<Shared>,
    namespace: NamespaceInfo,
    geometry: Geometry,
    boundary: u64,
}

impl std::fmt::Debug for VfioDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VfioDevice").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl VfioDevice {
    pub(super) fn new(shared: Arc<Shared>, info: &ControllerInfo, namespace: NamespaceInfo) -> Self {
        let lba_bytes = u64::from(namespace.lba_bytes);
        let mut boundary = u64::from(namespace.optimal_boundary);
        if boundary * lba_bytes < MIN_BOUNDARY_BYTES {
            boundary = 0;
        }
        let limits = [
            Some(u64::from(shared.options.max_transfer)),
            info.max_transfer_bytes,
            Some(u64::from(prp::MAX_TRANSFER)),
            Some(MAX_BLOCKS * lba_bytes),
            // So that one that begins on a boundary crosses none.
            (boundary > 0).then_some(boundary * lba_bytes),
        ];
        let most = limits.into_iter().flatten().min().unwrap_or(lba_bytes);
        let geometry = Geometry {
            lba_bytes: namespace.lba_bytes,
            blocks: namespace.blocks,
            // Dwords: what PRP entries ask for, and the strictest that SGLs do.
            memory_align: 4,
            max_transfer: ((most / lba_bytes).max(1) * lba_bytes) as u32,
            volatile_cache: info.volatile_cache,
            deallocate: info.dataset_management,
            depth: 0,
        };
        Self { shared, namespace, geometry, boundary }
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &NamespaceInfo {
        &self.namespace
    }

    /// The device's shape; its depth is zero until a queue is made.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The most commands that a queue may have outstanding.
    #[must_use]
    pub fn max_depth(&self) -> u32 {
        deepest(&lock(&self.shared.control))
    }

    /// A queue for one core, of `depth` (1 to 4095, and less than the entries of the controller's queues) outstanding
    /// commands, that knows memory slots 0 to `memory_slots - 1`. Waits for the controller: to be called on a control
    /// thread, and the queue handed to its core.
    ///
    /// # Errors
    /// [`OpenError::NoQueue`] if all that the controller granted are in use, [`OpenError::Depth`],
    /// [`OpenError::Changed`] if namespace or controller are not what they were when this was looked up, or what the
    /// controller said.
    pub fn queue(&self, depth: u32, memory_slots: u16) -> Result<VfioQueue, OpenError> {
        let mut control = lock(&self.shared.control);
        control.state.check()?;
        control.find_namespace(self.namespace.nsid)?;
        let terms = self.terms(&control);
        if let Some(what) = terms.broken(&control) {
            return Err(OpenError::Changed { nsid: self.namespace.nsid, what });
        }
        let max_entries = control.capabilities.max_queue_entries();
        let deepest = deepest(&control);
        if depth == 0 || depth > deepest {
            return Err(OpenError::Depth(deepest));
        }
        let qid = control.free_qid().ok_or(OpenError::NoQueue(control.granted))?;
        let layout = Layout::new(depth, max_entries, self.geometry.max_transfer);
        let doorbells = self.doorbells(&control, qid)?;
        let memory = DmaMemory::new(layout.bytes, &self.shared.space).map_err(OpenError::Memory)?;
        let shape = layout.shape(memory.iova());
        let link = Arc::new(Link::new(control.now as u32));
        let record =
            |left| QueueRecord { link: Arc::clone(&link), shape, terms, told_strays: 0, uncertain: false, left };
        let slot = usize::from(qid) - 1;
        if let Err(NotMade { error, uncertain }) = control.create_queue(qid, &shape) {
            if uncertain {
                // Nobody knows whether it was made: its memory waits for the next reset.
                control.queues[slot] = Some(record(Some(vec![Arc::clone(memory.region())])));
            } else {
                memory.unmap(&self.shared.space).map_err(OpenError::Memory)?;
            }
            return Err(error);
        }
        control.queues[slot] = Some(record(None));
        let parts = QueueParts {
            shared: Arc::clone(&self.shared),
            link,
            memory,
            layout,
            doorbells,
            geometry: Geometry { depth, ..self.geometry },
            nsid: self.namespace.nsid,
            qid,
            boundary: self.boundary,
            sgl: terms.sgl,
            places: control.info.flexible_placement && self.shared.options.placement,
            timeout: self.shared.options.command_timeout,
            memory_slots,
        };
        // A queue that is dropped wants the lock.
        drop(control);
        let mut queue = VfioQueue::new(parts);
        queue.learn_placements(self.shared.options.admin_timeout)?;
        Ok(queue)
    }

    /// What a queue that is made now relies on.
    fn terms(&self, control: &Control) -> Terms {
        Terms {
            namespace: self.namespace,
            max_transfer: self.geometry.max_transfer,
            volatile_cache: self.geometry.volatile_cache,
            sgl: control.info.sgl && self.shared.options.sgl,
            shadows: control.shadowed,
            stride: control.capabilities.doorbell_stride(),
        }
    }

    fn doorbells(&self, control: &Control, qid: u16) -> Result<Doorbells, OpenError> {
        let area = self.shared.function.doorbells();
        let stride = control.capabilities.doorbell_stride();
        let shadows = control.shadows.as_ref().filter(|_| control.shadowed).map(|(pages, _)| pages);
        let doorbell = |index: u64| Doorbell::new(area, index * stride, shadows);
        let beyond = || OpenError::Unusable(format!("the doorbells of queue {qid} lie beyond what can be mapped"));
        let first = 2 * u64::from(qid);
        let mut sq_tail = doorbell(first).ok_or_else(beyond)?;
        let mut cq_head = doorbell(first + 1).ok_or_else(beyond)?;
        // The queue that had the identifier before left its values in the shadows.
        sq_tail.restart();
        cq_head.restart();
        Ok(Doorbells { sq_tail, cq_head })
    }
}

/// A ring holds one entry less than it has places.
fn deepest(control: &Control) -> u32 {
    (control.capabilities.max_queue_entries() - 1).min(MAX_DEPTH)
}
