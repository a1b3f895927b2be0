//! What a core needs of memory, and its shards opened in it. Shared by the daemon, the benchmarks and the simulator.

use dataplane::memory::{Arena, ArenaBuffer};

use crate::dma::{STAGING_BYTES, StagingBuffers};
use crate::placement::Ownership;
use crate::store::{Shard, ShardConfig, StoreError, Superblock};

/// The settings of a core's part of the store.
#[derive(Clone, Copy, Debug)]
pub struct CorePlan {
    /// What the store is.
    pub superblock: Superblock,
    /// This core and the owner map.
    pub ownership: Ownership,
    /// Seeds the hash of the index. Secret, and another at each start.
    pub seed: u64,
    /// The most blocks of a shard; `None` to follow from the store's size. A block takes 48 bytes.
    pub entries: Option<u32>,
    /// How long a record of the cache class may wait for its commit, in ticks.
    pub commit_ticks: u64,
    /// Staging buffers of [`STAGING_BYTES`] each.
    pub staging_buffers: u32,
}

/// Shards that one core can own: the top byte of a token names one of them, or with zero the dma stage.
pub const MAX_SHARDS_PER_CORE: usize = 255;

/// Why a core could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// The arena is too small.
    #[error("the core's arena is too small: {needed} bytes are needed")]
    Arena {
        /// What it needs in all.
        needed: usize,
    },
    /// A token has eight bits for whose it is.
    #[error(
        "{shards} shards for one core are more than {MAX_SHARDS_PER_CORE}; use more cores, or format with fewer shards"
    )]
    TooManyShards {
        /// Shards that the core would own.
        shards: usize,
    },
    /// The store's settings are not valid.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CorePlan {
    /// The shards that the core owns.
    pub fn shards(&self) -> impl Iterator<Item = u32> + use<> {
        let map = self.ownership.map;
        (u32::from(self.ownership.core)..map.shards).step_by(map.cores as usize)
    }

    /// Bytes of device memory that the core needs.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        let staging = self.staging_buffers as usize * STAGING_BYTES as usize;
        // Each shard's memory begins on a unit, which may cost one.
        let shards = self.shards().count() * (Shard::<()>::STAGING_BYTES as usize + 4096);
        staging + shards
    }

    /// Opens the core's shards and cuts its staging buffers out of the arena.
    ///
    /// # Errors
    /// See [`AssemblyError`].
    pub fn assemble(&self, arena: &mut Arena) -> Result<(Vec<Shard>, StagingBuffers), AssemblyError> {
        let owned = self.shards().count();
        if owned > MAX_SHARDS_PER_CORE {
            return Err(AssemblyError::TooManyShards { shards: owned });
        }
        let needed = self.arena_bytes();
        let mut cut = |bytes: u32| -> Result<ArenaBuffer, AssemblyError> {
            arena.alloc(bytes as usize, 4096).ok_or(AssemblyError::Arena { needed })
        };
        let mut shards = Vec::new();
        for (local, shard) in self.shards().enumerate() {
            // The top byte of a token says whose it is: zero is the dma stage, then come the shards.
            let token_base = (local as u64 + 1) << 56;
            let mut config = ShardConfig::new(self.superblock, shard, token_base, self.seed ^ u64::from(shard));
            config.commit_ticks = self.commit_ticks;
            config.entries = self.entries.unwrap_or(config.entries);
            shards.push(Shard::open(config, cut(Shard::<()>::STAGING_BYTES)?)?);
        }
        let staging = (0..self.staging_buffers).map(|_| cut(STAGING_BYTES)).collect::<Result<_, _>>()?;
        Ok((shards, StagingBuffers::new(staging)))
    }
}
