//! The client memory that a queue's commands may name.

use std::sync::Arc;

use crate::memory::Region;

/// Bytes of an attached region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    index: u16,
    offset: u64,
    pub(super) bytes: u32,
}

impl Place {
    /// The bytes from `skip` on, `bytes` of them. `None` if there are not so many.
    pub(super) fn part(self, skip: u32, bytes: u32) -> Option<Self> {
        let end = skip.checked_add(bytes)?;
        (end <= self.bytes).then(|| Self { offset: self.offset + u64::from(skip), bytes, ..self })
    }

    pub(super) fn offset(self) -> u64 {
        self.offset
    }
}

struct Attached {
    region: Arc<Region>,
    /// Commands that name it.
    commands: u32,
}

/// Regions by address in this process. Each stays mapped for as long as it is attached.
#[derive(Default)]
pub(super) struct Regions {
    attached: Vec<Option<Attached>>,
    /// First addresses, in rising order, and where they are in `attached`.
    by_address: Vec<(u64, u16)>,
}

impl Regions {
    pub(super) fn attach(&mut self, region: &Arc<Region>) -> bool {
        let at = self.by_address.partition_point(|(base, _)| *base < region.base());
        if self.by_address.get(at).is_some_and(|(base, _)| *base == region.base()) {
            return true;
        }
        let free = self.attached.iter().position(Option::is_none).unwrap_or(self.attached.len());
        let Ok(index) = u16::try_from(free) else { return false };
        let entry = Some(Attached { region: Arc::clone(region), commands: 0 });
        match self.attached.get_mut(free) {
            Some(place) => *place = entry,
            None => self.attached.push(entry),
        }
        self.by_address.insert(at, (region.base(), index));
        true
    }

    /// False if commands name it.
    pub(super) fn detach(&mut self, region: &Region) -> bool {
        let Some(at) = self.by_address.iter().position(|(base, _)| *base == region.base()) else { return true };
        let (_, index) = self.by_address[at];
        let place = &mut self.attached[usize::from(index)];
        if place.as_ref().is_some_and(|entry| entry.commands > 0) {
            return false;
        }
        *place = None;
        self.by_address.remove(at);
        true
    }

    /// Where an address of this process lies, with `bytes` bytes behind it; notes that a command names it.
    pub(super) fn hold(&mut self, address: u64, bytes: u32) -> Option<Place> {
        let at = self.by_address.partition_point(|(base, _)| *base <= address).checked_sub(1)?;
        let (base, index) = self.by_address[at];
        let entry = self.attached[usize::from(index)].as_mut()?;
        let offset = address - base;
        entry.region.slice(offset, bytes)?;
        entry.commands += 1;
        Some(Place { index, offset, bytes })
    }

    /// A command that named it ended.
    pub(super) fn let_go(&mut self, place: Place) {
        if let Some(entry) = &mut self.attached[usize::from(place.index)] {
            entry.commands -= 1;
        }
    }

    pub(super) fn region(&self, place: Place) -> Option<&Region> {
        self.attached[usize::from(place.index)].as_ref().map(|entry| &*entry.region)
    }

    /// Hands the bytes to `each` in pieces of at most 4,096, which are copied out one after the other: to look at them
    /// all, for a digest.
    pub(super) fn for_each_piece(&self, place: Place, mut each: impl FnMut(&[u8])) {
        let Some(region) = self.region(place) else { return };
        let mut piece = [0; 4096];
        let mut done = 0;
        while done < place.bytes {
            let part = &mut piece[..(place.bytes - done).min(4096) as usize];
            if region.read(place.offset + u64::from(done), part).is_none() {
                return;
            }
            each(part);
            done += part.len() as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::RegionSlot;

    #[test]
    fn addresses_are_found_and_hold_their_region() {
        let regions: Vec<_> =
            (0..5).map(|_| Arc::new(Region::anonymous(8192, RegionSlot(u16::MAX)).unwrap())).collect();
        let mut table = Regions::default();
        assert!(table.hold(regions[0].base(), 1).is_none());
        for region in &regions {
            assert!(table.attach(region) && table.attach(region));
        }
        for region in &regions {
            let place = table.hold(region.base() + 8000, 192).unwrap();
            assert_eq!((table.region(place).unwrap().base(), place.offset()), (region.base(), 8000));
            assert!(table.hold(region.base() + 8000, 193).is_none());
            assert!(!table.detach(region));
            assert_eq!(place.part(100, 92).map(Place::offset), Some(8100));
            assert_eq!(place.part(100, 93), None);
            assert_eq!(place.part(u32::MAX, 2), None);
            table.let_go(place);
        }
        assert!(table.detach(&regions[2]));
        assert!(table.hold(regions[2].base(), 1).is_none());
        assert!(table.attach(&regions[2]));
        assert_eq!(table.attached.len(), 5);
    }
}
