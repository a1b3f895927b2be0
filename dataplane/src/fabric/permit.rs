//! The duty to complete a command exactly once.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::SlotId;

/// Permits that were dropped without a completion. Stays zero in a correct program.
static LOST: AtomicU64 = AtomicU64::new(0);

/// How many permits were dropped without a completion since the process started.
#[must_use]
pub fn lost_completions() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// The core of a permit whose duty was taken out. No core has this number.
const NO_CORE: u16 = u16::MAX;
/// Above the core's number stands which carrier issued the permit.
const CARRIER_SHIFT: u32 = 14;
const CORE_MASK: u16 = (1 << CARRIER_SHIFT) - 1;

thread_local! {
    static ABANDONING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `act`, in which values that stand for a duty (permits, extents, holds) may be dropped without having done
/// it. For simulators: a power cut leaves nobody behind who could.
pub fn abandoning<R>(act: impl FnOnce() -> R) -> R {
    let _restore = Restore(ABANDONING.replace(true));
    act()
}

/// Puts the flag back, also when what ran meanwhile panicked.
struct Restore(bool);

impl Drop for Restore {
    fn drop(&mut self) {
        ABANDONING.set(self.0);
    }
}

/// Whether this thread is inside [`abandoning`], or unwinding: then an undone duty is no bug of its own.
#[must_use]
pub fn is_abandoning() -> bool {
    ABANDONING.get() || std::thread::panicking()
}

/// Stands for one accepted command that still lacks its completion.
///
/// It can be neither copied nor ignored: giving it to [`Fabric::complete`](super::Fabric::complete) is the only
/// proper end. Dropping it otherwise is a bug, which panics in debug builds and is counted in release builds.
#[must_use = "every accepted command must be completed"]
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    core: u16,
    queue: SlotId,
    cid: u16,
}

impl Permit {
    /// For carriers only: the command `cid` of the queue pair in slot `queue` of core `core`.
    #[inline]
    pub fn issue(core: u16, queue: SlotId, cid: u16) -> Self {
        Self { core, queue, cid }
    }

    /// As [`issue`](Self::issue), where a core has several carriers: `carrier` (0 to 2) says which of them issued it.
    #[inline]
    pub fn issue_by(carrier: u16, core: u16, queue: SlotId, cid: u16) -> Self {
        debug_assert!(carrier < 3 && core <= CORE_MASK);
        Self { core: core | (carrier << CARRIER_SHIFT), queue, cid }
    }

    /// Which of the core's carriers issued it; 0 where there is only one.
    #[inline]
    #[must_use]
    pub fn carrier(&self) -> u16 {
        self.core >> CARRIER_SHIFT
    }

    /// For carriers only: the place of the command's exchange, for a permit that names one.
    #[inline]
    #[must_use]
    pub fn queue(&self) -> SlotId {
        self.queue
    }

    /// Takes the duty out of a command that stays where it is. What is left behind stands for nothing.
    #[inline]
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self { core: NO_CORE, queue: SlotId::from_bits(0), cid: 0 })
    }

    /// The core whose fabric issued it, and must complete it.
    #[inline]
    #[must_use]
    pub fn core(&self) -> u16 {
        self.core & CORE_MASK
    }

    /// For carriers only: gives the permit up and says what it stood for.
    #[inline]
    #[must_use]
    pub fn redeem(self) -> (SlotId, u16) {
        let told = (self.queue, self.cid);
        std::mem::forget(self);
        told
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.core != NO_CORE {
            self.lose();
        }
    }
}

impl Permit {
    #[cold]
    fn lose(&self) {
        if is_abandoning() {
            return;
        }
        LOST.fetch_add(1, Ordering::Relaxed);
        if cfg!(debug_assertions) {
            panic!("command {} of queue {:?} was dropped without a completion", self.cid, self.queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit() -> Permit {
        Permit::issue(0, SlotId::from_bits(1), 7)
    }

    #[test]
    fn a_redeemed_permit_says_what_it_stood_for() {
        assert_eq!(permit().redeem(), (SlotId::from_bits(1), 7));
    }

    #[test]
    fn a_duty_is_taken_once() {
        let mut left = permit();
        let taken = left.take();
        drop(left);
        assert_eq!(taken.redeem(), (SlotId::from_bits(1), 7));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "without a completion")]
    fn dropping_a_permit_is_a_bug() {
        drop(permit());
    }

    #[test]
    fn a_power_cut_is_not() {
        abandoning(|| drop(permit()));
        assert!(!is_abandoning());
    }

    #[test]
    fn a_panic_ends_the_power_cut() {
        let caught = std::panic::catch_unwind(|| abandoning(|| panic!("on purpose")));
        assert!(caught.is_err() && !is_abandoning());
    }
}
