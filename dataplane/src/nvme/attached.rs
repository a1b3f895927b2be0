//! The regions that a queue knows, and the checks that every back end makes before it touches one.

use std::sync::Arc;

use super::{AttachError, BlockError, BlockIo, BlockOp, Geometry};
use crate::memory::{Region, RegionSlot};

struct Attached {
    region: Arc<Region>,
    in_flight: u32,
    /// What a back end wants to know of it with every command.
    tag: u64,
}

/// Regions by slot, each with the number of commands that name it and are outstanding.
pub(super) struct AttachedRegions {
    slots: Box<[Option<Attached>]>,
}

impl AttachedRegions {
    /// Room for slots 0 to `slots - 1`.
    pub(super) fn new(slots: u16) -> Self {
        Self { slots: (0..slots).map(|_| None).collect() }
    }

    /// Whether `slot` could be attached.
    pub(super) fn check_free(&self, slot: RegionSlot) -> Result<(), AttachError> {
        match self.slots.get(usize::from(slot.0)) {
            None => Err(AttachError::NoSuchSlot(slot)),
            Some(Some(_)) => Err(AttachError::SlotTaken(slot)),
            Some(None) => Ok(()),
        }
    }

    pub(super) fn attach(&mut self, region: Arc<Region>) -> Result<(), AttachError> {
        self.attach_tagged(region, 0)
    }

    /// As [`attach`](Self::attach), with what [`admit`](Self::admit) gives back.
    pub(super) fn attach_tagged(&mut self, region: Arc<Region>, tag: u64) -> Result<(), AttachError> {
        let slot = region.slot();
        self.check_free(slot)?;
        self.slots[usize::from(slot.0)] = Some(Attached { region, in_flight: 0, tag });
        Ok(())
    }

    /// The tag of the region in `slot`; 0 for none.
    pub(super) fn tag(&self, slot: RegionSlot) -> u64 {
        self.slots.get(usize::from(slot.0)).and_then(Option::as_ref).map_or(0, |attached| attached.tag)
    }

    /// Whether `slot` could be detached: its region, if it has one.
    pub(super) fn check_idle(&self, slot: RegionSlot) -> Result<Option<&Arc<Region>>, AttachError> {
        match self.slots.get(usize::from(slot.0)) {
            None => Err(AttachError::NoSuchSlot(slot)),
            Some(Some(attached)) if attached.in_flight > 0 => Err(AttachError::Busy(attached.in_flight)),
            Some(held) => Ok(held.as_ref().map(|attached| &attached.region)),
        }
    }

    /// Lets go of the region in `slot`; a slot that is empty stays so.
    pub(super) fn detach(&mut self, slot: RegionSlot) -> Result<(), AttachError> {
        self.check_idle(slot)?;
        self.slots[usize::from(slot.0)] = None;
        Ok(())
    }

    /// The region in `slot`.
    #[inline]
    pub(super) fn get(&self, slot: RegionSlot) -> Option<&Arc<Region>> {
        self.slots.get(usize::from(slot.0))?.as_ref().map(|attached| &attached.region)
    }

    /// Checks a command against the device and the region it names.
    #[inline]
    pub(super) fn check(&self, geometry: &Geometry, io: &BlockIo) -> Result<(), BlockError> {
        let in_range = || io.lba.checked_add(u64::from(io.blocks)).is_some_and(|end| end <= geometry.blocks);
        let valid = match io.op {
            BlockOp::Flush => true,
            BlockOp::Deallocate => io.blocks > 0 && in_range(),
            BlockOp::Read | BlockOp::Write { .. } => io.blocks > 0 && in_range() && self.memory_fits(geometry, io),
        };
        if valid { Ok(()) } else { Err(BlockError::Invalid) }
    }

    #[inline]
    fn memory_fits(&self, geometry: &Geometry, io: &BlockIo) -> bool {
        self.get(io.memory.slot()).is_some_and(|region| fits(region, geometry, io))
    }

    /// [`check`](Self::check) and [`begin`](Self::begin) of a command that moves bytes, in one. Gives the region's tag.
    #[inline(always)]
    pub(super) fn admit(&mut self, geometry: &Geometry, io: &BlockIo) -> Result<u64, BlockError> {
        let end = io.lba.checked_add(u64::from(io.blocks)).ok_or(BlockError::Invalid)?;
        match self.slots.get_mut(usize::from(io.memory.slot().0)) {
            Some(Some(attached)) if io.blocks > 0 && end <= geometry.blocks && fits(&attached.region, geometry, io) => {
                attached.in_flight += 1;
                Ok(attached.tag)
            }
            _ => Err(BlockError::Invalid),
        }
    }

    /// Checks a command, and counts it as outstanding if it is valid.
    pub(super) fn take_in(&mut self, geometry: &Geometry, io: &BlockIo) -> Result<(), BlockError> {
        self.check(geometry, io)?;
        self.begin(io);
        Ok(())
    }

    /// Counts a command that was found valid as outstanding.
    #[inline]
    pub(super) fn begin(&mut self, io: &BlockIo) {
        if let Some(attached) = self.named(io) {
            attached.in_flight += 1;
        }
    }

    /// Ends what [`begin`](Self::begin) began.
    #[inline]
    pub(super) fn end(&mut self, io: &BlockIo) {
        if let Some(attached) = self.named(io) {
            attached.in_flight -= 1;
        }
    }

    #[inline]
    fn named(&mut self, io: &BlockIo) -> Option<&mut Attached> {
        match io.op {
            BlockOp::Read | BlockOp::Write { .. } => self.slots[usize::from(io.memory.slot().0)].as_mut(),
            BlockOp::Flush | BlockOp::Deallocate => None,
        }
    }
}

/// Whether a command's memory is as long as its blocks, lies inside the region, and may be moved like that.
#[inline(always)]
fn fits(region: &Region, geometry: &Geometry, io: &BlockIo) -> bool {
    let bytes = u64::from(io.blocks) * u64::from(geometry.lba_bytes);
    bytes == u64::from(io.memory.bytes())
        && bytes <= u64::from(geometry.max_transfer)
        // The alignment is a power of two, and a division slow.
        && io.memory.address() & (u64::from(geometry.memory_align) - 1) == 0
        && region.contains(&io.memory)
        && (io.op != BlockOp::Read || region.writable())
}
