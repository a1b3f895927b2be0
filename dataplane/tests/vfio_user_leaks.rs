//! What clients hold and leave behind in the whole process. In a process of its own, and one test at a time, because
//! slots, descriptors and mappings are counted for the process.
#![allow(clippy::unwrap_used)]
#![allow(dead_code)] // The harness is shared with other tests.

#[path = "vfio_user/harness.rs"]
mod harness;

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use dataplane::fabric::vfio_user::target::region_slots_in_use;
use dataplane::fabric::vfio_user::{ClientMemory, ConnectError, ConnectOptions, Initiator, TargetOptions};
use dataplane::nvme::spec::Sqe;
use harness::{Rig, wait_until};

/// Open descriptors, and mappings of memory that an initiator or a target made.
fn held() -> (usize, usize) {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    (descriptors, maps.lines().filter(|line| line.contains("memfd:kvplane")).count())
}

static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn one_user_has_only_so_many_regions_over_all_clients() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const MOST: usize = 20;
    let options = TargetOptions { max_regions_per_uid: MOST, ..TargetOptions::default() };
    let (rig, elsewhere) = (Rig::with_options(1, options.clone()), Rig::with_options(1, options));
    let memory = ClientMemory::new(4096, false).unwrap();
    let connect = |rig: &Rig| Initiator::connect(rig.dir(), &ConnectOptions::default()).unwrap();
    let mut clients = [connect(&rig), connect(&rig), connect(&elsewhere)];
    let refused = (0..=MOST).find_map(|round| clients[round % 3].register(&memory).err());
    assert!(matches!(refused, Some(ConnectError::NoRoom)), "{refused:?}");
    assert_eq!(region_slots_in_use(), MOST, "a second listener is no way around");
    for client in &mut clients {
        assert!(client.is_alive() && matches!(client.register(&memory), Err(ConnectError::NoRoom)));
    }
    let [first, mut second, third] = clients;
    drop((first, third));
    elsewhere.wait_clean();
    wait_until("the first client is gone", || rig.shared.open.load(Ordering::Acquire) == 1);
    second.register(&memory).expect("the clients that left gave theirs back");
    drop(second);
    rig.wait_clean();
    wait_until("every slot is free", || region_slots_in_use() == 0);
}

#[test]
fn slots_descriptors_and_mappings_come_back() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
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
