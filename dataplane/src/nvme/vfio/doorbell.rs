//! Ringing: one store to a register, or to memory where the controller watches that.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use super::barrier;
use super::pci::DoorbellArea;
use crate::memory::Region;

/// A doorbell in memory and the value up to which the controller needs no ring (base, "Doorbell Buffer Config").
#[derive(Clone, Copy)]
struct Shadow {
    value: NonNull<u32>,
    event_index: NonNull<u32>,
}

/// One doorbell.
pub(super) struct Doorbell {
    register: NonNull<u32>,
    shadow: Option<Shadow>,
    last: u32,
    /// Keep the memory mapped.
    _registers: Arc<Region>,
    _shadows: Option<Arc<Region>>,
}

// SAFETY: the pointers lead into regions that are kept mapped and are only used for volatile accesses of words; a
// doorbell is written by one thread at a time, for that takes `&mut`.
unsafe impl Send for Doorbell {}

/// The two pages of Doorbell Buffer Config: doorbells in the first, event indices in the second.
pub(super) struct ShadowPages {
    pub(super) region: Arc<Region>,
}

impl ShadowPages {
    /// Bytes of each of the two.
    pub(super) const PAGE_BYTES: u64 = 4096;
}

impl Doorbell {
    /// The doorbell at `offset` from BAR0 offset 1000h. `None` if it lies beyond what is mapped.
    pub(super) fn new(area: &DoorbellArea, offset: u64, shadows: Option<&ShadowPages>) -> Option<Self> {
        let register = NonNull::from(area.region.word32(area.offset.checked_add(offset)?)?).cast();
        let shadow = match shadows {
            Some(pages) if offset < ShadowPages::PAGE_BYTES => Some(Shadow {
                value: NonNull::from(pages.region.word32(offset)?).cast(),
                event_index: NonNull::from(pages.region.word32(ShadowPages::PAGE_BYTES + offset)?).cast(),
            }),
            _ => None,
        };
        let shadows = shadow.and(shadows).map(|pages| Arc::clone(&pages.region));
        Some(Self { register, shadow, last: 0, _registers: Arc::clone(&area.region), _shadows: shadows })
    }

    /// Writes a value. What was stored to memory before is seen by the controller before the value is.
    #[inline(always)]
    pub(super) fn ring(&mut self, value: u32) {
        barrier::before_doorbell();
        if let Some(shadow) = self.shadow
            && !self.ring_shadow(shadow, value)
        {
            return;
        }
        // SAFETY: `new` got the pointer from a region that is kept mapped. A register is written whole.
        unsafe { self.register.write_volatile(value.to_le()) };
    }

    /// Writes the value to memory; whether the controller wants the register written as well.
    #[cold]
    fn ring_shadow(&mut self, shadow: Shadow, value: u32) -> bool {
        let before = std::mem::replace(&mut self.last, value);
        // SAFETY: as in `ring`.
        unsafe { shadow.value.write_volatile(value.to_le()) };
        // The controller stores the index, then looks at the doorbell once more; we the other way round.
        barrier::store_then_load();
        // SAFETY: as in `ring`.
        let event = u32::from_le(unsafe { shadow.event_index.read_volatile() });
        passes(event as u16, value as u16, before as u16)
    }

    /// The ring that it belongs to begins anew.
    pub(super) fn restart(&mut self) {
        self.last = 0;
        if let Some(shadow) = self.shadow {
            // SAFETY: as in `ring`.
            unsafe {
                shadow.value.write_volatile(0);
                shadow.event_index.write_volatile(0);
            }
        }
    }
}

/// Whether `event` lies among the values from `before` to the one before `value`, going round at 65,536.
const fn passes(event: u16, value: u16, before: u16) -> bool {
    value.wrapping_sub(event).wrapping_sub(1) < value.wrapping_sub(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::RegionSlot;

    fn region() -> Arc<Region> {
        Arc::new(Region::anonymous(8192, RegionSlot(0)).unwrap())
    }

    fn word(region: &Region, offset: u64) -> u32 {
        region.word32(offset).unwrap().load(std::sync::atomic::Ordering::Relaxed)
    }

    #[test]
    fn a_plain_doorbell_is_a_register() {
        let area = DoorbellArea { region: region(), offset: 4096 };
        assert!(Doorbell::new(&area, 4096, None).is_none());
        assert!(Doorbell::new(&area, u64::MAX, None).is_none());
        Doorbell::new(&area, 8, None).unwrap().ring(7);
        assert_eq!(word(&area.region, 4096 + 8), 7);
    }

    #[test]
    fn a_shadowed_doorbell_rings_when_the_controller_asks() {
        let area = DoorbellArea { region: region(), offset: 0 };
        let pages = ShadowPages { region: region() };
        let mut doorbell = Doorbell::new(&area, 8, Some(&pages)).unwrap();
        doorbell.ring(3);
        assert_eq!((word(&pages.region, 8), word(&area.region, 8)), (3, 3), "index 0 lies between 0 and 3");
        doorbell.ring(5);
        assert_eq!((word(&pages.region, 8), word(&area.region, 8)), (5, 3), "the controller polls");
        pages.region.word32(4096 + 8).unwrap().store(5, std::sync::atomic::Ordering::Relaxed);
        doorbell.ring(6);
        assert_eq!((word(&pages.region, 8), word(&area.region, 8)), (6, 6));
    }

    #[test]
    fn an_index_is_passed_also_where_a_ring_begins_anew() {
        assert!(passes(0, 1, 0) && passes(2, 3, 0) && !passes(3, 3, 0) && !passes(0, 3, 2));
        assert!(passes(62, 1, 60), "from 60 of a ring of 64 to 1");
    }
}
