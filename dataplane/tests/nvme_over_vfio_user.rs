//! The NVMe driver on a controller in another process's stead: the model behind the server of the crate `vfio_user`, which
//! nobody here wrote. The driver's end is our initiator.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataplane::Burst;
use dataplane::fabric::vfio_user::ConnectOptions;
use dataplane::fabric::vfio_user::initiator::RemoteFunction;
use dataplane::memory::{Access, Region, RegionSlot, map_client};
use dataplane::nvme::vfio::model::{Fault, Model, ModelOptions, ModelThread};
use dataplane::nvme::vfio::{Controller, ControllerOptions, ControllerState, OpenError, PciFunction, VfioQueue};
use dataplane::nvme::{AttachError, BlockDone, BlockError, BlockIo, BlockOp, BlockQueue};
use vfio_bindings::bindings::vfio::{vfio_region_info, vfio_region_sparse_mmap_area};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, Server, ServerBackend, ServerRegion, SparseArea};

const BAR0: u32 = 0;
const CONFIG: u32 = 7;
const BAR0_BYTES: u64 = 0x1000 + Model::DOORBELL_BYTES;

/// The model, as the server wants it.
struct Backend(Model);

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), io::Error> {
        match region {
            BAR0 => {
                for (word, at) in data.chunks_mut(4).zip((offset as u32..).step_by(4)) {
                    word.copy_from_slice(&self.0.read32(at).to_le_bytes()[..word.len()]);
                }
                Ok(())
            }
            CONFIG => Ok(self.0.config_read(offset as u16, data)?),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        match (region, <[u8; 4]>::try_from(data)) {
            (BAR0, Ok(word)) => self.0.write32(offset as u32, u32::from_le_bytes(word)),
            (CONFIG, _) => self.0.config_write(offset as u16, data)?,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        _flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> Result<(), io::Error> {
        let file = fd.ok_or(io::ErrorKind::InvalidInput)?;
        let region =
            map_client(file.as_fd(), offset, size, RegionSlot(0), Access::ReadWrite).map_err(io::Error::other)?;
        Ok(self.0.map(&Arc::new(region), address, size)?)
    }

    fn dma_unmap(&mut self, _flags: DmaUnmapFlags, address: u64, size: u64) -> Result<(), io::Error> {
        Ok(self.0.unmap(address, size)?)
    }

    fn reset(&mut self) -> Result<(), io::Error> {
        Ok(PciFunction::reset(&self.0)?)
    }

    fn set_irqs(&mut self, _: u32, _: u32, _: u32, _: u32, _: Vec<File>) -> Result<(), io::Error> {
        Ok(())
    }
}

fn regions(model: &Model) -> Vec<ServerRegion> {
    let doorbells = model.doorbells().region.file().unwrap().as_raw_fd();
    (0..9)
        .map(|index| {
            let size = match index {
                BAR0 => BAR0_BYTES,
                CONFIG => 64,
                _ => 0,
            };
            let sparse = vfio_region_sparse_mmap_area { offset: 0x1000, size: Model::DOORBELL_BYTES };
            let mapped = index == BAR0;
            // Readable, writable, and for BAR0: may be mapped, with capabilities.
            let flags = if mapped { 0b1111 } else { 0b0011 };
            let region_info = vfio_region_info { argsz: 32, flags, index, size, ..Default::default() };
            let sparse_areas = if mapped { vec![SparseArea { area: sparse }] } else { Vec::new() };
            ServerRegion { region_info, sparse_areas, mmap_fd: mapped.then_some(doorbells) }
        })
        .collect()
}

struct Rig {
    model: Model,
    folder: tempfile::TempDir,
    server: JoinHandle<()>,
    _work: ModelThread,
}

impl Rig {
    fn new(options: ModelOptions) -> Self {
        let model = Model::new(options).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new(&folder.path().join("cntrl"), true, Vec::new(), regions(&model)).unwrap();
        let mut backend = Backend(model.clone());
        // Ends when the driver hangs up.
        let server = std::thread::spawn(move || _ = server.run(&mut backend));
        let work = ModelThread::start(model.clone()).unwrap();
        Self { model, folder, server, _work: work }
    }

    fn open(&self) -> Controller {
        open(self.folder.path()).unwrap()
    }
}

fn open(folder: &Path) -> Result<Controller, OpenError> {
    open_with(folder, ConnectOptions::default())
}

fn open_with(folder: &Path, options: ConnectOptions) -> Result<Controller, OpenError> {
    let function = RemoteFunction::connect(folder, &options).unwrap();
    let command_timeout = Duration::from_millis(500);
    Controller::open(function, ControllerOptions { command_timeout, ..ControllerOptions::default() })
}

/// Polls, with the control side taking its turns, until `count` commands are done.
fn finish(controller: &Controller, queue: &mut VfioQueue, count: usize) -> Vec<BlockDone> {
    let begin = Instant::now();
    let mut all = Vec::new();
    while all.len() < count {
        let mut done = Burst::new();
        queue.poll(&mut done);
        all.extend(done);
        controller.service(Duration::from_millis(1));
        assert!(begin.elapsed() < Duration::from_secs(60), "{} of {count}: {:?}", all.len(), controller.status());
    }
    all
}

fn io_of(region: &Region, op: BlockOp, lba: u64, blocks: u32) -> BlockIo {
    let memory = region.slice(lba * 4096, blocks * 4096).unwrap();
    BlockIo { op, lba, blocks, memory, token: lba }
}

const WRITE: BlockOp = BlockOp::Write { fua: false };

fn shared(slot: u16) -> Arc<Region> {
    Arc::new(Region::shared(256 * 4096, RegionSlot(slot)).unwrap())
}

fn carry_out(options: ModelOptions) {
    let rig = Rig::new(options);
    let controller = rig.open();
    let mut queue = controller.namespace(1).unwrap().queue(16, 2).unwrap();
    let region = shared(0);
    queue.attach(Arc::clone(&region)).unwrap();
    for (value, (lba, blocks)) in [(0, 1), (1, 2), (3, 5), (8, 100)].into_iter().enumerate() {
        region.fill(lba * 4096, blocks as usize * 4096, value as u8 + 1).unwrap();
        queue.push(io_of(&region, WRITE, lba, blocks)).unwrap();
    }
    queue.ring();
    assert!(finish(&controller, &mut queue, 4).iter().all(|done| done.result == Ok(())));
    region.fill(0, region.bytes(), 0xEE).unwrap();
    queue.push(io_of(&region, BlockOp::Read, 3, 6)).unwrap();
    queue.ring();
    assert_eq!(finish(&controller, &mut queue, 1)[0].result, Ok(()));
    let mut seen = vec![0; 7 * 4096];
    region.read(3 * 4096, &mut seen).unwrap();
    assert!(seen[..5 * 4096].iter().all(|byte| *byte == 3) && seen[5 * 4096..6 * 4096].iter().all(|byte| *byte == 4));
    assert!(seen[6 * 4096..].iter().all(|byte| *byte == 0xEE));
    // A lost command is aborted; a failure leads to a reset.
    rig.model.inject(Fault::Lose);
    queue.push(io_of(&region, BlockOp::Read, 0, 1)).unwrap();
    queue.ring();
    assert_eq!(finish(&controller, &mut queue, 1)[0].result, Ok(()));
    rig.model.fail();
    queue.push(io_of(&region, BlockOp::Read, 0, 1)).unwrap();
    queue.ring();
    assert_eq!(finish(&controller, &mut queue, 1)[0].result, Ok(()));
    assert_eq!((controller.status().aborts, controller.status().resets), (1, 1));
    assert_eq!(controller.health().unwrap().temperature, 300);
    drop((queue, controller));
    rig.server.join().unwrap();
    assert_eq!((rig.model.violations(), rig.model.mappings()), (Vec::new(), 0));
}

#[test]
fn another_process_stands_in_for_an_ssd() {
    carry_out(ModelOptions::default());
    carry_out(ModelOptions { sgl: true, shadow_doorbells: true, ..ModelOptions::default() });
}

#[test]
fn memory_that_is_in_no_file_is_refused() {
    let rig = Rig::new(ModelOptions::default());
    let mut queue = rig.open().namespace(1).unwrap().queue(4, 1).unwrap();
    let own = Arc::new(Region::anonymous(4096, RegionSlot(0)).unwrap());
    let error = queue.attach(Arc::clone(&own)).unwrap_err();
    assert!(matches!(error, AttachError::System(_)) && error.to_string().contains("from a file"), "{error}");
    assert_eq!(Arc::strong_count(&own), 1);
}

/// A server that does something before it reads registers.
struct Hooked<F>(Backend, F);

impl<F: FnMut()> ServerBackend for Hooked<F> {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), io::Error> {
        (self.1)();
        self.0.region_read(region, offset, data)
    }
    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.region_write(region, offset, data)
    }
    fn dma_map(&mut self, f: DmaMapFlags, o: u64, a: u64, s: u64, fd: Option<File>) -> Result<(), io::Error> {
        self.0.dma_map(f, o, a, s, fd)
    }
    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> Result<(), io::Error> {
        self.0.dma_unmap(flags, address, size)
    }
    fn reset(&mut self) -> Result<(), io::Error> {
        self.0.reset()
    }
    fn set_irqs(&mut self, _: u32, _: u32, _: u32, _: u32, _: Vec<File>) -> Result<(), io::Error> {
        Ok(())
    }
}

/// A controller behind a [`Hooked`] server. Nobody works its queues.
struct HookedRig {
    folder: tempfile::TempDir,
    server: JoinHandle<()>,
    model: Model,
}

impl HookedRig {
    fn new(hook: impl FnMut() + Send + 'static) -> Self {
        let model = Model::new(ModelOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new(&folder.path().join("cntrl"), true, Vec::new(), regions(&model)).unwrap();
        let mut backend = Hooked(Backend(model.clone()), hook);
        let server = std::thread::spawn(move || _ = server.run(&mut backend));
        Self { folder, server, model }
    }
}

#[test]
fn a_process_that_dies_is_a_drive_that_was_pulled() {
    let death = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&death);
    // Unwinding closes the connection, as dying does.
    let rig = HookedRig::new(move || assert!(!told.load(Ordering::Acquire), "told to die"));
    let controller = open(rig.folder.path()).unwrap();
    let mut queue = controller.namespace(1).unwrap().queue(4, 1).unwrap();
    let region = shared(0);
    queue.attach(Arc::clone(&region)).unwrap();
    death.store(true, Ordering::Release);
    // Nobody works the queue any more.
    queue.push(io_of(&region, WRITE, 0, 1)).unwrap();
    queue.ring();
    assert_eq!(finish(&controller, &mut queue, 1)[0].result, Err(BlockError::Gone));
    assert_eq!(controller.status().state, ControllerState::Removed);
    queue.detach(RegionSlot(0)).unwrap();
    assert_eq!(Arc::strong_count(&region), 1);
    assert!(rig.server.join().is_err(), "it died");
}

#[test]
fn a_process_that_is_stopped_keeps_its_commands_until_it_ends() {
    let stopped = Arc::new((Mutex::new(false), Condvar::new()));
    let told = Arc::clone(&stopped);
    let rig = HookedRig::new(move || {
        let (stopped, goes_on) = &*told;
        drop(goes_on.wait_while(stopped.lock().unwrap(), |stopped| *stopped).unwrap());
    });
    let controller = open_with(rig.folder.path(), ConnectOptions { timeout: Duration::from_millis(300) }).unwrap();
    let mut queue = controller.namespace(1).unwrap().queue(4, 1).unwrap();
    let region = shared(0);
    queue.attach(Arc::clone(&region)).unwrap();
    queue.push(io_of(&region, BlockOp::Read, 0, 1)).unwrap();
    queue.ring();
    *stopped.0.lock().unwrap() = true;
    for _ in 0..50 {
        controller.service(Duration::from_millis(100));
        let mut done = Burst::new();
        queue.poll(&mut done);
        assert!(done.is_empty(), "it has the memory mapped, and may yet write to it: {done:?}");
    }
    assert!(matches!(controller.status().state, ControllerState::Failed(_)), "{:?}", controller.status());
    assert!(matches!(queue.detach(RegionSlot(0)), Err(AttachError::Busy(1))));
    assert!(rig.model.mappings() > 0);
    // It goes on, finds that nobody asks it anything any more, and ends.
    *stopped.0.lock().unwrap() = false;
    stopped.1.notify_all();
    assert_eq!(finish(&controller, &mut queue, 1)[0].result, Err(BlockError::Gone));
    rig.server.join().unwrap();
    queue.detach(RegionSlot(0)).unwrap();
    assert_eq!(Arc::strong_count(&region), 1);
}
