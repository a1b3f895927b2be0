//! What a core's thread asks of the system for itself.
#![allow(unsafe_code)]

/// Pins the calling thread to a core. Says whether that worked.
pub(super) fn pin_to(core: u32) -> bool {
    let id = core_affinity::CoreId { id: core as usize };
    // The call alone does not fail for every core that is not there.
    core_affinity::set_for_current(id) && core_affinity::get_core_ids().is_some_and(|ids| ids == [id])
}

/// The kernel's id of the calling thread.
pub(super) fn id() -> i32 {
    // SAFETY: asks for a number.
    unsafe { libc::gettid() }
}

/// Lets timed sleeps end when they should, and not up to 50 microseconds later.
pub(super) fn sleep_exactly() {
    // SAFETY: sets the calling thread's timer slack, in nanoseconds.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000) };
}
