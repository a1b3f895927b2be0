//! What the queues of a core share: the commands, their buffers, and the lines they wait in.

use std::collections::VecDeque;

use super::exchange::{Exchange, Phase, Route};
use crate::fabric::message::{Buffer, KEPT_FOR_CAPSULES, Shares, StagedData, Staging};
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

/// The commands of a core's queues.
pub(super) struct Desk {
    pub exchanges: SlotPool<Exchange>,
    /// Commands to be taken, in order.
    ready: VecDeque<SlotId>,
    /// Commands that wait for a buffer, in order: a large one is not overtaken by small ones.
    starved: VecDeque<SlotId>,
    /// Buffers that were given back, by any carrier, when the line was last looked at; and whether somebody joined it
    /// since who may be let by.
    seen: u64,
    joined: bool,
    shares: Shares,
    /// Buffers of receives that no command needs any more.
    pub returned: Vec<(usize, u16, Buffer)>,
}

impl Desk {
    pub fn new(commands: u16, buffer_bytes: u32) -> Self {
        let line = || VecDeque::with_capacity(usize::from(commands));
        Self {
            exchanges: SlotPool::new(commands),
            ready: line(),
            starved: line(),
            seen: 0,
            joined: false,
            shares: Shares::new(buffer_bytes),
            returned: Vec::with_capacity(usize::from(commands)),
        }
    }

    /// Makes room for a session's account.
    pub fn welcome(&mut self, session: SessionId) {
        self.shares.welcome(session);
    }

    /// Takes a command in. `None` if there is no place, which the sum of the queues' lengths rules out.
    pub fn open(&mut self, queue: SlotId, session: Option<SessionId>, sqe: Sqe, route: Route) -> Option<SlotId> {
        let (cid, phase) = (sqe.cid(), Phase::Starved);
        let exchange = Exchange { queue, session, cid, sqe, route, buffer: None, receive: None, held: 0, phase };
        self.exchanges.insert(exchange).ok()
    }

    /// Gives a command its data, which came along in the buffer of a receive.
    pub fn lend(&mut self, id: SlotId, buffer: Buffer, receive: (usize, u16)) {
        if let Some(exchange) = self.exchanges.get_mut(id) {
            (exchange.buffer, exchange.receive) = (Some(buffer), Some(receive));
        }
    }

    /// Takes a buffer for a command, if its session has not more than its share already.
    fn buffer_for(&mut self, id: SlotId, staging: &mut Staging) -> Result<(), Hungry> {
        let exchange = self.exchanges.get_mut(id).ok_or(Hungry::Gone)?;
        let (bytes, size) = (exchange.route.bytes, Shares::size(exchange.route.bytes));
        if exchange.session.is_some_and(|session| !self.shares.has_room(session, size)) {
            return Err(Hungry::HasItsShare);
        }
        let buffer = staging.take_leaving(bytes, KEPT_FOR_CAPSULES).ok_or(Hungry::NothingLeft)?;
        if let Some(session) = exchange.session {
            self.shares.take(session, size);
            exchange.held = size;
        }
        exchange.buffer = Some(buffer);
        Ok(())
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
        if self.starved.is_empty() && self.buffer_for(id, staging).is_ok() {
            return true;
        }
        self.starved.push_back(id);
        // Others in line may be waiting for their own session's buffers only.
        self.joined = true;
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

    /// Whether nobody waits for a buffer.
    pub fn is_fed(&self) -> bool {
        self.starved.is_empty()
    }

    /// Ends a command with an answer that the host is still to be sent.
    pub fn answer(&mut self, id: SlotId, completion: Completion, staging: &mut Staging) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.phase = Phase::Answered(completion);
        if !exchange.route.to_host || !completion.status.is_success() {
            // Nothing of it is sent: others may have the buffer.
            let buffer = exchange.buffer.take();
            let (receive, session) = (exchange.receive.take(), exchange.session);
            let held = std::mem::take(&mut exchange.held);
            self.give_back(buffer, receive, session, held, staging);
        }
    }

    fn give_back(
        &mut self,
        buffer: Option<Buffer>,
        receive: Option<(usize, u16)>,
        session: Option<SessionId>,
        held: u32,
        staging: &mut Staging,
    ) {
        match (buffer, receive) {
            (Some(buffer), Some((port, index))) => self.returned.push((port, index, buffer)),
            (Some(buffer), None) => staging.give_back(buffer),
            (None, _) => {}
        }
        if let Some(session) = session {
            self.shares.give_back(session, held);
        }
    }

    /// Forgets a command; false if it is not there. Neither device nor NIC names its buffer any more.
    pub fn close(&mut self, id: SlotId, staging: &mut Staging) -> bool {
        let Some(exchange) = self.exchanges.remove(id) else { return false };
        self.give_back(exchange.buffer, exchange.receive, exchange.session, exchange.held, staging);
        true
    }

    /// Forgets the commands of a queue that wait here. Returns how many that were. Not the hot path.
    pub fn abandon(&mut self, queue: SlotId, staging: &mut Staging) -> u32 {
        let mut count = 0;
        type Line = fn(&mut Desk) -> &mut VecDeque<SlotId>;
        let lines: [Line; 2] = [|desk| &mut desk.ready, |desk| &mut desk.starved];
        for line in lines {
            for _ in 0..line(self).len() {
                let Some(id) = line(self).pop_front() else { break };
                if self.exchanges.get(id).is_some_and(|exchange| exchange.queue == queue) {
                    count += u32::from(self.close(id, staging));
                } else {
                    line(self).push_back(id);
                }
            }
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
        let layout = StagingLayout { areas: 1, area_bytes: 4096, buffer_bytes: KEPT_FOR_CAPSULES + (64 << 10) };
        let region = Arc::new(Region::anonymous(layout.bytes() as usize, RegionSlot(1)).unwrap());
        let mut staging = Staging::new(0, StagingMap::new(layout, vec![region]).unwrap()).unwrap();
        let mut desk = Desk::new(4, layout.buffer_bytes);
        let elsewhere = staging.take(64 << 10).unwrap();
        let route = Route { to_host: true, from_host: false, bytes: 8192, place: None, invalidate: None };
        let queue = SlotId::from_bits(0);
        let id = desk.open(queue, Some(SessionId(1)), Sqe::new(2, 7), route).unwrap();
        assert!(!desk.seek_buffer(id, &mut staging) && !desk.is_fed());
        assert!(desk.look(&staging), "it joined the line");
        assert!(!desk.look(&staging), "nothing came back");
        staging.give_back(elsewhere);
        assert!(desk.is_to_be_fed(&staging) && desk.look(&staging));
        assert!(!desk.look(&staging), "once a buffer");
        assert_eq!(desk.next_fed(&mut staging), Some(id));
        assert!(desk.is_fed());
    }
}
