//! What the connections of a core share: the commands, their buffers, and the lines they wait in.

use std::collections::VecDeque;
use std::sync::Arc;

use super::exchange::{Exchange, Phase, Route};
use crate::fabric::message::{AccountId, Buffer, KEPT_FOR_CAPSULES, Lines, Served, StagedData, Staging};
use crate::fabric::{Completion, SessionId};
use crate::memory::{Region, SlotId, SlotPool};
use crate::nvme::spec::Sqe;

/// Why a command gets no buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hungry {
    /// Its host's commands hold as many bytes as they may.
    HasItsShare,
    /// Too little is free.
    NothingLeft,
    /// Too little is left by what carriers have for good.
    Never,
}

impl Hungry {
    /// Why there is no buffer of so many bytes that leaves so many.
    #[cold]
    fn of(bytes: u32, leave: u32, staging: &Staging) -> Self {
        if staging.may_ever_take(bytes, leave) { Self::NothingLeft } else { Self::Never }
    }
}

/// The commands of a core's connections.
pub(super) struct Desk {
    pub exchanges: SlotPool<Exchange>,
    /// By place in the pool: the exchange that is there, for the tags that come back from hosts.
    tags: Box<[Option<SlotId>]>,
    /// Commands to be taken, in order.
    ready: VecDeque<SlotId>,
    /// Commands that wait for a buffer, and what each host holds.
    pub lines: Lines,
    /// Buffers that were given back, by any carrier, when the lines were last looked at.
    seen: u64,
    /// The memory of devices that values may be sent from.
    pub lenders: Vec<Arc<Region>>,
    /// Loans whose bytes are no longer looked at, until somebody takes them.
    pub returned: Vec<u64>,
    /// Bytes that the CPU copied.
    pub copied: u64,
}

impl Desk {
    pub fn new(connections: u16, commands: u16, buffer_bytes: u32) -> Self {
        Self {
            exchanges: SlotPool::new(commands),
            tags: vec![None; usize::from(commands)].into(),
            ready: VecDeque::with_capacity(usize::from(commands)),
            lines: Lines::new(connections, buffer_bytes.saturating_sub(KEPT_FOR_CAPSULES) / 2, KEPT_FOR_CAPSULES / 2),
            seen: 0,
            lenders: Vec::new(),
            returned: Vec::with_capacity(usize::from(commands)),
            copied: 0,
        }
    }

    /// Takes a buffer for a command, if its host has not more than its share already.
    fn buffer_for(&mut self, id: SlotId, staging: &mut Staging) -> Result<(), Hungry> {
        let Some(exchange) = self.exchanges.get_mut(id) else { return Ok(()) };
        let (account, size) = (exchange.account, Lines::size_of(exchange.route.bytes));
        if !self.lines.may_hold(account, size) {
            return Err(Hungry::HasItsShare);
        }
        let bytes = exchange.route.bytes;
        let buffer = staging.take_leaving(bytes, KEPT_FOR_CAPSULES);
        let buffer = buffer.ok_or_else(|| Hungry::of(bytes, KEPT_FOR_CAPSULES, staging))?;
        self.lines.charge(account, size);
        exchange.held = size;
        exchange.buffer = Some(buffer);
        Ok(())
    }

    /// Takes a buffer for data that came in a capsule. It waits in no line, but counts like any other. A host whose share
    /// is held still has some, and more while nobody waits for what is free.
    ///
    /// # Errors
    /// Why there is none.
    pub fn buffer_along(&mut self, account: AccountId, bytes: u32, staging: &mut Staging) -> Result<Buffer, Hungry> {
        let size = Lines::size_of(bytes);
        let buffer = if self.lines.may_hold_along(account, size) {
            staging.take(bytes).ok_or_else(|| Hungry::of(bytes, 0, staging))?
        } else if self.lines.nobody_waits() {
            staging.take_leaving(bytes, KEPT_FOR_CAPSULES).ok_or(Hungry::HasItsShare)?
        } else {
            return Err(Hungry::HasItsShare);
        };
        self.lines.charge_along(account, size);
        Ok(buffer)
    }

    /// Takes a command in. `None` if there is no place, which the sum of the queues' lengths rules out.
    pub fn open(&mut self, of: (SlotId, SessionId, AccountId), sqe: Sqe, route: Route) -> Option<SlotId> {
        let (connection, session, account) = of;
        let exchange = Exchange {
            connection,
            session,
            account,
            cid: sqe.cid(),
            sqe,
            route,
            buffer: None,
            lent: None,
            held: 0,
            asked: 0,
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

    /// Gives a command a buffer, or puts it in line for one: `None`.
    pub fn seek_buffer(&mut self, id: SlotId, staging: &mut Staging) -> Option<Served> {
        let account = self.exchanges.get(id)?.account;
        if self.lines.is_first(account) {
            match self.buffer_for(id, staging) {
                Ok(()) => return Some(Served::Fed(id)),
                Err(Hungry::Never) => return Some(Served::Never(id)),
                Err(Hungry::HasItsShare | Hungry::NothingLeft) => {}
            }
        }
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.phase = Phase::Starved;
        }
        self.lines.join(account, id);
        None
    }

    /// Whether the lines are worth a look: a buffer came back since the last one, or somebody else is the first.
    pub fn is_to_be_fed(&self, staging: &Staging) -> bool {
        self.lines.changed() || self.seen != staging.given_back()
    }

    /// As [`is_to_be_fed`](Self::is_to_be_fed), for whoever looks now.
    pub fn look(&mut self, staging: &Staging) -> bool {
        let came_back = std::mem::replace(&mut self.seen, staging.given_back()) != staging.given_back();
        self.lines.take_changed() || came_back
    }

    /// The next command in line that gets a buffer now, or never will. Hosts that have their share let others by; a command for which
    /// nothing is left does not. However long the lines, each buffer that came back costs a few steps.
    pub fn next_served(&mut self, staging: &mut Staging) -> Option<Served> {
        while let Some((_, id)) = self.lines.first() {
            match self.buffer_for(id, staging) {
                Ok(()) => {
                    self.lines.serve_first();
                    return Some(Served::Fed(id));
                }
                Err(Hungry::Never) => {
                    self.lines.serve_first();
                    return Some(Served::Never(id));
                }
                Err(Hungry::HasItsShare) => self.lines.pass_first(),
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
            let (buffer, held) = (exchange.buffer.take(), std::mem::take(&mut exchange.held));
            let (account, along) = (exchange.account, exchange.route.in_capsule.is_some());
            self.give_back(buffer, (account, held, along), staging);
        }
    }

    /// Copies what a command was lent into its own buffer, and gives the loan back. Neither the socket nor anything that
    /// is to be sent names it any more. Says how many bytes that were.
    pub fn copy_lent(&mut self, id: SlotId, staging: &Staging) -> u32 {
        let Some(exchange) = self.exchanges.get_mut(id) else { return 0 };
        let (Some(lent), Some(buffer)) = (exchange.lent, &exchange.buffer) else { return 0 };
        let copied = self.lenders.iter().find_map(|region| staging.fill_from(buffer, region, &lent.bytes));
        if copied.is_none() {
            return 0;
        }
        exchange.lent = None;
        self.returned.push(lent.loan);
        self.copied += u64::from(lent.bytes.bytes());
        lent.bytes.bytes()
    }

    /// Gives a buffer back that counts for so many bytes on that account, with data that came along or not.
    fn give_back(&mut self, buffer: Option<Buffer>, charged: (AccountId, u32, bool), staging: &mut Staging) {
        let (Some(buffer), (account, held, along)) = (buffer, charged) else { return };
        staging.give_back(buffer);
        if along {
            self.lines.uncharge_along(account, held);
        }
        self.lines.credit(account, held);
    }

    /// Gives a buffer back that no command got.
    pub fn give_back_along(&mut self, buffer: Buffer, account: AccountId, bytes: u32, staging: &mut Staging) {
        self.give_back(Some(buffer), (account, Lines::size_of(bytes), true), staging);
    }

    /// Forgets a command. Neither device nor socket names its buffer any more.
    pub fn close(&mut self, id: SlotId, staging: &mut Staging) {
        let Some(exchange) = self.exchanges.remove(id) else { return };
        self.tags[id.index()] = None;
        self.returned.extend(exchange.lent.map(|lent| lent.loan));
        let along = exchange.route.in_capsule.is_some();
        self.give_back(exchange.buffer, (exchange.account, exchange.held, along), staging);
    }

    /// Forgets the commands of a connection that nobody works on. Returns how many that were.
    pub fn abandon(&mut self, connection: SlotId, account: AccountId, staging: &mut Staging) -> u32 {
        let mut count = 0;
        for place in 0..self.tags.len() {
            let Some(id) = self.tags[place] else { continue };
            let idle = |exchange: &Exchange| exchange.connection == connection && exchange.phase != Phase::Running;
            if self.exchanges.get(id).is_some_and(idle) {
                self.close(id, staging);
                count += 1;
            }
        }
        let exchanges = &self.exchanges;
        self.lines.forget(account, |id| exchanges.get(id).is_some());
        count
    }
}
