//! Memory of another device, such as a GPU, that the network card reads and writes without a copy in this process's memory.

use std::os::fd::OwnedFd;

use crate::Buffer;
use crate::memory::{MemoryId, OutOfRange};

/// Memory of a device as its driver exports it: for CUDA by `cuMemGetHandleForAddressRange` with
/// `CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD`, for ROCm by `hsa_amd_portable_export_dmabuf`.
#[derive(Debug)]
pub struct DmaBuf {
    /// The DMA buffer.
    pub file: OwnedFd,
    /// Where in it the memory begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub bytes: usize,
}

/// A device's memory that is registered with the target, made by
/// [`Client::register_dma_buf`](crate::Client::register_dma_buf). Commands move values to and from it as with
/// [`Memory`](crate::Memory), but this process cannot see them: checksums and lists of keys need memory that it can see.
#[derive(Clone, Debug)]
pub struct DeviceMemory {
    pub(crate) bytes: u64,
    pub(crate) id: MemoryId,
}

impl DeviceMemory {
    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether it has no bytes. It always has some.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// A buffer of `bytes` bytes at `offset`.
    ///
    /// # Errors
    /// [`OutOfRange`] if it does not lie inside.
    pub fn slice(&self, offset: u64, bytes: u32) -> Result<Buffer, OutOfRange> {
        if offset.checked_add(u64::from(bytes)).is_none_or(|end| end > self.bytes) {
            return Err(OutOfRange { offset, bytes: u64::from(bytes), size: self.bytes });
        }
        Ok(Buffer { memory: self.id, offset, bytes })
    }
}
