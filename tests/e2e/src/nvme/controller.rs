//! Bringing a controller up and talking to it.

use std::path::Path;

use super::{Answer, Command, Queue};
use crate::memory::Shared;
use crate::{PATIENCE, await_that};

/// Bytes of a memory page, as the controller is told.
pub const PAGE: usize = 4096;

/// Where this driver's memory begins as the controller sees it.
const IOVA: u64 = 0x1_0000_0000;
const BAR0: u32 = 0;
const CONFIG: u32 = 7;
const ADMIN_ENTRIES: u16 = 32;

/// A controller that was enabled.
pub struct Controller {
    /// The third party's end of the protocol.
    pub device: vfio_user::Client,
    /// The memory that queues and values lie in.
    pub memory: Shared,
    doorbells: Option<Shared>,
    stride: usize,
    taken: usize,
    admin: Queue,
}

impl Controller {
    /// Connects, maps memory, enables the controller with the I/O command sets it offers, and waits until it is ready.
    ///
    /// # Panics
    /// If any of it fails.
    #[must_use]
    pub fn open(socket: &Path, memory_bytes: usize) -> Self {
        Self::try_open(socket, memory_bytes).unwrap()
    }

    /// As [`open`](Self::open).
    ///
    /// # Errors
    /// If the target hangs up.
    pub fn try_open(socket: &Path, memory_bytes: usize) -> Result<Self, vfio_user::Error> {
        let mut device = vfio_user::Client::new(socket)?;
        let memory = Shared::new(memory_bytes);
        device.dma_map(0, IOVA, memory_bytes as u64, memory.fd())?;
        // PCI command register: memory space and bus master.
        device.region_write(CONFIG, 4, &0x0006u16.to_le_bytes())?;
        let mut capabilities = [0; 8];
        device.region_read(BAR0, 0, &mut capabilities)?;
        let capabilities = u64::from_le_bytes(capabilities);
        assert!(capabilities & (1 << 43) != 0, "CAP.CSS bit 6: the controller has I/O command sets");
        assert_eq!((capabilities >> 48) & 0xF, 0, "CAP.MPSMIN: 4 KiB pages");
        let stride = 4 << ((capabilities >> 32) & 0xF);
        let doorbells = map_doorbells(&device);
        let admin = Queue::new(0, ADMIN_ENTRIES, 0, PAGE);
        let mut it = Self { device, memory, doorbells, stride, taken: 2 * PAGE, admin };
        it.enable()?;
        Ok(it)
    }

    fn enable(&mut self) -> Result<(), vfio_user::Error> {
        let last = u32::from(ADMIN_ENTRIES - 1);
        self.device.region_write(BAR0, 0x24, &(last | last << 16).to_le_bytes())?;
        self.device.region_write(BAR0, 0x28, &IOVA.to_le_bytes())?;
        self.device.region_write(BAR0, 0x30, &(IOVA + PAGE as u64).to_le_bytes())?;
        // Enabled, all command sets (110b), 4 KiB pages, entries of 64 and 16 bytes.
        self.device.region_write(BAR0, 0x14, &(1u32 | 0b110 << 4 | 6 << 16 | 4 << 20).to_le_bytes())?;
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.status()? & 1 == 0 {
            assert!(std::time::Instant::now() < deadline, "CSTS.RDY does not come");
            assert_eq!(self.status()? & 2, 0, "CSTS.CFS");
        }
        Ok(())
    }

    /// CSTS.
    ///
    /// # Errors
    /// If the target hangs up.
    pub fn status(&mut self) -> Result<u32, vfio_user::Error> {
        let mut status = [0; 4];
        self.device.region_read(BAR0, 0x1C, &mut status)?;
        Ok(u32::from_le_bytes(status))
    }

    /// Takes whole pages of memory; where they begin.
    ///
    /// # Panics
    /// If there is too little left.
    pub fn allocate(&mut self, bytes: usize) -> usize {
        let at = self.taken;
        self.taken += bytes.next_multiple_of(PAGE);
        assert!(self.taken <= self.memory.len(), "the driver's memory is used up");
        at
    }

    /// The address of a place in memory as the controller sees it.
    #[must_use]
    pub fn address(&self, offset: usize) -> u64 {
        IOVA + offset as u64
    }

    /// The PRP entries for bytes at a place in memory. Longer lists than two pages take further memory for the list.
    pub fn prp(&mut self, offset: usize, bytes: usize) -> (u64, u64) {
        let first = self.address(offset);
        let covered = PAGE - offset % PAGE;
        if bytes <= covered {
            return (first, 0);
        }
        let start = offset + covered;
        let pages: Vec<u64> = (start..offset + bytes).step_by(PAGE).map(|at| self.address(at)).collect();
        if let [second] = pages[..] {
            return (first, second);
        }
        // The last entry of a full list page points to the next list page.
        let per_list = PAGE / 8;
        let lists = (pages.len() - 1).div_ceil(per_list - 1).max(1);
        let place = self.allocate(lists * PAGE);
        let mut rest = pages.as_slice();
        for list in 0..lists {
            let here = place + list * PAGE;
            let fits = if rest.len() <= per_list { rest.len() } else { per_list - 1 };
            for (index, page) in rest[..fits].iter().enumerate() {
                self.memory.write(here + 8 * index, &page.to_le_bytes());
            }
            rest = &rest[fits..];
            if !rest.is_empty() {
                self.memory.write(here + 8 * fits, &self.address(here + PAGE).to_le_bytes());
            }
        }
        (first, self.address(place))
    }

    /// Runs an admin command to its end.
    pub fn admin(&mut self, command: Command) -> Answer {
        let (cid, tail) = self.admin.push(&self.memory, command);
        self.ring(0, false, tail);
        let mut answer = None;
        await_that("an admin command completes", || {
            answer = self.admin.take(&self.memory);
            answer.is_some()
        });
        let (answer, head) = answer.expect("just awaited");
        self.ring(0, true, head);
        assert_eq!(answer.cid, cid, "the completion of another command");
        answer
    }

    /// Identify with a CNS, a command set and a namespace; the 4096 bytes.
    ///
    /// # Panics
    /// If the controller refuses.
    pub fn identify(&mut self, cns: u8, command_set: u8, namespace: u32) -> Vec<u8> {
        let (answer, bytes) = self.try_identify(cns, command_set, namespace);
        assert_eq!(answer.status, 0, "Identify {cns:#x}");
        bytes
    }

    /// As [`identify`](Self::identify), whatever the controller answers.
    pub fn try_identify(&mut self, cns: u8, command_set: u8, namespace: u32) -> (Answer, Vec<u8>) {
        let place = self.allocate(PAGE);
        let command = Command::new(0x06, namespace)
            .dword(10, cns.into())
            .dword(11, u32::from(command_set) << 24)
            .prp(self.address(place), 0);
        let answer = self.admin(command);
        let mut bytes = vec![0; PAGE];
        self.memory.read(place, &mut bytes);
        (answer, bytes)
    }

    /// Creates an I/O queue pair without interrupts.
    ///
    /// # Panics
    /// If the controller refuses.
    pub fn create_queue(&mut self, id: u16, entries: u16) -> Queue {
        self.create_queue_of(id, entries, 1)
    }

    /// Creates an I/O queue pair whose completions raise an interrupt vector.
    ///
    /// # Panics
    /// If the controller refuses.
    pub fn create_queue_with_interrupt(&mut self, id: u16, entries: u16, vector: u16) -> Queue {
        self.create_queue_of(id, entries, 0b11 | u32::from(vector) << 16)
    }

    fn create_queue_of(&mut self, id: u16, entries: u16, completion_dword11: u32) -> Queue {
        let submissions = self.allocate(usize::from(entries) * 64);
        let completions = self.allocate(usize::from(entries) * 16);
        let shape = u32::from(id) | u32::from(entries - 1) << 16;
        let create =
            Command::new(0x05, 0).dword(10, shape).dword(11, completion_dword11).prp(self.address(completions), 0);
        assert_eq!(self.admin(create).status, 0, "create I/O completion queue {id}");
        let create =
            Command::new(0x01, 0).dword(10, shape).dword(11, 1 | u32::from(id) << 16).prp(self.address(submissions), 0);
        assert_eq!(self.admin(create).status, 0, "create I/O submission queue {id}");
        Queue::new(id, entries, submissions, completions)
    }

    /// Deletes an I/O queue pair; the status of both commands.
    pub fn delete_queue(&mut self, queue: &Queue) -> (u16, u16) {
        let submission = self.admin(Command::new(0x00, 0).dword(10, queue.id.into())).status;
        let completion = self.admin(Command::new(0x04, 0).dword(10, queue.id.into())).status;
        (submission, completion)
    }

    /// Puts a command into a queue and rings the doorbell; its identifier.
    pub fn submit(&mut self, queue: &mut Queue, command: Command) -> u16 {
        let (cid, tail) = queue.push(&self.memory, command);
        self.ring(queue.id, false, tail);
        cid
    }

    /// The next completion of a queue, if there is one.
    pub fn poll(&mut self, queue: &mut Queue) -> Option<Answer> {
        let (answer, head) = queue.take(&self.memory)?;
        self.ring(queue.id, true, head);
        Some(answer)
    }

    /// Runs a command to its end.
    pub fn run(&mut self, queue: &mut Queue, command: Command) -> Answer {
        let cid = self.submit(queue, command);
        let mut answer = None;
        await_that("a command completes", || {
            answer = self.poll(queue);
            answer.is_some()
        });
        let answer = answer.expect("just awaited");
        assert_eq!(answer.cid, cid, "the completion of another command");
        answer
    }

    /// Writes a doorbell: in shared memory if the controller offers that, by message otherwise.
    pub fn ring(&mut self, queue: u16, completion: bool, value: u16) {
        let at = (2 * usize::from(queue) + usize::from(completion)) * self.stride;
        match &self.doorbells {
            Some(doorbells) => doorbells.store(at, value.into()),
            None => {
                let value = u32::from(value).to_le_bytes();
                self.device.region_write(BAR0, 0x1000 + at as u64, &value).unwrap();
            }
        }
    }

    /// Writes any word into any doorbell.
    ///
    /// # Panics
    /// If the controller offers no doorbells in shared memory.
    pub fn ring_wildly(&mut self, word: usize, value: u32) {
        let doorbells = self.doorbells.as_ref().expect("doorbells in shared memory");
        doorbells.store(4 * (word % (doorbells.len() / 4)), value);
    }
}

/// The doorbells in shared memory, if the controller offers them.
fn map_doorbells(device: &vfio_user::Client) -> Option<Shared> {
    let bar = device.region(BAR0)?;
    let file = bar.file_offset.as_ref()?;
    let area = bar.sparse_areas.iter().find(|area| area.offset == 0x1000)?;
    let bytes = usize::try_from(area.size).unwrap();
    Some(Shared::map(file.file().try_clone().unwrap(), file.start() + area.offset, bytes))
}
