//! What anybody may ask about a controller while the control side is busy with it.

use std::collections::VecDeque;

use super::control::Control;
use super::dma_space::DmaSpace;
use super::{ControllerEvent, ControllerInfo, ControllerState, ControllerStatus, NamespaceInfo, lock};

/// Events that are kept for who asks; older ones are forgotten.
const KEPT_EVENTS: usize = 64;

/// The control side writes it; nobody holds its lock for longer than a copy takes.
pub(super) struct Board {
    pub(super) status: ControllerStatus,
    pub(super) info: ControllerInfo,
    pub(super) namespaces: Vec<NamespaceInfo>,
    pub(super) refused: Vec<(u32, String)>,
    pub(super) granted: u16,
    pub(super) events: VecDeque<ControllerEvent>,
}

impl Board {
    pub(super) fn new(info: ControllerInfo) -> Self {
        let status = ControllerStatus {
            state: ControllerState::Ready,
            resets: 0,
            aborts: 0,
            events: 0,
            stray_completions: 0,
            queues: 0,
            mappings: 0,
        };
        Self {
            status,
            info,
            namespaces: Vec::new(),
            refused: Vec::new(),
            granted: 0,
            events: VecDeque::with_capacity(KEPT_EVENTS),
        }
    }

    pub(super) fn keep_event(&mut self, event: ControllerEvent) {
        if self.events.len() == KEPT_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

impl Control {
    /// Tells how the controller is doing.
    pub(super) fn publish(&self, space: &DmaSpace) {
        let records = || self.queues.iter().flatten();
        let status = ControllerStatus {
            state: self.state.clone(),
            resets: self.counters.resets,
            aborts: self.counters.aborts,
            events: self.counters.events,
            stray_completions: self.admin.strays() + records().map(|record| record.link.strays()).sum::<u64>(),
            queues: records().filter(|record| record.left.is_none()).count() as u16,
            mappings: space.len(),
        };
        lock(&self.board).status = status;
    }

    /// Tells what the controller is.
    pub(super) fn publish_identity(&self) {
        let mut board = lock(&self.board);
        board.info = self.info.clone();
        board.namespaces.clone_from(&self.namespaces);
        board.refused.clone_from(&self.refused);
        board.granted = self.granted;
    }
}
