//! An NVMe controller in this process for drivers in others: the software model behind the server of the crate `vfio_user`,
//! which nobody here wrote.
//!
//! It outlives the driver's process, as a drive does: when a driver hangs up, the controller is reset and loses sight of
//! the driver's memory, which for a drive is the kernel's doing, and the next driver may come.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use dataplane::memory::{Access, RegionSlot, map_client};
use dataplane::nvme::vfio::PciFunction;
use dataplane::nvme::vfio::model::{Model, ModelOptions, ModelThread};
use tempfile::TempDir;
use vfio_bindings::bindings::vfio::{vfio_region_info, vfio_region_sparse_mmap_area};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, Server, ServerBackend, ServerRegion, SparseArea};

const BAR0: u32 = 0;
const CONFIG: u32 = 7;
const BAR0_BYTES: u64 = 0x1000 + Model::DOORBELL_BYTES;

/// The model, as the server wants it.
struct Backend {
    model: Model,
    most: Arc<AtomicUsize>,
    death: Arc<AtomicBool>,
    frozen: Arc<(Mutex<bool>, Condvar)>,
    /// What the driver mapped: address and length.
    mapped: Vec<(u64, u64)>,
}

impl Backend {
    /// The driver is gone.
    fn hang_up(&mut self) {
        self.model.set_bus_master(false).unwrap();
        PciFunction::reset(&self.model).unwrap();
        for (address, bytes) in self.mapped.drain(..) {
            self.model.unmap(address, bytes).unwrap();
        }
    }
}

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), io::Error> {
        if self.death.load(Ordering::Acquire) {
            // Unwinding closes the connection, as dying does.
            resume_unwind(Box::new("told to die"));
        }
        let (frozen, thawed) = &*self.frozen;
        drop(thawed.wait_while(frozen.lock().unwrap(), |frozen| *frozen).unwrap());
        match region {
            BAR0 => {
                for (word, at) in data.chunks_mut(4).zip((offset as u32..).step_by(4)) {
                    word.copy_from_slice(&self.model.read32(at).to_le_bytes()[..word.len()]);
                }
                Ok(())
            }
            CONFIG => Ok(self.model.config_read(offset as u16, data)?),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        match (region, <[u8; 4]>::try_from(data)) {
            (BAR0, Ok(word)) => self.model.write32(offset as u32, u32::from_le_bytes(word)),
            (CONFIG, _) => self.model.config_write(offset as u16, data)?,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> Result<(), io::Error> {
        let file = fd.ok_or(io::ErrorKind::InvalidInput)?;
        if self.mapped.len() >= self.most.load(Ordering::Acquire) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let writable = flags.contains(DmaMapFlags::WRITE);
        let access = if writable { Access::ReadWrite } else { Access::Read };
        let region = map_client(file.as_fd(), offset, size, RegionSlot(0), access).map_err(io::Error::other)?;
        self.model.map(&Arc::new(region), address, size)?;
        self.mapped.push((address, size));
        Ok(())
    }

    fn dma_unmap(&mut self, _flags: DmaUnmapFlags, address: u64, size: u64) -> Result<(), io::Error> {
        self.mapped.retain(|known| *known != (address, size));
        Ok(self.model.unmap(address, size)?)
    }

    fn reset(&mut self) -> Result<(), io::Error> {
        Ok(PciFunction::reset(&self.model)?)
    }

    fn set_irqs(&mut self, _: u32, _: u32, _: u32, _: u32, _: Vec<File>) -> Result<(), io::Error> {
        Ok(())
    }
}

fn regions(model: &Model) -> Vec<ServerRegion> {
    let doorbells = model.doorbells().region.file().unwrap().0.as_raw_fd();
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

/// A controller that drivers may come to, one after the other.
#[derive(Debug)]
pub struct NvmeTarget {
    /// The controller, to look at and to harm.
    pub model: Model,
    folder: TempDir,
    most: Arc<AtomicUsize>,
    death: Arc<AtomicBool>,
    frozen: Arc<(Mutex<bool>, Condvar)>,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
    _work: ModelThread,
}

impl NvmeTarget {
    /// Starts it.
    #[must_use]
    pub fn start(options: ModelOptions) -> Self {
        let model = Model::new(options).unwrap();
        let folder = tempfile::Builder::new().prefix("kvn").tempdir().unwrap();
        let server = Server::new(&folder.path().join("cntrl"), true, Vec::new(), regions(&model)).unwrap();
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(usize::MAX)));
        let (stopped, death) = (Arc::clone(&stop), Arc::new(AtomicBool::new(false)));
        let frozen = Arc::new((Mutex::new(false), Condvar::new()));
        let mut backend = Backend {
            model: model.clone(),
            most: Arc::clone(&most),
            death: Arc::clone(&death),
            frozen: Arc::clone(&frozen),
            mapped: Vec::new(),
        };
        let serve = move || {
            while !stopped.load(Ordering::Acquire) {
                // However the driver ended: by hanging up, or cut off in the middle of a message.
                let died = catch_unwind(AssertUnwindSafe(|| server.run(&mut backend))).is_err();
                if died {
                    return backend.model.remove();
                }
                backend.hang_up();
            }
        };
        let server = Some(std::thread::spawn(serve));
        let work = ModelThread::start(model.clone()).unwrap();
        Self { model, folder, most, death, frozen, stop, server, _work: work }
    }

    /// The folder of its socket.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends as a process does that is killed: the driver sees the connection closed when it next asks for something.
    pub fn die(&self) {
        self.death.store(true, Ordering::Release);
    }

    /// Answers nothing more until [`thaw`](Self::thaw), as a process does that was stopped. Its queues are worked on.
    pub fn freeze(&self) {
        *self.frozen.0.lock().unwrap() = true;
    }

    /// Goes on where it was.
    pub fn thaw(&self) {
        *self.frozen.0.lock().unwrap() = false;
        self.frozen.1.notify_all();
    }

    /// Refuses to be shown more than so many regions of memory from now on.
    pub fn limit_mappings(&self, most: usize) {
        self.most.store(most, Ordering::Release);
    }
}

impl Drop for NvmeTarget {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.thaw();
        // A server that waits for a driver sees the flag after this one; one that has a driver, after that.
        let waker = UnixStream::connect(self.folder.path().join("cntrl"));
        drop(waker);
        if let Some(server) = self.server.take()
            && !std::thread::panicking()
        {
            server.join().unwrap();
        }
    }
}
