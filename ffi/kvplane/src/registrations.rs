//! The table of memory that a client registered.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::memory::MemoryId;
use crate::transport::Mapping;
use crate::{Buffer, Memory, SubmitError};

/// Serial numbers of registrations, so that a buffer of another client or of memory long gone is told apart.
static NEXT_SERIAL: AtomicU32 = AtomicU32::new(1);

/// The most registrations of a client.
const MAX: usize = 4096;

pub(crate) struct Entry {
    pub mapping: Mapping,
    pub memory: Memory,
    /// Commands in flight that name it.
    pub in_flight: u32,
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
        let index = self.entries.iter().position(Option::is_none).unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        let id = MemoryId { index: index as u16, serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed) };
        let memory = Memory { region: mapping.region.clone(), id };
        self.entries[index] = Some(Entry { mapping, memory: memory.clone(), in_flight: 0 });
        memory
    }

    pub fn get(&self, id: MemoryId) -> Option<&Entry> {
        self.entries.get(usize::from(id.index))?.as_ref().filter(|entry| entry.memory.id == id)
    }

    fn get_mut(&mut self, id: MemoryId) -> Option<&mut Entry> {
        self.entries.get_mut(usize::from(id.index))?.as_mut().filter(|entry| entry.memory.id == id)
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
        Ok(entry.mapping.iova + buffer.offset)
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
