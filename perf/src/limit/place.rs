//! Where plain I/O goes: an area of a file, or chosen extents of it.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, bail};

use super::LiveValues;
use crate::random::Random;

/// Bytes written at a time while an area is made.
const CHUNK: usize = 4 << 20;

/// What direct I/O from memory asks for at the most.
const PAGE: usize = 4096;

/// What areas begin at a multiple of: as segments of a store do.
const ALIGN: u64 = 1 << 20;

/// Places for plain I/O in a file or block device that is open for direct I/O.
#[derive(Debug)]
pub struct Place {
    file: File,
    offsets: Offsets,
    /// What the file's length was before it was made longer, and is.
    lengths: Option<(u64, u64)>,
}

#[derive(Debug)]
enum Offsets {
    /// Any whole multiple of the I/O's size from `first` on.
    Area { first: u64, bytes: u64 },
    /// Extents of one size, where each begins.
    Extents { each: u32, at: Vec<u64> },
}

impl Place {
    /// The values of a store, for reading only.
    ///
    /// # Errors
    /// If the file cannot be opened for direct I/O.
    pub fn values(path: &Path, values: LiveValues) -> anyhow::Result<Self> {
        let file = open(path, OpenOptions::new().read(true))?;
        Ok(Self { file, offsets: Offsets::Extents { each: values.bytes, at: values.offsets }, lengths: None })
    }

    /// A file of at least `bytes` bytes. If there is none, or it is shorter, it is written from its beginning to its end
    /// first, so that no I/O meets a hole; `progress` is told how far.
    ///
    /// # Errors
    /// If it cannot be made or opened for direct I/O.
    pub fn own_file(path: &Path, bytes: u64, progress: impl FnMut(u64)) -> anyhow::Result<Self> {
        let file = open(path, OpenOptions::new().read(true).write(true).create(true).truncate(false))?;
        if (&file).seek(SeekFrom::End(0))? < bytes {
            write_whole(&file, 0, bytes, progress).with_context(|| format!("cannot prepare {}", path.display()))?;
        }
        Ok(Self { file, offsets: Offsets::Area { first: 0, bytes }, lengths: None })
    }

    /// An area of `bytes` bytes behind the end of a store's file, written as a whole first. When the value is dropped, the
    /// file is cut back to the length that it had. The daemon never looks behind the end that its store was made with.
    ///
    /// # Errors
    /// If the file is a block device, which does not grow, or cannot be made longer.
    pub fn behind_store(path: &Path, bytes: u64, progress: impl FnMut(u64)) -> anyhow::Result<Self> {
        let file = open(path, OpenOptions::new().read(true).write(true))?;
        let facts = file.metadata()?;
        if facts.file_type().is_block_device() {
            bail!("{} is a block device and does not grow: name a --raw-file for plain writes", path.display());
        }
        let first = facts.len().next_multiple_of(ALIGN);
        let place = Self { file, offsets: Offsets::Area { first, bytes }, lengths: Some((facts.len(), first + bytes)) };
        write_whole(&place.file, first, bytes, progress)
            .with_context(|| format!("cannot make {} longer by {bytes} bytes", path.display()))?;
        Ok(place)
    }

    /// How many different places there are for I/Os of that size.
    #[must_use]
    pub fn count(&self, bytes: u32) -> u64 {
        match &self.offsets {
            Offsets::Area { bytes: area, .. } => area / u64::from(bytes.max(1)),
            Offsets::Extents { each, at } if *each == bytes => at.len() as u64,
            Offsets::Extents { .. } => 0,
        }
    }

    /// The offset in the file of one of them.
    #[must_use]
    pub fn offset(&self, number: u64, bytes: u32) -> u64 {
        match &self.offsets {
            Offsets::Area { first, .. } => first + number * u64::from(bytes),
            Offsets::Extents { at, .. } => at.get(number as usize).copied().unwrap_or(0),
        }
    }

    pub(super) fn settle(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((before, now)) = self.lengths else { return };
        // Unless somebody else made it longer still, whose bytes these would be.
        if self.file.metadata().is_ok_and(|facts| facts.len() <= now) {
            // What is left behind otherwise is unused room.
            let _ = self.file.set_len(before);
        }
    }
}

fn open(path: &Path, options: &mut OpenOptions) -> anyhow::Result<File> {
    let file = options.mode(0o600).custom_flags(libc::O_DIRECT).open(path);
    file.with_context(|| format!("cannot open {} for direct I/O", path.display()))
}

/// Writes a part of a file as a whole, with bytes that no layer below can leave out.
fn write_whole(file: &File, first: u64, bytes: u64, mut progress: impl FnMut(u64)) -> anyhow::Result<()> {
    let mut memory = vec![0; CHUNK + PAGE];
    let begin = memory.as_ptr().align_offset(PAGE);
    let chunk = memory.get_mut(begin..begin + CHUNK).context("memory cannot be aligned")?;
    let mut random = Random::new(bytes);
    chunk.as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = random.next().to_le_bytes());
    let mut done = 0;
    while done < bytes {
        let length = (bytes - done).min(CHUNK as u64) as usize;
        file.write_all_at(&chunk[..length], first + done)?;
        done += length as u64;
        progress(done);
    }
    file.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `None` on a file system without direct I/O.
    fn made<T>(result: anyhow::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) if format!("{error:#}").contains("os error 22") => None,
            Err(error) => panic!("{error:#}"),
        }
    }

    fn holes(path: &Path, from: usize) -> bool {
        std::fs::read(path).unwrap()[from..].chunks(4096).any(|block| block.iter().all(|byte| *byte == 0))
    }

    #[test]
    fn a_file_is_written_as_a_whole_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("raw");
        let mut told = 0;
        let Some(place) = made(Place::own_file(&path, 8 << 20, |done| told = done)) else { return };
        assert_eq!((told, std::fs::metadata(&path).unwrap().len()), (8 << 20, 8 << 20));
        assert!(!holes(&path, 0));
        assert_eq!((place.count(1 << 20), place.offset(3, 1 << 20)), (8, 3 << 20));
        drop(place);
        Place::own_file(&path, 8 << 20, |_| panic!("it is long enough")).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 8 << 20, "a file of its own stays");
    }

    #[test]
    fn an_area_behind_a_store_leaves_the_store_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let store = vec![7; (1 << 20) + 4096];
        std::fs::write(&path, &store).unwrap();
        let Some(place) = made(Place::behind_store(&path, 4 << 20, |_| {})) else { return };
        assert_eq!((place.count(65536), place.offset(1, 65536)), (64, (2 << 20) + 65536));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 6 << 20);
        assert!(!holes(&path, 2 << 20));
        drop(place);
        assert!(std::fs::read(&path).unwrap() == store, "the store is not what it was");
    }

    #[test]
    fn values_are_places_of_their_own_size_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        std::fs::write(&path, vec![0; 65536]).unwrap();
        let values = LiveValues { bytes: 4096, offsets: vec![8192, 20480] };
        let Some(place) = made(Place::values(&path, values)) else { return };
        assert_eq!((place.count(4096), place.count(8192)), (2, 0));
        assert_eq!((place.offset(0, 4096), place.offset(1, 4096)), (8192, 20480));
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let values = LiveValues { bytes: 4096, offsets: vec![0] };
        let error = Place::values(Path::new("/nonexistent/f"), values).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/f"));
    }
}
