//! io_uring rings of a pinned thread, set up with the best that the kernel offers.

use std::io;

use io_uring::IoUring;

/// A ring of `entries` submissions whose completions are only gathered when asked for, by the thread that made it;
/// on older kernels whatever comes closest. With `io_poll`, completions are polled for on the device.
pub(crate) fn set_up(entries: u32, io_poll: bool) -> io::Result<IoUring> {
    // Linux 6.1, 5.19, 5.11.
    deferred(entries, io_poll).or_else(|_| cooperative(entries, io_poll)).or_else(|_| plain(entries, io_poll))
}

fn deferred(entries: u32, io_poll: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_clamp().setup_submit_all();
    builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    if io_poll {
        builder.setup_iopoll();
    }
    builder.build(entries)
}

fn cooperative(entries: u32, io_poll: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_clamp().setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
    if io_poll {
        builder.setup_iopoll();
    }
    builder.build(entries)
}

fn plain(entries: u32, io_poll: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_clamp();
    if io_poll {
        builder.setup_iopoll();
    }
    builder.build(entries)
}

/// Whether only a system call brings the ring's completions forward.
pub(crate) fn must_gather(ring: &mut IoUring) -> bool {
    let polls = ring.params().is_setup_iopoll();
    let submission = ring.submission();
    polls || submission.taskrun() || submission.cq_overflow()
}
