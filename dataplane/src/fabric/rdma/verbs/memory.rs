//! Memory that a device may address.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use super::abi::{self, access};
use super::{Domain, VerbsError};
use crate::memory::{DmaSlice, Region};

/// What a registration lets peers do. The device itself may read it, and write to it if it is writable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: for memory that only this side's own work requests name.
    Local,
    /// Read it and write to it, by its remote key.
    Remote,
}

/// Bytes of registered memory, as a work request names them. Plain data: the device checks it against the
/// registration, and a work request whose registration is gone fails and takes its queue pair along.
#[derive(Clone, Copy, Debug, Default)]
pub struct Piece(pub(super) abi::Sge);

impl Piece {
    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.0.length
    }
}

#[cfg(test)]
impl Piece {
    /// Bytes that a device in a test reaches.
    pub(crate) fn at(address: u64, bytes: u32) -> Self {
        Self(abi::Sge { addr: address, length: bytes, lkey: 0 })
    }
}

/// A registration of memory with a protection domain. The memory stays mapped until it is dropped.
///
/// This is what makes posting work requests safe: a device reaches registered memory only, and that is kept alive.
#[derive(Debug)]
pub struct RegisteredMemory {
    domain: Arc<Domain>,
    mr: NonNull<abi::Mr>,
    address: u64,
    bytes: u64,
    keys: (u32, u32),
    /// What is kept alive.
    _memory: Backing,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held, not used")]
enum Backing {
    Region(Arc<Region>),
    DmaBuf(OwnedFd),
}

// SAFETY: libibverbs lets any thread use a registration.
unsafe impl Send for RegisteredMemory {}
// SAFETY: as above.
unsafe impl Sync for RegisteredMemory {}

impl RegisteredMemory {
    /// Registers a region. Pins its pages, which takes milliseconds.
    ///
    /// # Errors
    /// What the device said; most likely that the limit of locked memory is reached.
    pub fn new(domain: &Arc<Domain>, region: &Arc<Region>, permitted: Access) -> Result<Self, VerbsError> {
        if permitted == Access::Remote && !region.writable() {
            return Err(VerbsError::Unsupported("memory that peers may write to must be writable here"));
        }
        let local = if region.writable() { access::LOCAL_WRITE } else { 0 };
        let (base, bytes) = (region.base(), region.bytes());
        // SAFETY: the range is a mapping that the region keeps, which this registration keeps. Nothing of Rust's is
        // behind a reference there, so a device may write to it.
        let mr = unsafe {
            (domain.device().library.ibv_reg_mr)(
                domain.pd.as_ptr(),
                base as *mut _,
                bytes,
                (local | remote(permitted)) as i32,
            )
        };
        let made = NonNull::new(mr).ok_or_else(|| VerbsError::last("register memory with an RDMA device"))?;
        Ok(Self::take(domain, made, (base, bytes as u64), Backing::Region(Arc::clone(region))))
    }

    /// Registers memory behind a DMA buffer, such as a GPU's: `bytes` from `offset` on, which work requests and peers
    /// name from `address` on. The processor cannot see it.
    ///
    /// # Errors
    /// [`VerbsError::Unsupported`] if the library is too old, otherwise what the device said.
    pub fn dma_buf(
        domain: &Arc<Domain>,
        buffer: OwnedFd,
        (offset, bytes): (u64, usize),
        address: u64,
        permitted: Access,
    ) -> Result<Self, VerbsError> {
        let register =
            domain.device().library.ibv_reg_dmabuf_mr.ok_or(VerbsError::Unsupported(
                "this libibverbs cannot register DMA buffers; rdma-core 34 or newer can",
            ))?;
        let wanted = (access::LOCAL_WRITE | remote(permitted)) as i32;
        // SAFETY: a descriptor that is ours and that the registration keeps; the kernel checks the range against it.
        let mr = unsafe { register(domain.pd.as_ptr(), offset, bytes, address, buffer.as_raw_fd(), wanted) };
        let made = NonNull::new(mr).ok_or_else(|| VerbsError::last("register a DMA buffer with an RDMA device"))?;
        Ok(Self::take(domain, made, (address, bytes as u64), Backing::DmaBuf(buffer)))
    }

    fn take(domain: &Arc<Domain>, mr: NonNull<abi::Mr>, (address, bytes): (u64, u64), memory: Backing) -> Self {
        // SAFETY: the library just made it and does not change its keys.
        let keys = unsafe { ((*mr.as_ptr()).lkey, (*mr.as_ptr()).rkey) };
        Self { domain: Arc::clone(domain), mr, address, bytes, keys, _memory: memory }
    }

    /// The address by which peers name its first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The key by which peers name it.
    #[must_use]
    pub fn remote_key(&self) -> u32 {
        self.keys.1
    }

    /// `bytes` bytes from `offset` on; `None` if they do not lie inside.
    #[inline]
    #[must_use]
    pub fn piece(&self, offset: u64, bytes: u32) -> Option<Piece> {
        let end = offset.checked_add(u64::from(bytes))?;
        let piece = abi::Sge { addr: self.address + offset, length: bytes, lkey: self.keys.0 };
        (end <= self.bytes).then_some(Piece(piece))
    }

    /// The bytes of a slice of the region; `None` if they do not lie inside.
    #[inline]
    #[must_use]
    pub fn piece_of(&self, slice: DmaSlice) -> Option<Piece> {
        self.piece(slice.address().checked_sub(self.address)?, slice.bytes())
    }
}

fn remote(permitted: Access) -> u32 {
    match permitted {
        Access::Local => 0,
        Access::Remote => access::REMOTE_READ | access::REMOTE_WRITE,
    }
}

impl Drop for RegisteredMemory {
    fn drop(&mut self) {
        // SAFETY: made by the library, dropped once. The memory goes after it, so the device never reaches what is
        // unmapped.
        let code = unsafe { (self.domain.device().library.ibv_dereg_mr)(self.mr.as_ptr()) };
        // Of a device that was removed the kernel has let go by itself, and says so.
        debug_assert!(
            matches!(code, 0 | libc::EIO),
            "nothing but memory windows, which are not used, can hold it: {code}"
        );
    }
}
