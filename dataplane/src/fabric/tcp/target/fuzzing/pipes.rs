//! Byte streams that split, merge, delay and cut what goes through them, as a seed says.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use super::super::streams::{Progress, StreamDone, Streams, Transfer};
use crate::Burst;
use crate::memory::{DmaSlice, Region};
use crate::nvme::fault::random::SplitMix64 as Random;

/// One stream, as the host's end sees it.
#[derive(Default)]
pub(in super::super) struct Pipe {
    pub to_target: VecDeque<u8>,
    pub to_host: VecDeque<u8>,
    /// Nothing comes through any more.
    pub cut: bool,
    place: u16,
    receive: Option<(DmaSlice, bool)>,
    send: Option<(Vec<DmaSlice>, u32)>,
    /// Nothing more is sent to the host.
    pub ended: bool,
    /// The longest send so far.
    pub longest: u32,
    /// Bytes move, but no receive or send ends.
    pub slow: (bool, bool),
    /// How far it is: bytes that the target took, and that the host has.
    taken: u64,
    pub acked: u64,
}

pub(in super::super) struct Pipes {
    pub pipes: BTreeMap<usize, Pipe>,
    pub random: Random,
    region: Arc<Region>,
    others: Vec<Arc<Region>>,
}

impl Pipe {
    /// Whether the target waits for a certain number of bytes.
    #[cfg(test)]
    pub fn is_filling(&self) -> bool {
        self.receive.is_some_and(|(_, all)| all)
    }

    /// The receive that is under way, if it is its time to end.
    fn received(&mut self, region: &Region, random: &mut Random) -> Option<Result<u32, i32>> {
        let (into, all) = self.receive.filter(|_| !self.slow.0 || self.cut)?;
        let there = self.to_target.len().min(into.bytes() as usize);
        if there == 0 {
            return self.cut.then(|| self.receive.take()).flatten().map(|_| Ok(0));
        }
        // Even with MSG_WAITALL the kernel may come back with less.
        let whole = there == into.bytes() as usize;
        if all && !whole && !self.cut && random.below(8) != 0 {
            return None;
        }
        let bytes = if whole && random.below(2) == 0 { there } else { 1 + random.below(there as u64) as usize };
        let taken: Vec<u8> = self.to_target.drain(..bytes).collect();
        region
            .write(region.offset_of(&into).expect("what the end asks for is there"), &taken)
            .expect("what the end asks for is there");
        self.receive = None;
        self.taken += bytes as u64;
        Some(Ok(bytes as u32))
    }

    fn sent(&mut self, regions: &[Arc<Region>], random: &mut Random) -> Option<Result<u32, i32>> {
        let (parts, most) = self.send.take_if(|_| !self.slow.1 || self.cut)?;
        if self.cut {
            return Some(Err(libc::EPIPE));
        }
        let mut bytes = Vec::new();
        for part in parts {
            let mut piece = vec![0; part.bytes() as usize];
            let region = regions.iter().find(|region| region.contains(&part)).expect("what the end sends is there");
            region
                .read(region.offset_of(&part).expect("what the end asks for is there"), &mut piece)
                .expect("what the end asks for is there");
            bytes.extend(piece);
        }
        bytes.truncate(most as usize);
        self.longest = self.longest.max(bytes.len() as u32);
        let most = if random.below(2) == 0 { bytes.len() } else { 1 + random.below(bytes.len() as u64) as usize };
        self.to_host.extend(&bytes[..most]);
        self.acked += most as u64;
        Some(Ok(most as u32))
    }
}

impl Streams for Pipes {
    type Stream = usize;

    fn new(_: u16, region: Arc<Region>) -> io::Result<Self> {
        Ok(Self { pipes: BTreeMap::new(), random: Random::new(0), region, others: Vec::new() })
    }

    fn read_from(&mut self, memory: &[Arc<Region>]) {
        self.others.extend_from_slice(memory);
    }

    fn receive(&mut self, place: u16, stream: &usize, into: DmaSlice, all: bool) {
        let pipe = self.pipes.get_mut(stream).expect("what the end asks for is there");
        assert!(pipe.receive.replace((into, all)).is_none(), "two receives at once");
        pipe.place = place;
    }

    fn send(&mut self, place: u16, stream: &usize, parts: &[DmaSlice], most: u32) {
        let pipe = self.pipes.get_mut(stream).expect("what the end asks for is there");
        assert!(!pipe.ended, "a send after the last");
        assert!(!parts.is_empty() && pipe.send.replace((parts.to_vec(), most)).is_none(), "two sends at once");
        pipe.place = place;
    }

    fn submit(&mut self) {}

    fn poll(&mut self, done: &mut Burst<StreamDone>) {
        let regions: Vec<_> = self.others.iter().chain([&self.region]).cloned().collect();
        let (random, region) = (&mut self.random, &self.region);
        for pipe in self.pipes.values_mut() {
            if done.remaining_capacity() < 2 || random.below(3) == 0 && !pipe.cut {
                continue;
            }
            let place = pipe.place;
            let mut ended = |send, result: Option<_>| {
                done.extend(result.map(|result| StreamDone { transfer: Transfer { place, send }, result }));
            };
            ended(false, pipe.received(region, random));
            ended(true, pipe.sent(&regions, random));
        }
    }

    fn progress(&self, stream: &usize) -> Option<Progress> {
        let pipe = self.pipes.get(stream).expect("what the end asks for is there");
        Some(Progress { acked: pipe.acked, received: pipe.taken + pipe.to_target.len() as u64 })
    }

    fn end_sending(&mut self, stream: &usize) {
        self.pipes.get_mut(stream).expect("what the end asks for is there").ended = true;
    }

    fn shut_down(&mut self, stream: &usize) {
        self.pipes.get_mut(stream).expect("what the end asks for is there").cut = true;
    }
}
