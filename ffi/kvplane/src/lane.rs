//! A queue pair as the client sees it: which command goes by which identifier there.

use dataplane::memory::SlotId;

/// The client's book of one queue pair.
pub(crate) struct Lane {
    by_cid: Vec<Option<SlotId>>,
    /// Commands that count against the queue's depth: in flight, or waiting to be sent again.
    pub load: u16,
    /// Whether commands were pushed that the target was not told of.
    pub dirty: bool,
}

impl Lane {
    /// For a queue of that depth. Identifiers are below the depth with every carrier there is; a larger one makes
    /// the book grow once.
    pub fn new(depth: u16) -> Self {
        Self { by_cid: vec![None; usize::from(depth) + 1], load: 0, dirty: false }
    }

    /// Notes that a command was pushed.
    pub fn pushed(&mut self, cid: u16, slot: SlotId) {
        let at = usize::from(cid);
        if at >= self.by_cid.len() {
            self.by_cid.resize(at + 1, None);
        }
        debug_assert!(self.by_cid[at].is_none(), "identifier {cid} is in use");
        self.by_cid[at] = Some(slot);
        self.dirty = true;
    }

    /// The command that a completion names; `None` if there is none.
    pub fn completed(&mut self, cid: u16) -> Option<SlotId> {
        self.by_cid.get_mut(usize::from(cid))?.take()
    }
}
