//! What the queues of a core share: the commands, their buffers, and the lines they wait in.

use std::collections::VecDeque;

use super::exchange::{Exchange, Phase, Route};
use crate::fabric::message::{Buffer, StagedData, Staging};
use crate::fabric::{Completion, SessionId};
use crate::memory::{SlotId, SlotPool};
use crate::nvme::spec::Sqe;

/// The commands of a core's queues.
pub(super) struct Desk {
    pub exchanges: SlotPool<Exchange>,
    /// Commands to be taken, in order.
    ready: VecDeque<SlotId>,
    /// Commands that wait for a buffer, in order: a large one is not overtaken by small ones.
    starved: VecDeque<SlotId>,
    /// Buffers that were given back, by any carrier, when the line was last looked at.
    seen: u64,
}

impl Desk {
    pub fn new(commands: u16) -> Self {
        let line = || VecDeque::with_capacity(usize::from(commands));
        Self { exchanges: SlotPool::new(commands), ready: line(), starved: line(), seen: 0 }
    }

    /// Takes a command in. `None` if there is no place, which the sum of the queues' lengths rules out.
    pub fn open(
        &mut self,
        queue: SlotId,
        session: Option<SessionId>,
        sqe: Sqe,
        route: Route,
        buffer: Option<Buffer>,
    ) -> Result<SlotId, Option<Buffer>> {
        let exchange = Exchange { queue, session, cid: sqe.cid(), sqe, route, buffer, phase: Phase::Starved };
        self.exchanges.insert(exchange).map_err(|exchange| exchange.buffer)
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

    /// The next command to be taken, and whose it is.
    pub fn next_ready(&mut self) -> Option<(SlotId, SessionId, &mut Exchange)> {
        while let Some(id) = self.ready.pop_front() {
            // Those of a queue that ended meanwhile are gone.
            if let Some(session) = self.exchanges.get(id).and_then(|exchange| exchange.session) {
                return self.exchanges.get_mut(id).map(|exchange| (id, session, exchange));
            }
        }
        None
    }

    /// Whether it is the first command of a queue.
    pub fn is_first(&self, id: SlotId) -> bool {
        self.exchanges.get(id).is_some_and(|exchange| exchange.session.is_none())
    }

    /// Gives a command a buffer, or puts it in line for one. Says whether it has one.
    pub fn seek_buffer(&mut self, id: SlotId, staging: &mut Staging) -> bool {
        let Some(exchange) = self.exchanges.get_mut(id) else { return false };
        if self.starved.is_empty()
            && let Some(buffer) = staging.take(exchange.route.bytes)
        {
            exchange.buffer = Some(buffer);
            return true;
        }
        self.starved.push_back(id);
        false
    }

    /// Whether the line is worth a look: a buffer came back since the last one.
    pub fn is_to_be_fed(&self, staging: &Staging) -> bool {
        self.seen != staging.given_back()
    }

    /// As [`is_to_be_fed`](Self::is_to_be_fed), for whoever looks now.
    pub fn look(&mut self, staging: &Staging) -> bool {
        let due = self.is_to_be_fed(staging);
        self.seen = staging.given_back();
        due
    }

    /// The first command in line that gets a buffer now.
    pub fn next_fed(&mut self, staging: &mut Staging) -> Option<SlotId> {
        while let Some(&id) = self.starved.front() {
            let Some(exchange) = self.exchanges.get_mut(id) else {
                self.starved.pop_front();
                continue;
            };
            exchange.buffer = Some(staging.take(exchange.route.bytes)?);
            self.starved.pop_front();
            return Some(id);
        }
        None
    }

    /// Whether nobody waits for a buffer.
    pub fn is_fed(&self) -> bool {
        self.starved.is_empty()
    }

    /// Ends a command with an answer that the host is still to be sent.
    pub fn answer(&mut self, id: SlotId, completion: Completion) {
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.phase = Phase::Answered(completion);
        }
    }

    /// Forgets a command. Neither device nor NIC names its buffer any more.
    pub fn close(&mut self, id: SlotId, staging: &mut Staging) {
        let Some(exchange) = self.exchanges.remove(id) else { return };
        if let Some(buffer) = exchange.buffer {
            staging.give_back(buffer);
        }
    }

    /// Forgets the commands of a queue that nobody works on. Returns how many that were. Not the hot path.
    pub fn abandon(&mut self, queue: SlotId, staging: &mut Staging) -> u32 {
        let idle = |exchange: &Exchange| exchange.queue == queue && exchange.phase != Phase::Running;
        let ids: Vec<SlotId> = self.exchanges.ids().filter(|id| self.exchanges.get(*id).is_some_and(idle)).collect();
        let count = ids.len() as u32;
        for id in ids {
            self.close(id, staging);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fabric::message::{StagingLayout, StagingMap};
    use crate::memory::{Region, RegionSlot};

    #[test]
    fn a_buffer_that_another_carrier_gives_back_feeds_those_in_line() {
        let layout = StagingLayout { areas: 1, area_bytes: 4096, buffer_bytes: 64 << 10 };
        let region = Arc::new(Region::anonymous(layout.bytes() as usize, RegionSlot(1)).unwrap());
        let mut staging = Staging::new(0, StagingMap::new(layout, vec![region]).unwrap()).unwrap();
        let mut desk = Desk::new(4);
        let elsewhere = staging.take(64 << 10).unwrap();
        let route = Route { to_host: true, from_host: false, bytes: 8192, place: None, invalidate: None };
        let queue = SlotId::from_bits(0);
        let id = desk.open(queue, SessionId(1), Sqe::new(2, 7), route, None).unwrap();
        assert!(!desk.seek_buffer(id, &mut staging) && !desk.is_fed());
        assert!(!desk.look(&staging), "nothing came back");
        staging.give_back(elsewhere);
        assert!(desk.is_to_be_fed(&staging) && desk.look(&staging));
        assert!(!desk.look(&staging), "once a buffer");
        assert_eq!(desk.next_fed(&mut staging), Some(id));
        assert!(desk.is_fed());
    }
}
