//! A simulated client: one session, one tenant, some memory, and a stream of commands whose answers it checks.

mod answers;

use std::collections::BTreeMap;
use std::sync::Arc;

use dataplane::fabric::SessionId;
use dataplane::memory::{Region, RegionSlot, SlotId};
use dataplane::nvme::spec::Sqe;
use dataplane::nvme::spec::fabrics::FABRICS_OPCODE;
use dataplane::nvme::spec::kv::{self, KeyFields};
use dataplane::nvme::spec::vendor;

use crate::fabric::SimData;
use crate::link::LinkPlan;
use crate::oracle::{Oracle, Version};
use crate::random::Random;

/// Commands a client has under way at most.
const BUFFERS: u64 = 12;
const BUFFER_BYTES: u64 = 256 * 1024;
/// What stands where a value may come to, on the way over the network. Nothing else may be written there.
const BLANK: u8 = 0xB1;
/// Keys in one list.
const LIST_KEYS: u32 = 24;

/// What a client does, in thousandths; the rest are retrieves.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Stores.
    pub store: u32,
    /// Deletes.
    pub delete: u32,
    /// Lookups and lists.
    pub lookup: u32,
    /// Exist.
    pub exist: u32,
    /// Commands that make no sense.
    pub garbage: u32,
}

/// What a client is.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    /// Its number, which is also its session and its memory slot.
    pub number: u16,
    /// Its tenant: the seed of all its contents.
    pub tenant: u32,
    /// How many keys it uses.
    pub keys: u64,
    /// The longest value.
    pub longest: u64,
    /// What it does.
    pub mix: Mix,
    /// Per mille of values whose memory is not aligned.
    pub unaligned: u32,
    /// How it comes by TCP; without, it is on the same machine.
    pub link: Option<LinkPlan>,
}

enum Asked {
    Store { key: u32 },
    Delete { key: u32 },
    Retrieve { allowed: Vec<Version>, key: u32, room: u32 },
    Exist { allowed: Vec<Version>, key: u32 },
    Prefix { keys: Vec<u32>, allowed: Vec<Vec<Version>>, leased: bool },
    States { keys: Vec<u32>, allowed: Vec<Vec<Version>> },
    Other,
}

struct Command {
    asked: Asked,
    buffer: u64,
    /// Where in the region its data begins.
    offset: u64,
    leave: Leave,
}

/// Whether a command may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    Given,
    /// The namespace was taken from the client, or given back, while the command was under way.
    Unknown,
    Denied,
}

/// What went wrong; the end of a run.
#[derive(Debug)]
pub struct Violation(pub String);

/// A client.
pub struct Client {
    plan: ClientPlan,
    random: Random,
    /// What its keys may hold.
    pub oracle: Oracle,
    region: Arc<Region>,
    free: Vec<u64>,
    commands: BTreeMap<u16, Command>,
    next_cid: u16,
    lease: Option<u32>,
    /// Answers whose checksum told of damage.
    pub corrupt: u64,
    /// Answers checked.
    pub checked: u64,
    /// Commands that were refused because the namespace had been taken from the client.
    pub refused: u64,
    /// Whether damage that the checksum tells of is to be expected.
    pub damage_expected: bool,
    /// Whether the namespace is taken from it.
    denied: bool,
}

impl Client {
    /// A client with blank memory.
    #[must_use]
    pub fn new(plan: ClientPlan, oracle: Oracle, random: Random, region: Arc<Region>, damage_expected: bool) -> Self {
        Self {
            plan,
            random,
            oracle,
            region,
            free: (0..BUFFERS).collect(),
            commands: BTreeMap::new(),
            next_cid: 0,
            lease: None,
            corrupt: 0,
            checked: 0,
            refused: 0,
            damage_expected,
            denied: false,
        }
    }

    /// Bytes of memory a client needs.
    #[must_use]
    pub const fn memory_bytes() -> usize {
        (BUFFERS * BUFFER_BYTES) as usize
    }

    /// The memory of a client.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Its slot among the regions.
    #[must_use]
    pub fn slot(&self) -> RegionSlot {
        self.region.slot()
    }

    /// How it comes by TCP.
    #[must_use]
    pub fn link(&self) -> Option<LinkPlan> {
        self.plan.link
    }

    /// Its session.
    #[must_use]
    pub fn session(&self) -> SessionId {
        SessionId(self.plan.number)
    }

    /// Its tenant.
    #[must_use]
    pub fn tenant(&self) -> u32 {
        self.plan.tenant
    }

    /// The queue name that its permits carry.
    #[must_use]
    pub fn queue(&self) -> SlotId {
        SlotId::from_bits(u64::from(self.plan.number))
    }

    /// Commands under way.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.commands.len()
    }

    /// Forgets what is under way, because the target or the client is no more.
    pub fn interrupted(&mut self, power_cut: bool) {
        self.oracle.interrupted(power_cut);
        self.commands.clear();
        self.free = (0..BUFFERS).collect();
        self.lease = None;
    }

    /// Whether the namespace is taken from it.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.denied
    }

    /// The namespace is taken from the client, or given to it again; every core knows it.
    pub fn deny(&mut self, denied: bool) {
        self.denied = denied;
        // When a core looks at what is under way, nobody knows.
        self.commands.values_mut().for_each(|command| command.leave = Leave::Unknown);
    }

    /// The namespace is about to be purged: lists that were begun before may find any of it gone.
    pub fn purge_begins(&mut self) {
        for command in self.commands.values_mut() {
            if let Asked::Prefix { allowed, .. } | Asked::States { allowed, .. } = &mut command.asked {
                allowed.iter_mut().for_each(|allowed| allowed.push(None));
            }
        }
    }

    fn wire_key(&self, key: u32) -> [u8; 16] {
        let mut mixed = Random::new(u64::from(key) << 8 | 0x5A);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&mixed.bits().to_le_bytes());
        bytes[8..].copy_from_slice(&mixed.bits().to_le_bytes());
        bytes
    }

    fn value(&self, key: u32, version: u32) -> Vec<u8> {
        let seed = u64::from(self.plan.tenant) << 48 ^ u64::from(key) << 24 ^ u64::from(version);
        let mut random = Random::new(seed);
        let bytes = match random.below(4) {
            0 => random.between(1, 4096),
            1 => random.between(1, self.plan.longest.div_ceil(4096)) * 4096,
            _ => random.between(1, self.plan.longest),
        };
        let bytes = bytes.min(self.plan.longest) as usize;
        let mut value = Vec::with_capacity(bytes + 8);
        while value.len() < bytes {
            value.extend_from_slice(&random.bits().to_le_bytes());
        }
        value.truncate(bytes);
        value
    }

    /// A new command, if a buffer is free.
    pub fn submit(&mut self) -> Option<(Sqe, SimData)> {
        let buffer = self.free.pop()?;
        self.next_cid = self.next_cid.wrapping_add(1);
        let cid = self.next_cid;
        let key = self.random.below(self.plan.keys) as u32;
        let offset = buffer * BUFFER_BYTES
            + if self.random.chance(self.plan.unaligned) { 4 * self.random.between(1, 200) } else { 0 };
        let Mix { store, delete, lookup, exist, garbage } = self.plan.mix;
        let roll = self.random.below(1000) as u32;
        let (asked, sqe, bytes) = if roll < store && !self.oracle.is_busy(key) {
            self.store(key, cid, offset)
        } else if roll < store + delete && !self.oracle.is_busy(key) {
            self.oracle.delete_begins(key);
            (Asked::Delete { key }, self.keyed(kv::opcode::DELETE, cid, key), 0)
        } else if roll < store + delete + lookup {
            self.lookup(cid, offset)
        } else if roll < store + delete + lookup + exist {
            let allowed = self.allowed(key);
            (Asked::Exist { allowed, key }, self.keyed(kv::opcode::EXIST, cid, key), 0)
        } else if roll < store + delete + lookup + exist + garbage {
            (Asked::Other, self.garbage(cid), self.random.below(8192) as u32)
        } else {
            self.retrieve(key, cid, offset)
        };
        let leave = if self.denied { Leave::Denied } else { Leave::Given };
        self.commands.insert(cid, Command { asked, buffer, offset, leave });
        let fragment = if self.random.chance(200) { 4096 } else { 0 };
        Some((sqe, SimData { slot: self.slot(), offset, bytes, position: 0, fragment }))
    }

    fn keyed(&self, opcode: u8, cid: u16, key: u32) -> Sqe {
        let mut sqe = Sqe::new(opcode, cid);
        sqe.set_nsid(1);
        sqe.set_key(&self.wire_key(key));
        sqe
    }

    fn store(&mut self, key: u32, cid: u16, offset: u64) -> (Asked, Sqe, u32) {
        let version = self.oracle.store_begins(key);
        let value = self.value(key, version);
        let _ = self.region.write(offset, &value);
        let mut sqe = self.keyed(kv::opcode::STORE, cid, key);
        sqe.set_dword(10, value.len() as u32);
        sqe.set_dword(11, sqe.dword(11) | vendor::STORE_HAS_CHECKSUM);
        sqe.set_quadword(12, checksum(&value));
        (Asked::Store { key }, sqe, value.len() as u32)
    }

    fn retrieve(&mut self, key: u32, cid: u16, offset: u64) -> (Asked, Sqe, u32) {
        let allowed = self.allowed(key);
        let room = if self.random.chance(100) { self.random.between(1, 5000) as u32 } else { self.plan.longest as u32 };
        let mut sqe = self.keyed(kv::opcode::RETRIEVE, cid, key);
        sqe.set_dword(10, room);
        if self.plan.link.is_some() {
            let _ = self.region.fill(offset, room as usize, BLANK);
        }
        (Asked::Retrieve { allowed, key, room }, sqe, room)
    }

    fn lookup(&mut self, cid: u16, offset: u64) -> (Asked, Sqe, u32) {
        if let Some(lease) = self.lease.take() {
            let mut sqe = Sqe::new(vendor::opcode::RELEASE, cid);
            sqe.set_nsid(1);
            sqe.set_dword(10, lease);
            return (Asked::Other, sqe, 0);
        }
        let count = self.random.between(1, u64::from(LIST_KEYS)) as u32;
        let keys: Vec<u32> = (0..count).map(|_| self.random.below(self.plan.keys) as u32).collect();
        let allowed = keys.iter().map(|&key| self.allowed(key)).collect();
        for (at, &key) in keys.iter().enumerate() {
            let _ = self.region.write(offset + 16 * at as u64, &self.wire_key(key));
        }
        let states = self.random.chance(500);
        let mut sqe = Sqe::new(if states { vendor::opcode::LOOKUP_STATE } else { vendor::opcode::LOOKUP_PREFIX }, cid);
        sqe.set_nsid(1);
        sqe.set_dword(10, count * 16);
        let leased = !states && self.random.chance(300);
        if leased {
            sqe.set_dword(11, vendor::LOOKUP_TAKE_LEASE);
            sqe.set_dword(12, 1 + self.random.below(20) as u32);
        }
        let asked = if states { Asked::States { keys, allowed } } else { Asked::Prefix { keys, allowed, leased } };
        (asked, sqe, count * 16)
    }

    fn garbage(&mut self, cid: u16) -> Sqe {
        let mut words = [0; 8];
        words.fill_with(|| self.random.bits());
        let mut sqe = Sqe::from_quadwords(words);
        sqe.set_cid(cid);
        // Half of it is aimed at the namespace, so that it gets further in; but it must not change what is stored.
        if self.random.chance(500) {
            sqe.set_nsid(1);
        }
        if matches!(sqe.opcode(), kv::opcode::STORE | kv::opcode::DELETE) || sqe.opcode() == FABRICS_OPCODE {
            sqe.set_nsid(99);
        }
        sqe
    }

    fn allowed(&mut self, key: u32) -> Vec<Version> {
        self.oracle.readable(key)
    }

    /// Something happened to `key`: reads under way may now see that too.
    fn widen(&mut self, key: u32) {
        let now = self.oracle.readable(key);
        let refresh = |asked: u32, allowed: &mut Vec<Version>| {
            if asked == key {
                allowed.extend(&now);
            }
        };
        for command in self.commands.values_mut() {
            match &mut command.asked {
                Asked::Retrieve { allowed, key: asked, .. } | Asked::Exist { allowed, key: asked } => {
                    refresh(*asked, allowed)
                }
                Asked::Prefix { keys, allowed, .. } | Asked::States { keys, allowed } => {
                    keys.iter().zip(allowed).for_each(|(&asked, allowed)| refresh(asked, allowed));
                }
                _ => {}
            }
        }
    }

    /// Tells the reads under way of a write that just began.
    pub fn began(&mut self, sqe: &Sqe) {
        if let Some(Asked::Store { key } | Asked::Delete { key }) =
            self.commands.get(&sqe.cid()).map(|command| &command.asked)
        {
            let key = *key;
            self.widen(key);
        }
    }
}

/// The checksum that goes with every value: CRC-64/NVME.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}
