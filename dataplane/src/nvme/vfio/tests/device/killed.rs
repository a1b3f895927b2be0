//! A process that is killed while the controller writes to its memory. The memory is a file that the test maps as well,
//! so that it sees every byte that arrives after the process has ended.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

use super::*;
use crate::memory::Access;

const NAME: &str = "nvme::vfio::tests::device::killed::a_process_that_is_killed_in_mid_dma_leaves_memory_alone";
/// Tells the process that is to be killed where its memory is.
const MEMORY: &str = "KVPLANE_TEST_NVME_MEMORY";
const ROUNDS: u32 = 3;
/// Deep enough that a slow controller is busy for long.
const DEPTH: u32 = 128;
const HEADER: u64 = 4096;
/// Little, so that it is emptied quickly: many commands write to the same bytes.
const DATA: usize = 1 << 20;
const MARK: u8 = 0xA5;
/// How long nothing may arrive.
const QUIET: Duration = Duration::from_millis(300);

/// Reads as fast as the controller can, with as much outstanding as possible, until it is killed.
fn read_until_killed(memory: &str) -> ! {
    let file = File::options().read(true).write(true).open(memory).unwrap();
    let bytes = HEADER + DATA as u64;
    let region = Arc::new(crate::memory::map_client(file.as_fd(), 0, bytes, RegionSlot(0), Access::ReadWrite).unwrap());
    let controller = controller();
    let mut queue = controller.namespace(1).unwrap().queue(DEPTH, 1).unwrap();
    queue.attach(Arc::clone(&region)).unwrap();
    let geometry = *queue.geometry();
    let places = DATA as u64 / u64::from(geometry.max_transfer);
    let blocks = geometry.max_transfer / geometry.lba_bytes;
    let mut next = 0;
    loop {
        while queue.room() > 0 {
            let place = next % places;
            let memory =
                region.slice(HEADER + place * u64::from(geometry.max_transfer), geometry.max_transfer).unwrap();
            queue.push(conformance::io(BlockOp::Read, place * u64::from(blocks), blocks, memory)).unwrap();
            next += 1;
        }
        queue.ring();
        let mut done = Burst::new();
        queue.poll(&mut done);
        assert!(done.iter().all(|done| done.result == Ok(())), "{done:?}");
        region.word64(0).unwrap().fetch_add(done.len() as u64, Ordering::Relaxed);
    }
}

/// Puts the mark on every block that will be read.
fn mark_the_device() {
    let controller = controller();
    let mut queue = controller.namespace(1).unwrap().queue(8, 1).unwrap();
    let geometry = *queue.geometry();
    let region = Arc::new(Region::anonymous(geometry.max_transfer as usize, RegionSlot(0)).unwrap());
    region.fill(0, region.bytes(), MARK).unwrap();
    queue.attach(Arc::clone(&region)).unwrap();
    let blocks = geometry.max_transfer / geometry.lba_bytes;
    for place in 0..DATA as u64 / u64::from(geometry.max_transfer) {
        let memory = region.slice(0, geometry.max_transfer).unwrap();
        let io = conformance::io(WRITE, place * u64::from(blocks), blocks, memory);
        assert_eq!(conformance::run(&mut queue, io), Ok(()));
    }
}

fn launch(memory: &Region) -> Child {
    let memory = format!("/proc/{}/fd/{}", std::process::id(), memory.file().unwrap().0.as_raw_fd());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", NAME]).env(MEMORY, memory).stdout(Stdio::null());
    command.spawn().unwrap()
}

fn await_load(child: &mut Child, memory: &Region) {
    let begin = Instant::now();
    while memory.word64(0).unwrap().load(Ordering::Relaxed) < 16 {
        assert!(child.try_wait().unwrap().is_none(), "the process ended by itself");
        assert!(begin.elapsed() < Duration::from_secs(60), "the process reads nothing");
        std::thread::yield_now();
    }
}

fn empty(memory: &Region) {
    memory.fill(HEADER, DATA, 0).unwrap();
}

/// Bytes that arrived since it was emptied.
fn arrived(memory: &Region) -> usize {
    let mut seen = vec![0; DATA];
    memory.read(HEADER, &mut seen).unwrap();
    seen.iter().filter(|byte| **byte != 0).count()
}

/// Bit 2 of the command register: whether the controller may access memory.
fn masters_the_bus() -> bool {
    let config = File::open(format!("/sys/bus/pci/devices/{}/config", addresses()[0])).unwrap();
    let mut command = [0; 2];
    config.read_exact_at(&mut command, 4).unwrap();
    command[0] & 0b100 != 0
}

#[test]
#[ignore = "needs a controller that is bound to vfio-pci, whose contents are lost (tests/testbed/driver.sh)"]
fn a_process_that_is_killed_in_mid_dma_leaves_memory_alone() {
    if let Ok(memory) = std::env::var(MEMORY) {
        read_until_killed(&memory);
    }
    mark_the_device();
    let mut at_work_after_the_kill = 0;
    for round in 0..ROUNDS {
        let memory = Region::shared(HEADER as usize + DATA, RegionSlot(0)).unwrap();
        let mut child = launch(&memory);
        await_load(&mut child, &memory);
        assert!(masters_the_bus());
        child.kill().unwrap();
        empty(&memory);
        child.wait().unwrap();
        let late = arrived(&memory);
        at_work_after_the_kill += u32::from(late > 0);
        assert!(!masters_the_bus(), "round {round}: the controller may still access memory");
        empty(&memory);
        std::thread::sleep(QUIET);
        assert_eq!(arrived(&memory), 0, "round {round}: bytes that arrived after the process had ended");
        println!("round {round}: {late} bytes arrived between the kill and the end of the process");
    }
    assert!(at_work_after_the_kill > 0, "the controller was idle at every kill: nothing is proven");
    assert_eq!(controller().status().state, ControllerState::Ready);
}
