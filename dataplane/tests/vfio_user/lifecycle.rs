//! Clients that come, go, die, stall and take their memory with them.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dataplane::Burst;
use dataplane::fabric::vfio_user::initiator::{AdminData, set_sgl};
use dataplane::fabric::vfio_user::{
    ClientMemory, ConnectError, ConnectOptions, Initiator, InitiatorQueue, Target, TargetOptions,
};
use dataplane::nvme::spec::kv::opcode;
use dataplane::nvme::spec::{Sqe, Status};

use crate::harness::{Rig, wait_until};
use crate::initiator::{command, connect, run};

fn fill(queue: &mut InitiatorQueue, sqe: Sqe) {
    while queue.room() > 0 {
        queue.push(sqe).unwrap();
    }
    queue.ring();
}

fn drain(queue: &mut InitiatorQueue) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut done = Burst::new();
    while queue.in_flight() > 0 {
        assert!(Instant::now() < deadline, "{} commands were never completed", queue.in_flight());
        queue.poll(&mut done);
        assert!(done.drain(..).all(|cqe| cqe.status.is_success()));
        std::thread::yield_now();
    }
    assert_eq!(queue.stray_completions(), 0);
}

#[test]
fn a_full_queue_wraps_and_every_command_completes_once() {
    let rig = Rig::new(1);
    let mut initiator = connect(&rig);
    let mut queue = initiator.create_queue(7, false).unwrap();
    for _ in 0..1000 {
        fill(&mut queue, Sqe::new(0xC0, 0));
        drain(&mut queue);
    }
    assert_eq!(rig.cores[0].taken.load(Ordering::Acquire), 7000);
    let info = initiator.create_queue(7, false).map(|queue| queue.qid()).unwrap();
    assert_eq!(info, 2);
    initiator.delete_queue(queue).unwrap();
    wait_until("the queue is gone", || rig.cores[0].queue_pairs.lock().unwrap().len() == 1);
    drop(initiator);
    rig.wait_clean();
}

#[test]
fn interrupts_wake_a_client_that_sleeps() {
    let rig = Rig::new(1);
    let mut initiator = connect(&rig);
    let mut queue = initiator.create_queue(4, true).unwrap();
    for _ in 0..20 {
        queue.push(Sqe::new(0xC0, 0)).unwrap();
        queue.ring();
        let eventfd = std::fs::File::from(queue.eventfd().unwrap().try_clone_to_owned().unwrap());
        wait_until("the eventfd counts", || std::io::Read::read(&mut &eventfd, &mut [0; 8]).is_ok());
        drain(&mut queue);
    }
}

#[test]
fn a_client_that_reads_no_completions_stalls_only_itself() {
    let rig = Rig::new(1);
    let (mut lazy, mut busy) = (connect(&rig), connect(&rig));
    let mut stalled = lazy.create_queue(64, false).unwrap();
    let mut working = busy.create_queue(16, false).unwrap();
    fill(&mut stalled, Sqe::new(0xC0, 0));
    wait_until("the lazy client's commands were taken", || rig.cores[0].taken.load(Ordering::Acquire) == 64);
    for _ in 0..1000 {
        assert!(run(&mut working, Sqe::new(0xC0, 0)).status.is_success());
    }
    drain(&mut stalled);
}

#[test]
fn a_client_that_dies_in_the_middle_leaves_nothing_behind() {
    let rig = Rig::new(2);
    for round in 0..10 {
        let mut initiator = connect(&rig);
        let memory = ClientMemory::new(1 << 20, false).unwrap();
        let iova = initiator.register(&memory).unwrap();
        let mut queues: Vec<_> = (0..2).map(|_| initiator.create_queue(32, false).unwrap()).collect();
        rig.cores.iter().for_each(|core| core.hold.store(true, Ordering::Release));
        for queue in &mut queues {
            let mut sqe = command(opcode::STORE, b"key", 4096);
            set_sgl(&mut sqe, iova, 4096);
            fill(queue, sqe);
        }
        wait_until("commands are in flight", || {
            rig.cores.iter().all(|core| core.outstanding.load(Ordering::Acquire) == 32)
        });
        if round % 2 == 0 {
            drop((initiator, queues, memory));
        } else {
            // The other way round: the memory goes first.
            drop((memory, queues, initiator));
        }
        // Memory stays until the last command has ended.
        assert!(rig.cores.iter().all(|core| core.regions.load(Ordering::Acquire) > 0));
        rig.cores.iter().for_each(|core| core.hold.store(false, Ordering::Release));
        rig.wait_clean();
    }
}

#[test]
fn unmapping_under_load_waits_for_the_commands_and_fails_later_ones() {
    let rig = Rig::new(2);
    let mut initiator = connect(&rig);
    let memory = ClientMemory::new(1 << 20, false).unwrap();
    let iova = initiator.register(&memory).unwrap();
    let mut queue = initiator.create_queue(32, false).unwrap();
    let mut sqe = command(opcode::STORE, b"key", 65536);
    set_sgl(&mut sqe, iova, 65536);
    rig.cores[0].hold.store(true, Ordering::Release);
    fill(&mut queue, sqe);
    wait_until("commands are in flight", || rig.cores[0].outstanding.load(Ordering::Acquire) == 32);
    let unmapping = std::thread::spawn(move || {
        initiator.unregister(iova).unwrap();
        initiator
    });
    rig.cores[0].hold.store(false, Ordering::Release);
    let initiator = unmapping.join().unwrap();
    drain(&mut queue);
    assert_eq!(run(&mut queue, sqe).status, Status::DATA_TRANSFER_ERROR);
    drop(initiator);
    rig.wait_clean();
}

#[test]
fn a_refused_client_and_a_dead_target_are_told_apart() {
    let rig = Rig::new(1);
    rig.shared.deny.store(true, Ordering::Release);
    let refused = Initiator::connect(rig.dir(), &ConnectOptions::default());
    assert!(matches!(refused, Err(ConnectError::Channel(_))));
    rig.shared.deny.store(false, Ordering::Release);
    let initiator = connect(&rig);
    assert!(initiator.is_alive());
    let dir = rig.dir().to_owned();
    drop(rig);
    assert!(!initiator.is_alive());
    assert!(Initiator::connect(&dir, &ConnectOptions::default()).is_err());
}

#[test]
fn connections_are_limited_and_one_folder_has_one_target() {
    let rig = Rig::with_options(1, TargetOptions { max_connections: 2, ..TargetOptions::default() });
    let clients = [connect(&rig), connect(&rig)];
    assert!(Initiator::connect(rig.dir(), &ConnectOptions::default()).is_err());
    drop(clients);
    rig.wait_clean();
    wait_until("the threads have ended", || rig.target.as_ref().is_some_and(|target| target.connections() == 0));
    connect(&rig);
    let (cores, gate) = rig.parts();
    assert!(Target::listen(rig.dir(), TargetOptions::default(), cores, gate).is_err());
}

#[test]
fn one_user_has_only_so_many_connections() {
    let rig = Rig::with_options(1, TargetOptions { max_connections_per_uid: 1, ..TargetOptions::default() });
    let only = connect(&rig);
    assert!(Initiator::connect(rig.dir(), &ConnectOptions::default()).is_err());
    drop(only);
    wait_until("the thread has ended", || rig.target.as_ref().is_some_and(|target| target.connections() == 0));
    connect(&rig);
}

#[test]
fn one_client_has_only_so_many_regions_and_others_theirs() {
    let rig = Rig::with_options(1, TargetOptions { max_regions: 8, ..TargetOptions::default() });
    let (mut greedy, mut other) = (connect(&rig), connect(&rig));
    let memory = ClientMemory::new(4096, false).unwrap();
    let mut registered = Vec::new();
    let refused = loop {
        match greedy.register(&memory) {
            Ok(iova) => registered.push(iova),
            Err(error) => break error,
        }
        assert!(registered.len() <= 8, "there is no limit");
    };
    assert!(matches!(refused, ConnectError::NoRoom), "{refused}");
    assert!(registered.len() > 1, "some belong to its admin queues");
    // One that needs several regions must fit as a whole.
    other.register(&ClientMemory::new(256 << 20, false).unwrap()).expect("another client has room of its own");
    greedy.unregister(registered[0]).unwrap();
    let two_pieces = ClientMemory::new(256 << 20, false).unwrap();
    assert!(matches!(greedy.register(&two_pieces), Err(ConnectError::NoRoom)));
    greedy.register(&memory).expect("what was given back may be had again, and half a mapping holds nothing");
    assert!(greedy.is_alive());
}

#[test]
fn a_target_ends_also_without_its_socket_file() {
    let rig = Rig::new(1);
    std::fs::remove_file(rig.socket()).unwrap();
    // Would wait for ever if the accepting thread could only be woken by connecting to it.
    drop(rig);
}

#[test]
fn a_session_whose_core_has_stopped_is_never_given_away() {
    let mut rig = Rig::new(2);
    let mut initiator = connect(&rig);
    let queue = initiator.create_queue(4, false).unwrap();
    rig.stop_cores();
    drop((initiator, queue));
    wait_until("the thread has ended", || rig.target.as_ref().is_some_and(|target| target.connections() == 0));
    assert_eq!(rig.shared.open.load(Ordering::Acquire), 1, "its number must not name another client");
}

#[test]
fn a_changed_namespace_is_told_to_who_asked() {
    let rig = Rig::new(1);
    let mut initiator = connect(&rig);
    assert_eq!(initiator.namespaces().unwrap().len(), 2);
    rig.shared.namespaces.lock().unwrap().pop();
    rig.shared.generation.fetch_add(1, Ordering::AcqRel);
    let deadline = Instant::now() + Duration::from_secs(10);
    while initiator.namespaces().unwrap().len() != 1 {
        assert!(Instant::now() < deadline);
    }
    let mut log = Sqe::new(0x02, 0);
    log.set_dword(10, 0x04 | (1 << 16));
    let mut changed = [0; 8];
    assert!(initiator.admin(log, AdminData::In(&mut changed)).unwrap().status.is_success());
    assert_eq!(changed, [3, 0, 0, 0, 0, 0, 0, 0]);
}
