//! The client of the crate `vfio_user` against our target: a peer that we did not write.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use dataplane::nvme::spec::kv::opcode;
use dataplane::nvme::spec::{Cqe, Sqe, Status};
use vfio_user::Client;

use crate::harness::{Rig, wait_until};
use crate::initiator::command;
use crate::mapping::{Mapping, memfd};

const BAR0: u32 = 0;
const CONFIG: u32 = 7;
const ASQ: u64 = 0;
const ACQ: u64 = 0x1000;
const IOSQ: u64 = 0x2000;
const IOCQ: u64 = 0x3000;
const DATA: u64 = 0x4000;

/// A minimal driver: admin queue, one I/O queue pair, 16 entries each.
struct Driver {
    client: Client,
    memory: Mapping,
    doorbells: Mapping,
    tails: [u32; 2],
    heads: [u32; 2],
    phases: [bool; 2],
}

impl Driver {
    fn connect(rig: &Rig) -> Self {
        let mut client = Client::new(&rig.socket()).unwrap();
        let file = memfd(1 << 20);
        client.dma_map(0, 0x10_0000, 1 << 20, file.as_raw_fd()).unwrap();
        let bar0 = client.region(BAR0).unwrap();
        assert_eq!((bar0.size, bar0.sparse_areas.len()), (0x4000, 1));
        let area = bar0.sparse_areas[0];
        let offset = bar0.file_offset.as_ref().unwrap();
        let doorbells = Mapping::new(offset.file(), offset.start() + area.offset, area.size);
        let memory = Mapping::new(&file, 0, 1 << 20);
        Self { client, memory, doorbells, tails: [0; 2], heads: [0; 2], phases: [true; 2] }
    }

    fn read32(&mut self, region: u32, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.client.region_read(region, offset, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    fn write32(&mut self, region: u32, offset: u64, value: u32) {
        self.client.region_write(region, offset, &value.to_le_bytes()).unwrap();
    }

    fn enable(&mut self) {
        self.write32(CONFIG, 4, 0x6);
        self.write32(BAR0, 0x24, 15 | (15 << 16));
        self.client.region_write(BAR0, 0x28, &(0x10_0000 + ASQ).to_le_bytes()).unwrap();
        self.client.region_write(BAR0, 0x30, &(0x10_0000 + ACQ).to_le_bytes()).unwrap();
        self.write32(BAR0, 0x14, (4 << 20) | (6 << 16) | (0b110 << 4) | 1);
        assert_eq!(self.read32(BAR0, 0x1C), 1);
    }

    fn doorbell(&self, index: u64) -> &AtomicU32 {
        self.doorbells.word32(index * 4)
    }

    /// Sends a command on queue 0 (admin) or 1 and waits for its completion.
    fn run(&mut self, queue: usize, mut sqe: Sqe) -> Cqe {
        let (sq, cq) = if queue == 0 { (ASQ, ACQ) } else { (IOSQ, IOCQ) };
        sqe.set_cid(self.tails[queue] as u16 + 100);
        let words = sqe.to_quadwords();
        for (index, word) in words.iter().enumerate() {
            let at = sq + u64::from(self.tails[queue]) * 64 + index as u64 * 8;
            self.memory.write(at, &word.to_ne_bytes());
        }
        self.tails[queue] = (self.tails[queue] + 1) % 16;
        self.doorbell(2 * queue as u64).store(self.tails[queue], Ordering::Release);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            assert!(Instant::now() < deadline, "no completion came");
            fence(Ordering::Acquire);
            let mut bytes = [[0; 8]; 2];
            let at = cq + u64::from(self.heads[queue]) * 16;
            self.memory.read(at + 8, &mut bytes[1]);
            self.memory.read(at, &mut bytes[0]);
            let (cqe, phase) = Cqe::from_quadwords(bytes.map(u64::from_ne_bytes));
            if phase == self.phases[queue] {
                self.heads[queue] = (self.heads[queue] + 1) % 16;
                self.phases[queue] ^= self.heads[queue] == 0;
                self.doorbell(2 * queue as u64 + 1).store(self.heads[queue], Ordering::Release);
                assert_eq!(cqe.cid, sqe.cid());
                return cqe;
            }
            std::thread::yield_now();
        }
    }
}

#[test]
fn after_a_shutdown_no_old_admin_command_is_carried_out_again() {
    let rig = Rig::new(1);
    let mut driver = Driver::connect(&rig);
    driver.enable();
    for _ in 0..3 {
        let mut identify = Sqe::new(0x06, 0);
        identify.set_dword(10, 1);
        identify.set_prp(0x10_0000 + DATA, 0);
        assert_eq!(driver.run(0, identify).status, Status::SUCCESS);
    }
    let mut before = [0; 16 * 16];
    driver.memory.read(ACQ, &mut before);
    driver.memory.write(DATA, &[0; 4096]);
    let enabled = driver.read32(BAR0, 0x14);
    driver.write32(BAR0, 0x14, enabled | (1 << 14));
    assert_eq!((driver.read32(BAR0, 0x1C) >> 2) & 0b11, 0b10, "the shutdown is complete");
    // Between answers, the target looks at its admin queue.
    for _ in 0..50 {
        driver.read32(BAR0, 0x1C);
    }
    let (mut after, mut identified) = ([0; 16 * 16], [0; 4096]);
    driver.memory.read(ACQ, &mut after);
    driver.memory.read(DATA, &mut identified);
    assert!(before == after && identified == [0; 4096]);
    // A reset mends it.
    driver.write32(BAR0, 0x14, 0);
    driver.memory.write(ACQ, &[0; 16 * 16]);
    (driver.tails, driver.heads, driver.phases) = ([0; 2], [0; 2], [true; 2]);
    driver.enable();
    let mut identify = Sqe::new(0x06, 0);
    identify.set_dword(10, 1);
    identify.set_prp(0x10_0000 + DATA, 0);
    assert_eq!(driver.run(0, identify).status, Status::SUCCESS);
    drop(driver);
    rig.wait_clean();
}

#[test]
fn a_client_that_we_did_not_write_stores_and_retrieves() {
    let rig = Rig::new(1);
    let mut driver = Driver::connect(&rig);
    assert_eq!(driver.read32(CONFIG, 8) >> 8, 0x01_0802);
    assert_eq!(driver.read32(BAR0, 8), 0x0002_0000);
    assert_eq!(driver.client.get_irq_info(2).unwrap().count, 64);
    driver.enable();
    let mut identify = Sqe::new(0x06, 0);
    identify.set_dword(10, 1);
    identify.set_prp(0x10_0000 + DATA, 0);
    assert_eq!(driver.run(0, identify).status, Status::SUCCESS);
    let mut model = [0; 12];
    driver.memory.read(DATA + 24, &mut model);
    assert_eq!(&model, b"kvplane test");
    for (op, at, flags) in [(0x05, IOCQ, 1), (0x01, IOSQ, 1 | (1 << 16))] {
        let mut create = Sqe::new(op, 0);
        create.set_prp(0x10_0000 + at, 0);
        create.set_dword(10, 1 | (15 << 16));
        create.set_dword(11, flags);
        assert_eq!(driver.run(0, create).status, Status::SUCCESS);
    }
    // Round and round the rings, to see both phases.
    for round in 0..100u32 {
        driver.memory.write(DATA, &round.to_le_bytes());
        let mut store = command(opcode::STORE, b"key", 5000);
        store.set_prp(0x10_0000 + DATA, 0x10_0000 + DATA + 4096);
        assert_eq!(driver.run(1, store).status, Status::SUCCESS);
        driver.memory.write(DATA, &[0xFF; 4]);
        let mut retrieve = command(opcode::RETRIEVE, b"key", 5000);
        retrieve.set_prp(0x10_0000 + DATA, 0x10_0000 + DATA + 4096);
        let cqe = driver.run(1, retrieve);
        assert_eq!((cqe.status, cqe.dword0), (Status::SUCCESS, 5000));
        let mut seen = [0; 4];
        driver.memory.read(DATA, &mut seen);
        assert_eq!(u32::from_le_bytes(seen), round);
    }
    driver.client.reset().unwrap();
    assert_eq!(driver.read32(BAR0, 0x14), 0);
    wait_until("the reset has ended the queues", || rig.cores[0].queue_pairs.lock().unwrap().is_empty());
    driver.client.dma_unmap(0x10_0000, 1 << 20).unwrap();
    driver.client.shutdown().unwrap();
    rig.wait_clean();
}
