//! A pool of request slots with generations: the index and generation travel as the token of a command, and a
//! token that comes back late or twice finds nothing.

/// Names one use of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId {
    index: u16,
    generation: u32,
}

impl SlotId {
    /// Bits of [`to_bits`](Self::to_bits) that are used.
    pub const BITS: u32 = 40;

    /// The name in 40 bits: 24 of generation, 16 of index.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        ((self.generation as u64) << 16) | self.index as u64
    }

    /// The name held by 40 bits; higher bits are ignored.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self { index: bits as u16, generation: ((bits >> 16) as u32) & GENERATION_MASK }
    }

    /// Which slot.
    #[must_use]
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

const GENERATION_MASK: u32 = 0x00FF_FFFF;

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// A fixed number of slots, allocated once.
pub struct SlotPool<T> {
    slots: Box<[Slot<T>]>,
    free: Vec<u16>,
}

impl<T> SlotPool<T> {
    /// A pool of `capacity` slots (1 to 65,535).
    #[must_use]
    pub fn new(capacity: u16) -> Self {
        let slots = (0..capacity).map(|_| Slot { generation: 0, value: None }).collect();
        Self { slots, free: (0..capacity).rev().collect() }
    }

    /// Slots that are free.
    #[inline]
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Slots in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts a value into a free slot, or hands it back if there is none.
    ///
    /// # Errors
    /// The value, when every slot is in use.
    #[inline]
    pub fn insert(&mut self, value: T) -> Result<SlotId, T> {
        self.insert_mut(value).map(|(id, _)| id)
    }

    /// As [`insert`](Self::insert), for those who go on with the value where it lies.
    ///
    /// # Errors
    /// The value, when every slot is in use.
    #[inline]
    pub fn insert_mut(&mut self, value: T) -> Result<(SlotId, &mut T), T> {
        let Some(index) = self.free.pop() else { return Err(value) };
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.value.is_none());
        let id = SlotId { index, generation: slot.generation };
        Ok((id, slot.value.insert(value)))
    }

    /// The value that `id` names; `None` for a name that is no longer, or never was, in use.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, id: SlotId) -> Option<&mut T> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation == id.generation { slot.value.as_mut() } else { None }
    }

    /// As [`get_mut`](Self::get_mut), to look at.
    #[inline]
    #[must_use]
    pub fn get(&self, id: SlotId) -> Option<&T> {
        let slot = self.slots.get(id.index as usize)?;
        if slot.generation == id.generation { slot.value.as_ref() } else { None }
    }

    /// The values in use, in no particular order. Not for the hot path.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// Takes the value that `id` names out and frees its slot.
    #[inline]
    pub fn remove(&mut self, id: SlotId) -> Option<T> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        self.free.push(id.index);
        Some(value)
    }

    /// Works on the value that `id` names, and frees its slot if that ends its use: if `work` has a result. `None` as
    /// well for a name that is not in use.
    #[inline]
    pub fn free_with<R>(&mut self, id: SlotId, work: impl FnOnce(&mut T) -> Option<R>) -> Option<R> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let result = work(slot.value.as_mut()?)?;
        slot.value = None;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        self.free.push(id.index);
        Some(result)
    }

    /// The names in use, in no particular order. Not for the hot path.
    pub fn ids(&self) -> impl Iterator<Item = SlotId> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.value.is_some())
            .map(|(index, slot)| SlotId { index: index as u16, generation: slot.generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_name_finds_nothing() {
        let mut pool = SlotPool::new(2);
        let first = pool.insert("a").unwrap();
        assert_eq!(pool.remove(first), Some("a"));
        let second = pool.insert("b").unwrap();
        assert_eq!(second.index(), first.index());
        assert_eq!(pool.get_mut(first), None);
        assert_eq!(pool.remove(first), None);
        assert_eq!(pool.get_mut(SlotId::from_bits(second.to_bits())), Some(&mut "b"));
        pool.free_with(first, |_| Some(()));
        assert_eq!(pool.in_use(), 1);
        pool.free_with(second, |_| Some(()));
        pool.free_with(second, |_| Some(()));
        assert_eq!((pool.in_use(), pool.available()), (0, 2));
    }

    #[test]
    fn a_full_pool_hands_the_value_back() {
        let mut pool = SlotPool::new(1);
        assert!(pool.insert(1).is_ok());
        assert_eq!(pool.insert(2), Err(2));
        assert_eq!((pool.available(), pool.in_use()), (0, 1));
    }
}
