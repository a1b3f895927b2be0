//! The table of memory that a client registered.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::memory::MemoryId;
use crate::transport::{Carrier, Mapping, Transport};
use crate::{Buffer, DeviceMemory, DmaBuf, Error, Memory, SubmitError};

/// Serial numbers of registrations, so that a buffer of another client or of memory long gone is told apart.
static NEXT_SERIAL: AtomicU32 = AtomicU32::new(1);

/// The most registrations of a client.
const MAX: usize = 4096;

/// What is registered.
enum Registered {
    /// Memory of this process.
    Own(Mapping, Memory),
    /// Memory of a device, and the address by which the target knows its first byte.
    Device(DmaBuf, u64),
}

pub(crate) struct Entry {
    registered: Registered,
    id: MemoryId,
    /// Commands in flight that name it.
    pub in_flight: u32,
}

impl Entry {
    /// The memory, if this process can see it.
    pub fn memory(&self) -> Result<&Memory, SubmitError> {
        match &self.registered {
            Registered::Own(_, memory) => Ok(memory),
            Registered::Device(..) => Err(SubmitError::DeviceMemory),
        }
    }

    fn iova(&self) -> u64 {
        match &self.registered {
            Registered::Own(mapping, _) => mapping.iova,
            Registered::Device(_, iova) => *iova,
        }
    }

    /// Makes it known to the target of a new connection.
    pub fn register_again(&mut self, link: &mut Carrier) -> Result<(), Error> {
        match &mut self.registered {
            Registered::Own(mapping, _) => link.register_again(mapping),
            Registered::Device(buffer, iova) => link.register_dma_buf(buffer).map(|new| *iova = new),
        }
    }

    /// Takes it away from the target.
    pub fn unregister(&self, link: &mut Carrier) -> Result<(), Error> {
        match &self.registered {
            Registered::Own(mapping, _) => link.unregister(mapping),
            Registered::Device(_, iova) => link.unregister_dma_buf(*iova),
        }
    }
}

#[derive(Default)]
pub(crate) struct Registrations {
    entries: Vec<Option<Entry>>,
}

impl Registrations {
    /// Whether there is room for one more.
    pub fn has_room(&self) -> bool {
        self.entries.len() < MAX || self.entries.iter().any(Option::is_none)
    }

    pub fn add(&mut self, mapping: Mapping) -> Memory {
        let id = self.free_place();
        let memory = Memory { region: mapping.region.clone(), id };
        self.enter(id, Registered::Own(mapping, memory.clone()));
        memory
    }

    /// Adds memory of a device that the target knows by that address.
    pub fn add_device(&mut self, buffer: DmaBuf, iova: u64) -> DeviceMemory {
        let memory = DeviceMemory { bytes: buffer.bytes as u64, id: self.free_place() };
        self.enter(memory.id, Registered::Device(buffer, iova));
        memory
    }

    fn free_place(&mut self) -> MemoryId {
        let index = self.entries.iter().position(Option::is_none).unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        MemoryId { index: index as u16, serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed) }
    }

    fn enter(&mut self, id: MemoryId, registered: Registered) {
        self.entries[usize::from(id.index)] = Some(Entry { registered, id, in_flight: 0 });
    }

    pub fn get(&self, id: MemoryId) -> Option<&Entry> {
        self.entries.get(usize::from(id.index))?.as_ref().filter(|entry| entry.id == id)
    }

    fn get_mut(&mut self, id: MemoryId) -> Option<&mut Entry> {
        self.entries.get_mut(usize::from(id.index))?.as_mut().filter(|entry| entry.id == id)
    }

    pub fn remove(&mut self, id: MemoryId) -> Option<Entry> {
        self.get(id)?;
        self.entries[usize::from(id.index)].take()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().flatten()
    }

    /// The address by which the target knows a buffer.
    pub fn address(&self, buffer: &Buffer) -> Result<u64, SubmitError> {
        let entry = self.get(buffer.memory).ok_or(SubmitError::UnknownBuffer)?;
        Ok(entry.iova() + buffer.offset)
    }

    /// Notes that a command in flight names the memory.
    pub fn hold(&mut self, id: MemoryId) {
        if let Some(entry) = self.get_mut(id) {
            entry.in_flight += 1;
        }
    }

    /// Notes that the command has ended.
    pub fn let_go(&mut self, id: MemoryId) {
        if let Some(entry) = self.get_mut(id) {
            entry.in_flight -= 1;
        }
    }
}
