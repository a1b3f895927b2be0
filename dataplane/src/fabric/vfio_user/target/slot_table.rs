//! The numbers under which client regions are known to the queues of this process.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::memory::RegionSlot;

/// Slots 1 to 1023; slot 0 is each core's arena.
const SLOTS: usize = 1024;

struct Table {
    taken: [bool; SLOTS],
    /// Where the search begins: after the slot given out last, so that a number is reused as late as possible.
    next: usize,
}

static TABLE: Mutex<Table> = Mutex::new(Table { taken: [false; SLOTS], next: 1 });

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many client regions this process holds now.
#[must_use]
pub fn region_slots_in_use() -> usize {
    table().taken.iter().filter(|&&taken| taken).count()
}

/// The use of one slot; given back when dropped.
#[derive(Debug)]
pub(super) struct SlotLease {
    slot: RegionSlot,
}

impl SlotLease {
    /// Takes a slot; `None` when all are in use.
    pub(super) fn take() -> Option<Self> {
        let mut table = table();
        let start = table.next;
        let free = (start..SLOTS).chain(1..start).find(|&slot| !table.taken[slot])?;
        table.taken[free] = true;
        table.next = if free + 1 == SLOTS { 1 } else { free + 1 };
        Some(Self { slot: RegionSlot(free as u16) })
    }

    /// The number.
    pub(super) fn slot(&self) -> RegionSlot {
        self.slot
    }
}

impl Drop for SlotLease {
    fn drop(&mut self) {
        table().taken[self.slot.0 as usize] = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_not_reused_at_once() {
        let first = SlotLease::take().unwrap();
        let number = first.slot();
        drop(first);
        let second = SlotLease::take().unwrap();
        assert_ne!(second.slot(), number);
        assert_ne!(second.slot(), RegionSlot(0));
    }
}
