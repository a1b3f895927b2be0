//! Blocks that cannot be read or written. The test bed makes them; `KVPLANE_TEST_NVME_BAD_READ` and
//! `KVPLANE_TEST_NVME_BAD_WRITE` say which blocks of namespace 1 they are.

use super::*;

fn bad_block(variable: &str) -> u64 {
    let text = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names a block"));
    text.parse().unwrap()
}

/// A queue and eight blocks of memory.
struct Blocks {
    queue: VfioQueue,
    region: Arc<Region>,
}

impl Blocks {
    fn new(controller: &Controller) -> Self {
        let mut queue = controller.namespace(1).unwrap().queue(16, 1).unwrap();
        let region = conformance::attach(&mut queue, 0);
        Self { queue, region }
    }

    fn run(&mut self, op: BlockOp, lba: u64, blocks: u32) -> Result<(), BlockError> {
        let memory = conformance::blocks_of(&self.queue, &self.region, 0, blocks);
        conformance::run(&mut self.queue, conformance::io(op, lba, blocks, memory))
    }

    fn write(&mut self, lba: u64) -> Result<(), BlockError> {
        self.region.fill(0, self.region.bytes(), lba as u8).unwrap();
        self.run(WRITE, lba, 1)
    }

    fn reads_back(&mut self, lba: u64) -> bool {
        self.region.fill(0, self.region.bytes(), !lba as u8).unwrap();
        assert_eq!(self.run(BlockOp::Read, lba, 1), Ok(()), "block {lba}");
        let mut seen = vec![0; self.queue.geometry().lba_bytes as usize];
        self.region.read(0, &mut seen).unwrap();
        seen.iter().all(|byte| *byte == lba as u8)
    }
}

#[test]
#[ignore = "needs a controller with blocks that fail (tests/testbed/driver.sh)"]
fn a_block_that_fails_harms_no_neighbour() {
    let (bad_read, bad_write) = (bad_block("KVPLANE_TEST_NVME_BAD_READ"), bad_block("KVPLANE_TEST_NVME_BAD_WRITE"));
    let controller = controller();
    let mut blocks = Blocks::new(&controller);
    for bad in [bad_read, bad_write] {
        for lba in (bad - 3..=bad + 3).filter(|lba| *lba != bad_write) {
            assert_eq!(blocks.write(lba), Ok(()), "block {lba}");
        }
    }
    for _ in 0..3 {
        assert!(blocks.run(BlockOp::Read, bad_read, 1).is_err_and(BlockError::is_unreadable));
        assert!(blocks.run(BlockOp::Read, bad_read - 2, 5).is_err_and(BlockError::is_unreadable));
        assert!(matches!(blocks.write(bad_write), Err(BlockError::Media(_))));
    }
    // All at once: each command ends as itself.
    let first = bad_read - 3;
    for at in 0..7 {
        let memory = conformance::blocks_of(&blocks.queue, &blocks.region, at, 1);
        let io = conformance::io(BlockOp::Read, first + u64::from(at), 1, memory);
        blocks.queue.push(BlockIo { token: u64::from(at), ..io }).unwrap();
    }
    for done in conformance::finish(&mut blocks.queue) {
        assert_eq!(matches!(done.result, Err(BlockError::Media(_))), done.token == 3, "{done:?}");
        assert!(done.token == 3 || done.result.is_ok(), "{done:?}");
    }
    for bad in [bad_read, bad_write] {
        for lba in (bad - 3..=bad + 3).filter(|lba| *lba != bad) {
            assert!(blocks.reads_back(lba), "block {lba} beside {bad}");
        }
    }
    let status = controller.status();
    assert_eq!((status.state, status.resets, status.aborts), (ControllerState::Ready, 0, 0), "an error is no fault");
}
