//! Memory that devices may address: regions, the arena of a core, what clients lend, slot pools.

mod arena;
mod client;
pub mod guard;
pub mod prefetch;
mod region;
mod region_slots;
mod slots;

pub use arena::{Arena, ArenaBuffer, ArenaError, Backing, HugePages, PageSize};
pub use client::{Access, MAX_REGION_BYTES, MapError, Seals, map_client, page_bytes_of, populate, seals};
pub use region::{DmaSlice, Region, RegionSlot};
pub use region_slots::region_slots_in_use;
pub(crate) use region_slots::{NoSlot, SlotAccount, SlotLease};
pub use slots::{SlotId, SlotPool};
