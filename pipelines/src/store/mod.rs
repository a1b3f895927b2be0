//! stub
#![allow(missing_docs, unused_variables, clippy::pedantic, clippy::todo)]
use dataplane::Burst;
use dataplane::core::{Poll, Ticks};
use dataplane::nvme::spec::{
    kv::{Key, StoreOptions},
    vendor::Tier,
};
use dataplane::nvme::{BlockError, BlockQueue};
#[derive(Clone, Copy, Debug)]
pub struct Space(u32);
impl Space {
    pub fn new(ns28: u32, len: u8) -> Self {
        Self(ns28 << 4 | u32::from(len))
    }
}
#[derive(Clone, Copy, Debug)]
pub struct BlockId {
    pub space: Space,
    pub key: Key,
}
#[derive(Clone, Copy, Debug)]
pub enum Class {
    Cache,
    Durable,
}
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub bytes: u32,
    pub checksum: u64,
    pub tier: Tier,
}
impl Found {
    pub fn lba(&self) -> u64 {
        0
    }
    pub fn entry_index(&self) -> u32 {
        0
    }
}
#[derive(Debug)]
pub struct Hold;
#[derive(Debug)]
pub struct Extent;
impl Extent {
    pub fn lba(&self) -> u64 {
        0
    }
}
pub enum Refusal {
    TooLarge,
    OverQuota,
    Wait,
    NoSpace,
}
#[derive(Debug)]
pub struct NewBlock {
    pub id: BlockId,
    pub hash: u64,
    pub bytes: u32,
    pub checksum: u64,
    pub parent: u64,
    pub class: Class,
    pub condition: StoreOptions,
}
pub enum Published {
    Visible,
    Pending,
    KeyExists,
    KeyMissing,
    IndexFull,
}
pub enum Deleted {
    Missing,
    Done,
    Pending,
    Wait,
}
#[derive(Clone, Copy, Debug)]
pub struct ShardStats;
pub struct Shard;
impl Shard {
    pub fn is_ready(&self) -> bool {
        true
    }
    pub fn hash(&self, id: &BlockId) -> u64 {
        0
    }
    pub fn prefetch(&self, hash: u64) {}
    pub fn find(&self, hash: u64, id: &BlockId) -> Option<Found> {
        None
    }
    pub fn touch(&mut self, found: &Found) {}
    pub fn hold(&mut self, found: &Found) -> Hold {
        Hold
    }
    pub fn release(&mut self, hold: Hold) {}
    pub fn reserve(&mut self, ns: u32, bytes: u32, quota: Option<u64>) -> Result<Extent, Refusal> {
        Err(Refusal::Wait)
    }
    pub fn publish(&mut self, extent: Extent, block: NewBlock, ticket: u64) -> Published {
        Published::Visible
    }
    pub fn abandon(&mut self, extent: Extent) {}
    pub fn delete(&mut self, hash: u64, id: &BlockId, class: Class, ticket: u64) -> Deleted {
        Deleted::Done
    }
    pub fn committed(&mut self, out: &mut Burst<(u64, bool)>) {}
    pub fn lease(&mut self, found: &Found, lease: u32, expires: Ticks) -> bool {
        true
    }
    pub fn unlease(&mut self, lease: u32) {}
    pub fn purge(&mut self, ns: u32) {}
    pub fn used_bytes(&self, ns: u32) -> u64 {
        0
    }
    pub fn list(&self, ns: u32, cursor: u32, budget: u32, out: &mut Burst<(Key, u8)>) -> Option<u32> {
        None
    }
    pub fn poll<B: BlockQueue>(&mut self, now: Ticks, blocks: &mut B) -> Poll {
        Poll::Idle
    }
    pub fn done<B: BlockQueue>(&mut self, token: u64, result: Result<(), BlockError>, blocks: &mut B) {}
    pub fn drain<B: BlockQueue>(&mut self, now: Ticks, blocks: &mut B) -> bool {
        true
    }
    pub fn stats(&self) -> ShardStats {
        ShardStats
    }
}
