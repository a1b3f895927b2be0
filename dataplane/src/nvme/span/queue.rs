//! One core's queues on the devices, as one queue.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::counters::IoCounters;
use crate::Burst;
use crate::memory::{DmaSlice, Region, RegionSlot};
use crate::nvme::{AttachError, BlockDone, BlockError, BlockIo, BlockOp, BlockQueue, Geometry, QueueFull};

/// A device's part in a span.
#[derive(Debug)]
pub struct SpanPart<B> {
    /// The core's queue on it.
    pub queue: B,
    /// The first byte of the device that belongs to the span.
    pub first_byte: u64,
    /// How many bytes do.
    pub bytes: u64,
    /// Where its commands are counted.
    pub counters: Arc<IoCounters>,
}

#[derive(Debug)]
struct Member<B> {
    queue: B,
    /// First block of it in the span, and the first after it, in the span's blocks.
    begin: u64,
    end: u64,
    /// Block of the device at `begin`, in the device's blocks.
    offset: u64,
    /// How many times its blocks go into one of the span, as a shift.
    shift: u32,
    counters: Arc<IoCounters>,
}

/// A flush that went to every device.
#[derive(Clone, Copy, Debug)]
struct Flush {
    token: u64,
    left: usize,
    result: Result<(), BlockError>,
}

/// Queues on several devices as one. Its blocks are as long as the longest of any device.
///
/// The token of a flush must not be that of another command which is outstanding.
#[derive(Debug)]
pub struct SpanQueue<B> {
    members: Box<[Member<B>]>,
    geometry: Geometry,
    flushes: Vec<Flush>,
    /// Commands that ended without a device.
    ended: VecDeque<BlockDone>,
    outstanding: usize,
    /// The member that is polled first next time.
    turn: usize,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

impl<B: BlockQueue> SpanQueue<B> {
    /// Joins queues, in the order of their blocks.
    ///
    /// # Errors
    /// `InvalidInput` if there is none, or if a part is not made of whole blocks of its device.
    pub fn new(parts: Vec<SpanPart<B>>) -> io::Result<Self> {
        let shapes: Vec<Geometry> = parts.iter().map(|part| *part.queue.geometry()).collect();
        let first = *shapes.first().ok_or_else(|| invalid("a span needs a device"))?;
        let lba_bytes = shapes.iter().map(|shape| shape.lba_bytes).max().unwrap_or(first.lba_bytes);
        let unit = u64::from(lba_bytes);
        let mut members = Vec::with_capacity(parts.len());
        let mut begin = 0;
        for (part, shape) in parts.into_iter().zip(&shapes) {
            let inside = part.first_byte.checked_add(part.bytes).is_some_and(|end| end <= shape.bytes());
            if !inside || !part.first_byte.is_multiple_of(unit) || !part.bytes.is_multiple_of(unit) {
                return Err(invalid("a part of a span must be whole blocks of its device"));
            }
            let end = begin + part.bytes / unit;
            members.push(Member {
                queue: part.queue,
                begin,
                end,
                offset: part.first_byte / u64::from(shape.lba_bytes),
                shift: (lba_bytes / shape.lba_bytes).trailing_zeros(),
                counters: part.counters,
            });
            begin = end;
        }
        let least = |of: fn(&Geometry) -> u32| shapes.iter().map(of).min().unwrap_or(0);
        let depth = least(|shape| shape.depth);
        let geometry = Geometry {
            lba_bytes,
            blocks: begin,
            memory_align: shapes.iter().map(|shape| shape.memory_align).max().unwrap_or(1),
            max_transfer: (least(|shape| shape.max_transfer) / lba_bytes).max(1) * lba_bytes,
            volatile_cache: shapes.iter().any(|shape| shape.volatile_cache),
            deallocate: shapes.iter().any(|shape| shape.deallocate),
            depth,
        };
        Ok(Self {
            members: members.into(),
            geometry,
            flushes: Vec::with_capacity(depth as usize),
            ended: VecDeque::with_capacity(depth as usize),
            outstanding: 0,
            turn: 0,
        })
    }

    /// Where each device's commands are counted, in order.
    pub fn counters(&self) -> impl Iterator<Item = &IoCounters> {
        self.members.iter().map(|member| member.counters.as_ref())
    }

    #[cfg(test)]
    pub(super) fn queue_mut(&mut self, member: usize) -> &mut B {
        &mut self.members[member].queue
    }

    /// The device that a command's blocks lie on.
    #[inline(always)]
    fn member_of(&mut self, io: &BlockIo) -> Option<&mut Member<B>> {
        let end = io.lba.checked_add(u64::from(io.blocks))?;
        let member = match &mut *self.members {
            [sole] => sole,
            members => members.iter_mut().find(|member| io.lba < member.end)?,
        };
        (end <= member.end).then_some(member)
    }

    fn flush(&mut self, io: BlockIo) -> Result<(), QueueFull> {
        if self.room() == 0 {
            return Err(QueueFull(io));
        }
        let mut flush = Flush { token: io.token, left: 0, result: Ok(()) };
        for member in &mut self.members {
            // What a device that is gone for good held is lost, flushed or not.
            if member.counters.is_gone() {
                continue;
            }
            match member.queue.push(io) {
                Ok(()) => flush.left += 1,
                // There was room; a device that has none after all is not flushed.
                Err(QueueFull(_)) => flush.result = Err(BlockError::Gone),
            }
            member.counters.count(&io, 0);
        }
        if flush.left == 0 {
            flush.result = Err(BlockError::Gone);
            self.ended.push_back(BlockDone { token: flush.token, result: flush.result });
        } else {
            self.flushes.push(flush);
        }
        Ok(())
    }

    #[cold]
    fn refuse(&mut self, io: &BlockIo) -> Result<(), QueueFull> {
        if self.room() == 0 {
            return Err(QueueFull(*io));
        }
        self.ended.push_back(BlockDone { token: io.token, result: Err(BlockError::Invalid) });
        Ok(())
    }

    /// Keeps back the parts of flushes that are not over: of what came at `from` and after.
    #[cold]
    fn gather_flushes(&mut self, done: &mut Burst<BlockDone>, from: usize) {
        let flushes = &mut self.flushes;
        let mut at = 0;
        done.retain(|ended| {
            at += 1;
            let part = flushes.iter().position(|flush| flush.token == ended.token).filter(|_| at > from);
            let Some(index) = part else { return true };
            let flush = &mut flushes[index];
            flush.left -= 1;
            flush.result = flush.result.and(ended.result);
            if flush.left > 0 {
                return false;
            }
            ended.result = flushes.swap_remove(index).result;
            true
        });
    }
}

impl<B: BlockQueue> BlockQueue for SpanQueue<B> {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    #[inline]
    fn room(&self) -> usize {
        let room = self.members.iter().map(|member| member.queue.room()).min().unwrap_or(0);
        room.min((self.geometry.depth as usize).saturating_sub(self.ended.len()))
    }

    #[inline]
    fn push(&mut self, io: BlockIo) -> Result<(), QueueFull> {
        if io.op == BlockOp::Flush {
            self.flush(io)?;
            self.outstanding += 1;
            return Ok(());
        }
        let lba_bytes = self.geometry.lba_bytes;
        let Some(member) = self.member_of(&io) else {
            self.refuse(&io)?;
            self.outstanding += 1;
            return Ok(());
        };
        let lba = ((io.lba - member.begin) << member.shift) + member.offset;
        // What overflows is longer than any transfer, and refused as such.
        let blocks = io.blocks.checked_shl(member.shift).unwrap_or(u32::MAX);
        member.queue.push(BlockIo { lba, blocks, ..io }).map_err(|_| QueueFull(io))?;
        member.counters.count(&io, lba_bytes);
        self.outstanding += 1;
        Ok(())
    }

    #[inline]
    fn ring(&mut self) {
        self.members.iter_mut().for_each(|member| member.queue.ring());
    }

    #[inline]
    fn poll(&mut self, done: &mut Burst<BlockDone>) {
        let before = done.len();
        while !done.is_full()
            && let Some(ended) = self.ended.pop_front()
        {
            done.push(ended);
        }
        // Each in turn is the first, so that a busy device keeps nobody waiting for good.
        let (late, early) = self.members.split_at_mut(self.turn);
        for member in early.iter_mut().chain(late) {
            let from = done.len();
            member.queue.poll(done);
            for ended in &done[from..] {
                if ended.result.is_err() {
                    member.counters.count_error();
                }
            }
        }
        self.turn = if self.turn + 1 < self.members.len() { self.turn + 1 } else { 0 };
        if !self.flushes.is_empty() {
            self.gather_flushes(done, before);
        }
        self.outstanding -= done.len() - before;
    }

    #[inline]
    fn in_flight(&self) -> usize {
        self.outstanding
    }

    fn memory(&self) -> Vec<Arc<Region>> {
        self.members.iter().flat_map(|member| member.queue.memory()).collect()
    }

    #[inline]
    fn resident(&mut self, lba: u64, blocks: u32) -> Option<DmaSlice> {
        let lba_bytes = self.geometry.lba_bytes;
        let io = BlockIo { op: BlockOp::Read, lba, blocks, memory: DmaSlice::EMPTY, token: 0 };
        let member = self.member_of(&io).filter(|member| !member.counters.is_gone())?;
        let at = ((lba - member.begin) << member.shift) + member.offset;
        let slice = member.queue.resident(at, blocks.checked_shl(member.shift)?)?;
        member.counters.count(&io, lba_bytes);
        Some(slice)
    }

    #[inline]
    fn gone_devices(&self) -> usize {
        self.members.iter().filter(|member| member.counters.is_gone()).count()
    }

    fn is_gone(&self, lba: u64) -> bool {
        let member = self.members.iter().find(|member| lba < member.end);
        member.is_some_and(|member| member.counters.is_gone())
    }

    fn attach(&mut self, region: Arc<Region>) -> Result<(), AttachError> {
        for at in 0..self.members.len() {
            if let Err(error) = self.members[at].queue.attach(Arc::clone(&region)) {
                for member in &mut self.members[..at] {
                    // Nothing can have used it yet, so it lets go.
                    let _ = member.queue.detach(region.slot());
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn detach(&mut self, slot: RegionSlot) -> Result<(), AttachError> {
        let mut outcome = Ok(());
        for member in &mut self.members {
            // All are asked, for one that is busy is asked again later, and those that are not stay as they are.
            outcome = outcome.and(member.queue.detach(slot));
        }
        outcome
    }
}
