//! What clients leave behind in the whole process: nothing. Alone in its process, because slots, descriptors and
//! mappings are counted for the process.
#![allow(clippy::unwrap_used)]
#![allow(dead_code)] // The harness is shared with other tests.

#[path = "vfio_user/harness.rs"]
mod harness;

use std::sync::atomic::Ordering;

use dataplane::fabric::vfio_user::target::region_slots_in_use;
use dataplane::fabric::vfio_user::{ClientMemory, ConnectOptions, Initiator};
use dataplane::nvme::spec::Sqe;
use harness::{Rig, wait_until};

/// Open descriptors, and mappings of memory that an initiator or a target made.
fn held() -> (usize, usize) {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    (descriptors, maps.lines().filter(|line| line.contains("memfd:kvplane")).count())
}

#[test]
fn slots_descriptors_and_mappings_come_back() {
    let rig = Rig::new(2);
    let before = held();
    assert_eq!((before.1, region_slots_in_use()), (0, 0));
    for round in 0..30 {
        let mut initiator = Initiator::connect(rig.dir(), &ConnectOptions::default()).unwrap();
        let memories: Vec<_> = (0..5).map(|_| ClientMemory::new(1 << 20, false).unwrap()).collect();
        let iovas: Vec<_> = memories.iter().map(|memory| initiator.register(memory).unwrap()).collect();
        let mut queue = initiator.create_queue(16, round % 2 == 0).unwrap();
        assert!(region_slots_in_use() >= 7 && held().1 > 0);
        rig.cores[0].hold.store(true, Ordering::Release);
        while queue.room() > 0 {
            queue.push(Sqe::new(0xC0, 0)).unwrap();
        }
        queue.ring();
        if round % 3 == 0 {
            rig.cores[0].hold.store(false, Ordering::Release);
            initiator.unregister(iovas[round % 5]).unwrap();
        }
        drop(initiator);
        rig.cores[0].hold.store(false, Ordering::Release);
        drop((queue, memories));
        rig.wait_clean();
    }
    wait_until("every descriptor is closed", || held().0 <= before.0);
    assert_eq!((held().1, region_slots_in_use()), (0, 0));
}
