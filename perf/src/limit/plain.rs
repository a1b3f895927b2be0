//! Plain io_uring: direct I/O, registered buffers, a registered file, nothing in between.
//!
//! The ring and its memory are made once and kept over all rounds, as the daemon keeps its own.
#![allow(unsafe_code)]

use anyhow::{Context, bail};
use dataplane::core::Clock;
use dataplane::fabric::vfio_user::ClientMemory;
use io_uring::{IoUring, opcode, squeue, types};

use super::{Case, Place};
use crate::measure::Latency;
use crate::random::Random;

/// The longest piece of memory that is one registered buffer: what the daemon registers of a client's ordinary pages.
const PIECE_BYTES: u64 = 128 << 20;

/// How long to run, and what is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Nanoseconds before anything is counted.
    pub warm_up: u64,
    /// Nanoseconds to count.
    pub duration: u64,
    /// Seed of the order of reads.
    pub seed: u64,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct PlainMeasured {
    /// Bytes moved.
    pub bytes: u64,
    /// Nanoseconds from the end of the warm-up to the last completion.
    pub nanos: u64,
    /// Of single I/Os.
    pub latency: Latency,
}

/// One pattern of plain I/O: a ring, its registered memory and file. To be used on the thread that made it.
pub struct Plain<'a> {
    // Dropped before the memory that its buffers lie in.
    ring: IoUring,
    memory: ClientMemory,
    place: &'a Place,
    case: Case,
    /// Places for I/Os of this size.
    places: u64,
    /// I/Os whose memory lies in one registered buffer.
    per_piece: u32,
    /// When the I/O of each slot began.
    starts: Vec<u64>,
    ended: Vec<u32>,
    /// Writes so far: each goes behind the one before.
    written: u64,
}

impl<'a> Plain<'a> {
    /// Sets the ring up. The memory is of the kind that a client of the daemon registers, out of 2 MiB hugepages if
    /// `huge`, and holds bytes that are not zero.
    ///
    /// # Errors
    /// If there are no places for I/Os of this size, no memory, or no io_uring.
    pub fn new(place: &'a Place, case: Case, huge: bool) -> anyhow::Result<Self> {
        let places = place.count(case.bytes);
        if places == 0 {
            bail!("there is no room for an I/O of {} bytes", case.bytes);
        }
        let (bytes, depth) = (u64::from(case.bytes), u64::from(case.depth));
        let memory = ClientMemory::new(bytes * depth, huge).with_context(|| match huge {
            true => "no hugepages for the buffers: see scripts/setup.sh hugepages",
            false => "no memory for the buffers",
        })?;
        let mut random = Random::new(depth);
        for at in (0..bytes * depth).step_by(8) {
            memory.write(at, &random.next().to_le_bytes()).context("the memory is shorter than it should be")?;
        }
        let ring = ring(case.depth).context("cannot set up io_uring; is it allowed here?")?;
        let per_piece = (PIECE_BYTES / bytes).clamp(1, depth);
        let piece = |first: u64| libc::iovec {
            iov_base: (memory.base() + first * bytes) as *mut _,
            iov_len: (per_piece.min(depth - first) * bytes) as usize,
        };
        let buffers: Vec<libc::iovec> = (0..depth).step_by(per_piece as usize).map(piece).collect();
        // SAFETY: the buffers lie in `memory`, which is dropped after the ring.
        unsafe { ring.submitter().register_buffers(&buffers) }
            .context("cannot register buffers; is the memlock limit too low?")?;
        ring.submitter().register_files(&[place.fd()]).context("cannot register the file")?;
        let (starts, ended) = (vec![0; case.depth as usize], Vec::with_capacity(case.depth as usize));
        Ok(Self { ring, memory, place, case, places, per_piece: per_piece as u32, starts, ended, written: 0 })
    }

    /// Runs the pattern for some time, and until everything has ended.
    ///
    /// # Errors
    /// If an I/O fails or is short.
    pub fn run(&mut self, window: &Window, clock: &impl Clock) -> anyhow::Result<PlainMeasured> {
        let now = || clock.nanos_of_ticks(clock.now().0);
        let mut random = Random::new(window.seed);
        let mut measured = PlainMeasured::default();
        let count_from = now() + window.warm_up;
        let stop_at = count_from + window.duration;
        for slot in 0..self.case.depth {
            self.push(slot, &mut random, now())?;
        }
        let mut in_flight = self.case.depth;
        while in_flight > 0 {
            self.ring.submit_and_wait(1).context("io_uring")?;
            let now = now();
            self.reap()?;
            while let Some(slot) = self.ended.pop() {
                let start = self.starts[slot as usize];
                if start >= count_from {
                    measured.latency.record(now - start);
                    measured.bytes += u64::from(self.case.bytes);
                    measured.nanos = now - count_from;
                }
                if now < stop_at {
                    self.push(slot, &mut random, now)?;
                } else {
                    in_flight -= 1;
                }
            }
        }
        Ok(measured)
    }

    /// Makes the device write down what it only keeps in its cache, so that whoever comes next does not pay for it: the
    /// daemon flushes what it commits, and a flush takes along what plain I/O wrote before.
    ///
    /// # Errors
    /// What `fdatasync(2)` says.
    pub fn settle(&self) -> anyhow::Result<()> {
        self.place.settle().context("cannot flush the device's cache")
    }

    fn push(&mut self, slot: u32, random: &mut Random, now: u64) -> anyhow::Result<()> {
        let bytes = self.case.bytes;
        let number = if self.case.store { self.written % self.places } else { random.below(self.places) };
        self.written += 1;
        let offset = self.place.offset(number, bytes);
        let memory = (self.memory.base() + u64::from(slot) * u64::from(bytes)) as *mut u8;
        let piece = (slot / self.per_piece) as u16;
        let entry: squeue::Entry = if self.case.store {
            opcode::WriteFixed::new(types::Fixed(0), memory, bytes, piece).offset(offset).build()
        } else {
            opcode::ReadFixed::new(types::Fixed(0), memory, bytes, piece).offset(offset).build()
        };
        self.starts[slot as usize] = now;
        // SAFETY: the buffer is registered, lives as long as the ring, and its slot has no other I/O in flight.
        unsafe { self.ring.submission().push(&entry.user_data(u64::from(slot))) }
            .map_err(|_| anyhow::anyhow!("the ring is smaller than its depth"))
    }

    fn reap(&mut self) -> anyhow::Result<()> {
        for completion in self.ring.completion() {
            let moved = completion.result();
            if moved < 0 {
                return Err(std::io::Error::from_raw_os_error(-moved)).context("an I/O failed");
            }
            if moved as u32 != self.case.bytes {
                bail!("an I/O moved {moved} of {} bytes", self.case.bytes);
            }
            self.ended.push(completion.user_data() as u32);
        }
        Ok(())
    }
}

impl Drop for Plain<'_> {
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
    use crate::limit::LiveValues;
    use dataplane::core::TscClock;

    const WINDOW: Window = Window { warm_up: 0, duration: 20_000_000, seed: 1 };
    const CASE: Case = Case { store: false, bytes: 65536, depth: 4 };

    #[test]
    fn one_ring_serves_many_rounds() {
        let folder = tempfile::tempdir().unwrap();
        // None on a file system without direct I/O.
        let Ok(place) = Place::own_file(&folder.path().join("raw"), 8 << 20, |_| {}) else { return };
        for store in [false, true] {
            let mut plain = Plain::new(&place, Case { store, ..CASE }, false).unwrap();
            for _ in 0..3 {
                let measured = plain.run(&WINDOW, &TscClock::new()).unwrap();
                assert_eq!(measured.bytes, measured.latency.count() * 65536);
                assert!(measured.latency.count() > 0 && measured.nanos > 0);
            }
        }
        assert!(Plain::new(&place, Case { bytes: 16 << 20, ..CASE }, false).is_err(), "no place is that long");
    }

    #[test]
    fn more_memory_than_a_piece_is_several_buffers() {
        let folder = tempfile::tempdir().unwrap();
        let Ok(place) = Place::own_file(&folder.path().join("raw"), 64 << 20, |_| {}) else { return };
        let case = Case { store: true, bytes: 48 << 20, depth: 3 };
        let mut plain = Plain::new(&place, case, false).unwrap();
        assert_eq!(plain.per_piece, 2);
        assert!(plain.run(&WINDOW, &TscClock::new()).unwrap().bytes > 0);
    }

    #[test]
    fn values_are_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        std::fs::write(&path, vec![7; 1 << 20]).unwrap();
        let values = LiveValues { bytes: 65536, offsets: vec![0, 524_288] };
        let Ok(place) = Place::values(&path, values) else { return };
        assert!(Plain::new(&place, CASE, false).unwrap().run(&WINDOW, &TscClock::new()).unwrap().bytes > 0);
        let refused = Plain::new(&place, Case { store: true, ..CASE }, false).unwrap().run(&WINDOW, &TscClock::new());
        let refused = format!("{:#}", refused.unwrap_err());
        assert!(refused.contains("an I/O failed"), "{refused}");
        assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 7));
    }
}
