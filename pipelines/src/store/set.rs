//! Several devices under one store: the label that says which device is which.
//!
//! A store that lies on one device has no label. On each of several, the label stands at byte 8192; on those after the
//! first it stands at byte 0 as well, where a superblock would be, so that nobody takes such a device for a blank one.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic `KVPSET\0\0` |
//! | 8..12 | format version, 1 |
//! | 12..16 | CRC-32C of the block, taken with this field zero |
//! | 16..32 | uuid of the store |
//! | 32..34 | which of the devices, from 0 on |
//! | 34..36 | how many devices |
//! | 36..40 | 0 |
//! | 40..48 | bytes of a segment |
//! | 48..56 | first byte of the device that is the store's |
//! | 56..64 | how many bytes of the device are |
//! | 64..4096 | 0 |

use dataplane::memory::ArenaBuffer;
use dataplane::nvme::{BlockError, BlockOp, BlockQueue};

use super::format::{block_at, run};
use super::layout::UNIT_BYTES;
use super::page::PAGE_BYTES;
use super::record::{long, word};
use super::seal;
use super::superblock::HEAD_BYTES;
use super::{FormatOptions, StoreError};

const MAGIC: [u8; 8] = *b"KVPSET\0\0";
const VERSION: u32 = 1;
const LABEL_AT: u64 = 8192;
/// Devices of one store.
pub const MAX_DEVICES: usize = 64;

/// What stands on a device that is one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetLabel {
    /// The store.
    pub uuid: [u8; 16],
    /// Which of its devices this is, from 0 on.
    pub index: u16,
    /// How many there are.
    pub count: u16,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// The first byte of the device that is the store's.
    pub first_byte: u64,
    /// How many bytes of the device are.
    pub bytes: u64,
}

impl SetLabel {
    /// The label as it stands on the device.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; PAGE_BYTES] {
        let mut bytes = [0; PAGE_BYTES];
        bytes[16..32].copy_from_slice(&self.uuid);
        bytes[32..34].copy_from_slice(&self.index.to_le_bytes());
        bytes[34..36].copy_from_slice(&self.count.to_le_bytes());
        for (at, value) in [(40, self.segment_bytes), (48, self.first_byte), (56, self.bytes)] {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        seal::close(&mut bytes, &MAGIC, VERSION);
        bytes
    }

    /// The label in a block; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError::Version`] or [`StoreError::Damaged`].
    pub fn from_bytes(bytes: &[u8; PAGE_BYTES]) -> Result<Option<Self>, StoreError> {
        if bytes[..8] != MAGIC {
            return Ok(None);
        }
        seal::check(bytes, VERSION)?;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[16..32]);
        let label = Self {
            uuid,
            index: word(bytes, 32) as u16,
            count: (word(bytes, 32) >> 16) as u16,
            segment_bytes: long(bytes, 40),
            first_byte: long(bytes, 48),
            bytes: long(bytes, 56),
        };
        let unit = u64::from(UNIT_BYTES);
        let sane = label.index < label.count
            && usize::from(label.count) <= MAX_DEVICES
            && label.first_byte.is_multiple_of(unit)
            && label.bytes.is_multiple_of(unit)
            && label.first_byte.checked_add(label.bytes).is_some();
        if sane { Ok(Some(label)) } else { Err(StoreError::Damaged) }
    }
}

/// The part of each device that becomes the store's: whole segments, after the first mebibyte, which on the first device
/// holds the superblocks.
///
/// # Errors
/// [`StoreError::TooSmall`] for a device that holds no segment.
pub fn parts_of(capacities: &[u64], segment_bytes: u64) -> Result<Vec<(u64, u64)>, StoreError> {
    let part = |(at, have): (usize, &u64)| {
        let segments = have.saturating_sub(HEAD_BYTES) / segment_bytes.max(1) * segment_bytes;
        if segments == 0 {
            return Err(StoreError::TooSmall { have: *have, need: HEAD_BYTES + segment_bytes });
        }
        Ok(if at == 0 { (0, HEAD_BYTES + segments) } else { (HEAD_BYTES, segments) })
    };
    capacities.iter().enumerate().map(part).collect()
}

/// What a device holds, as far as joining it to others goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing but zeros where a label or a superblock would be.
    Blank,
    /// A label.
    Label(SetLabel),
    /// Something else, perhaps a store of its own.
    Other,
}

/// Looks for a label. A device that is too small, or has blocks too long, for a store holds none.
///
/// # Errors
/// A label of another version or a damaged one, or what the device said.
pub fn find_label<B: BlockQueue>(blocks: &mut B, staging: &ArenaBuffer) -> Result<Found, StoreError> {
    let geometry = *blocks.geometry();
    if geometry.bytes() < HEAD_BYTES || geometry.lba_bytes > UNIT_BYTES {
        return Ok(Found::Other);
    }
    let label = read(blocks, staging, LABEL_AT)?;
    if let Some(label) = SetLabel::from_bytes(&label)? {
        return Ok(Found::Label(label));
    }
    let head = read(blocks, staging, 0)?;
    let blank = head.iter().chain(&label).all(|byte| *byte == 0);
    Ok(if blank { Found::Blank } else { Found::Other })
}

fn read<B: BlockQueue>(blocks: &mut B, staging: &ArenaBuffer, at: u64) -> Result<[u8; PAGE_BYTES], StoreError> {
    let mut bytes = [0; PAGE_BYTES];
    let io = block_at(blocks, staging, BlockOp::Read, at);
    run(blocks, io)
        .and_then(|()| staging.read(0, &mut bytes).ok_or(BlockError::Invalid))
        .map_err(|error| StoreError::Device { doing: "reading its label", error })?;
    Ok(bytes)
}

/// Writes a label, or takes it away.
///
/// # Errors
/// What the device said.
pub fn write_label<B: BlockQueue>(
    blocks: &mut B,
    staging: &ArenaBuffer,
    label: Option<&SetLabel>,
) -> Result<(), StoreError> {
    let bytes = label.map_or([0; PAGE_BYTES], SetLabel::to_bytes);
    let fua = blocks.geometry().volatile_cache;
    // The place of a superblock is left alone on the first device, and cleared with the label.
    let head = label.is_none_or(|label| label.index > 0);
    for at in [LABEL_AT, 0].into_iter().take(if head { 2 } else { 1 }) {
        let io = block_at(blocks, staging, BlockOp::write(fua), at);
        let written = staging.write(0, &bytes).ok_or(BlockError::Invalid).and_then(|()| run(blocks, io));
        written.map_err(|error| StoreError::Device { doing: "writing its label", error })?;
    }
    Ok(())
}

impl FormatOptions {
    /// The labels of new devices of these capacities, as the store with these options is to lie on them.
    ///
    /// # Errors
    /// [`StoreError::TooSmall`] for a device that holds no segment, or [`StoreError::Setting`] for too many devices.
    pub fn labels(&self, capacities: &[u64]) -> Result<Vec<SetLabel>, StoreError> {
        if capacities.len() > MAX_DEVICES {
            return Err(StoreError::Setting(format!("a store lies on {MAX_DEVICES} devices at most")));
        }
        let parts = parts_of(capacities, self.segment_bytes)?;
        let label = |(index, (first_byte, bytes))| SetLabel {
            uuid: self.uuid,
            index,
            count: capacities.len() as u16,
            segment_bytes: self.segment_bytes,
            first_byte,
            bytes,
        };
        Ok((0..).zip(parts).map(label).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::memory::{Arena, HugePages, RegionSlot};
    use dataplane::nvme::ram::{RamDevice, RamOptions};

    fn example() -> SetLabel {
        SetLabel {
            uuid: *b"0123456789abcdef",
            index: 1,
            count: 2,
            segment_bytes: 1 << 20,
            first_byte: 1 << 20,
            bytes: 7 << 20,
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_table() {
        let bytes = example().to_bytes();
        assert_eq!(&bytes[..12], b"KVPSET\0\0\x01\0\0\0");
        assert_eq!(&bytes[16..40], b"0123456789abcdef\x01\0\x02\0\0\0\0\0");
        assert_eq!(&bytes[40..64], &[0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 112, 0, 0, 0, 0, 0]);
        assert!(bytes[64..].iter().all(|&byte| byte == 0));
        assert_eq!(SetLabel::from_bytes(&bytes), Ok(Some(example())));
    }

    #[test]
    fn what_is_damaged_or_cannot_be_is_told() {
        let mut bytes = example().to_bytes();
        bytes[100] = 1;
        assert_eq!(SetLabel::from_bytes(&bytes), Err(StoreError::Damaged));
        for label in [
            SetLabel { index: 2, ..example() },
            SetLabel { index: 64, count: 65, ..example() },
            SetLabel { first_byte: 1, ..example() },
            SetLabel { bytes: u64::MAX - 4095, ..example() },
        ] {
            assert_eq!(SetLabel::from_bytes(&label.to_bytes()), Err(StoreError::Damaged), "{label:?}");
        }
        assert_eq!(SetLabel::from_bytes(&[0; PAGE_BYTES]), Ok(None));
    }

    #[test]
    fn devices_are_cut_into_whole_segments() {
        let parts = parts_of(&[(9 << 20) + 4096, 5 << 20], 2 << 20).unwrap();
        assert_eq!(parts, [(0, 9 << 20), (1 << 20, 4 << 20)]);
        assert!(matches!(parts_of(&[9 << 20, 2 << 20], 2 << 20), Err(StoreError::TooSmall { .. })));
    }

    #[test]
    fn a_label_is_found_and_no_device_with_one_passes_for_a_blank_one() {
        let device = RamDevice::new(RamOptions { bytes: 2 << 20, lba_bytes: 512, volatile_cache: true }).unwrap();
        let mut arena = Arena::new(PAGE_BYTES, HugePages::Off, RegionSlot(0)).unwrap();
        let mut blocks = device.queue(4, 1);
        blocks.attach(std::sync::Arc::clone(arena.region())).unwrap();
        let staging = arena.alloc(PAGE_BYTES, 4096).unwrap();
        assert_eq!(find_label(&mut blocks, &staging), Ok(Found::Blank));
        write_label(&mut blocks, &staging, Some(&example())).unwrap();
        assert_eq!(find_label(&mut blocks, &staging), Ok(Found::Label(example())));
        assert_eq!(super::super::load(&mut blocks, &staging), Err(StoreError::Foreign));
        write_label(&mut blocks, &staging, None).unwrap();
        assert_eq!(find_label(&mut blocks, &staging), Ok(Found::Blank));
        write_label(&mut blocks, &staging, Some(&SetLabel { index: 0, ..example() })).unwrap();
        assert_eq!(super::super::load(&mut blocks, &staging), Err(StoreError::Blank));
        device.poke(0, &[1; 512]).unwrap();
        device.poke(8192, &[0; 512]).unwrap();
        assert_eq!(find_label(&mut blocks, &staging), Ok(Found::Other));
    }
}
