//! Putting a queue pair together.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::super::controller::Shared;
use super::super::dma_memory::DmaMemory;
use super::super::link::Link;
use super::super::placement::Placing;
use super::super::prp::List;
use super::super::rings::{Doorbells, Layout};
use super::super::slot::{EMPTY, Naming, Slot};
use super::{VfioQueue, VfioStats};
use crate::nvme::attached::AttachedRegions;
use crate::nvme::spec::Sqe;
use crate::nvme::{Geometry, WriteHint};

/// What a queue is made of.
pub(in super::super) struct QueueParts {
    pub(in super::super) shared: Arc<Shared>,
    pub(in super::super) link: Arc<Link>,
    pub(in super::super) memory: DmaMemory,
    pub(in super::super) layout: Layout,
    pub(in super::super) doorbells: Doorbells,
    pub(in super::super) geometry: Geometry,
    pub(in super::super) nsid: u32,
    pub(in super::super) qid: u16,
    pub(in super::super) boundary: u64,
    pub(in super::super) sgl: bool,
    /// Whether write hints are passed on.
    pub(in super::super) places: bool,
    pub(in super::super) timeout: Duration,
    pub(in super::super) memory_slots: u16,
}

impl VfioQueue {
    pub(in super::super) fn new(parts: QueueParts) -> Self {
        let QueueParts { layout, geometry, memory, .. } = parts;
        let depth = geometry.depth as usize;
        let part = |offset: usize, bytes: usize| {
            let pointer = memory.at(offset, bytes);
            // The memory was made for the layout.
            pointer.unwrap_or_else(|| unreachable!("{bytes} bytes at {offset} of a queue's memory"))
        };
        let sq = part(0, layout.sq_entries as usize * Sqe::BYTES).cast();
        let cq = part(layout.cq_offset, layout.cq_entries as usize * 16).cast();
        let first = part(layout.lists_offset, depth * layout.list_bytes).cast();
        let slot = |index| {
            let expected = (index as u32) << 16;
            Slot { io: EMPTY, expected, moved: 0, rest: 0, sent_at: 0, tries: 0, expired: false }
        };
        // With fewer than twice as many completions as commands there is less to put off.
        let spare = layout.cq_entries - 1 - geometry.depth;
        Self {
            sq,
            cq,
            lists: List { first, iova: memory.iova() + layout.lists_offset as u64 },
            list_bytes: layout.list_bytes,
            sq_entries: layout.sq_entries,
            cq_entries: layout.cq_entries,
            tail: 0,
            rung: 0,
            head: 0,
            untold: 0,
            tell_at: (spare / 2).max(1),
            phase: true,
            live: true,
            plain: parts.boundary == 0,
            sgl: parts.sgl,
            qid: parts.qid,
            nsid: parts.nsid,
            placements: [0; WriteHint::KINDS as usize + 1],
            boundary: parts.boundary,
            naming: Naming::new(geometry.depth),
            tick: parts.link.tick(),
            now: 0,
            slots: (0..depth).map(slot).collect(),
            free: (0..depth as u16).rev().collect(),
            memory_slots: parts.memory_slots,
            geometry,
            regions: AttachedRegions::new(parts.memory_slots),
            doorbells: parts.doorbells,
            later: Vec::with_capacity(depth),
            watched_at: 0,
            link: parts.link,
            ended: VecDeque::with_capacity(depth),
            stats: VfioStats::default(),
            dead: false,
            placing: Placing::new(parts.places, layout.answer_offset),
            timeout: u32::try_from(parts.timeout.as_millis()).unwrap_or(u32::MAX / 4).min(u32::MAX / 4),
            memory: Some(memory),
            shared: parts.shared,
        }
    }
}
