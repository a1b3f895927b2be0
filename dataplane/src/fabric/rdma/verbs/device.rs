//! RDMA devices, and protection domains on them.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use super::VerbsError;
use super::abi::{Context, ContextOps, DeviceAttr, Pd};
use super::library::Library;

/// An RDMA device that librdmacm has opened. Plain data: the device stays open until the process ends.
#[derive(Clone, Copy)]
pub struct Device {
    pub(super) library: &'static Library,
    pub(super) context: NonNull<Context>,
    limits: DeviceLimits,
}

// SAFETY: libibverbs lets any thread use a context, which stays open for good (see `of`).
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        self.context == other.context
    }
}

impl Eq for Device {}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// How much a device takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Work requests of a queue pair.
    pub queue_entries: u32,
    /// Entries of a completion queue.
    pub completion_entries: u32,
    /// Entries of a shared receive queue.
    pub shared_receives: u32,
    /// Pieces of memory in a work request.
    pub pieces: u32,
    /// READs that a queue pair answers at the same time.
    pub reads_answered: u8,
    /// READs that a queue pair has under way at the same time.
    pub reads_under_way: u8,
}

/// Contexts that a list of librdmacm holds open for good.
static HELD: Mutex<Vec<usize>> = Mutex::new(Vec::new());

impl Device {
    /// The device of a context that librdmacm gave.
    ///
    /// # Safety
    /// `context` must be one that librdmacm has open at this moment.
    pub(super) unsafe fn of(library: &'static Library, context: NonNull<Context>) -> Result<Self, VerbsError> {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.contains(&(context.as_ptr() as usize)) {
            let mut count = 0;
            // SAFETY: `count` is ours. The list holds its devices open until it is freed (rdma_get_devices(3)), which
            // never happens.
            let list = unsafe { (library.rdma_get_devices)(&raw mut count) };
            if list.is_null() {
                return Err(VerbsError::last("list the RDMA devices"));
            }
            for index in 0..usize::try_from(count).unwrap_or(0) {
                // SAFETY: the list has `count` entries.
                let context = unsafe { *list.add(index) } as usize;
                if !held.contains(&context) {
                    held.push(context);
                }
            }
            if !held.contains(&(context.as_ptr() as usize)) {
                return Err(VerbsError::Unsupported("the RDMA device was just removed"));
            }
        }
        drop(held);
        Ok(Self { library, context, limits: limits(library, context)? })
    }

    /// How much it takes.
    #[must_use]
    pub fn limits(&self) -> DeviceLimits {
        self.limits
    }

    /// Whether it is still there: one that was removed answers nothing any more. A system call.
    #[must_use]
    pub fn is_there(&self) -> bool {
        limits(self.library, self.context).is_ok()
    }

    /// The calls that go through the context.
    pub(super) fn ops(&self) -> &ContextOps {
        // SAFETY: the context stays open and its table of calls does not change once it is open.
        unsafe { &(*self.context.as_ptr()).ops }
    }
}

fn limits(library: &Library, context: NonNull<Context>) -> Result<DeviceLimits, VerbsError> {
    let mut attr = MaybeUninit::<DeviceAttr>::zeroed();
    // SAFETY: an open context, and room for the answer.
    let code = unsafe { (library.ibv_query_device)(context.as_ptr(), attr.as_mut_ptr()) };
    if code != 0 {
        return Err(VerbsError::code("ask an RDMA device for its limits", code));
    }
    // SAFETY: every bit pattern is a valid structure of numbers, and it was zeroed.
    let attr = unsafe { attr.assume_init() };
    let count = |number: i32| u32::try_from(number).unwrap_or(0);
    let reads = |number: i32| count(number).min(u32::from(u8::MAX)) as u8;
    let shared = attr.max_srq > 0;
    Ok(DeviceLimits {
        queue_entries: count(attr.max_qp_wr),
        completion_entries: count(attr.max_cqe),
        shared_receives: if shared { count(attr.max_srq_wr) } else { 0 },
        pieces: count(if shared { attr.max_sge.min(attr.max_srq_sge) } else { attr.max_sge }),
        reads_answered: reads(attr.max_qp_rd_atom),
        reads_under_way: reads(attr.max_qp_init_rd_atom),
    })
}

/// A protection domain: queue pairs reach only memory that is registered with theirs.
#[derive(Debug)]
pub struct Domain {
    device: Device,
    pub(super) pd: NonNull<Pd>,
}

// SAFETY: libibverbs lets any thread use a protection domain.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Domain {
    /// A new one on a device.
    ///
    /// # Errors
    /// What the device said.
    pub fn new(device: Device) -> Result<Arc<Self>, VerbsError> {
        // SAFETY: an open context.
        let pd = NonNull::new(unsafe { (device.library.ibv_alloc_pd)(device.context.as_ptr()) });
        let pd = pd.ok_or_else(|| VerbsError::last("make a protection domain"))?;
        Ok(Arc::new(Self { device, pd }))
    }

    /// The device it is on.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: made by `new`; whatever was made in it holds it alive, so nothing is left in it.
        unsafe { (self.device.library.ibv_dealloc_pd)(self.pd.as_ptr()) };
    }
}
