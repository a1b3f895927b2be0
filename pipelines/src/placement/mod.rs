//! Stage 3: where is the block, or where shall it go? Looks at the placement tag for the owner, then asks the
//! owner's index and log.

use arrayvec::ArrayVec;
use dataplane::fabric::Completion;
use dataplane::nvme::spec::vendor::{OwnerMap, owner_shard};
use dataplane::nvme::spec::{Status, kv::Key};
use dataplane::{BURST, Burst};

use crate::classify::{Ended, Operation, Origin, StoreRequest, WireKey};
use crate::policy::{Admitted, Durability, Grant};
use crate::store::{BlockId, Class, Extent, Found, Hold, NewBlock, Refusal, Shard, Space};

/// A command with its place on flash. Made only here.
#[derive(Debug)]
pub struct Placed<D> {
    pub(crate) origin: Origin,
    pub(crate) data: D,
    pub(crate) shard: usize,
    pub(crate) transfer: Transfer,
    _made_here: Seal,
}

#[derive(Debug)]
struct Seal;

/// What has to move.
#[derive(Debug)]
pub(crate) enum Transfer {
    /// Flash to client.
    Load {
        hold: Hold,
        found: Found,
        /// The value's length, or the client's room if that is less.
        bytes: u32,
    },
    /// Client to flash, then into the index.
    Save { extent: Extent, block: NewBlock },
    /// Out of the index and the log.
    Erase { hash: u64, id: BlockId, class: Class },
}

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

/// Where a burst went.
#[derive(Debug)]
pub struct Placements<D> {
    /// Has to move bytes or change the log here.
    pub placed: Burst<Placed<D>>,
    /// Belongs to another core.
    pub elsewhere: Burst<(u16, Admitted<D>)>,
    /// Names many keys, which are looked up a slice a turn.
    pub lists: Burst<Admitted<D>>,
    /// Has to wait until the store has room.
    pub waiting: Burst<Admitted<D>>,
}

impl<D> Default for Placements<D> {
    fn default() -> Self {
        Self { placed: Burst::new(), elsewhere: Burst::new(), lists: Burst::new(), waiting: Burst::new() }
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
enum Way {
    /// This core owns the key: which of its shards, and the key's hash there.
    Here { shard: usize, hash: u64 },
    /// Another core owns it.
    Core(u16),
    /// The shard still recovers.
    NotReady,
    /// It names many keys, or none.
    Other,
}

/// Places a burst. Two passes over the burst, so that the index lines of one command arrive while the hash of the
/// next is computed.
#[inline]
pub fn place<D>(
    ownership: Ownership,
    shards: &mut [Shard],
    admitted: &mut Burst<Admitted<D>>,
    out: &mut Placements<D>,
    ended: &mut Burst<Ended>,
) {
    let mut ways: ArrayVec<Way, BURST> = ArrayVec::new();
    for command in admitted.iter() {
        ways.push(way(ownership, shards, command));
    }
    for (command, way) in admitted.drain(..).zip(&ways) {
        match *way {
            Way::Here { shard, hash } => place_one(&mut shards[shard], shard, hash, command, out, ended),
            Way::Core(core) => out.elsewhere.push((core, command)),
            Way::NotReady => ended.push(command.origin.fail(Status::NAMESPACE_NOT_READY)),
            Way::Other if command.operation == Operation::Flush => {
                ended.push(command.origin.end(Completion::success(0, 0)));
            }
            Way::Other => out.lists.push(command),
        }
    }
}

#[inline]
fn way<D>(ownership: Ownership, shards: &[Shard], command: &Admitted<D>) -> Way {
    let key = match &command.operation {
        Operation::Store(StoreRequest { key, .. })
        | Operation::Retrieve { key, .. }
        | Operation::Exist { key }
        | Operation::Delete { key } => key,
        _ => return Way::Other,
    };
    let owner = ownership.owner(&key.key);
    if owner.core != ownership.core {
        return Way::Core(owner.core);
    }
    match shards.get(owner.local_shard) {
        Some(shard) if shard.is_ready() => {
            let hash = shard.hash(&block_id(&command.grant, key));
            shard.prefetch(hash);
            Way::Here { shard: owner.local_shard, hash }
        }
        _ => Way::NotReady,
    }
}

#[inline]
fn place_one<D>(
    shard: &mut Shard,
    index: usize,
    hash: u64,
    admitted: Admitted<D>,
    out: &mut Placements<D>,
    ended: &mut Burst<Ended>,
) {
    let Admitted { origin, data, operation, grant, .. } = admitted;
    match operation {
        Operation::Exist { key } => ended.push(match shard.find(hash, &block_id(&grant, &key)) {
            Some(_) => origin.end(Completion::success(0, 0)),
            None => origin.fail(Status::KEY_DOES_NOT_EXIST),
        }),
        Operation::Retrieve { key, buffer_bytes } => match shard.find(hash, &block_id(&grant, &key)) {
            Some(found) => {
                shard.touch(&found);
                let bytes = found.bytes.min(buffer_bytes);
                let transfer = Transfer::Load { hold: shard.hold(&found), found, bytes };
                out.placed.push(Placed { origin, data, shard: index, transfer, _made_here: Seal });
            }
            None => ended.push(origin.fail(Status::KEY_DOES_NOT_EXIST)),
        },
        Operation::Store(request) => {
            let id = block_id(&grant, &request.key);
            match reserve(shard, hash, &id, &grant, &request) {
                Ok(extent) => {
                    let block = NewBlock {
                        id,
                        hash,
                        bytes: request.bytes,
                        checksum: request.checksum,
                        parent: request.parent,
                        class: grant.class.into(),
                        condition: request.options,
                    };
                    let transfer = Transfer::Save { extent, block };
                    out.placed.push(Placed { origin, data, shard: index, transfer, _made_here: Seal });
                }
                Err(Some(status)) => ended.push(origin.fail(status)),
                Err(None) => out.waiting.push(Admitted::again(origin, data, operation, grant)),
            }
        }
        Operation::Delete { key } => {
            let transfer = Transfer::Erase { hash, id: block_id(&grant, &key), class: grant.class.into() };
            out.placed.push(Placed { origin, data, shard: index, transfer, _made_here: Seal });
        }
        _ => ended.push(origin.fail(Status::INTERNAL_ERROR)),
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
