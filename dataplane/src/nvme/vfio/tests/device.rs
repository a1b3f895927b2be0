//! The driver against controllers on the bus, by the kernel's VFIO: `tests/testbed/driver.sh` runs them in a virtual
//! machine.
//!
//! `KVPLANE_TEST_NVME` names a controller that is bound to vfio-pci and whose contents are lost, some tests want a second
//! one after a comma. `KVPLANE_TEST_NVME_INTERFACE` (`container` or `iommufd`) says by which of the kernel's interfaces.

mod killed;
mod media;
mod pair;
mod under_load;

use std::time::Instant;

use super::super::kernel::{BusAddress, Interface, KernelFunction};
use super::*;
use crate::nvme::conformance::Keeps;

/// The controllers that the tests may use.
fn addresses() -> Vec<BusAddress> {
    let named = std::env::var("KVPLANE_TEST_NVME").expect("KVPLANE_TEST_NVME names a controller");
    named.split(',').map(|address| address.parse().unwrap()).collect()
}

fn interface() -> Interface {
    match std::env::var("KVPLANE_TEST_NVME_INTERFACE").as_deref() {
        Err(_) => Interface::Auto,
        Ok("container") => Interface::Container,
        Ok("iommufd") => Interface::Iommufd,
        Ok(other) => panic!("KVPLANE_TEST_NVME_INTERFACE is container or iommufd, not {other:?}"),
    }
}

fn controller() -> Controller {
    open_at(addresses()[0])
}

fn open_at(address: BusAddress) -> Controller {
    let function = KernelFunction::open(address, interface()).unwrap();
    // What is offered is used, unless told otherwise.
    let without = |name: &str| std::env::var_os(name).is_none();
    let (sgl, shadow_doorbells) = (without("KVPLANE_TEST_NVME_NO_SGL"), without("KVPLANE_TEST_NVME_NO_SHADOWS"));
    Controller::open(function, ControllerOptions { sgl, shadow_doorbells, ..ControllerOptions::default() }).unwrap()
}

/// Polls, with the control side taking its turns, until `count` commands are done.
fn finish(controller: &Controller, queue: &mut VfioQueue, count: usize) -> Vec<BlockDone> {
    let begin = Instant::now();
    let (mut all, mut last) = (Vec::new(), begin);
    while all.len() < count {
        let mut done = Burst::new();
        queue.poll(&mut done);
        all.extend(done);
        if last.elapsed() > Duration::from_millis(10) {
            controller.service(last.elapsed());
            last = Instant::now();
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{} of {count}: {:?}", all.len(), controller.status());
    }
    all
}

fn resets_lose_nothing(controller: &Controller, device: &VfioDevice) {
    let mut queue = device.queue(64, 1).unwrap();
    let lba_bytes = queue.geometry().lba_bytes;
    let region = Arc::new(Region::anonymous(64 * lba_bytes as usize, RegionSlot(0)).unwrap());
    queue.attach(Arc::clone(&region)).unwrap();
    for round in 1..=5_u8 {
        region.fill(0, region.bytes(), round).unwrap();
        for block in 0..64_u32 {
            let memory = region.slice(u64::from(block * lba_bytes), lba_bytes).unwrap();
            queue.push(conformance::io(WRITE, u64::from(block), 1, memory)).unwrap();
        }
        queue.ring();
        controller.reset().unwrap();
        let done = finish(controller, &mut queue, 64);
        assert!(done.iter().all(|done| done.result == Ok(())), "{done:?}");
        region.fill(0, region.bytes(), 0xEE).unwrap();
        let memory = region.slice(0, 8 * lba_bytes).unwrap();
        queue.push(conformance::io(BlockOp::Read, 24, 8, memory)).unwrap();
        queue.ring();
        assert_eq!(finish(controller, &mut queue, 1)[0].result, Ok(()));
        let mut seen = vec![0; 8 * lba_bytes as usize];
        region.read(0, &mut seen).unwrap();
        assert!(seen.iter().all(|byte| *byte == round));
    }
    assert_eq!(controller.status().resets, 5);
}

fn transfers_of_every_length(device: &VfioDevice) {
    let mut queue = device.queue(4, 1).unwrap();
    let geometry = *queue.geometry();
    let most = geometry.max_transfer / geometry.lba_bytes;
    let region = Arc::new(Region::anonymous(2 * geometry.max_transfer as usize + 4096, RegionSlot(0)).unwrap());
    queue.attach(Arc::clone(&region)).unwrap();
    let lengths = [1, 2, 3, 7, 8, 9, 17, most / 2 + 1, most - 1, most].into_iter().filter(|blocks| *blocks <= most);
    for (round, blocks) in lengths.enumerate() {
        let bytes = blocks * geometry.lba_bytes;
        let skew = 4 * round as u64;
        let data: Vec<u8> = (0..bytes).map(|at| (at / 13) as u8 ^ round as u8).collect();
        region.write(skew, &data).unwrap();
        let from = region.slice(skew, bytes).unwrap();
        assert_eq!(conformance::run(&mut queue, conformance::io(WRITE, 100, blocks, from)), Ok(()));
        let into = u64::from(geometry.max_transfer) + 512 + skew;
        let into_slice = region.slice(into, bytes).unwrap();
        assert_eq!(conformance::run(&mut queue, conformance::io(BlockOp::Read, 100, blocks, into_slice)), Ok(()));
        let mut seen = vec![0; bytes as usize];
        region.read(into, &mut seen).unwrap();
        assert!(seen == data, "{blocks} blocks");
    }
}

fn pace(device: &VfioDevice) {
    let mut queue = device.queue(32, 1).unwrap();
    let lba_bytes = queue.geometry().lba_bytes;
    let blocks = (4096 / lba_bytes).max(1);
    let region = Arc::new(Region::anonymous(32 * 4096, RegionSlot(0)).unwrap());
    queue.attach(Arc::clone(&region)).unwrap();
    let (begin, mut count, mut next) = (Instant::now(), 0_u32, 0_u64);
    while begin.elapsed() < Duration::from_millis(500) {
        while queue.room() > 0 {
            let memory = region.slice(next % 32 * 4096, blocks * lba_bytes).unwrap();
            queue.push(conformance::io(BlockOp::Read, next * 37 % 4096 * u64::from(blocks), blocks, memory)).unwrap();
            next += 1;
        }
        queue.ring();
        let mut done = Burst::new();
        queue.poll(&mut done);
        assert!(done.iter().all(|done| done.result == Ok(())));
        count += done.len() as u32;
    }
    println!("4 KiB reads at depth 32: {:.0} a second", f64::from(count) / begin.elapsed().as_secs_f64());
}

#[test]
#[ignore = "needs KVPLANE_TEST_NVME to name a controller that is bound to vfio-pci, whose contents are lost"]
fn a_controller_on_the_bus_is_driven() {
    let controller = controller();
    println!("{:?}\n{:?}", controller.info(), controller.namespaces());
    assert!(!controller.namespaces().is_empty(), "{:?}", controller.refused_namespaces());
    for namespace in controller.namespaces() {
        let device = controller.namespace(namespace.nsid).unwrap();
        println!("{:?}", device.geometry());
        conformance::check(|depth, slots| device.queue(depth, slots).unwrap(), Keeps::Bytes);
        transfers_of_every_length(&device);
        pace(&device);
    }
    let device = controller.namespace(controller.namespaces()[0].nsid).unwrap();
    resets_lose_nothing(&controller, &device);
    let health = controller.health().unwrap();
    println!("{health:?}\n{:?}", controller.errors().unwrap());
    assert!((200..400).contains(&health.temperature), "{} kelvins", health.temperature);
    drop(device);
    let status = controller.status();
    assert_eq!((status.state, status.stray_completions), (ControllerState::Ready, 0));
    assert!(status.mappings <= 2, "admin queue and shadow doorbells: {}", status.mappings);
}

#[test]
#[ignore = "needs KVPLANE_TEST_NVME to name a controller that is bound to vfio-pci"]
fn a_controller_can_be_opened_again_and_by_one_only() {
    for _ in 0..3 {
        let first = controller();
        let second = KernelFunction::open(addresses()[0], interface()).unwrap_err().to_string();
        assert!(second.contains("another process"), "{second}");
        drop(first);
    }
}
