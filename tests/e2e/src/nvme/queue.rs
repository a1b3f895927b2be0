//! A queue pair.

use super::Answer;
use super::command::Command;
use crate::memory::Shared;

/// The places of a queue pair in memory, and how far each end is.
#[derive(Debug)]
pub struct Queue {
    /// Queue identifier.
    pub id: u16,
    pub(super) entries: u16,
    pub(super) submissions: usize,
    pub(super) completions: usize,
    tail: u16,
    head: u16,
    phase: bool,
    next_cid: u16,
}

impl Queue {
    pub(super) fn new(id: u16, entries: u16, submissions: usize, completions: usize) -> Self {
        Self { id, entries, submissions, completions, tail: 0, head: 0, phase: true, next_cid: 0 }
    }

    /// Writes a command into the next entry; its identifier and the new tail.
    pub(super) fn push(&mut self, memory: &Shared, command: Command) -> (u16, u16) {
        let cid = self.next_cid;
        self.next_cid = self.next_cid.wrapping_add(1);
        memory.write(self.submissions + 64 * usize::from(self.tail), &command.identified(cid).0);
        self.tail = (self.tail + 1) % self.entries;
        (cid, self.tail)
    }

    /// The next completion, if there is one, and the new head.
    pub(super) fn take(&mut self, memory: &Shared) -> Option<(Answer, u16)> {
        let at = self.completions + 16 * usize::from(self.head);
        if (memory.load(at + 12) & (1 << 16) != 0) != self.phase {
            return None;
        }
        let mut bytes = [0; 16];
        memory.read(at, &mut bytes);
        self.head = (self.head + 1) % self.entries;
        if self.head == 0 {
            self.phase = !self.phase;
        }
        Some((Answer::read(&bytes), self.head))
    }
}
