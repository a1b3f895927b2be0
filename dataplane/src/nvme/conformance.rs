//! What every back end must do, whatever it is made of.

use std::sync::Arc;

use super::{AttachError, BlockDone, BlockError, BlockIo, BlockOp, BlockQueue, QueueFull};
use crate::Burst;
use crate::memory::{DmaSlice, Region, RegionSlot};

/// Whether a back end remembers what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    Bytes,
    Nothing,
}

/// Runs every check, each on a fresh queue that `open` gives for a depth and a number of memory slots. The device
/// must hold at least 64 blocks, and tests may write to any of them.
pub(crate) fn check<Q: BlockQueue>(mut open: impl FnMut(u32, u16) -> Q, keeps: Keeps) {
    what_was_written_is_read(&mut open(8, 2), keeps);
    nothing_moves_before_the_doorbell(&mut open(8, 2));
    invalid_commands_complete_as_invalid(&mut open(8, 2));
    a_full_queue_hands_the_command_back(&mut open(4, 1));
    regions_come_and_go(&mut open(4, 2));
    more_than_a_burst_completes(&mut open(64, 1));
}

/// A region of 64 blocks in `slot`, attached.
pub(crate) fn attach<Q: BlockQueue>(queue: &mut Q, slot: u16) -> Arc<Region> {
    let bytes = 64 * queue.geometry().lba_bytes as usize;
    let region = Arc::new(Region::anonymous(bytes, RegionSlot(slot)).unwrap());
    queue.attach(Arc::clone(&region)).unwrap();
    region
}

/// Rings and polls until nothing is outstanding.
pub(crate) fn finish<Q: BlockQueue>(queue: &mut Q) -> Vec<BlockDone> {
    let mut all = Vec::new();
    queue.ring();
    while queue.in_flight() > 0 {
        let mut done = Burst::new();
        queue.poll(&mut done);
        all.extend(done);
        queue.ring();
    }
    all
}

/// Carries one command out.
pub(crate) fn run<Q: BlockQueue>(queue: &mut Q, io: BlockIo) -> Result<(), BlockError> {
    queue.push(io).unwrap();
    let done = finish(queue);
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].token, io.token);
    done[0].result
}

pub(crate) const fn io(op: BlockOp, lba: u64, blocks: u32, memory: DmaSlice) -> BlockIo {
    BlockIo { op, lba, blocks, memory, token: 0x5A00_0000_0000_0000 | lba }
}

/// The memory of `blocks` blocks, `at` blocks into the region.
pub(crate) fn blocks_of<Q: BlockQueue>(queue: &Q, region: &Region, at: u32, blocks: u32) -> DmaSlice {
    let lba_bytes = queue.geometry().lba_bytes;
    region.slice(u64::from(at * lba_bytes), blocks * lba_bytes).unwrap()
}

const WRITE: BlockOp = BlockOp::write(false);

fn what_was_written_is_read<Q: BlockQueue>(queue: &mut Q, keeps: Keeps) {
    let region = attach(queue, 1);
    let lba_bytes = queue.geometry().lba_bytes as usize;
    for (op, lba, value) in [(WRITE, 3, 0x11), (BlockOp::write(true), 40, 0x22)] {
        let memory = blocks_of(queue, &region, 0, 8);
        region.fill(0, 8 * lba_bytes, value).unwrap();
        assert_eq!(run(queue, io(op, lba, 8, memory)), Ok(()));
        assert_eq!(run(queue, io(BlockOp::Flush, 0, 0, DmaSlice::EMPTY)), Ok(()));
        region.fill(0, 64 * lba_bytes, 0xEE).unwrap();
        let memory = blocks_of(queue, &region, 2, 8);
        assert_eq!(run(queue, io(BlockOp::Read, lba, 8, memory)), Ok(()));
        let mut seen = vec![0; 12 * lba_bytes];
        region.read(0, &mut seen).unwrap();
        let expected = if keeps == Keeps::Bytes { value } else { 0xEE };
        assert!(seen[2 * lba_bytes..10 * lba_bytes].iter().all(|byte| *byte == expected));
        assert!(seen[..2 * lba_bytes].iter().chain(&seen[10 * lba_bytes..]).all(|byte| *byte == 0xEE));
    }
    if queue.geometry().deallocate {
        assert_eq!(run(queue, io(BlockOp::Deallocate, 3, 8, DmaSlice::EMPTY)), Ok(()));
    }
}

fn nothing_moves_before_the_doorbell<Q: BlockQueue>(queue: &mut Q) {
    let region = attach(queue, 0);
    let memory = blocks_of(queue, &region, 0, 1);
    queue.push(io(WRITE, 0, 1, memory)).unwrap();
    assert_eq!((queue.in_flight(), queue.room()), (1, 7));
    assert_eq!(finish(queue).len(), 1);
    assert_eq!((queue.in_flight(), queue.room()), (0, 8));
}

fn invalid_commands_complete_as_invalid<Q: BlockQueue>(queue: &mut Q) {
    let region = attach(queue, 0);
    let stranger = Region::anonymous(region.bytes(), RegionSlot(1)).unwrap();
    let beyond_table = Region::anonymous(region.bytes(), RegionSlot(99)).unwrap();
    let impostor = Region::anonymous(region.bytes(), RegionSlot(0)).unwrap();
    let geometry = *queue.geometry();
    let one = blocks_of(queue, &region, 0, 1);
    let skewed = region.slice(1, geometry.lba_bytes).unwrap();
    let bad = [
        io(WRITE, geometry.blocks, 1, one),
        io(BlockOp::Read, geometry.blocks - 1, 2, blocks_of(queue, &region, 0, 2)),
        io(BlockOp::Read, u64::MAX, 1, one),
        io(BlockOp::Read, 0, 0, DmaSlice::EMPTY),
        io(WRITE, 0, 2, one),
        io(WRITE, 0, 1, skewed),
        io(BlockOp::Read, 0, 1, blocks_of(queue, &stranger, 0, 1)),
        io(BlockOp::Read, 0, 1, blocks_of(queue, &beyond_table, 0, 1)),
        io(BlockOp::Read, 0, 1, blocks_of(queue, &impostor, 0, 1)),
        io(BlockOp::Deallocate, geometry.blocks, 1, DmaSlice::EMPTY),
    ];
    for command in bad {
        assert_eq!(run(queue, command), Err(BlockError::Invalid), "{command:?}");
    }
    assert_eq!(queue.in_flight(), 0);
    assert!(queue.detach(RegionSlot(0)).is_ok(), "invalid commands hold no region");
}

fn a_full_queue_hands_the_command_back<Q: BlockQueue>(queue: &mut Q) {
    let region = attach(queue, 0);
    for lba in 0..4 {
        // Invalid ones take a place, too.
        let blocks = if lba == 2 { 0 } else { 1 };
        let memory = blocks_of(queue, &region, lba, 1);
        queue.push(io(WRITE, u64::from(lba), blocks, memory)).unwrap();
    }
    assert_eq!(queue.room(), 0);
    let memory = blocks_of(queue, &region, 4, 1);
    let QueueFull(back) = queue.push(io(WRITE, 4, 1, memory)).unwrap_err();
    assert_eq!((back.lba, back.token), (4, 0x5A00_0000_0000_0004));
    let done = finish(queue);
    assert_eq!(done.len(), 4);
    assert_eq!(done.iter().filter(|done| done.result == Err(BlockError::Invalid)).count(), 1);
    queue.push(back).unwrap();
    assert_eq!(finish(queue).len(), 1);
}

fn regions_come_and_go<Q: BlockQueue>(queue: &mut Q) {
    let region = attach(queue, 1);
    assert!(matches!(queue.attach(Arc::clone(&region)), Err(AttachError::SlotTaken(RegionSlot(1)))));
    let outside = Arc::new(Region::anonymous(4096, RegionSlot(2)).unwrap());
    assert!(matches!(queue.attach(outside), Err(AttachError::NoSuchSlot(RegionSlot(2)))));
    assert!(matches!(queue.detach(RegionSlot(2)), Err(AttachError::NoSuchSlot(RegionSlot(2)))));
    for lba in 0..2 {
        let memory = blocks_of(queue, &region, lba, 1);
        queue.push(io(WRITE, u64::from(lba), 1, memory)).unwrap();
    }
    assert!(matches!(queue.detach(RegionSlot(1)), Err(AttachError::Busy(2))));
    assert_eq!(finish(queue).len(), 2);
    let memory = blocks_of(queue, &region, 0, 1);
    queue.detach(RegionSlot(1)).unwrap();
    assert_eq!(Arc::strong_count(&region), 1, "a queue that let go holds nothing");
    assert_eq!(run(queue, io(WRITE, 0, 1, memory)), Err(BlockError::Invalid));
    queue.attach(Arc::clone(&region)).unwrap();
    assert_eq!(run(queue, io(WRITE, 0, 1, memory)), Ok(()));
}

fn more_than_a_burst_completes<Q: BlockQueue>(queue: &mut Q) {
    let region = attach(queue, 0);
    for lba in 0..64 {
        let memory = blocks_of(queue, &region, lba, 1);
        queue.push(io(WRITE, u64::from(lba), 1, memory)).unwrap();
    }
    let mut tokens: Vec<_> = finish(queue).iter().map(|done| done.token & 0xFFFF).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (0..64).collect::<Vec<_>>());
}
