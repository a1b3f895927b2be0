//! Reads a store that no daemon has open.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use dataplane::memory::{Arena, HugePages, RegionSlot};
use dataplane::nvme::BlockQueue;
use dataplane::nvme::uring::{OpenError, OpenOptions, UringDevice};
use pipelines::store::StoreError;
use pipelines::store::inspect::{RecordReport, StoreReport, inspect_each};

use crate::end::UsageError;

/// One metadata page, which is all that is read at a time.
const STAGING_BYTES: usize = 4096;

/// Reads all metadata of the store, or of one shard, and shows each record. Opens the file for reading only.
///
/// # Errors
/// One line that says why it cannot be read, or why it is no store.
pub fn report(file: &Path, shard: Option<u32>, show: impl FnMut(RecordReport)) -> anyhow::Result<StoreReport> {
    let device = open(file)?;
    let mut arena = Arena::new(STAGING_BYTES, HugePages::Off, RegionSlot(0))?;
    let staging = arena.alloc(STAGING_BYTES, 4096).context("no memory for a page")?;
    let queue = device.queue(1, 1).with_context(|| {
        format!("cannot set up a queue to read {}; is io_uring allowed (kernel.io_uring_disabled)?", file.display())
    });
    let mut queue = queue?;
    queue.attach(arena.region().clone()).context("cannot register memory with the queue")?;
    inspect_each(&mut queue, &staging, shard, show).map_err(|error| match error {
        StoreError::Setting(what) => UsageError(format!("--shard: {what}")).into(),
        StoreError::TooSmall { have, need } => {
            anyhow!(
                "{} has {have} bytes, but a store needs at least {need}: it is none, or was cut off",
                file.display()
            )
        }
        error => anyhow!("{}: {error}", file.display()),
    })
}

/// Through the page cache, so that a copy of a store can be looked at wherever it lies.
fn open(file: &Path) -> anyhow::Result<UringDevice> {
    let options = OpenOptions { read_only: true, direct: false, ..OpenOptions::default() };
    match UringDevice::open(file, options) {
        Ok(device) => Ok(device),
        Err(OpenError::Locked { path }) => bail!(
            "{} is in use by a running daemon; stop that kvplaned first, or ask it: kvplane rpc store_get_stats",
            path.display()
        ),
        Err(OpenError::TooSmall { path, bytes, .. }) => {
            bail!("{} has only {bytes} bytes: it is not a store", path.display())
        }
        Err(error) => Err(error.into()),
    }
}
