//! What the connections of a core share: the commands, their buffers, and the lines they wait in.

use std::collections::VecDeque;

use super::exchange::{Exchange, Phase, Route};
use crate::fabric::message::{StagedData, Staging};
use crate::fabric::{Completion, SessionId};
use crate::memory::{SlotId, SlotPool};
use crate::nvme::spec::Sqe;

/// Bytes of staging memory that are kept for data that comes in capsules: it is behind it in the stream that data for
/// other buffers comes in, so it must not wait for those.
pub(super) const KEPT_FOR_CAPSULES: u32 = 4 << 20;

/// The commands of a core's connections.
pub(super) struct Desk {
    pub exchanges: SlotPool<Exchange>,
    /// By place in the pool: the exchange that is there, for the tags that come back from hosts.
    tags: Box<[Option<SlotId>]>,
    /// Commands to be taken, in order.
    ready: VecDeque<SlotId>,
    /// Commands that wait for a buffer, in order: a large one is not overtaken by small ones.
    starved: VecDeque<SlotId>,
    /// Whether a buffer was given back since somebody last looked.
    pub freed: bool,
    /// Bytes that the CPU copied.
    pub copied: u64,
}

impl Desk {
    pub fn new(commands: u16) -> Self {
        let line = || VecDeque::with_capacity(usize::from(commands));
        Self {
            exchanges: SlotPool::new(commands),
            tags: vec![None; usize::from(commands)].into(),
            ready: line(),
            starved: line(),
            freed: false,
            copied: 0,
        }
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
            received: 0,
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
        if let Some(buffer) = &exchange.buffer {
            StagedData::name_buffer(&mut exchange.sqe, buffer.unit(), exchange.route.bytes);
        }
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
        let Some(exchange) = self.exchanges.get_mut(id) else { return false };
        if self.starved.is_empty()
            && let Some(buffer) = staging.take_leaving(exchange.route.bytes, KEPT_FOR_CAPSULES)
        {
            exchange.buffer = Some(buffer);
            return true;
        }
        exchange.phase = Phase::Starved;
        self.starved.push_back(id);
        false
    }

    /// The first command in line that gets a buffer now.
    pub fn next_fed(&mut self, staging: &mut Staging) -> Option<SlotId> {
        while let Some(&id) = self.starved.front() {
            let Some(exchange) = self.exchanges.get_mut(id) else {
                self.starved.pop_front();
                continue;
            };
            exchange.buffer = Some(staging.take_leaving(exchange.route.bytes, KEPT_FOR_CAPSULES)?);
            self.starved.pop_front();
            return Some(id);
        }
        None
    }

    /// Ends a command with an answer that the host is still to be sent.
    pub fn answer(&mut self, id: SlotId, completion: Completion) {
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.phase = Phase::Answered(completion);
        }
    }

    /// Forgets a command. Neither device nor socket names its buffer any more.
    pub fn close(&mut self, id: SlotId, staging: &mut Staging) {
        let Some(exchange) = self.exchanges.remove(id) else { return };
        self.tags[id.index()] = None;
        if let Some(buffer) = exchange.buffer {
            staging.give_back(buffer);
            self.freed = true;
        }
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
