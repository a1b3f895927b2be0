//! The ring as a queue pair.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use arrayvec::ArrayVec;
use io_uring::IoUring;

use super::device::{Deallocation, OpenFile};
use super::{entry, ring};
use crate::core::io_ring;
use crate::memory::{Region, RegionSlot, SlotId, SlotPool};
use crate::nvme::attached::AttachedRegions;
use crate::nvme::{AttachError, BlockDone, BlockError, BlockIo, BlockOp, BlockQueue, Geometry, QueueFull};
use crate::{BURST, Burst};

/// How often one command is sent again after the kernel said that it should be, before that is an error.
const MAX_RETRIES: u16 = 1000;

/// What a queue did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UringStats {
    /// System calls.
    pub enters: u64,
    /// Entries that the kernel took, those sent again among them.
    pub submitted: u64,
    /// Commands that completed.
    pub completed: u64,
    /// Reads and writes sent that named registered memory.
    pub fixed: u64,
    /// Reads and writes sent whose memory could not be registered: the kernel pins its pages every time.
    pub unfixed: u64,
    /// Entries sent again for the rest of a short transfer, or because the kernel asked for it.
    pub resubmitted: u64,
    /// Regions attached whose memory could not be registered.
    pub unfixed_regions: u64,
    /// System calls that failed, other than by asking to be repeated.
    pub failed_enters: u64,
}

struct InFlight {
    io: BlockIo,
    moved: u32,
    retries: u16,
}

/// A queue pair of a [`UringDevice`](super::UringDevice). Belongs to the thread that made it.
pub struct UringQueue {
    ring: IoUring,
    /// For what a ring that polls for completions cannot do: flush and deallocate.
    side: Option<IoUring>,
    geometry: Geometry,
    commands: SlotPool<InFlight>,
    regions: AttachedRegions,
    /// By slot, whether the kernel has the region registered.
    registered: Box<[bool]>,
    /// Entries in a submission ring that `ring` has sent in vain or that were put there by `poll`.
    unsent: bool,
    invalid: VecDeque<u64>,
    deallocation: Deallocation,
    stats: UringStats,
    /// Holds the file open: the ring knows it by number.
    _file: Arc<OpenFile>,
    /// The kernel takes entries and registrations only from the thread that made the ring.
    _thread: PhantomData<*mut ()>,
}

impl UringQueue {
    pub(super) fn new(
        file: Arc<OpenFile>,
        geometry: Geometry,
        deallocation: Deallocation,
        io_poll: bool,
        memory_slots: u16,
    ) -> io::Result<Self> {
        let fd = file.file.as_raw_fd();
        let io_poll = io_poll && ring::try_io_poll(&file.file, geometry.lba_bytes).is_ok();
        let ring = io_ring::set_up(geometry.depth, io_poll)?;
        ring.submitter().register_files(&[fd])?;
        let side = if io_poll { Some(io_ring::set_up(geometry.depth, false)?) } else { None };
        if let Some(side) = &side {
            side.submitter().register_files(&[fd])?;
        }
        // Without a table (before Linux 5.19) no region can be registered, which `attach` finds out.
        let _ = ring.submitter().register_buffers_sparse(u32::from(memory_slots.min(ring::MAX_BUFFERS)));
        let depth = geometry.depth as u16;
        Ok(Self {
            ring,
            side,
            geometry,
            commands: SlotPool::new(depth),
            regions: AttachedRegions::new(memory_slots),
            registered: vec![false; usize::from(memory_slots)].into(),
            unsent: false,
            invalid: VecDeque::with_capacity(usize::from(depth)),
            deallocation,
            stats: UringStats::default(),
            _file: file,
            _thread: PhantomData,
        })
    }

    /// What the queue did so far.
    #[must_use]
    pub fn stats(&self) -> UringStats {
        self.stats
    }

    /// Whether completions are polled for on the device.
    #[must_use]
    pub fn polls_device(&self) -> bool {
        self.side.is_some()
    }

    /// Puts the entry of what is left of a command into the submission ring.
    fn send(&mut self, id: SlotId, io: &BlockIo, moved: u32) {
        let moves = matches!(io.op, BlockOp::Read | BlockOp::Write { .. });
        let fixed = moves && self.registered[usize::from(io.memory.slot().0)];
        let entry = entry::build(io, moved, self.geometry.lba_bytes, fixed, self.deallocation).user_data(id.to_bits());
        let ring = if moves { &mut self.ring } else { self.side.as_mut().unwrap_or(&mut self.ring) };
        // SAFETY: the memory was checked to lie inside the attached region that its slot names. The table holds that
        // region, and thereby the mapping, until no command that names it is outstanding, and the destructor waits
        // for what is. The file outlives the ring.
        let pushed = unsafe { ring.submission().push(&entry) };
        // The ring has at least as many entries as there are commands, and each has one entry at most in it.
        debug_assert!(pushed.is_ok());
        if fixed {
            self.stats.fixed += 1;
        } else if moves {
            self.stats.unfixed += 1;
        }
    }

    /// One system call for each ring that has something to send or to gather.
    fn enter(&mut self) {
        self.unsent = false;
        for ring in std::iter::once(&mut self.ring).chain(&mut self.side) {
            let entries = ring.submission().len();
            if entries == 0 && !io_ring::must_gather(ring) {
                continue;
            }
            self.stats.enters += 1;
            match ring.submit() {
                Ok(taken) => {
                    self.stats.submitted += taken as u64;
                    self.unsent |= taken < entries;
                }
                Err(error) => {
                    self.unsent |= entries > 0;
                    let again = matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY));
                    self.stats.failed_enters += u64::from(!again);
                }
            }
        }
    }

    /// Takes completions out of the rings, as many as fit into `done`.
    fn reap(&mut self, done: &mut Burst<BlockDone>) {
        let mut taken = ArrayVec::<(u64, i32), BURST>::new();
        let room = done.remaining_capacity();
        for ring in std::iter::once(&mut self.ring).chain(&mut self.side) {
            taken.extend(ring.completion().take(room - taken.len()).map(|entry| (entry.user_data(), entry.result())));
        }
        for (bits, result) in taken {
            if let Some(finished) = self.finish(SlotId::from_bits(bits), result) {
                done.push(finished);
            }
        }
    }

    /// What a completion means for its command; `None` if the command goes on.
    fn finish(&mut self, id: SlotId, result: i32) -> Option<BlockDone> {
        let command = self.commands.get_mut(id)?;
        let verdict = judge(command, result, self.geometry.lba_bytes);
        if verdict == Verdict::GoesOn {
            let (io, moved) = (command.io, command.moved);
            self.stats.resubmitted += 1;
            self.send(id, &io, moved);
            self.unsent = true;
            return None;
        }
        let command = self.commands.remove(id)?;
        self.regions.end(&command.io);
        self.stats.completed += 1;
        let result = if let Verdict::Ended(result) = verdict { result } else { Ok(()) };
        Some(BlockDone { token: command.io.token, result })
    }

    /// Registers memory with the kernel, which pins it, or the lack of memory (`None`) in its place.
    fn register(&mut self, slot: RegionSlot, region: Option<&Region>) -> io::Result<()> {
        let base = region.map_or(std::ptr::null_mut(), |region| region.base() as *mut _);
        let buffer = libc::iovec { iov_base: base, iov_len: region.map_or(0, Region::bytes) };
        // SAFETY: the table of regions keeps the mapping alive until it was taken out of the kernel's table again or
        // the ring is gone.
        unsafe { self.ring.submitter().register_buffers_update(u32::from(slot.0), &[buffer], None) }?;
        self.registered[usize::from(slot.0)] = region.is_some();
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ended(Result<(), BlockError>),
    GoesOn,
}

/// Judges what the kernel said of a command, and notes how far it came.
fn judge(command: &mut InFlight, result: i32, lba_bytes: u32) -> Verdict {
    let asked = command.io.memory.bytes();
    match (command.io.op, -result) {
        (_, libc::EAGAIN | libc::EINTR) if command.retries < MAX_RETRIES => {
            command.retries += 1;
            Verdict::GoesOn
        }
        // A hint that the device does not take is still taken.
        (BlockOp::Deallocate, libc::EOPNOTSUPP | libc::EINVAL) => Verdict::Ended(Ok(())),
        // The owner of the memory took it away.
        (_, libc::EFAULT) => Verdict::Ended(Err(BlockError::Invalid)),
        (_, libc::ENODEV | libc::ENXIO | libc::ESHUTDOWN | libc::ECANCELED) => Verdict::Ended(Err(BlockError::Gone)),
        (_, error) if error > 0 => Verdict::Ended(Err(BlockError::Media(error))),
        (BlockOp::Flush | BlockOp::Deallocate, _) => Verdict::Ended(Ok(())),
        (BlockOp::Read | BlockOp::Write { .. }, _) => {
            let now = result.unsigned_abs();
            command.moved = command.moved.saturating_add(now).min(asked);
            if command.moved == asked {
                Verdict::Ended(Ok(()))
            } else if now == 0 || !command.moved.is_multiple_of(lba_bytes) {
                Verdict::Ended(Err(BlockError::Short { moved: command.moved, asked }))
            } else {
                Verdict::GoesOn
            }
        }
    }
}

impl BlockQueue for UringQueue {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn room(&self) -> usize {
        self.commands.available() - self.invalid.len()
    }

    fn push(&mut self, io: BlockIo) -> Result<(), QueueFull> {
        if self.room() == 0 {
            return Err(QueueFull(io));
        }
        if self.regions.check(&self.geometry, &io).is_err() {
            self.invalid.push_back(io.token);
            return Ok(());
        }
        let command = InFlight { io, moved: 0, retries: 0 };
        let id = self.commands.insert(command).map_err(|command| QueueFull(command.io))?;
        self.regions.begin(&io);
        self.send(id, &io, 0);
        Ok(())
    }

    fn ring(&mut self) {
        if self.commands.in_use() > 0 {
            self.enter();
        }
    }

    fn poll(&mut self, done: &mut Burst<BlockDone>) {
        while !done.is_full()
            && let Some(token) = self.invalid.pop_front()
        {
            done.push(BlockDone { token, result: Err(BlockError::Invalid) });
        }
        if self.commands.in_use() == 0 {
            return;
        }
        self.reap(done);
        let gather = io_ring::must_gather(&mut self.ring) || self.side.as_mut().is_some_and(io_ring::must_gather);
        if !done.is_full() && (self.unsent || gather) {
            self.enter();
            self.reap(done);
        }
    }

    fn in_flight(&self) -> usize {
        self.commands.in_use() + self.invalid.len()
    }

    fn attach(&mut self, region: Arc<Region>) -> Result<(), AttachError> {
        let slot = region.slot();
        self.regions.check_free(slot)?;
        // I/O on memory that cannot be registered is slower, and counted; a log line would hold the core up.
        if self.register(slot, Some(&region)).is_err() {
            self.stats.unfixed_regions += 1;
        }
        self.regions.attach(region)
    }

    fn detach(&mut self, slot: RegionSlot) -> Result<(), AttachError> {
        self.regions.check_idle(slot)?;
        if self.registered[usize::from(slot.0)] {
            self.register(slot, None)?;
        }
        self.regions.detach(slot)
    }
}

impl Drop for UringQueue {
    /// Waits for the device to let go of the memory.
    fn drop(&mut self) {
        while self.commands.in_use() > 0 {
            let waited = match &self.side {
                None => self.ring.submit_and_wait(1),
                Some(side) => side.submit().and_then(|_| self.ring.submit()),
            };
            let again = waited
                .as_ref()
                .is_err_and(|error| matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)));
            if waited.is_err() && !again {
                // Nobody can tell any more when the device is through: better to lose the memory than to reuse it.
                std::mem::forget(std::mem::replace(&mut self.regions, AttachedRegions::new(0)));
                return;
            }
            let rings = std::iter::once(&mut self.ring).chain(&mut self.side);
            for entry in rings.flat_map(IoUring::completion) {
                self.commands.remove(SlotId::from_bits(entry.user_data()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::DmaSlice;

    fn command(op: BlockOp, bytes: u32) -> InFlight {
        let region = Region::anonymous(1 << 20, RegionSlot(0)).unwrap();
        let memory = region.slice(0, bytes).unwrap_or(DmaSlice::EMPTY);
        InFlight { io: BlockIo { op, lba: 0, blocks: bytes / 4096, memory, token: 0 }, moved: 0, retries: 0 }
    }

    #[test]
    fn a_short_transfer_goes_on_until_nothing_moves() {
        let mut read = command(BlockOp::Read, 16384);
        assert_eq!(judge(&mut read, 4096, 4096), Verdict::GoesOn);
        assert_eq!(judge(&mut read, 8192, 4096), Verdict::GoesOn);
        let short = BlockError::Short { moved: 12288, asked: 16384 };
        assert_eq!(judge(&mut read, 0, 4096), Verdict::Ended(Err(short)));
        let mut write = command(BlockOp::write(true), 16384);
        assert_eq!(judge(&mut write, 8192, 4096), Verdict::GoesOn);
        assert_eq!(judge(&mut write, 8192, 4096), Verdict::Ended(Ok(())));
        let mut odd = command(BlockOp::Read, 8192);
        let short = BlockError::Short { moved: 100, asked: 8192 };
        assert_eq!(judge(&mut odd, 100, 4096), Verdict::Ended(Err(short)));
    }

    #[test]
    fn errors_are_told_apart() {
        let ended = |op, error: i32| judge(&mut command(op, 4096), -error, 4096);
        assert_eq!(ended(BlockOp::Read, libc::EIO), Verdict::Ended(Err(BlockError::Media(libc::EIO))));
        assert_eq!(ended(BlockOp::Read, libc::EFAULT), Verdict::Ended(Err(BlockError::Invalid)));
        assert_eq!(ended(BlockOp::Flush, libc::ENODEV), Verdict::Ended(Err(BlockError::Gone)));
        assert_eq!(ended(BlockOp::Flush, libc::EINVAL), Verdict::Ended(Err(BlockError::Media(libc::EINVAL))));
        assert_eq!(ended(BlockOp::Deallocate, libc::EOPNOTSUPP), Verdict::Ended(Ok(())));
    }

    #[test]
    fn the_kernel_may_not_put_a_command_off_for_ever() {
        let mut read = command(BlockOp::Read, 4096);
        for _ in 0..MAX_RETRIES {
            assert_eq!(judge(&mut read, -libc::EAGAIN, 4096), Verdict::GoesOn);
        }
        let media = BlockError::Media(libc::EAGAIN);
        assert_eq!(judge(&mut read, -libc::EAGAIN, 4096), Verdict::Ended(Err(media)));
    }
}
