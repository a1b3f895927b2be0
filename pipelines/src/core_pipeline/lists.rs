//! Commands that name many keys: Lookup Prefix, Lookup State, Hint and List.
//!
//! Their keys may belong to several cores. The command's context, with its private copy of the keys, travels from
//! owner to owner as one box that always has exactly one holder, and comes home to be answered. A core looks at a
//! bounded number of keys a turn, so that a long list does not hold up short commands.

use dataplane::Burst;
use dataplane::core::Ticks;
use dataplane::fabric::{Completion, Fabric};
use dataplane::nvme::spec::Status;
use dataplane::nvme::spec::kv::Key;
use dataplane::nvme::spec::vendor::{KeyState, LIST_ENTRY_BYTES, MAX_LIST_KEYS};

use crate::classify::{Ended, Operation, Origin, WireKey};
use crate::placement::{Ownership, block_id};
use crate::policy::{Admitted, Grant};
use crate::store::Shard;

/// Keys looked at in one turn, and entries scanned in one turn by List.
const KEYS_A_TURN: usize = 256;
const SCANNED_A_TURN: u32 = 1024;

const ENTRY: usize = LIST_ENTRY_BYTES as usize;
const BUFFER_BYTES: usize = MAX_LIST_KEYS as usize * ENTRY;

/// A lease that a lookup takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseTerms {
    pub(super) id: u32,
    pub(super) expires: Ticks,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// `lost` says that the lease could not be taken on some key.
    Prefix {
        lease: Option<LeaseTerms>,
        lost: bool,
    },
    State {
        present: u32,
    },
    /// What a hint asks for is not acted on yet, so its kind and argument are not kept.
    Hint,
    /// `start` is there until its owner has said where it lies.
    Enumerate {
        begun: bool,
        /// Nothing is left to do but to answer, at home.
        over: bool,
        start: Option<WireKey>,
        shard: usize,
        cursor: u32,
        room: usize,
        count: u32,
    },
}

/// What a core should do with a list next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More keys here: go on in the next turn.
    Again,
    /// The next keys belong to that core.
    Travel(u16),
    /// Answer it (at home).
    Finished,
}

/// One command on its way from owner to owner.
pub struct ListJob<D> {
    pub(super) home: u16,
    command: Option<(Origin, D, Grant)>,
    kind: Kind,
    /// The client's keys, 16 bytes each, and in their place the states found; for List the answer.
    bytes: Box<[u8]>,
    /// Keys in the list; for a prefix, those before the first that is known to be missing.
    keys: usize,
    /// The next key to look at on this core, and which were looked at.
    next: usize,
    looked_at: [u64; MAX_LIST_KEYS as usize / 64],
}

impl<D> ListJob<D> {
    /// A blank context, allocated once at start-up.
    pub(super) fn new(home: u16) -> Self {
        Self {
            home,
            command: None,
            kind: Kind::State { present: 0 },
            bytes: vec![0; BUFFER_BYTES].into_boxed_slice(),
            keys: 0,
            next: 0,
            looked_at: [0; MAX_LIST_KEYS as usize / 64],
        }
    }

    /// Takes a command on: copies the keys out of the client's memory, once.
    pub(super) fn begin<F: Fabric<Data = D>>(
        &mut self,
        admitted: Admitted,
        lease: Option<LeaseTerms>,
        fabric: &mut F,
    ) -> Result<(), Ended>
    where
        D: Clone,
    {
        let (operation, grant, data) = (admitted.operation(), admitted.grant(), fabric.data(&admitted.capsule));
        let origin = admitted.into_origin();
        (self.keys, self.next) = (0, 0);
        self.looked_at.fill(0);
        let keys = match operation {
            Ok(Operation::LookupPrefix { keys, .. }) => {
                self.kind = Kind::Prefix { lease, lost: false };
                keys
            }
            Ok(Operation::LookupState { keys }) => {
                self.kind = Kind::State { present: 0 };
                keys
            }
            Ok(Operation::Hint { keys, .. }) => {
                self.kind = Kind::Hint;
                keys
            }
            Ok(Operation::List { start, buffer_bytes }) => {
                let room = (buffer_bytes as usize).min(BUFFER_BYTES);
                self.kind = Kind::Enumerate { begun: false, over: false, start, shard: 0, cursor: 0, room, count: 0 };
                self.bytes[..4].fill(0);
                0
            }
            _ => return Err(origin.fail(Status::INTERNAL_ERROR)),
        };
        self.keys = keys as usize;
        let mut source = data.clone();
        if let Err(status) = fabric.copy_from_client(&mut source, &mut self.bytes[..self.keys * ENTRY]) {
            return Err(origin.fail(status));
        }
        self.command = Some((origin, data, grant));
        Ok(())
    }

    fn key(&self, at: usize) -> Key {
        let mut bytes = [0; ENTRY];
        bytes.copy_from_slice(&self.bytes[at * ENTRY..(at + 1) * ENTRY]);
        Key::new(bytes)
    }

    fn is_done(&self, at: usize) -> bool {
        self.looked_at[at / 64] & (1 << (at % 64)) != 0
    }

    fn mark_done(&mut self, at: usize) {
        self.looked_at[at / 64] |= 1 << (at % 64);
    }

    /// Looks at some of the keys that this core owns.
    pub(super) fn work(&mut self, ownership: Ownership, shards: &mut [Shard]) -> Progress {
        if let Kind::Enumerate { .. } = self.kind {
            return self.enumerate_some(ownership, shards);
        }
        let Some((_, _, grant)) = &self.command else { return Progress::Finished };
        let grant = *grant;
        let end = (self.next + KEYS_A_TURN).min(self.keys);
        self.prefetch(end, ownership, shards, &grant);
        while self.next < end.min(self.keys) {
            let at = self.next;
            self.next += 1;
            if self.is_done(at) {
                continue;
            }
            let key = self.key(at);
            let owner = ownership.owner(&key);
            if owner.core != ownership.core {
                continue;
            }
            self.mark_done(at);
            if let Some(shard) = shards.get_mut(owner.local_shard) {
                self.look_at(at, key, &grant, shard);
            }
        }
        if self.next < self.keys {
            return Progress::Again;
        }
        self.next = 0;
        self.next_owner(ownership)
    }

    fn prefetch(&self, end: usize, ownership: Ownership, shards: &[Shard], grant: &Grant) {
        for at in self.next..end {
            let key = self.key(at);
            let owner = ownership.owner(&key);
            if owner.core == ownership.core
                && !self.is_done(at)
                && let Some(shard) = shards.get(owner.local_shard)
            {
                shard.prefetch(shard.hash(&block_id(grant, &WireKey { key, length: 16 })));
            }
        }
    }

    fn look_at(&mut self, at: usize, key: Key, grant: &Grant, shard: &mut Shard) {
        let id = block_id(grant, &WireKey { key, length: 16 });
        let found = shard.find(shard.hash(&id), &id);
        match (&mut self.kind, found) {
            (Kind::Prefix { lease: Some(terms), lost }, Some(found)) => {
                *lost |= !shard.lease(&found, terms.id, terms.expires);
            }
            (Kind::Prefix { .. }, None) => self.keys = at,
            (Kind::State { present }, found) => {
                let state = found.map_or(KeyState::MISSING, |found| KeyState {
                    present: true,
                    tier: found.tier,
                    value_bytes: found.bytes,
                    checksum: found.checksum,
                });
                *present += u32::from(state.present);
                self.bytes[at * ENTRY..(at + 1) * ENTRY].copy_from_slice(&state.to_bytes());
            }
            (Kind::Prefix { .. } | Kind::Hint | Kind::Enumerate { .. }, _) => {}
        }
    }

    /// The owner of the first key that nobody has looked at.
    fn next_owner(&self, ownership: Ownership) -> Progress {
        if ownership.map.cores > 1
            && let Some(at) = (0..self.keys).find(|&at| !self.is_done(at))
        {
            return Progress::Travel(ownership.owner(&self.key(at)).core);
        }
        Progress::Finished
    }

    fn enumerate_some(&mut self, ownership: Ownership, shards: &mut [Shard]) -> Progress {
        let Some((_, _, grant)) = &self.command else { return Progress::Finished };
        let ns28 = grant.ns28;
        let Kind::Enumerate { begun, over, start, shard, cursor, room, count } = &mut self.kind else {
            return Progress::Finished;
        };
        if *over {
            return Progress::Finished;
        }
        if let Some(key) = start {
            let owner = ownership.owner(&key.key);
            if owner.core != ownership.core {
                return Progress::Travel(owner.core);
            }
            (*shard, *cursor) = (owner.local_shard, entry_of(key, grant, shards.get(owner.local_shard)));
            *start = None;
        } else if !*begun && ownership.core != 0 {
            return Progress::Travel(0);
        }
        *begun = true;
        let Some(current) = shards.get(*shard) else {
            // This core has no more shards: on to the next core, from its first.
            (*shard, *cursor) = (0, 0);
            let next = ownership.core + 1;
            if u32::from(next) < ownership.map.cores {
                return Progress::Travel(next);
            }
            *over = true;
            return Progress::Finished;
        };
        let mut keys = Burst::new();
        let resumed = current.list(ns28, *cursor, SCANNED_A_TURN, &mut keys);
        for (key, length) in keys {
            let used = self.keys + 4;
            let entry = (2 + usize::from(length)).next_multiple_of(4);
            if used + entry > *room {
                *over = true;
                return Progress::Finished;
            }
            let into = &mut self.bytes[used..used + entry];
            into.fill(0);
            into[..2].copy_from_slice(&u16::from(length).to_le_bytes());
            into[2..2 + usize::from(length)].copy_from_slice(&key.bytes()[..usize::from(length)]);
            self.keys += entry;
            *count += 1;
        }
        match resumed {
            Some(next) => *cursor = next,
            None => (*shard, *cursor) = (*shard + 1, 0),
        }
        Progress::Again
    }

    /// Ends the command without an answer, because a core that it needs has stopped.
    pub(super) fn give_up(&mut self) -> Option<Ended> {
        self.command.take().map(|(origin, ..)| origin.fail(Status::INTERNAL_ERROR))
    }

    /// Answers the command at home. Also names a lease that is of no use and has to be given back.
    pub(super) fn finish<F: Fabric<Data = D>>(&mut self, fabric: &mut F) -> Option<(Ended, Option<u32>)> {
        let (origin, mut data, _) = self.command.take()?;
        let mut useless_lease = None;
        let answer = match self.kind {
            Kind::Prefix { lease, lost } => {
                let lease = lease.map(|terms| terms.id);
                // A lease on nothing, or on a part, would promise what does not hold.
                if self.keys == 0 || lost {
                    useless_lease = lease;
                }
                let promised = if useless_lease.is_some() { None } else { lease };
                Ok(Completion::success(self.keys as u32, promised.unwrap_or(0)))
            }
            Kind::State { present } => fabric
                .copy_to_client(&mut data, &self.bytes[..self.keys * ENTRY])
                .map(|()| Completion::success(present, 0)),
            Kind::Hint => Ok(Completion::success(self.keys as u32, 0)),
            Kind::Enumerate { count, .. } => {
                self.bytes[..4].copy_from_slice(&count.to_le_bytes());
                fabric.copy_to_client(&mut data, &self.bytes[..4 + self.keys]).map(|()| Completion::success(0, 0))
            }
        };
        let ended = match answer {
            Ok(completion) => origin.end(completion),
            Err(status) => origin.fail(status),
        };
        Some((ended, useless_lease))
    }
}

/// Where in its shard's order a key stands; the beginning if it is not there.
fn entry_of(key: &WireKey, grant: &Grant, shard: Option<&Shard>) -> u32 {
    let id = block_id(grant, key);
    shard.and_then(|shard| shard.find(shard.hash(&id), &id)).map_or(0, |found| found.entry_index())
}
