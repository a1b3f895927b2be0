//! What the connections of a core share: the commands, their buffers, and the lines they wait in.

use std::collections::VecDeque;

use super::exchange::{Exchange, Phase, Route};
use crate::fabric::message::{Buffer, KEPT_FOR_CAPSULES, StagedData, Staging};
use crate::fabric::{Completion, SessionId};
use crate::memory::{SlotId, SlotPool};
use crate::nvme::spec::Sqe;

/// Why a command gets no buffer.
enum Hungry {
    /// It is no longer there.
    Gone,
    /// Its session's commands hold as many bytes as they may.
    HasItsShare,
    /// Too little is free.
    NothingLeft,
}

/// The commands of a core's connections.
pub(super) struct Desk {
    pub exchanges: SlotPool<Exchange>,
    /// By place in the pool: the exchange that is there, for the tags that come back from hosts.
    tags: Box<[Option<SlotId>]>,
    /// Commands to be taken, in order.
    ready: VecDeque<SlotId>,
    /// Commands that wait for a buffer, in order: a large one is not overtaken by small ones.
    starved: VecDeque<SlotId>,
    /// Buffers that were given back, by any carrier, when the line was last looked at; and whether somebody joined it
    /// since who may be let by.
    seen: u64,
    joined: bool,
    /// Bytes that the CPU copied.
    pub copied: u64,
    /// By session: bytes of buffers that its commands hold, and the most that one session may.
    held: Vec<u32>,
    most_held: u32,
}

impl Desk {
    pub fn new(commands: u16, buffer_bytes: u32) -> Self {
        let line = || VecDeque::with_capacity(usize::from(commands));
        Self {
            exchanges: SlotPool::new(commands),
            tags: vec![None; usize::from(commands)].into(),
            ready: line(),
            starved: line(),
            seen: 0,
            joined: false,
            copied: 0,
            held: Vec::new(),
            most_held: buffer_bytes.saturating_sub(KEPT_FOR_CAPSULES) / 2,
        }
    }

    /// Makes room for a session's account.
    pub fn welcome(&mut self, session: SessionId) {
        let needed = usize::from(session.0) + 1;
        if self.held.len() < needed {
            self.held.resize(needed, 0);
        }
    }

    /// Takes a buffer for a command, if its session has not more than its share already.
    fn buffer_for(&mut self, id: SlotId, staging: &mut Staging) -> Result<(), Hungry> {
        let exchange = self.exchanges.get_mut(id).ok_or(Hungry::Gone)?;
        let size = exchange.route.bytes.max(1).next_power_of_two().max(4096);
        let held = self.held.get_mut(usize::from(exchange.session.0)).ok_or(Hungry::Gone)?;
        // Whoever holds nothing may always have one.
        if *held > 0 && held.saturating_add(size) > self.most_held {
            return Err(Hungry::HasItsShare);
        }
        let buffer = staging.take_leaving(exchange.route.bytes, KEPT_FOR_CAPSULES).ok_or(Hungry::NothingLeft)?;
        *held += size;
        exchange.held = size;
        exchange.buffer = Some(buffer);
        Ok(())
    }

    /// Takes a command in. `None` if there is no place, which the sum of the queues' lengths rules out.
    pub fn open(&mut self, connection: SlotId, session: SessionId, sqe: Sqe, route: Route) -> Option<SlotId> {
        let exchange = Exchange {
            connection,
            session,
            cid: sqe.cid(),
            sqe,
            route,
            buffer: None,
            held: 0,
            received: 0,
            spoilt: false,
            phase: Phase::Starved,
        };
        let id = self.exchanges.insert(exchange).ok()?;
        self.tags[id.index()] = Some(id);
        Some(id)
    }

    /// The exchange that a tag names.
    pub fn of_tag(&self, tag: u16) -> Option<SlotId> {
        self.tags.get(usize::from(tag)).copied().flatten()
    }

    /// The command is complete and waits to be taken.
    pub fn make_ready(&mut self, id: SlotId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        // Without a buffer there is nothing to name: what the host wrote there must not be taken for one.
        let (unit, bytes) = exchange.buffer.as_ref().map_or((0, 0), |buffer| (buffer.unit(), exchange.route.bytes));
        StagedData::name_buffer(&mut exchange.sqe, unit, bytes);
        exchange.phase = Phase::Ready;
        self.ready.push_back(id);
    }

    /// The next command to be taken.
    pub fn next_ready(&mut self) -> Option<(SlotId, &mut Exchange)> {
        while let Some(id) = self.ready.pop_front() {
            // Those of a connection that ended meanwhile are gone.
            if self.exchanges.get(id).is_some() {
                return self.exchanges.get_mut(id).map(|exchange| (id, exchange));
            }
        }
        None
    }

    /// Gives a command a buffer, or puts it in line for one. Says whether it has one.
    pub fn seek_buffer(&mut self, id: SlotId, staging: &mut Staging) -> bool {
        if self.starved.is_empty() && self.buffer_for(id, staging).is_ok() {
            return true;
        }
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.phase = Phase::Starved;
            self.starved.push_back(id);
            // Others in line may be waiting for their own session's buffers only.
            self.joined = true;
        }
        false
    }

    /// Whether the line is worth a look: a buffer came back since the last one.
    pub fn is_to_be_fed(&self, staging: &Staging) -> bool {
        self.joined || self.seen != staging.given_back()
    }

    /// As [`is_to_be_fed`](Self::is_to_be_fed), for whoever looks now.
    pub fn look(&mut self, staging: &Staging) -> bool {
        let due = self.is_to_be_fed(staging);
        (self.joined, self.seen) = (false, staging.given_back());
        due
    }

    /// The first command in line that gets a buffer now. Commands of sessions that have their share already let others
    /// by; those for which nothing is left do not.
    pub fn next_fed(&mut self, staging: &mut Staging) -> Option<SlotId> {
        let mut at = 0;
        while let Some(&id) = self.starved.get(at) {
            match self.buffer_for(id, staging) {
                Ok(()) => {
                    self.starved.remove(at);
                    return Some(id);
                }
                Err(Hungry::Gone) => drop(self.starved.remove(at)),
                Err(Hungry::HasItsShare) => at += 1,
                Err(Hungry::NothingLeft) => return None,
            }
        }
        None
    }

    /// Ends a command with an answer that the host is still to be sent.
    pub fn answer(&mut self, id: SlotId, completion: Completion, staging: &mut Staging) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.phase = Phase::Answered(completion);
        if !exchange.route.to_host || !completion.status.is_success() {
            // Nothing of it is sent: others may have the buffer.
            let (buffer, session, held) =
                (exchange.buffer.take(), exchange.session, std::mem::take(&mut exchange.held));
            self.give_back(buffer, session, held, staging);
        }
    }

    fn give_back(&mut self, buffer: Option<Buffer>, session: SessionId, held: u32, staging: &mut Staging) {
        let Some(buffer) = buffer else { return };
        staging.give_back(buffer);
        if let Some(account) = self.held.get_mut(usize::from(session.0)) {
            *account -= held;
        }
    }

    /// Forgets a command. Neither device nor socket names its buffer any more.
    pub fn close(&mut self, id: SlotId, staging: &mut Staging) {
        let Some(exchange) = self.exchanges.remove(id) else { return };
        self.tags[id.index()] = None;
        self.give_back(exchange.buffer, exchange.session, exchange.held, staging);
    }

    /// Forgets the commands of a connection that nobody works on. Returns how many that were.
    pub fn abandon(&mut self, connection: SlotId, staging: &mut Staging) -> u32 {
        let mut count = 0;
        for place in 0..self.tags.len() {
            let Some(id) = self.tags[place] else { continue };
            let idle = |exchange: &Exchange| exchange.connection == connection && exchange.phase != Phase::Running;
            if self.exchanges.get(id).is_some_and(idle) {
                self.close(id, staging);
                count += 1;
            }
        }
        count
    }
}
