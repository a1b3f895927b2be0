//! Shared memory as a foreign client has it.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::AtomicU32;

/// An anonymous file without seals.
pub fn memfd(bytes: u64) -> File {
    // SAFETY: the name is a C string, the descriptor is ours alone.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"client".as_ptr(), libc::MFD_CLOEXEC)) };
    file.set_len(bytes).unwrap();
    file
}

pub struct Mapping {
    base: *mut u8,
    bytes: u64,
}

// SAFETY: only an address; every access is checked and copies.
unsafe impl Send for Mapping {}

impl Mapping {
    pub fn new(file: &File, offset: u64, bytes: u64) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping touches nothing that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes as usize,
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        assert_ne!(base, libc::MAP_FAILED);
        Self { base: base.cast(), bytes }
    }

    pub fn read(&self, offset: u64, into: &mut [u8]) {
        assert!(offset + into.len() as u64 <= self.bytes);
        // SAFETY: inside the mapping, and the target is exclusive.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(offset as usize), into.as_mut_ptr(), into.len()) };
    }

    pub fn write(&self, offset: u64, from: &[u8]) {
        assert!(offset + from.len() as u64 <= self.bytes);
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.base.add(offset as usize), from.len()) };
    }

    pub fn word32(&self, offset: u64) -> &AtomicU32 {
        assert!(offset + 4 <= self.bytes && offset.is_multiple_of(4));
        // SAFETY: inside the mapping and aligned.
        unsafe { AtomicU32::from_ptr(self.base.add(offset as usize).cast()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` and nowhere else unmapped.
        unsafe { libc::munmap(self.base.cast(), self.bytes as usize) };
    }
}
