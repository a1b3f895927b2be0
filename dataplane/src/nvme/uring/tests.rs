use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::memory::{Access, DmaSlice, Region, RegionSlot, map_client};
use crate::nvme::conformance::{self, Keeps, attach, blocks_of, io, run};
use crate::nvme::{BlockError, BlockOp, BlockQueue};

const WRITE: BlockOp = BlockOp::write(false);

/// A folder on the disk that the tests were built on: a temporary file system may not do direct I/O.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
}

fn store(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("store")
}

fn options() -> OpenOptions {
    OpenOptions { create_bytes: Some(4 << 20), ..OpenOptions::default() }
}

#[test]
fn conforms() {
    let folder = folder();
    let device = UringDevice::open(store(&folder), options()).unwrap();
    conformance::check(|depth, slots| device.queue(depth, slots).unwrap(), Keeps::Bytes);
}

#[test]
fn conforms_without_direct_io() {
    let folder = folder();
    let device = UringDevice::open(store(&folder), OpenOptions { direct: false, ..options() }).unwrap();
    // Any address will do, so the check of skewed memory does not apply.
    assert_eq!(device.geometry().memory_align, 1);
    let mut queue = device.queue(4, 1).unwrap();
    let region = attach(&mut queue, 0);
    region.fill(0, region.bytes(), 0x77).unwrap();
    assert_eq!(run(&mut queue, io(WRITE, 5, 1, region.slice(1, 4096).unwrap())), Ok(()));
    region.fill(0, region.bytes(), 0).unwrap();
    assert_eq!(run(&mut queue, io(BlockOp::Read, 5, 1, region.slice(3, 4096).unwrap())), Ok(()));
    let mut seen = [0; 4096];
    region.read(3, &mut seen).unwrap();
    assert_eq!(seen, [0x77; 4096]);
}

#[test]
fn conforms_where_polling_was_asked_for() {
    let folder = folder();
    let device = UringDevice::open(store(&folder), OpenOptions { io_poll: true, ..options() }).unwrap();
    conformance::check(|depth, slots| device.queue(depth, slots).unwrap(), Keeps::Bytes);
}

#[test]
fn holes_are_punched_when_asked_for() {
    use std::os::unix::fs::MetadataExt;
    let folder = folder();
    let device = UringDevice::open(store(&folder), OpenOptions { punch_holes: true, ..options() }).unwrap();
    assert!(device.geometry().deallocate);
    let allocated = || std::fs::metadata(store(&folder)).unwrap().blocks();
    let before = allocated();
    let mut queue = device.queue(1, 1).unwrap();
    assert_eq!(run(&mut queue, io(BlockOp::Deallocate, 0, 512, DmaSlice::EMPTY)), Ok(()));
    assert!(allocated() <= before - 4096, "512 blocks of 4096 bytes are 4096 sectors");
    assert_eq!(std::fs::metadata(store(&folder)).unwrap().len(), 4 << 20);
}

#[test]
fn a_file_is_not_punched_by_default() {
    let folder = folder();
    let device = UringDevice::open(store(&folder), options()).unwrap();
    assert!(!device.geometry().deallocate);
    assert!(device.geometry().volatile_cache, "that a fresh block was written stands in the journal");
    assert_eq!((device.geometry().lba_bytes, device.geometry().blocks), (4096, 1024));
}

#[test]
fn a_second_opener_is_told_that_it_is_locked() {
    let folder = folder();
    let device = UringDevice::open(store(&folder), options()).unwrap();
    let queue = device.queue(1, 1).unwrap();
    drop(device);
    let refused = UringDevice::open(store(&folder), options()).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    drop(queue);
    UringDevice::open(store(&folder), options()).unwrap();
}

#[test]
fn readers_share_and_change_nothing() {
    let folder = folder();
    let read_only = OpenOptions { read_only: true, ..options() };
    let missing = UringDevice::open(store(&folder), read_only).unwrap_err();
    assert!(matches!(missing, OpenError::Open { .. }) && !store(&folder).exists(), "{missing}");
    std::fs::write(store(&folder), vec![9; 8192]).unwrap();
    let readers = [(); 2].map(|()| UringDevice::open(store(&folder), read_only).unwrap());
    let refused = UringDevice::open(store(&folder), options()).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    let mut queue = readers[0].queue(1, 1).unwrap();
    let region = attach(&mut queue, 0);
    region.fill(0, region.bytes(), 0x77).unwrap();
    let memory = || region.slice(0, 4096).unwrap();
    assert!(run(&mut queue, io(WRITE, 0, 1, memory())).is_err());
    assert_eq!(run(&mut queue, io(BlockOp::Read, 1, 1, memory())), Ok(()));
    let mut seen = [0; 4096];
    region.read(0, &mut seen).unwrap();
    assert_eq!(seen, [9; 4096]);
    assert_eq!(std::fs::read(store(&folder)).unwrap(), vec![9; 8192]);
    drop((queue, readers));
    let writer = UringDevice::open(store(&folder), options()).unwrap();
    let refused = UringDevice::open(store(&folder), read_only).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    drop(writer);
}

#[test]
fn what_cannot_be_opened_says_why() {
    let folder = folder();
    let open = |path: PathBuf| UringDevice::open(path, OpenOptions::default()).unwrap_err();
    assert!(matches!(open(store(&folder)), OpenError::Open { .. }));
    assert!(matches!(open(folder.path().to_owned()), OpenError::WrongKind { .. }));
    std::fs::write(store(&folder), b"short").unwrap();
    assert!(matches!(open(store(&folder)), OpenError::TooSmall { bytes: 5, lba_bytes: 4096, .. }));
    assert_eq!(std::fs::read(store(&folder)).unwrap(), b"short");
}

#[test]
fn a_file_that_has_a_length_keeps_it() {
    let folder = folder();
    std::fs::write(store(&folder), vec![9; 8192]).unwrap();
    let device = UringDevice::open(store(&folder), options()).unwrap();
    assert_eq!(device.geometry().blocks, 2);
    assert_eq!(std::fs::read(store(&folder)).unwrap(), vec![9; 8192]);
}

#[test]
fn a_depth_out_of_range_is_refused() {
    let folder = folder();
    let device = UringDevice::open(store(&folder), options()).unwrap();
    assert!(device.queue(0, 1).is_err() && device.queue(4097, 1).is_err());
}

#[test]
fn registered_memory_is_used_as_such() {
    let folder = folder();
    let device = UringDevice::open(store(&folder), options()).unwrap();
    let mut queue = device.queue(4, 1).unwrap();
    let region = attach(&mut queue, 0);
    let memory = blocks_of(&queue, &region, 0, 1);
    assert_eq!(run(&mut queue, io(WRITE, 0, 1, memory)), Ok(()));
    let stats = queue.stats();
    assert_eq!((stats.fixed, stats.unfixed, stats.unfixed_regions, stats.completed), (1, 0, 0, 1));
    let enters = stats.enters;
    queue.ring();
    queue.poll(&mut crate::Burst::new());
    assert_eq!(queue.stats().enters, enters, "an idle queue makes no system call");
}

#[test]
fn shared_memory_of_a_client_is_registered() {
    use std::os::fd::AsFd;
    let folder = folder();
    let device = UringDevice::open(store(&folder), options()).unwrap();
    let mut queue = device.queue(4, 2).unwrap();
    let lent = tempfile::tempfile_in("/dev/shm").unwrap();
    lent.set_len(8192).unwrap();
    let region = Arc::new(map_client(lent.as_fd(), 0, 8192, RegionSlot(1), Access::ReadWrite).unwrap());
    queue.attach(Arc::clone(&region)).unwrap();
    region.fill(0, 4096, 0x5D).unwrap();
    assert_eq!(run(&mut queue, io(WRITE, 7, 1, region.slice(0, 4096).unwrap())), Ok(()));
    assert_eq!(run(&mut queue, io(BlockOp::Read, 7, 1, region.slice(4096, 4096).unwrap())), Ok(()));
    assert_eq!(region.load64(8184, std::sync::atomic::Ordering::Relaxed), Some(0x5D5D_5D5D_5D5D_5D5D));
    assert_eq!((queue.stats().fixed, queue.stats().unfixed), (2, 0));
    // Its pages are pinned: truncation changes nothing for commands to come.
    lent.set_len(0).unwrap();
    assert_eq!(run(&mut queue, io(WRITE, 8, 1, region.slice(0, 4096).unwrap())), Ok(()));
    assert!(!region.poisoned());
    // Memory lent for reading alone is never a target.
    let read_only = Arc::new({
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(4096).unwrap();
        map_client(file.as_fd(), 0, 4096, RegionSlot(0), Access::Read).unwrap()
    });
    queue.attach(Arc::clone(&read_only)).unwrap();
    let memory = read_only.slice(0, 4096).unwrap();
    assert_eq!(run(&mut queue, io(BlockOp::Read, 7, 1, memory)), Err(BlockError::Invalid));
    assert_eq!(run(&mut queue, io(WRITE, 9, 1, memory)), Ok(()), "though it may be read from");
}

#[test]
fn memory_backed_by_a_file_is_reached_without_registration() {
    use std::os::fd::AsFd;
    let folder = folder();
    let device = UringDevice::open(store(&folder), options()).unwrap();
    let mut queue = device.queue(4, 2).unwrap();
    // The kernel does not pin pages of a file on disk for longer than one command.
    let lent = tempfile::tempfile_in(folder.path()).unwrap();
    lent.set_len(8192).unwrap();
    let region = Arc::new(map_client(lent.as_fd(), 0, 8192, RegionSlot(1), Access::ReadWrite).unwrap());
    queue.attach(Arc::clone(&region)).unwrap();
    region.fill(0, 4096, 0x3C).unwrap();
    assert_eq!(run(&mut queue, io(WRITE, 7, 1, region.slice(0, 4096).unwrap())), Ok(()));
    assert_eq!(run(&mut queue, io(BlockOp::Read, 7, 1, region.slice(4096, 4096).unwrap())), Ok(()));
    let mut seen = [0; 4096];
    region.read(4096, &mut seen).unwrap();
    assert_eq!(seen, [0x3C; 4096]);
    let stats = queue.stats();
    assert_eq!((stats.unfixed_regions, stats.fixed, stats.unfixed), (1, 0, 2));
    // Truncated by its owner: the command fails, and nothing else.
    lent.set_len(0).unwrap();
    let gone = run(&mut queue, io(WRITE, 8, 1, region.slice(0, 4096).unwrap()));
    assert_eq!(gone, Err(BlockError::Invalid));
    queue.detach(RegionSlot(1)).unwrap();
}

#[test]
fn a_device_that_shrank_moves_less() {
    let folder = folder();
    let device = UringDevice::open(store(&folder), options()).unwrap();
    let mut queue = device.queue(4, 1).unwrap();
    let region = attach(&mut queue, 0);
    std::fs::File::options().write(true).open(store(&folder)).unwrap().set_len(5 * 4096).unwrap();
    let memory = blocks_of(&queue, &region, 0, 8);
    let short = BlockError::Short { moved: 5 * 4096, asked: 8 * 4096 };
    assert_eq!(run(&mut queue, io(BlockOp::Read, 0, 8, memory)), Err(short));
    assert!(queue.stats().resubmitted >= 1);
}

#[test]
fn a_queue_dropped_with_commands_outstanding_waits_for_them() {
    let folder = folder();
    let device = UringDevice::open(store(&folder), options()).unwrap();
    let region = {
        let mut queue = device.queue(8, 1).unwrap();
        let region = attach(&mut queue, 0);
        region.fill(0, region.bytes(), 0x99).unwrap();
        for lba in 0..8 {
            let memory = blocks_of(&queue, &region, lba, 1);
            queue.push(io(WRITE, u64::from(lba), 1, memory)).unwrap();
        }
        queue.ring();
        region
    };
    assert_eq!(Arc::strong_count(&region), 1);
    let mut queue = device.queue(1, 1).unwrap();
    let target = Arc::new(Region::anonymous(8 * 4096, RegionSlot(0)).unwrap());
    queue.attach(Arc::clone(&target)).unwrap();
    assert_eq!(run(&mut queue, io(BlockOp::Read, 0, 8, target.slice(0, 8 * 4096).unwrap())), Ok(()));
    let mut seen = vec![0; 8 * 4096];
    target.read(0, &mut seen).unwrap();
    assert!(seen.iter().all(|byte| *byte == 0x99));
}

/// On a disk of which nothing is worth keeping, for instance a loop device.
#[test]
#[ignore = "needs KVPLANE_TEST_BLOCK_DEVICE to name a block device, whose contents are lost"]
fn a_block_device_conforms() {
    let path = std::env::var_os("KVPLANE_TEST_BLOCK_DEVICE").expect("KVPLANE_TEST_BLOCK_DEVICE names a device");
    let device = UringDevice::open(path, OpenOptions::default()).unwrap();
    println!("{:?}", device.geometry());
    conformance::check(|depth, slots| device.queue(depth, slots).unwrap(), Keeps::Bytes);
    if device.geometry().deallocate {
        // The device really takes it: most read back as zeros then.
        let mut queue = device.queue(1, 1).unwrap();
        let region = attach(&mut queue, 0);
        region.fill(0, region.bytes(), 0x44).unwrap();
        let memory = blocks_of(&queue, &region, 0, 8);
        assert_eq!(run(&mut queue, io(WRITE, 0, 8, memory)), Ok(()));
        assert_eq!(run(&mut queue, io(BlockOp::Deallocate, 0, 8, DmaSlice::EMPTY)), Ok(()));
        assert_eq!(run(&mut queue, io(BlockOp::Read, 0, 8, memory)), Ok(()));
        println!("first word after a discard: {:?}", region.load64(0, std::sync::atomic::Ordering::Relaxed));
    }
}
