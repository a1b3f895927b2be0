//! What the queues of a core share: the commands, their buffers, and the lines they wait in.

use std::collections::VecDeque;
use std::sync::Arc;

use super::exchange::{Exchange, Phase, Route};
use crate::fabric::message::{AccountId, Buffer, KEPT_FOR_CAPSULES, Lines, Served, StagedData, Staging};
use crate::fabric::{Completion, SessionId};
use crate::memory::{SlotId, SlotPool};
use crate::nvme::spec::Sqe;

/// Why a command gets no buffer.
enum Hungry {
    /// Its host's commands hold as many bytes as they may.
    HasItsShare,
    /// Too little is free.
    NothingLeft,
    /// Too little is left by what carriers have for good.
    Never,
}

/// Why there is no buffer of so many bytes.
#[cold]
fn hungry(bytes: u32, staging: &Staging) -> Hungry {
    if staging.may_ever_take(bytes, KEPT_FOR_CAPSULES) { Hungry::NothingLeft } else { Hungry::Never }
}

/// The commands of a core's queues.
pub(super) struct Desk {
    pub exchanges: SlotPool<Exchange>,
    /// Commands to be taken, in order.
    ready: VecDeque<SlotId>,
    /// Commands that wait for a buffer, and what each host holds.
    pub lines: Lines,
    /// The account of those who are not let in yet.
    pub strangers: AccountId,
    /// Buffers that were given back, by any carrier, when the lines were last looked at.
    seen: u64,
    /// Buffers of receives that no command needs any more.
    pub returned: Vec<(usize, u16, Buffer)>,
}

impl Desk {
    /// For so many commands of so many queues and of so many strangers, one of each.
    pub fn new(commands: u16, queues: u16, strangers: u16, buffer_bytes: u32) -> Self {
        let most_held = buffer_bytes.saturating_sub(KEPT_FOR_CAPSULES) / 2;
        // What comes along has a place before it comes, so it takes nothing of what is shared.
        let mut lines = Lines::new(queues + 1, most_held, 0);
        // No host has an empty name.
        let strangers = lines.welcome(&Arc::from(""), u32::from(strangers));
        Self {
            exchanges: SlotPool::new(commands),
            ready: VecDeque::with_capacity(usize::from(commands)),
            lines,
            strangers,
            seen: 0,
            returned: Vec::with_capacity(usize::from(commands)),
        }
    }

    /// Takes a command in. `None` if there is no place, which the sum of the queues' lengths rules out.
    pub fn open(
        &mut self,
        (queue, session, account): (SlotId, Option<SessionId>, AccountId),
        sqe: Sqe,
        route: Route,
    ) -> Option<SlotId> {
        let (cid, phase) = (sqe.cid(), Phase::Starved);
        let exchange =
            Exchange { queue, session, account, cid, sqe, route, buffer: None, receive: None, held: 0, phase };
        self.exchanges.insert(exchange).ok()
    }

    /// Gives a command its data, which came along in the buffer of a receive.
    pub fn lend(&mut self, id: SlotId, buffer: Buffer, receive: (usize, u16)) {
        if let Some(exchange) = self.exchanges.get_mut(id) {
            (exchange.buffer, exchange.receive) = (Some(buffer), Some(receive));
        }
    }

    /// Takes a buffer for a command, if its host has not more than its share already.
    fn buffer_for(&mut self, id: SlotId, staging: &mut Staging) -> Result<(), Hungry> {
        let Some(exchange) = self.exchanges.get_mut(id) else { return Ok(()) };
        let (account, bytes) = (exchange.account, exchange.route.bytes);
        let size = Lines::size_of(bytes);
        if !self.lines.may_hold(account, size) {
            return Err(Hungry::HasItsShare);
        }
        let buffer = staging.take_leaving(bytes, KEPT_FOR_CAPSULES).ok_or_else(|| hungry(bytes, staging))?;
        self.lines.charge(account, size);
        exchange.held = size;
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

    /// The next command in line that gets a buffer now, or never will. Hosts that have their share let others by; a command
    /// for which nothing is left does not. However long the lines, each buffer that came back costs a few steps.
    pub fn next_served(&mut self, staging: &mut Staging) -> Option<Served> {
        while let Some((_, id)) = self.lines.first() {
            let served = match self.buffer_for(id, staging) {
                Ok(()) => Served::Fed(id),
                Err(Hungry::Never) => Served::Never(id),
                Err(Hungry::HasItsShare) => {
                    self.lines.pass_first();
                    continue;
                }
                Err(Hungry::NothingLeft) => return None,
            };
            self.lines.serve_first();
            return Some(served);
        }
        None
    }

    /// Whether nobody waits for a buffer, but for those who wait for their own.
    pub fn is_fed(&self) -> bool {
        self.lines.first().is_none()
    }

    /// Ends a command with an answer that the host is still to be sent.
    pub fn answer(&mut self, id: SlotId, completion: Completion, staging: &mut Staging) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.phase = Phase::Answered(completion);
        if !exchange.route.to_host || !completion.status.is_success() {
            // Nothing of it is sent: others may have the buffer.
            let buffer = exchange.buffer.take();
            let receive = exchange.receive.take();
            let charged = (exchange.account, std::mem::take(&mut exchange.held));
            self.give_back(buffer, receive, charged, staging);
        }
    }

    /// Gives a buffer back that counts for so many bytes on that account.
    fn give_back(
        &mut self,
        buffer: Option<Buffer>,
        receive: Option<(usize, u16)>,
        (account, held): (AccountId, u32),
        staging: &mut Staging,
    ) {
        match (buffer, receive) {
            (Some(buffer), Some((port, index))) => self.returned.push((port, index, buffer)),
            (Some(buffer), None) => staging.give_back(buffer),
            (None, _) => {}
        }
        if held > 0 {
            self.lines.credit(account, held);
        }
    }

    /// Forgets a command; false if it is not there. Neither device nor NIC names its buffer any more.
    pub fn close(&mut self, id: SlotId, staging: &mut Staging) -> bool {
        let Some(exchange) = self.exchanges.remove(id) else { return false };
        self.give_back(exchange.buffer, exchange.receive, (exchange.account, exchange.held), staging);
        true
    }

    /// Forgets the commands of a queue that wait here. Returns how many that were. Not the hot path.
    pub fn abandon(&mut self, queue: SlotId, account: AccountId, staging: &mut Staging) -> u32 {
        let mut count = 0;
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { break };
            if self.exchanges.get(id).is_some_and(|exchange| exchange.queue == queue) {
                count += u32::from(self.close(id, staging));
            } else {
                self.ready.push_back(id);
            }
        }
        let exchanges = &mut self.exchanges;
        self.lines.forget(account, |id| match exchanges.get(id) {
            Some(exchange) if exchange.queue != queue => true,
            Some(_) => {
                // Whoever waits for a buffer holds nothing.
                count += u32::from(exchanges.remove(id).is_some());
                false
            }
            None => false,
        });
        count
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fabric::message::{StagingLayout, StagingMap};
    use crate::memory::{Region, RegionSlot};

    /// A desk for two queues and a stranger, over so many bytes beyond those that are kept for capsules.
    fn desk(bytes: u32) -> (Staging, Desk) {
        let layout = StagingLayout { areas: 1, area_bytes: 4096, buffer_bytes: KEPT_FOR_CAPSULES + bytes };
        let region = Arc::new(Region::anonymous(layout.bytes() as usize, RegionSlot(1)).unwrap());
        let staging = Staging::new(0, StagingMap::new(layout, vec![region]).unwrap()).unwrap();
        (staging, Desk::new(100, 2, 1, layout.buffer_bytes))
    }

    fn retrieve(desk: &mut Desk, session: u16, account: AccountId, bytes: u32) -> SlotId {
        let route = Route { to_host: true, from_host: false, bytes, place: None, invalidate: None };
        let owner = (SlotId::from_bits(u64::from(session)), Some(SessionId(session)), account);
        desk.open(owner, Sqe::new(2, 7), route).unwrap()
    }

    #[test]
    fn a_buffer_that_another_carrier_gives_back_feeds_those_in_line() {
        let (mut staging, mut desk) = desk(64 << 10);
        let elsewhere = staging.take(64 << 10).unwrap();
        let account = desk.lines.welcome(&"a".into(), 4);
        let id = retrieve(&mut desk, 1, account, 8192);
        assert!(desk.seek_buffer(id, &mut staging).is_none() && !desk.is_fed());
        assert!(desk.look(&staging), "it joined the line");
        assert!(!desk.look(&staging), "nothing came back");
        staging.give_back(elsewhere);
        assert!(desk.is_to_be_fed(&staging) && desk.look(&staging));
        assert!(!desk.look(&staging), "once a buffer");
        assert_eq!(desk.next_served(&mut staging), Some(Served::Fed(id)));
        assert!(desk.is_fed());
    }

    #[test]
    fn who_has_its_share_is_looked_at_again_only_when_it_gave_something_back() {
        let (mut staging, mut desk) = desk(64 << 10);
        let (greedy, other) = (desk.lines.welcome(&"a".into(), 64), desk.lines.welcome(&"b".into(), 4));
        let held: Vec<_> = (0..4).map(|_| retrieve(&mut desk, 1, greedy, 8192)).collect();
        assert!(held.iter().all(|id| desk.seek_buffer(*id, &mut staging).is_some()), "half is its share");
        let waiting: Vec<_> = (0..60).map(|_| retrieve(&mut desk, 1, greedy, 8192)).collect();
        assert!(!waiting.iter().any(|id| desk.seek_buffer(*id, &mut staging).is_some()));
        assert!(desk.look(&staging) && desk.next_served(&mut staging).is_none());
        for _ in 0..3 {
            let id = retrieve(&mut desk, 2, other, 4096);
            assert_eq!(desk.seek_buffer(id, &mut staging), Some(Served::Fed(id)), "nobody stands before it");
            desk.close(id, &mut staging);
            assert!(desk.look(&staging) && desk.lines.in_turn() == 0, "and nobody is asked for what it gave back");
            assert_eq!(desk.next_served(&mut staging), None);
        }
        desk.close(held[0], &mut staging);
        assert_eq!((desk.lines.in_turn(), desk.next_served(&mut staging)), (1, Some(Served::Fed(waiting[0]))));
        assert_eq!(desk.next_served(&mut staging), None);
        // What its queue leaves behind is in nobody's way.
        assert_eq!(desk.abandon(SlotId::from_bits(1), greedy, &mut staging), 59);
        desk.close(held[1], &mut staging);
        assert_eq!((desk.lines.in_turn(), desk.next_served(&mut staging)), (0, None));
    }
}
