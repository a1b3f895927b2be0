//! Stage 3: where is the block, or where shall it go? Looks at the placement tag for the owner, then asks the
//! owner's index and log.

use arrayvec::ArrayVec;
use dataplane::BURST;
use dataplane::fabric::Completion;
use dataplane::nvme::spec::vendor::{OwnerMap, owner_shard};
use dataplane::nvme::spec::{Status, kv::Key, kv::KeyFields};

use crate::classify::{Operation, OperationKind, StoreRequest, WireKey, decode, key_of};
use crate::lines::{Lanes, Lines};
use crate::policy::{Admitted, AdmittedBurst, Durability, Grant};
use crate::store::{BlockId, Class, Extent, Hold, NewBlock, Refusal, Shard, Space};

/// A burst whose commands have their place: in the dma stage, on another core, among the lists, or in line for room.
/// Made only here.
#[derive(Debug)]
pub struct PlacedBurst(AdmittedBurst);

impl PlacedBurst {
    #[inline]
    pub(crate) fn lines(&mut self) -> &mut Lines {
        self.0.lines()
    }

    /// Takes a command out that goes on elsewhere.
    pub(crate) fn take(&mut self, lane: usize) -> Admitted {
        self.0.take(lane)
    }

    #[inline]
    pub(crate) fn into_lines(self) -> Box<Lines> {
        self.0.into_lines()
    }
}

/// A value that goes from flash to the client. Made only here, as are its likes.
#[derive(Debug)]
pub(crate) struct PlacedLoad {
    /// Which command of the burst.
    pub lane: usize,
    pub shard: usize,
    pub hold: Hold,
    pub lba: u64,
    /// The value's length, or the client's room if that is less.
    pub bytes: u32,
    /// The value's length.
    pub value_bytes: u32,
    /// The low half of the value's checksum: what a completion has room for.
    pub checksum: u32,
    _made_here: Seal,
}

/// A value that goes from the client to flash, then into the index.
#[derive(Debug)]
pub(crate) struct PlacedSave {
    pub lane: usize,
    pub shard: usize,
    pub extent: Extent,
    pub block: NewBlock,
    _made_here: Seal,
}

/// A value that goes out of the index and the log.
#[derive(Debug)]
pub(crate) struct PlacedErasure {
    pub lane: usize,
    pub shard: usize,
    pub hash: u64,
    pub id: BlockId,
    pub class: Class,
    _made_here: Seal,
}

#[derive(Debug)]
struct Seal;

/// Which core and which of its shards a key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The core.
    pub core: u16,
    /// Index among the core's own shards.
    pub local_shard: usize,
}

/// Which keys belong to whom. The same on every core and at every initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Shards of the store and cores that serve them.
    pub map: OwnerMap,
    /// This core.
    pub core: u16,
}

impl Ownership {
    /// The owner of a key.
    #[must_use]
    #[inline]
    pub fn owner(&self, key: &Key) -> Owner {
        let OwnerMap { shards, cores } = self.map;
        if shards == 1 {
            return Owner { core: 0, local_shard: 0 };
        }
        let shard = owner_shard(key.tag(), shards);
        Owner { core: (shard % cores) as u16, local_shard: (shard / cores) as usize }
    }
}

/// The identity of a block: what the store files it under.
#[must_use]
#[inline]
pub fn block_id(grant: &Grant, key: &WireKey) -> BlockId {
    BlockId { space: Space::new(grant.ns28, key.length), key: key.key }
}

impl From<Durability> for Class {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Cache => Self::Cache,
            Durability::Durable => Self::Durable,
        }
    }
}

/// Where a command of the burst goes, found out in the first pass.
#[derive(Clone, Copy)]
struct Way {
    shard: usize,
    hash: u64,
    id: BlockId,
}

/// Places a burst. Two passes over the burst, so that the index lines of one command arrive while the hash of the
/// next is computed.
#[inline]
#[must_use]
pub fn place(ownership: Ownership, shards: &mut [Shard], mut admitted: AdmittedBurst) -> PlacedBurst {
    let lines = admitted.lines();
    let mut ways: ArrayVec<Way, BURST> = ArrayVec::new();
    let mut here = Lanes::default();
    for lane in lines.open {
        if let Some(way) = way(ownership, shards, lane, lines) {
            ways.push(way);
            here.insert(lane);
        }
    }
    for (lane, way) in here.zip(&ways) {
        place_one(&mut shards[way.shard], way, lane, lines);
    }
    lines.open = Lanes::default();
    PlacedBurst(admitted)
}

/// Where a command goes that this core has to look up; `None` for one that has found its way already.
#[inline]
fn way(ownership: Ownership, shards: &[Shard], lane: usize, lines: &mut Lines) -> Option<Way> {
    let note = &mut lines.notes[lane];
    match note.kind {
        OperationKind::Exist | OperationKind::Retrieve | OperationKind::Store | OperationKind::Delete => {}
        OperationKind::Other => {
            lines.end(lane, Completion::success(0, 0));
            return None;
        }
        _ => {
            lines.lists.insert(lane);
            return None;
        }
    }
    let Ok(key) = key_of(&lines.capsules[lane].sqe) else {
        // It was looked at when it was classified.
        lines.end(lane, Completion::failed(Status::INVALID_KEY_SIZE));
        return None;
    };
    let Owner { core, local_shard } = ownership.owner(&key.key);
    if core != ownership.core {
        note.core = core;
        lines.elsewhere.insert(lane);
        return None;
    }
    match shards.get(local_shard) {
        Some(shard) if shard.is_ready() => {
            let id = block_id(&note.grant, &key);
            let hash = shard.hash(&id);
            shard.prefetch(hash);
            Some(Way { shard: local_shard, hash, id })
        }
        _ => {
            lines.end(lane, Completion::failed(Status::NAMESPACE_NOT_READY));
            None
        }
    }
}

#[inline]
fn place_one(shard: &mut Shard, way: &Way, lane: usize, lines: &mut Lines) {
    let Way { hash, id, .. } = way;
    match lines.notes[lane].kind {
        OperationKind::Exist => {
            let found = shard.find(*hash, id).is_some();
            lines.end(lane, if found { Completion::success(0, 0) } else { MISS });
        }
        OperationKind::Retrieve => load(shard, way, lane, lines),
        OperationKind::Delete => {
            let class = lines.notes[lane].grant.class.into();
            let (shard, hash, id) = (way.shard, *hash, *id);
            lines.erasures.push(PlacedErasure { lane, shard, hash, id, class, _made_here: Seal });
        }
        _ => save(shard, way, lane, lines),
    }
}

const MISS: Completion = Completion::failed(Status::KEY_DOES_NOT_EXIST);

#[inline]
fn load(shard: &mut Shard, way: &Way, lane: usize, lines: &mut Lines) {
    let Some(found) = shard.find(way.hash, &way.id) else {
        lines.end(lane, MISS);
        return;
    };
    shard.touch(&found);
    lines.loads.push(PlacedLoad {
        lane,
        shard: way.shard,
        hold: shard.hold(&found),
        lba: found.lba(),
        bytes: found.bytes.min(lines.capsules[lane].sqe.buffer_bytes()),
        value_bytes: found.bytes,
        checksum: found.checksum as u32,
        _made_here: Seal,
    });
}

/// Finds room for a Store's value, unless it has to wait for it or is refused.
fn save(shard: &mut Shard, way: &Way, lane: usize, lines: &mut Lines) {
    let Ok(Operation::Store(request)) = decode(&lines.capsules[lane].sqe) else {
        lines.end(lane, Completion::failed(Status::INTERNAL_ERROR));
        return;
    };
    let grant = lines.notes[lane].grant;
    match reserve(shard, way.hash, &way.id, &grant, &request) {
        Ok(extent) => {
            let block = NewBlock {
                id: way.id,
                hash: way.hash,
                bytes: request.bytes,
                checksum: request.checksum,
                parent: request.parent,
                class: grant.class.into(),
                condition: request.options,
            };
            lines.saves.push(PlacedSave { lane, shard: way.shard, extent, block, _made_here: Seal });
        }
        Err(Some(status)) => lines.end(lane, Completion::failed(status)),
        Err(None) => lines.waiting.insert(lane),
    }
}

/// Room for a value. `Err(None)` asks to wait: the store is making room.
fn reserve(
    shard: &mut Shard,
    hash: u64,
    id: &BlockId,
    grant: &Grant,
    request: &StoreRequest,
) -> Result<Extent, Option<Status>> {
    // The conditions hold again when the value is published; asking now spares the transfer.
    if request.options.must_exist || request.options.must_not_exist {
        match (shard.find(hash, id).is_some(), request.options.must_exist) {
            (true, false) => return Err(Some(Status::KEY_EXISTS)),
            (false, true) => return Err(Some(Status::KEY_DOES_NOT_EXIST)),
            _ => {}
        }
    }
    shard.reserve(grant.ns28, request.bytes, grant.class.into(), grant.quota_bytes).map_err(|refusal| match refusal {
        Refusal::Wait => None,
        Refusal::TooLarge => Some(Status::INVALID_VALUE_SIZE),
        Refusal::OverQuota | Refusal::NoSpace => Some(Status::CAPACITY_EXCEEDED),
    })
}
