//! Two controllers at once.

use super::*;
use crate::memory::Access;

/// Bytes of each block that is copied: a multiple of every block size.
const PIECE: u32 = 4096;
const PIECES: u64 = 256;

fn whole(queue: &VfioQueue, region: &Region, op: BlockOp, piece: u64) -> BlockIo {
    let blocks = PIECE / queue.geometry().lba_bytes;
    let memory = region.slice(piece * u64::from(PIECE), PIECE).unwrap();
    BlockIo { op, lba: piece * u64::from(blocks), blocks, memory, token: piece }
}

fn run_all(queue: &mut VfioQueue, region: &Region, op: BlockOp) {
    for first in (0..PIECES).step_by(32) {
        for piece in first..first + 32 {
            let io = whole(queue, region, op, piece);
            queue.push(io).unwrap();
        }
        let done = conformance::finish(queue);
        assert!(done.len() == 32 && done.iter().all(|done| done.result == Ok(())), "{done:?}");
    }
}

/// One controller reads into the memory that the other writes from: no processor copies a byte.
#[test]
#[ignore = "needs two controllers that are bound to vfio-pci, whose contents are lost (tests/testbed/driver.sh)"]
fn two_controllers_share_memory() {
    let controllers: Vec<_> = addresses().into_iter().map(open_at).collect();
    assert_eq!(controllers.len(), 2, "KVPLANE_TEST_NVME names two");
    let mut queues: Vec<_> =
        controllers.iter().map(|controller| controller.namespace(1).unwrap().queue(32, 2).unwrap()).collect();
    let bytes = PIECES as usize * PIECE as usize;
    // As a client's memory is: a file that is mapped.
    let file = Region::shared(bytes, RegionSlot(0)).unwrap();
    let region = |slot| {
        let (file, _) = file.file().unwrap();
        Arc::new(crate::memory::map_client(file, 0, bytes as u64, RegionSlot(slot), Access::ReadWrite).unwrap())
    };
    let (common, other) = (region(0), region(1));
    let before: Vec<_> = controllers.iter().map(|controller| controller.status().mappings).collect();
    for queue in &mut queues {
        queue.attach(Arc::clone(&common)).unwrap();
        queue.attach(Arc::clone(&other)).unwrap();
    }
    let data: Vec<u8> = (0..bytes).map(|at| (at / 7) as u8 ^ (at / 4096) as u8).collect();
    common.write(0, &data).unwrap();
    run_all(&mut queues[0], &common, WRITE);
    common.fill(0, bytes, 0).unwrap();
    run_all(&mut queues[0], &common, BlockOp::Read);
    run_all(&mut queues[1], &other, WRITE);
    common.fill(0, bytes, 0).unwrap();
    run_all(&mut queues[1], &other, BlockOp::Read);
    let mut seen = vec![0; bytes];
    common.read(0, &mut seen).unwrap();
    assert!(seen == data, "what went through both is not what it was");
    // One is reset and let go of; the other does not notice.
    controllers[0].reset().unwrap();
    drop(queues.remove(0));
    run_all(&mut queues[0], &common, BlockOp::Read);
    let left = controllers[1].status();
    assert_eq!((left.resets, left.mappings), (0, before[1] + 2));
    assert_eq!(controllers[0].status().mappings, before[0] - 1, "the queue's own memory and both regions are gone");
}
