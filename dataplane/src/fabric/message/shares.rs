//! How many bytes of staging memory the commands of each session hold, so that one host leaves some for others.

use super::staging::KEPT_FOR_CAPSULES;
use crate::fabric::SessionId;

/// The accounts of a core's sessions.
pub(crate) struct Shares {
    /// By session.
    held: Vec<u32>,
    /// The most that one may hold.
    most: u32,
}

impl Shares {
    /// Accounts over so many bytes of buffers.
    pub fn new(buffer_bytes: u32) -> Self {
        Self { held: Vec::new(), most: buffer_bytes.saturating_sub(KEPT_FOR_CAPSULES) / 2 }
    }

    /// Makes room for a session's account. Not for the hot path.
    pub fn welcome(&mut self, session: SessionId) {
        let needed = usize::from(session.0) + 1;
        if self.held.len() < needed {
            self.held.resize(needed, 0);
        }
    }

    /// What a buffer of so many bytes counts for.
    pub const fn size(bytes: u32) -> u32 {
        let bytes = if bytes > 4096 { bytes } else { 4096 };
        bytes.next_power_of_two()
    }

    /// Whether a session may hold so much more. One that holds nothing may always.
    pub fn has_room(&self, session: SessionId, size: u32) -> bool {
        let held = self.held.get(usize::from(session.0)).copied().unwrap_or(0);
        held == 0 || held.saturating_add(size) <= self.most
    }

    /// Notes what a session holds from now on.
    pub fn take(&mut self, session: SessionId, size: u32) {
        if let Some(held) = self.held.get_mut(usize::from(session.0)) {
            *held = held.saturating_add(size);
        }
    }

    /// Notes what it holds no more.
    pub fn give_back(&mut self, session: SessionId, size: u32) {
        if let Some(held) = self.held.get_mut(usize::from(session.0)) {
            *held = held.saturating_sub(size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_may_have_half_and_one_buffer_always() {
        let mut shares = Shares::new(KEPT_FOR_CAPSULES + (64 << 10));
        let (one, other) = (SessionId(3), SessionId(1));
        shares.welcome(one);
        assert!(shares.has_room(one, 1 << 20), "the first");
        shares.take(one, Shares::size(20_000));
        assert!(!shares.has_room(one, Shares::size(1)) && shares.has_room(other, Shares::size(20_000)));
        shares.give_back(one, Shares::size(20_000));
        shares.take(one, Shares::size(1));
        assert!(shares.has_room(one, 28 << 10) && !shares.has_room(one, 32 << 10));
    }
}
