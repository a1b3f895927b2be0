//! Leases that this core gave out: who holds them and until when. The blocks under a lease are marked in the
//! shards; this table is what makes sure that only the holder can give a lease back.

use dataplane::core::Ticks;
use dataplane::fabric::SessionId;

/// The longest a lease may last. Engines renew by looking up again.
pub const LONGEST_LEASE_MS: u32 = 10 * 60 * 1000;

const SLOTS: usize = 4096;

#[derive(Clone, Copy)]
struct Lease {
    session: SessionId,
    expires: Ticks,
    generation: u8,
    held: bool,
}

/// The leases of one core. A lease id holds the core in bits 31:24, a generation in 23:16 and the slot in 15:0.
pub struct Leases {
    core: u16,
    slots: Box<[Lease]>,
    next: usize,
}

impl Leases {
    /// An empty table.
    #[must_use]
    pub fn new(core: u16) -> Self {
        let free = Lease { session: SessionId(0), expires: Ticks(0), generation: 0, held: false };
        Self { core, slots: vec![free; SLOTS].into_boxed_slice(), next: 0 }
    }

    /// The core that gave a lease out.
    #[must_use]
    pub const fn home(lease: u32) -> u16 {
        (lease >> 24) as u16
    }

    /// Gives out a lease. `None` when the next slots are all held, so that the search is short; the lookup then
    /// succeeds without a lease.
    pub fn take(&mut self, session: SessionId, now: Ticks, expires: Ticks) -> Option<u32> {
        for _ in 0..16 {
            let slot = self.next;
            self.next = (self.next + 1) % SLOTS;
            let lease = &mut self.slots[slot];
            if lease.held && now < lease.expires {
                continue;
            }
            let generation = lease.generation.wrapping_add(1).max(1);
            *lease = Lease { session, expires, generation, held: true };
            return Some(u32::from(self.core) << 24 | u32::from(generation) << 16 | slot as u32);
        }
        None
    }

    /// Ends a lease; false if it does not exist, has ended, or is another session's.
    pub fn release(&mut self, lease: u32, session: SessionId) -> bool {
        let Some(slot) = self.slots.get_mut((lease & 0xFFFF) as usize) else { return false };
        let valid = slot.held && slot.generation == (lease >> 16) as u8 && slot.session == session;
        if valid && Self::home(lease) == self.core {
            slot.held = false;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_holder_releases_and_only_once() {
        let mut leases = Leases::new(3);
        let lease = leases.take(SessionId(1), Ticks(0), Ticks(100)).unwrap();
        assert_eq!(Leases::home(lease), 3);
        assert!(!leases.release(lease, SessionId(2)));
        assert!(!leases.release(lease ^ (1 << 16), SessionId(1)));
        assert!(leases.release(lease, SessionId(1)));
        assert!(!leases.release(lease, SessionId(1)));
    }

    #[test]
    fn expired_leases_make_room() {
        let mut leases = Leases::new(0);
        let given = (0..SLOTS + 16).filter_map(|_| leases.take(SessionId(1), Ticks(0), Ticks(10))).count();
        assert_eq!(given, SLOTS);
        assert!(leases.take(SessionId(1), Ticks(10), Ticks(20)).is_some());
    }
}
