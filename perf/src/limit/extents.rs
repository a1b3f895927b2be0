//! Where the values lie that a daemon keeps in a file: read from the store's records while the daemon serves.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, bail};
use dataplane::memory::{Arena, HugePages, RegionSlot};
use dataplane::nvme::BlockQueue;
use dataplane::nvme::uring::{OpenOptions, UringDevice};
use pipelines::store::Layout;
use pipelines::store::inspect::{RecordReport, RecordState, inspect_each};

use crate::load::Keys;

/// One metadata page, which is all that is read at a time.
const STAGING_BYTES: usize = 4096;

/// How often the records are read again while some are not there yet: they are written in groups, and at the latest
/// some hundred milliseconds after their values.
const LOOKS: u32 = 20;

/// Time between two looks.
const BETWEEN_LOOKS: std::time::Duration = std::time::Duration::from_millis(250);

/// Values of one size, and where in the file each begins.
#[derive(Clone, Debug)]
pub struct LiveValues {
    /// Bytes of each.
    pub bytes: u32,
    /// Bytes from the beginning of the file, in no order.
    pub offsets: Vec<u64>,
}

/// Finds the values of all `keys`, which have `bytes` bytes each, in the file of a store. The daemon may serve
/// meanwhile, but must not be asked to change these values.
///
/// # Errors
/// If the file cannot be read or is no store, or lacks some of the values even after some seconds.
pub fn live_values(path: &Path, keys: &Keys, bytes: u32) -> anyhow::Result<LiveValues> {
    let mut found = 0;
    for look in 0..LOOKS {
        if look > 0 {
            std::thread::sleep(BETWEEN_LOOKS);
        }
        let offsets = look_once(path, keys, bytes)?;
        found = offsets.len() as u64;
        if found == keys.count() {
            return Ok(LiveValues { bytes, offsets });
        }
    }
    bail!(
        "{} holds {found} of the {} values that were stored: is it the file that this kvplaned serves?",
        path.display(),
        keys.count()
    )
}

fn look_once(path: &Path, keys: &Keys, bytes: u32) -> anyhow::Result<Vec<u64>> {
    // The daemon holds the lock.
    let options = OpenOptions { read_only: true, lock: false, ..OpenOptions::default() };
    let device = UringDevice::open(path, options)?;
    let mut arena = Arena::new(STAGING_BYTES, HugePages::Off, RegionSlot(0))?;
    let staging = arena.alloc(STAGING_BYTES, 4096).context("no memory for a page")?;
    let mut queue = device.queue(1, 1).context("cannot set up io_uring; is it allowed here?")?;
    queue.attach(arena.region().clone()).context("cannot register memory with io_uring")?;
    let wanted: HashMap<String, u64> = (0..keys.count()).map(|number| (keys.key(number).to_string(), number)).collect();
    let mut found: HashMap<u64, RecordReport> = HashMap::new();
    let report = inspect_each(&mut queue, &staging, None, |record| {
        let live = record.state == RecordState::Live && record.value_bytes == bytes;
        if let Some(number) = wanted.get(&record.key).filter(|_| live) {
            found.insert(*number, record);
        }
    });
    let superblock = report.with_context(|| format!("{} is not a store", path.display()))?.superblock;
    let offset = |record: &RecordReport| {
        let layout = Layout::new(&superblock, record.shard);
        layout.page_lba(record.segment, 0) * u64::from(superblock.lba_bytes) + record.value_offset
    };
    Ok(found.values().map(offset).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_store_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        std::fs::write(&path, vec![1; 2 << 20]).unwrap();
        let error = format!("{:#}", live_values(&path, &Keys::new(1, 1), 4096).unwrap_err());
        // A file system without direct I/O says so instead.
        assert!(error.contains("is not a store") || error.contains("direct I/O"), "{error}");
        assert!(error.contains("store"), "{error}");
        assert!(live_values(&folder.path().join("none"), &Keys::new(1, 1), 4096).is_err());
    }
}
