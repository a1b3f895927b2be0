//! Keeps the process alive when a client truncates a file that is mapped here.
//!
//! Touching a page beyond the end of a file raises SIGBUS. The handler looks the address up in a fixed table of guarded
//! ranges; if it is found, anonymous zero pages are mapped from the hole to the end of the range, the range is marked as
//! poisoned and the access is repeated. Whoever holds the range should then cut its owner off. Any other SIGBUS that an
//! access raised goes to the handler that was there before.
//!
//! All of the range from the hole on is replaced, not the missing page alone: otherwise an owner could leave holes at
//! every second page, and each would cost the process a mapping of its own until there are no more to be had
//! (vm.max_map_count), which would end it. This way a hole adds one mapping to its range, and a later one, further
//! down, grows the replacement.
#![allow(unsafe_code)]

use std::io;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How many ranges can be guarded at once, over all clients.
pub const MAX_GUARDED: usize = 4096;

/// One guarded range. Free while `claimed` is false; live while `start` is not zero.
struct Entry {
    claimed: AtomicBool,
    poisoned: AtomicBool,
    start: AtomicUsize,
    end: AtomicUsize,
    page: AtomicUsize,
}

impl Entry {
    const fn free() -> Self {
        Self {
            claimed: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            page: AtomicUsize::new(0),
        }
    }
}

static TABLE: [Entry; MAX_GUARDED] = [const { Entry::free() }; MAX_GUARDED];
/// What handled SIGBUS before, filled in before our handler is set.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();

/// A range in the table, for as long as this lives.
pub struct Guarded {
    index: usize,
}

impl Guarded {
    /// Whether a hole in the range had to be filled.
    #[must_use]
    pub fn poisoned(&self) -> bool {
        TABLE[self.index].poisoned.load(Ordering::Acquire)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let entry = &TABLE[self.index];
        entry.start.store(0, Ordering::Release);
        entry.claimed.store(false, Ordering::Release);
    }
}

/// Why a range could not be guarded.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The table is full.
    #[error("{MAX_GUARDED} client memory regions are mapped already; unmap some or lend fewer, larger ones")]
    TableFull,
    /// The handler could not be installed.
    #[error("cannot install the SIGBUS handler that guards client memory: {0}")]
    Install(io::Error),
}

/// Installs the handler, once per process; later calls do nothing.
///
/// # Errors
/// What `sigaction` said.
pub fn install() -> io::Result<()> {
    INSTALLED.get_or_init(set_handler).map_err(io::Error::from_raw_os_error)
}

fn set_handler() -> Result<(), i32> {
    let failed = || Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL));
    // SAFETY: `sigaction` is plain data for which all zeros is a valid value.
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only asks for the present action; the target is a local of the right type.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut previous) } != 0 {
        return failed();
    }
    // Whoever handled it before must be known before ours can run.
    let _ = PREVIOUS.set(previous);
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for and makes only async-signal-safe calls.
    unsafe {
        libc::sigemptyset(&mut action.sa_mask);
        if libc::sigaction(libc::SIGBUS, &action, null_mut()) != 0 {
            return failed();
        }
    }
    Ok(())
}

/// Guards `start..start + bytes`, mapped in pages of `page` bytes, and installs the handler if it is not there yet.
/// The range must stay mapped, and be nobody else's, until the guard is dropped.
pub(super) fn guard(start: usize, bytes: usize, page: usize) -> Result<Guarded, GuardError> {
    install().map_err(GuardError::Install)?;
    for (index, entry) in TABLE.iter().enumerate() {
        if entry.claimed.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            entry.poisoned.store(false, Ordering::Relaxed);
            entry.end.store(start + bytes, Ordering::Release);
            entry.page.store(page, Ordering::Relaxed);
            // Last, and releasing: a handler that sees the start sees the rest.
            entry.start.store(start, Ordering::Release);
            return Ok(Guarded { index });
        }
    }
    Err(GuardError::TableFull)
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo.
    if unsafe { (*info).si_code } <= 0 {
        // Sent by a process (kill, sigqueue), not raised by an access: there is no address in it, nothing to mend, and
        // no access that would be repeated. The guard stays.
        return;
    }
    // SAFETY: as above; the kernel raised it, so SIGBUS fills in the address.
    let address = unsafe { (*info).si_addr() } as usize;
    if !fill_hole(address) {
        chain(signal, info, context);
    }
}

/// Maps zero pages over the page that `address` lies in and all that follow in its range, if that is guarded.
fn fill_hole(address: usize) -> bool {
    let found = TABLE.iter().find(|entry| {
        let start = entry.start.load(Ordering::Acquire);
        let inside = start != 0 && address >= start && address < entry.end.load(Ordering::Acquire);
        // Read again, lest an old start was paired with the end of a range that took the entry over meanwhile.
        inside && entry.start.load(Ordering::Relaxed) == start
    });
    let Some(entry) = found else { return false };
    let page = entry.page.load(Ordering::Relaxed);
    let hole = address & !(page - 1);
    let bytes = entry.end.load(Ordering::Relaxed) - hole;
    // Before the pages are exchanged: who reads zeros there afterwards sees that they are not to be trusted.
    entry.poisoned.store(true, Ordering::Release);
    // Nothing is reserved: pages come into being when they are touched.
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: `errno` is thread-local, and is put back so that the interrupted code does not see ours.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the pages lie inside a guarded range, whose holder keeps it mapped and reaches it by raw copies and
    // atomics alone, so exchanging the pages breaks no reference. A bare system call is async-signal-safe.
    let mapped = unsafe {
        let saved = *errno;
        let mapped =
            libc::syscall(libc::SYS_mmap, hole, bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1_i32, 0_usize);
        *errno = saved;
        mapped
    };
    mapped as usize == hole
}

/// Hands the signal to whoever had it before; without such, the default action takes place when the access repeats.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.get();
    let handler = previous.map_or(libc::SIG_DFL, |previous| previous.sa_sigaction);
    let with_info = previous.is_some_and(|previous| previous.sa_flags & libc::SA_SIGINFO != 0);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // SAFETY: resetting a signal to its default is async-signal-safe.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    } else if with_info {
        // SAFETY: the previous action was set with SA_SIGINFO, so its handler has this signature.
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            unsafe { std::mem::transmute(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: the previous action was set without SA_SIGINFO, so its handler takes the signal's number alone.
        let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
        handler(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Region, RegionSlot};
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn an_unrelated_sigbus_still_kills() {
        const CHILD: &str = "KVPLANE_TEST_SIGBUS_CHILD";
        if std::env::var_os(CHILD).is_some() {
            install().unwrap();
            let file = tempfile::tempfile().unwrap();
            use std::os::fd::AsRawFd;
            // SAFETY: a fresh mapping of an empty file, touched on purpose: the touch raises SIGBUS.
            unsafe {
                let at = libc::mmap(null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
                assert_ne!(at, libc::MAP_FAILED);
                std::ptr::read_volatile(at.cast::<u8>());
            }
            unreachable!("the touch must not return");
        }
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::guard::tests::an_unrelated_sigbus_still_kills"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(libc::SIGBUS), "{child:?}");
    }

    #[test]
    fn a_sigbus_that_was_sent_changes_nothing() {
        install().unwrap();
        // SAFETY: sends this thread a signal that the handler ignores.
        assert_eq!(unsafe { libc::raise(libc::SIGBUS) }, 0);
        // SAFETY: `sigaction` is plain data; the call only asks.
        let now = unsafe {
            let mut now: libc::sigaction = std::mem::zeroed();
            assert_eq!(libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut now), 0);
            now
        };
        assert_eq!(now.sa_sigaction, on_sigbus as *const () as usize, "the handler is still there");
    }

    #[test]
    fn an_entry_is_free_again_after_its_range_is_gone() {
        for _ in 0..2 * MAX_GUARDED {
            let region = Region::anonymous(4096, RegionSlot(0)).unwrap();
            let guard = guard(region.base() as usize, 4096, 4096).unwrap();
            assert!(!region.guarded(guard).poisoned());
        }
    }
}
