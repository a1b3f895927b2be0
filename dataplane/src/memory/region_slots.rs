//! The numbers under which client regions are known to the queues of this process.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::RegionSlot;

/// Slots 1 to 1023; slot 0 is each core's arena.
const SLOTS: usize = 1024;

/// On whose account a slot is, and how many that user may have over all connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotAccount {
    pub uid: u32,
    pub most: usize,
}

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSlot {
    #[error("all of this process's 1023 regions of client memory are in use; other clients must give some back")]
    OfProcess,
    #[error(
        "the clients of user {uid} have {most} regions together, as many as a user may; map less memory, out of \
         hugepages (regions of 1 GiB instead of 128 MiB), or from fewer clients"
    )]
    OfUser { uid: u32, most: usize },
}

struct Table {
    /// The user who has it, for each slot.
    taken: [Option<u32>; SLOTS],
    /// Where the search begins: after the slot given out last, so that a number is reused as late as possible.
    next: usize,
}

static TABLE: Mutex<Table> = Mutex::new(Table { taken: [None; SLOTS], next: 1 });

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many client regions this process holds now.
#[must_use]
pub fn region_slots_in_use() -> usize {
    table().taken.iter().flatten().count()
}

/// The use of one slot; given back when dropped.
#[derive(Debug)]
pub(crate) struct SlotLease {
    slot: RegionSlot,
}

impl SlotLease {
    /// Takes a slot.
    ///
    /// # Errors
    /// See [`NoSlot`].
    pub(crate) fn take(account: SlotAccount) -> Result<Self, NoSlot> {
        let SlotAccount { uid, most } = account;
        let mut table = table();
        if table.taken.iter().flatten().filter(|&&holder| holder == uid).count() >= most {
            return Err(NoSlot::OfUser { uid, most });
        }
        let start = table.next;
        let mut places = (start..SLOTS).chain(1..start);
        let free = places.find(|&slot| table.taken[slot].is_none()).ok_or(NoSlot::OfProcess)?;
        table.taken[free] = Some(uid);
        table.next = if free + 1 == SLOTS { 1 } else { free + 1 };
        Ok(Self { slot: RegionSlot(free as u16) })
    }

    /// The number.
    pub(crate) fn slot(&self) -> RegionSlot {
        self.slot
    }
}

impl Drop for SlotLease {
    fn drop(&mut self) {
        table().taken[self.slot.0 as usize] = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_not_reused_at_once() {
        let account = SlotAccount { uid: 1, most: 10 };
        let first = SlotLease::take(account).unwrap();
        let number = first.slot();
        drop(first);
        let second = SlotLease::take(account).unwrap();
        assert_ne!(second.slot(), number);
        assert_ne!(second.slot(), RegionSlot(0));
    }

    #[test]
    fn a_user_leaves_slots_to_others() {
        let (greedy, other) = (SlotAccount { uid: 2, most: 3 }, SlotAccount { uid: 3, most: 3 });
        let mut leases: Vec<SlotLease> = (0..3).map(|_| SlotLease::take(greedy).unwrap()).collect();
        assert_eq!(SlotLease::take(greedy).unwrap_err(), NoSlot::OfUser { uid: 2, most: 3 });
        SlotLease::take(other).expect("another user's account");
        leases.pop();
        SlotLease::take(greedy).expect("what was given back counts no longer");
    }
}
