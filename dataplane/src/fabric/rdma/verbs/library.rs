//! libibverbs and librdmacm, opened when they are first needed, so that neither building nor starting the daemon needs
//! them.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use super::abi::{
    CmEvent, CmId, CompChannel, ConnParam, Context, Cq, DeviceAttr, EventChannel, Mr, Pd, Qp, QpAttr, QpInitAttr, Srq,
    SrqInitAttr,
};

/// The libraries are not there, or lack something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("RDMA needs the libraries of rdma-core ({reason}); install them (Debian: ibverbs-providers librdmacm1)")]
pub struct NoLibrary {
    /// What the loader said.
    pub reason: String,
}

macro_rules! functions {
    (required { $($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)+ }
     optional { $($optional:ident: fn($($of_optional:ty),*) -> $gives:ty;)+ }) => {
        /// The functions of both libraries that are used here.
        pub struct Library {
            $(pub $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)+
            $(pub $optional: Option<unsafe extern "C" fn($($of_optional),*) -> $gives>,)+
        }

        impl Library {
            fn open() -> Result<Self, NoLibrary> {
                let verbs = open(c"libibverbs.so.1")?;
                let cm = open(c"librdmacm.so.1")?;
                let name = |text: &'static str| {
                    let name = CStr::from_bytes_with_nul(text.as_bytes()).unwrap_or(c"");
                    find(if text.starts_with("rdma_") { cm } else { verbs }, name)
                };
                Ok(Self {
                    $($name: {
                        let found = name(concat!(stringify!($name), "\0"))?;
                        // SAFETY: the library's symbol of this name is a function of this signature (abi.rs says of
                        // which version), and it is not null.
                        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(found) }
                    },)+
                    $($optional: name(concat!(stringify!($optional), "\0")).ok().map(|found| {
                        // SAFETY: as above.
                        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($of_optional),*) -> $gives>(found) }
                    }),)+
                })
            }
        }
    };
}

functions! {
    required {
        ibv_query_device: fn(*mut Context, *mut DeviceAttr) -> c_int;
        ibv_alloc_pd: fn(*mut Context) -> *mut Pd;
        ibv_dealloc_pd: fn(*mut Pd) -> c_int;
        ibv_reg_mr: fn(*mut Pd, *mut c_void, usize, c_int) -> *mut Mr;
        ibv_dereg_mr: fn(*mut Mr) -> c_int;
        ibv_create_comp_channel: fn(*mut Context) -> *mut CompChannel;
        ibv_destroy_comp_channel: fn(*mut CompChannel) -> c_int;
        ibv_get_cq_event: fn(*mut CompChannel, *mut *mut Cq, *mut *mut c_void) -> c_int;
        ibv_ack_cq_events: fn(*mut Cq, u32);
        ibv_create_cq: fn(*mut Context, c_int, *mut c_void, *mut CompChannel, c_int) -> *mut Cq;
        ibv_destroy_cq: fn(*mut Cq) -> c_int;
        ibv_create_srq: fn(*mut Pd, *mut SrqInitAttr) -> *mut Srq;
        ibv_destroy_srq: fn(*mut Srq) -> c_int;
        ibv_modify_qp: fn(*mut Qp, *mut QpAttr, c_int) -> c_int;
        ibv_wc_status_str: fn(u32) -> *const c_char;
        rdma_get_devices: fn(*mut c_int) -> *mut *mut Context;
        rdma_create_event_channel: fn() -> *mut EventChannel;
        rdma_destroy_event_channel: fn(*mut EventChannel);
        rdma_create_id: fn(*mut EventChannel, *mut *mut CmId, *mut c_void, u32) -> c_int;
        rdma_destroy_id: fn(*mut CmId) -> c_int;
        rdma_set_option: fn(*mut CmId, c_int, c_int, *mut c_void, usize) -> c_int;
        rdma_bind_addr: fn(*mut CmId, *mut libc::sockaddr) -> c_int;
        rdma_listen: fn(*mut CmId, c_int) -> c_int;
        rdma_resolve_addr: fn(*mut CmId, *mut libc::sockaddr, *mut libc::sockaddr, c_int) -> c_int;
        rdma_resolve_route: fn(*mut CmId, c_int) -> c_int;
        rdma_create_qp: fn(*mut CmId, *mut Pd, *mut QpInitAttr) -> c_int;
        rdma_destroy_qp: fn(*mut CmId);
        rdma_connect: fn(*mut CmId, *mut ConnParam) -> c_int;
        rdma_accept: fn(*mut CmId, *mut ConnParam) -> c_int;
        rdma_reject: fn(*mut CmId, *const c_void, u8) -> c_int;
        rdma_disconnect: fn(*mut CmId) -> c_int;
        rdma_get_cm_event: fn(*mut EventChannel, *mut *mut CmEvent) -> c_int;
        rdma_ack_cm_event: fn(*mut CmEvent) -> c_int;
    }
    optional {
        ibv_reg_dmabuf_mr: fn(*mut Pd, u64, usize, u64, c_int, c_int) -> *mut Mr;
    }
}

impl Library {
    /// The libraries.
    ///
    /// # Errors
    /// [`NoLibrary`], the first time and every time after.
    pub fn get() -> Result<&'static Self, NoLibrary> {
        static LIBRARY: OnceLock<Result<Library, NoLibrary>> = OnceLock::new();
        LIBRARY.get_or_init(Self::open).as_ref().map_err(Clone::clone)
    }

    /// What a completion's status is called.
    pub fn status_text(&self, status: u32) -> String {
        // SAFETY: takes any number, and answers with a string that lives as long as the library, or null.
        let text = unsafe { (self.ibv_wc_status_str)(status) };
        if text.is_null() {
            return format!("status {status}");
        }
        // SAFETY: not null, and a C string that is never changed or freed.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

/// Opens a library for good: nothing closes it, so that what it gave out stays valid.
fn open(name: &CStr) -> Result<*mut c_void, NoLibrary> {
    // SAFETY: a valid C string; the initialisers of these libraries read files and environment variables only.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() { Err(NoLibrary { reason: loader_error(name) }) } else { Ok(handle) }
}

fn find(library: *mut c_void, name: &CStr) -> Result<*mut c_void, NoLibrary> {
    // SAFETY: `library` is a handle of `open`, which is never closed, and the name is a C string.
    let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
    if symbol.is_null() { Err(NoLibrary { reason: loader_error(name) }) } else { Ok(symbol) }
}

fn loader_error(name: &CStr) -> String {
    // SAFETY: gives a string that holds until the thread's next call of the loader, or null.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return format!("{} is not there", name.to_string_lossy());
    }
    // SAFETY: not null, and copied before anything else happens on this thread.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
