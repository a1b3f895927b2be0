//! Plain io_uring on a file: direct I/O, registered buffers, a registered file, nothing in between.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use dataplane::core::Clock;
use dataplane::memory::{Region, RegionSlot};
use io_uring::{IoUring, opcode, squeue, types};

use crate::measure::Latency;
use crate::random::Random;

/// Bytes written at a time while a file is made.
const CHUNK: usize = 4 << 20;

/// A file, or a block device, opened for direct I/O.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    bytes: u64,
}

/// A pattern of plain I/O.
#[derive(Clone, Copy, Debug)]
pub struct RawPattern {
    /// Sequential writes; random reads otherwise.
    pub write: bool,
    /// Bytes of one I/O: a multiple of 4,096.
    pub bytes: u32,
    /// I/Os in flight.
    pub depth: u32,
    /// Nanoseconds before anything is counted.
    pub warm_up: u64,
    /// Nanoseconds to count.
    pub duration: u64,
    /// Seed of the offsets.
    pub seed: u64,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct RawMeasured {
    /// Bytes moved.
    pub bytes: u64,
    /// Nanoseconds from the end of the warm-up to the last completion.
    pub nanos: u64,
    /// Of single I/Os.
    pub latency: Latency,
}

impl RawFile {
    /// Opens an existing file for reading only; I/O stays within its first `most` bytes.
    ///
    /// # Errors
    /// If it cannot be opened for direct I/O, or is empty.
    pub fn open(path: &Path, most: u64) -> anyhow::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .with_context(|| format!("cannot open {} for direct I/O", path.display()))?;
        let bytes = file.seek(SeekFrom::End(0))?.min(most);
        if bytes == 0 {
            bail!("{} is empty", path.display());
        }
        Ok(Self { file, bytes })
    }

    /// Opens a file of `bytes` bytes. If there is none, or it is shorter, it is written from its beginning to its end first,
    /// so that no read meets a hole; `progress` is told how far.
    ///
    /// # Errors
    /// If it cannot be made or opened for direct I/O.
    pub fn create(path: &Path, bytes: u64, mut progress: impl FnMut(u64)) -> anyhow::Result<Self> {
        let name = || format!("cannot prepare {}", path.display());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .with_context(|| format!("cannot open {} for direct I/O", path.display()))?;
        if (&file).seek(SeekFrom::End(0)).with_context(name)? < bytes {
            let region = Region::anonymous(CHUNK, RegionSlot(0)).with_context(name)?;
            // SAFETY: the mapping is this long, nobody else knows of it, and it outlives the slice.
            let chunk = unsafe { std::slice::from_raw_parts_mut(region.base() as *mut u8, CHUNK) };
            let mut random = Random::new(bytes);
            chunk.as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = random.next().to_le_bytes());
            let mut done = 0;
            while done < bytes {
                let length = (bytes - done).min(CHUNK as u64) as usize;
                file.write_all_at(&chunk[..length], done).with_context(name)?;
                done += length as u64;
                progress(done);
            }
            file.sync_all().with_context(name)?;
        }
        Ok(Self { file, bytes })
    }

    /// Runs a pattern in this thread.
    ///
    /// # Errors
    /// If the ring cannot be made, or an I/O fails or is short.
    pub fn run(&self, pattern: &RawPattern, clock: &impl Clock) -> anyhow::Result<RawMeasured> {
        if self.bytes < u64::from(pattern.bytes) {
            bail!("the file holds {} bytes, less than one I/O of {}", self.bytes, pattern.bytes);
        }
        let mut flight = Flight::new(self, pattern)?;
        let now = || clock.nanos_of_ticks(clock.now().0);
        let count_from = now() + pattern.warm_up;
        let stop_at = count_from + pattern.duration;
        for slot in 0..pattern.depth {
            flight.push(slot, now())?;
        }
        let mut measured = RawMeasured::default();
        let mut ended: Vec<u32> = Vec::with_capacity(pattern.depth as usize);
        let mut in_flight = pattern.depth;
        while in_flight > 0 {
            flight.ring.submit_and_wait(1).context("io_uring")?;
            let now = now();
            flight.reap(&mut ended)?;
            for slot in ended.drain(..) {
                let start = flight.starts[slot as usize];
                if start >= count_from {
                    measured.latency.record(now - start);
                    measured.bytes += u64::from(pattern.bytes);
                    measured.nanos = now - count_from;
                }
                if now < stop_at {
                    flight.push(slot, now)?;
                } else {
                    in_flight -= 1;
                }
            }
        }
        Ok(measured)
    }
}

/// A ring and the I/Os in it.
struct Flight<'a> {
    // Dropped before the memory that its buffers lie in.
    ring: IoUring,
    memory: Region,
    pattern: &'a RawPattern,
    starts: Vec<u64>,
    places: u64,
    next: u64,
    random: Random,
}

impl<'a> Flight<'a> {
    fn new(file: &RawFile, pattern: &'a RawPattern) -> anyhow::Result<Self> {
        let (bytes, depth) = (pattern.bytes as usize, pattern.depth as usize);
        let memory = Region::anonymous(bytes * depth, RegionSlot(0)).context("no memory for the buffers")?;
        let ring = ring(pattern.depth).context("cannot set up io_uring; is it allowed here?")?;
        let buffers: Vec<libc::iovec> = (0..depth)
            .map(|slot| libc::iovec { iov_base: (memory.base() as usize + slot * bytes) as *mut _, iov_len: bytes })
            .collect();
        // SAFETY: the buffers lie in `memory`, which is dropped after the ring.
        unsafe { ring.submitter().register_buffers(&buffers) }
            .context("cannot register buffers; is the memlock limit too low?")?;
        ring.submitter().register_files(&[file.file.as_raw_fd()]).context("cannot register the file")?;
        let starts = vec![0; depth];
        let places = file.bytes / u64::from(pattern.bytes);
        Ok(Self { ring, memory, pattern, starts, places, next: 0, random: Random::new(pattern.seed) })
    }

    fn push(&mut self, slot: u32, now: u64) -> anyhow::Result<()> {
        let bytes = self.pattern.bytes;
        let place = if self.pattern.write { self.next % self.places } else { self.random.below(self.places) };
        self.next += 1;
        let offset = place * u64::from(bytes);
        let memory = (self.memory.base() + u64::from(slot) * u64::from(bytes)) as *mut u8;
        let entry: squeue::Entry = if self.pattern.write {
            opcode::WriteFixed::new(types::Fixed(0), memory, bytes, slot as u16).offset(offset).build()
        } else {
            opcode::ReadFixed::new(types::Fixed(0), memory, bytes, slot as u16).offset(offset).build()
        };
        self.starts[slot as usize] = now;
        // SAFETY: the buffer is registered, lives as long as the ring, and its slot has no other I/O in flight.
        unsafe { self.ring.submission().push(&entry.user_data(u64::from(slot))) }
            .map_err(|_| anyhow::anyhow!("the ring is smaller than its depth"))
    }

    fn reap(&mut self, ended: &mut Vec<u32>) -> anyhow::Result<()> {
        for completion in self.ring.completion() {
            let moved = completion.result();
            if moved < 0 {
                return Err(std::io::Error::from_raw_os_error(-moved)).context("an I/O failed");
            }
            if moved as u32 != self.pattern.bytes {
                bail!("an I/O moved {moved} of {} bytes", self.pattern.bytes);
            }
            ended.push(completion.user_data() as u32);
        }
        Ok(())
    }
}

impl Drop for Flight<'_> {
    /// Nothing may be in flight when the memory goes: after an error, wait for the rest.
    fn drop(&mut self) {
        let _ = self.ring.submitter().register_sync_cancel(None, types::CancelBuilder::any());
    }
}

fn ring(depth: u32) -> std::io::Result<IoUring> {
    // Linux 6.1; older kernels get a plain ring.
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(depth.next_power_of_two())
        .or_else(|_| IoUring::new(depth.next_power_of_two()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::core::TscClock;

    const PATTERN: RawPattern =
        RawPattern { write: false, bytes: 65536, depth: 4, warm_up: 0, duration: 20_000_000, seed: 1 };

    #[test]
    fn a_file_is_written_as_a_whole_then_read_and_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("raw");
        let mut told = 0;
        let file = match RawFile::create(&path, 8 << 20, |done| told = done) {
            Ok(file) => file,
            // A file system without direct I/O.
            Err(error) if format!("{error:#}").contains("os error 22") => return,
            Err(error) => panic!("{error:#}"),
        };
        assert_eq!((told, std::fs::metadata(&path).unwrap().len()), (8 << 20, 8 << 20));
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.chunks(4096).all(|block| block.iter().any(|byte| *byte != 0)), "there are holes");
        for write in [false, true] {
            let measured = file.run(&RawPattern { write, ..PATTERN }, &TscClock::new()).unwrap();
            assert_eq!(measured.bytes, measured.latency.count() * 65536);
            assert!(measured.latency.count() > 0 && measured.nanos > 0);
        }
        let again = RawFile::create(&path, 8 << 20, |_| panic!("it is long enough")).unwrap();
        assert_eq!(again.bytes, 8 << 20);
        let reader = RawFile::open(&path, 1 << 20).unwrap();
        assert_eq!(reader.bytes, 1 << 20);
        let refused = reader.run(&RawPattern { write: true, ..PATTERN }, &TscClock::new()).unwrap_err();
        assert!(format!("{refused:#}").contains("an I/O failed"), "{refused:#}");
        assert!(reader.run(&RawPattern { bytes: 2 << 20, ..PATTERN }, &TscClock::new()).is_err());
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let error = RawFile::open(Path::new("/nonexistent/f"), 1).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/f"));
    }
}
