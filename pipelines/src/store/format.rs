//! Making a store, and finding one. Start-up only: these wait for the device.

use dataplane::Burst;
use dataplane::memory::ArenaBuffer;
use dataplane::nvme::{BlockError, BlockIo, BlockOp, BlockQueue};

use super::StoreError;
use super::layout::{FIRST_HOME, UNIT_BYTES};
use super::page::PAGE_BYTES;
use super::record::RECORDS_PER_PAGE;
use super::superblock::{COPIES, HEAD_BYTES, MAX_VALUE, MIN_SEGMENTS, SEGMENT_RANGE, Superblock};

/// What a store should be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatOptions {
    /// Names the store; random, for it tells pages of this store from those of an earlier one.
    pub uuid: [u8; 16],
    /// Number of shards, usually that of the cores.
    pub shards: u32,
    /// Bytes of a segment, a power of two of 64 KiB to 256 MiB; on a device 16 MiB or more.
    pub segment_bytes: u64,
    /// The mean value size to expect, in bytes; the metadata area is sized for it. Smaller values than this on
    /// average fill the metadata before the data.
    pub mean_value_bytes: u32,
    /// The longest value, in bytes, 16 MiB at most. Must fit a segment.
    pub max_value_bytes: u32,
}

impl FormatOptions {
    /// 64 MiB segments for values of 16 KiB on average and 16 MiB at most.
    #[must_use]
    pub const fn new(uuid: [u8; 16], shards: u32) -> Self {
        Self { uuid, shards, segment_bytes: 64 << 20, mean_value_bytes: 16 << 10, max_value_bytes: 16 << 20 }
    }

    /// The least device that takes such a store, in bytes.
    #[must_use]
    pub fn min_device_bytes(&self) -> u64 {
        HEAD_BYTES + u64::from(self.shards) * u64::from(MIN_SEGMENTS) * self.segment_bytes
    }

    /// The superblock of such a store on a device.
    ///
    /// # Errors
    /// [`StoreError::Setting`], [`StoreError::LbaSize`] or [`StoreError::TooSmall`].
    pub fn superblock(&self, lba_bytes: u32, device_bytes: u64) -> Result<Superblock, StoreError> {
        let setting = |why: String| Err(StoreError::Setting(why));
        if !(512..=UNIT_BYTES).contains(&lba_bytes) || !lba_bytes.is_power_of_two() {
            return Err(StoreError::LbaSize { found: lba_bytes, need: UNIT_BYTES });
        }
        let (least, most) = SEGMENT_RANGE;
        if !self.segment_bytes.is_power_of_two() || !(least..=most).contains(&self.segment_bytes) {
            return setting(format!("a segment of {} bytes: use a power of two up to {most}", self.segment_bytes));
        }
        if self.shards == 0 || self.shards > 1024 {
            return setting(format!("{} shards: use 1 to 1024", self.shards));
        }
        if self.mean_value_bytes == 0 {
            return setting("the mean value size must not be 0".to_owned());
        }
        let records = self.segment_bytes.div_ceil(u64::from(self.mean_value_bytes));
        let pages = u64::from(FIRST_HOME) + records.div_ceil(u64::from(RECORDS_PER_PAGE));
        let meta = pages * u64::from(UNIT_BYTES);
        if meta > self.segment_bytes / 2 {
            return setting(format!("values of {} bytes are too small for this format", self.mean_value_bytes));
        }
        let longest = (self.segment_bytes - meta).min(u64::from(MAX_VALUE));
        if self.max_value_bytes == 0 || u64::from(self.max_value_bytes) > longest {
            return setting(format!("values of {} bytes: such a segment takes 1 to {longest}", self.max_value_bytes));
        }
        let need = self.min_device_bytes();
        if device_bytes < need {
            return Err(StoreError::TooSmall { have: device_bytes, need });
        }
        // Units are counted in 32 bits.
        let usable = device_bytes.min(u64::from(UNIT_BYTES) << 32) - HEAD_BYTES;
        Ok(Superblock {
            uuid: self.uuid,
            lba_bytes,
            shards: self.shards,
            segments_per_shard: (usable / self.segment_bytes / u64::from(self.shards)) as u32,
            meta_bytes: meta as u32,
            segment_bytes: self.segment_bytes,
            first_byte: HEAD_BYTES,
            device_bytes,
            max_value_bytes: self.max_value_bytes,
            mean_value_bytes: self.mean_value_bytes,
        })
    }
}

/// Makes the device a store. Whatever it held is gone.
///
/// Only the superblocks are written: segments of an earlier store carry another uuid and count as free. The queue
/// must be otherwise unused meanwhile, and `staging` at least 4096 bytes long.
///
/// # Errors
/// Settings that do not fit, or [`StoreError::Device`].
pub fn format<B: BlockQueue>(
    blocks: &mut B,
    staging: &ArenaBuffer,
    options: &FormatOptions,
) -> Result<Superblock, StoreError> {
    let geometry = *blocks.geometry();
    let superblock = options.superblock(geometry.lba_bytes, geometry.bytes())?;
    let bytes = superblock.to_bytes();
    // The second copy first: until the first stands, an earlier store is untouched and still found.
    for at in COPIES.iter().rev() {
        let io = block_at(blocks, staging, BlockOp::Write { fua: geometry.volatile_cache }, *at);
        let written = staging.write(0, &bytes).ok_or(BlockError::Invalid).and_then(|()| run(blocks, io));
        written.map_err(|error| StoreError::Device { doing: "writing the superblock", error })?;
    }
    Ok(superblock)
}

/// Reads the superblock and checks that the device is the one it speaks of.
///
/// # Errors
/// See [`StoreError`]. Nothing is written.
pub fn load<B: BlockQueue>(blocks: &mut B, staging: &ArenaBuffer) -> Result<Superblock, StoreError> {
    let geometry = *blocks.geometry();
    let have = geometry.bytes();
    if have < HEAD_BYTES {
        return Err(StoreError::TooSmall { have, need: HEAD_BYTES });
    }
    let first = load_copy(blocks, staging, COPIES[0]);
    let superblock = match first {
        Ok(superblock) => superblock,
        // What somebody else wrote over the head is theirs now; anything less is an accident that can be mended.
        Err(reason) => match load_copy(blocks, staging, COPIES[1]) {
            Ok(superblock) if !matches!(reason, StoreError::Foreign | StoreError::Version { .. }) => {
                tracing::warn!(%reason, "the first copy of the superblock is not usable; using the second");
                superblock
            }
            _ => return Err(reason),
        },
    };
    if superblock.lba_bytes < geometry.lba_bytes {
        return Err(StoreError::LbaSize { found: geometry.lba_bytes, need: superblock.lba_bytes });
    }
    if have < superblock.end_byte() {
        return Err(StoreError::TooSmall { have, need: superblock.end_byte() });
    }
    // A smaller logical block than at formatting does no harm: all places are multiples of 4096.
    Ok(Superblock { lba_bytes: geometry.lba_bytes, ..superblock })
}

/// One copy of the superblock, at byte `at`.
pub(super) fn load_copy<B: BlockQueue>(
    blocks: &mut B,
    staging: &ArenaBuffer,
    at: u64,
) -> Result<Superblock, StoreError> {
    let io = block_at(blocks, staging, BlockOp::Read, at);
    let mut bytes = [0; PAGE_BYTES];
    run(blocks, io)
        .and_then(|()| staging.read(0, &mut bytes).ok_or(BlockError::Invalid))
        .map_err(|error| StoreError::Device { doing: "reading the superblock", error })?;
    Superblock::from_bytes(&bytes)
}

pub(super) fn block_at<B: BlockQueue>(blocks: &B, staging: &ArenaBuffer, op: BlockOp, byte: u64) -> BlockIo {
    let lba_bytes = blocks.geometry().lba_bytes;
    let memory = staging.sub(0, UNIT_BYTES).unwrap_or(dataplane::memory::DmaSlice::EMPTY);
    BlockIo { op, lba: byte / u64::from(lba_bytes), blocks: UNIT_BYTES / lba_bytes, memory, token: 0 }
}

/// Carries out one command and waits for it.
pub(super) fn run<B: BlockQueue>(blocks: &mut B, io: BlockIo) -> Result<(), BlockError> {
    let mut waiting = Some(io);
    let mut done = Burst::new();
    loop {
        if let Some(io) = waiting.take() {
            waiting = blocks.push(io).err().map(|full| full.0);
            blocks.ring();
        }
        blocks.poll(&mut done);
        if let Some(ended) = done.drain(..).find(|ended| ended.token == io.token) {
            return ended.result;
        }
        std::thread::yield_now();
    }
}
