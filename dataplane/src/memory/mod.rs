//! Memory that devices may address: regions, the arena of a core, slot pools.

mod region;
mod slots;

pub use region::{DmaSlice, Region, RegionSlot};
pub use slots::{SlotId, SlotPool};
