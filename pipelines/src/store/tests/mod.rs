//! The store against a device that loses power, and a model of what may then be left.

mod basics;
mod device;
mod drafts;
mod faults;
mod full;
mod gone;
mod model;
mod order;
mod overwrite;
mod speed;
mod stalls;
mod unreadable;
mod world;

/// Seeds of a test that takes long with all of them. A third is enough where a processor is emulated (`KVPLANE_EMULATED`):
/// that is about the instructions, and the seeds are about the store.
fn seeds(all: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let count = all.end - all.start;
    let count = if std::env::var_os("KVPLANE_EMULATED").is_some() { count.div_ceil(3) } else { count };
    all.start..all.start + count
}
