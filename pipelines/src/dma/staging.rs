//! Staging buffers for what the device cannot move straight to or from the client: memory that is not aligned, and
//! the last, partial block of a value. The only place on the request path where the CPU touches a value.

use dataplane::fabric::Fabric;
use dataplane::memory::{ArenaBuffer, DmaSlice};
use dataplane::nvme::spec::Status;

/// Bytes of one staging buffer.
pub const STAGING_BYTES: u32 = 64 * 1024;

/// The memory that a core sets aside for staging.
pub struct StagingBuffers {
    buffers: Vec<ArenaBuffer>,
}

impl StagingBuffers {
    /// Takes over buffers of [`STAGING_BYTES`] each (32,767 at most; more are left unused).
    #[must_use]
    pub fn new(mut buffers: Vec<ArenaBuffer>) -> Self {
        buffers.truncate(MAX_BUFFERS);
        Self { buffers }
    }
}

const MAX_BUFFERS: usize = 0x7FFF;

/// Names a staging buffer in use; its number plus one fits 15 bits of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StagingId(pub(super) u16);

struct Buffer<D> {
    memory: ArenaBuffer,
    /// For a load: where in the client's memory the bytes go, and how many.
    target: Option<(D, u32)>,
}

/// The staging buffers of one core.
pub struct Staging<D> {
    buffers: Vec<Buffer<D>>,
    free: Vec<u16>,
    /// The CPU's side of a copy. Staging memory is shared with the device, so no reference into it is ever made.
    bounce: Box<[u8]>,
    staged_bytes: u64,
}

impl<D: Clone> Staging<D> {
    pub(super) fn new(memory: StagingBuffers) -> Self {
        let buffers: Vec<_> = memory.buffers.into_iter().map(|memory| Buffer { memory, target: None }).collect();
        let free = (0..buffers.len() as u16).rev().collect();
        Self { buffers, free, bounce: vec![0; STAGING_BYTES as usize].into_boxed_slice(), staged_bytes: 0 }
    }

    pub(super) fn staged_bytes(&self) -> u64 {
        self.staged_bytes
    }

    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Takes a buffer for a load of `bytes` that shall go where `target` stands, and names its first `padded`
    /// bytes for the device.
    pub(super) fn for_load(&mut self, target: D, bytes: u32, padded: u32) -> Option<(StagingId, DmaSlice)> {
        let index = self.free.pop()?;
        let buffer = &mut self.buffers[usize::from(index)];
        let Some(slice) = buffer.memory.sub(0, padded) else {
            self.free.push(index);
            return None;
        };
        buffer.target = Some((target, bytes));
        Some((StagingId(index), slice))
    }

    /// Takes a buffer and copies `bytes` of the client's memory into it, padded with zeros.
    pub(super) fn for_save<F: Fabric<Data = D>>(
        &mut self,
        source: &mut D,
        bytes: u32,
        padded: u32,
        fabric: &mut F,
    ) -> Result<Option<(StagingId, DmaSlice)>, Status> {
        let Some(index) = self.free.pop() else { return Ok(None) };
        let buffer = &mut self.buffers[usize::from(index)];
        let Some(slice) = buffer.memory.sub(0, padded) else {
            self.free.push(index);
            return Err(Status::INTERNAL_ERROR);
        };
        let bounce = &mut self.bounce[..padded as usize];
        bounce[bytes as usize..].fill(0);
        let copied = fabric
            .copy_from_client(source, &mut bounce[..bytes as usize])
            .and_then(|()| buffer.memory.write(0, bounce).ok_or(Status::INTERNAL_ERROR));
        if let Err(status) = copied {
            self.free.push(index);
            return Err(status);
        }
        self.staged_bytes += u64::from(bytes);
        Ok(Some((StagingId(index), slice)))
    }

    /// Gives a buffer back; for a load that went well (`moved`), after copying its bytes to the client.
    pub(super) fn finish<F: Fabric<Data = D>>(
        &mut self,
        id: StagingId,
        moved: bool,
        fabric: &mut F,
    ) -> Result<(), Status> {
        let Some(buffer) = self.buffers.get_mut(usize::from(id.0)) else { return Err(Status::INTERNAL_ERROR) };
        self.free.push(id.0);
        match buffer.target.take() {
            Some((mut target, bytes)) if moved => {
                let bounce = &mut self.bounce[..bytes as usize];
                buffer.memory.read(0, bounce).ok_or(Status::INTERNAL_ERROR)?;
                self.staged_bytes += u64::from(bytes);
                fabric.copy_to_client(&mut target, bounce)
            }
            _ => Ok(()),
        }
    }
}
