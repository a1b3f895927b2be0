//! Who waits for staging memory, and whose turn it is: a line for each host, and hosts in turns, so that what one of them
//! asks for costs the others nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::memory::SlotId;
use crate::nvme::spec::Status;

/// A host's account on a core: all of its queues there over one carrier, over all of its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AccountId(u16);

/// What became of a command that stood in line for a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// It has one.
    Fed(SlotId),
    /// It will never have one: carriers keep too much for good.
    Never(SlotId),
}

/// How a command ends that can never have a buffer: as one that moves more than may be moved (base, MDTS).
pub(crate) const NO_MEMORY: Status = Status::INVALID_FIELD;

#[derive(Debug)]
struct Account {
    /// The host's NQN.
    host: Arc<str>,
    /// Connections, and the commands that these may have open; without any, the account is free for another host.
    connections: u32,
    commands: u32,
    /// Bytes of buffers that its commands hold, and how many of them hold data that came in capsules.
    held: u32,
    along: u32,
    /// Commands that wait, in order: a large one is not overtaken by small ones.
    line: VecDeque<SlotId>,
    /// Whether it stands among those whose turn comes: it has commands in line, and less than its share.
    in_turn: bool,
}

/// The accounts, and their lines.
#[derive(Debug)]
pub(crate) struct Lines {
    accounts: Vec<Account>,
    turns: VecDeque<AccountId>,
    /// The most that one host may hold; and what it may hold of data that came in capsules whatever else it holds.
    most_held: u32,
    most_along: u32,
    /// Whether the first in line changed, other than by being served.
    changed: bool,
}

impl Lines {
    /// For so many connections; a host may hold `most_held` bytes, and `most_along` of data that came in capsules in any
    /// case.
    pub fn new(connections: u16, most_held: u32, most_along: u32) -> Self {
        let connections = usize::from(connections);
        Self {
            accounts: Vec::with_capacity(connections),
            turns: VecDeque::with_capacity(connections),
            most_held,
            most_along,
            changed: false,
        }
    }

    /// The account of a host that connects a queue of so many commands.
    pub fn welcome(&mut self, host: &Arc<str>, commands: u32) -> AccountId {
        let same = |account: &Account| account.connections > 0 && account.host == *host;
        let free = |account: &Account| account.connections == 0;
        let known = self.accounts.iter().position(same).or_else(|| self.accounts.iter().position(free));
        let at = known.unwrap_or(self.accounts.len());
        if at == self.accounts.len() {
            let host = Arc::clone(host);
            let line = VecDeque::new();
            self.accounts.push(Account { host, connections: 0, commands: 0, held: 0, along: 0, line, in_turn: false });
        }
        let account = &mut self.accounts[at];
        account.host = Arc::clone(host);
        account.connections += 1;
        account.commands += commands;
        // What waits never needs more, so a line does not grow while commands come.
        account.line.reserve((account.commands as usize).saturating_sub(account.line.len()));
        AccountId(at as u16)
    }

    /// A connection of that length is over, and none of its commands is left.
    pub fn part(&mut self, id: AccountId, commands: u32) {
        if let Some(account) = self.get_mut(id) {
            account.connections -= 1;
            account.commands -= commands;
        }
    }

    fn get(&self, id: AccountId) -> Option<&Account> {
        self.accounts.get(usize::from(id.0))
    }

    fn get_mut(&mut self, id: AccountId) -> Option<&mut Account> {
        self.accounts.get_mut(usize::from(id.0))
    }

    /// Bytes that a buffer for so many counts for.
    pub fn size_of(bytes: u32) -> u32 {
        bytes.max(1).next_power_of_two().max(4096)
    }

    /// Whether a host may hold so many bytes more. Whoever holds nothing may always have one buffer.
    pub fn may_hold(&self, id: AccountId, size: u32) -> bool {
        self.get(id).is_some_and(|account| account.held == 0 || account.held.saturating_add(size) <= self.most_held)
    }

    /// As [`may_hold`](Self::may_hold), for data that came in a capsule.
    pub fn may_hold_along(&self, id: AccountId, size: u32) -> bool {
        let along = self.get(id).map(|account| account.along);
        self.may_hold(id, size) || along.is_some_and(|along| along.saturating_add(size) <= self.most_along)
    }

    /// A buffer was taken for data that came in a capsule.
    pub fn charge_along(&mut self, id: AccountId, size: u32) {
        self.charge(id, size);
        if let Some(account) = self.get_mut(id) {
            account.along += size;
        }
    }

    /// A buffer of data that came in a capsule is about to be credited.
    pub fn uncharge_along(&mut self, id: AccountId, size: u32) {
        if let Some(account) = self.get_mut(id) {
            account.along -= size;
        }
    }

    /// A buffer was taken for a host's command.
    pub fn charge(&mut self, id: AccountId, size: u32) {
        if let Some(account) = self.get_mut(id) {
            account.held += size;
        }
    }

    /// A buffer of a host's command was given back.
    pub fn credit(&mut self, id: AccountId, size: u32) {
        if let Some(account) = self.get_mut(id) {
            account.held -= size;
            // It is looked at with what was given back.
            self.take_turns(id);
        }
    }

    /// Whether a command of this host would be the first to be served.
    pub fn is_first(&self, id: AccountId) -> bool {
        self.turns.is_empty() && self.get(id).is_some_and(|account| account.line.is_empty())
    }

    /// Whether nobody waits for memory that is within its share.
    pub fn nobody_waits(&self) -> bool {
        self.turns.is_empty()
    }

    /// A command joins its host's line.
    pub fn join(&mut self, id: AccountId, command: SlotId) {
        let Some(account) = self.get_mut(id) else { return };
        let is_first = account.line.is_empty();
        account.line.push_back(command);
        if is_first {
            self.changed |= self.turns.is_empty();
            self.take_turns(id);
        }
    }

    fn take_turns(&mut self, id: AccountId) {
        if let Some(account) = self.get_mut(id)
            && !account.line.is_empty()
            && !std::mem::replace(&mut account.in_turn, true)
        {
            self.turns.push_back(id);
        }
    }

    /// The command whose turn it is.
    pub fn first(&self) -> Option<(AccountId, SlotId)> {
        let id = *self.turns.front()?;
        self.get(id).and_then(|account| account.line.front()).map(|command| (id, *command))
    }

    /// The first has its buffer: the next of its host comes after those of the others.
    pub fn serve_first(&mut self) {
        let Some(id) = self.turns.pop_front() else { return };
        let Some(account) = self.get_mut(id) else { return };
        account.line.pop_front();
        account.in_turn = false;
        self.take_turns(id);
    }

    /// The first may not have more: its host's turn comes again when it gave something back.
    pub fn pass_first(&mut self) {
        if let Some(account) = self.turns.pop_front().and_then(|id| self.accounts.get_mut(usize::from(id.0))) {
            account.in_turn = false;
        }
    }

    /// Has the commands of a host that are no longer there leave its line. Not the hot path.
    pub fn forget(&mut self, id: AccountId, mut is_there: impl FnMut(SlotId) -> bool) {
        let Some(account) = self.get_mut(id) else { return };
        account.line.retain(|command| is_there(*command));
        if account.line.is_empty() && std::mem::replace(&mut account.in_turn, false) {
            self.turns.retain(|other| *other != id);
        }
        self.changed = true;
    }

    /// Whether somebody else is the first in line since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// As [`take_changed`](Self::take_changed), to look at.
    pub fn changed(&self) -> bool {
        self.changed
    }

    /// Hosts whose turn comes.
    #[cfg(test)]
    pub fn in_turn(&self) -> usize {
        self.turns.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(number: u64) -> SlotId {
        SlotId::from_bits(number)
    }

    #[test]
    fn a_host_with_its_share_is_asked_again_only_when_it_gave_something_back() {
        let mut lines = Lines::new(4, 8192, 4096);
        let (greedy, other) = (lines.welcome(&"a".into(), 100), lines.welcome(&"b".into(), 100));
        assert_ne!(greedy, other);
        lines.charge(greedy, 8192);
        assert!(!lines.may_hold(greedy, 4096) && lines.may_hold(other, 1 << 20), "one buffer is always allowed");
        (0..90).for_each(|number| lines.join(greedy, command(number)));
        assert!(lines.take_changed());
        assert_eq!((lines.in_turn(), lines.first()), (1, Some((greedy, command(0)))));
        lines.pass_first();
        lines.join(greedy, command(90));
        assert!(lines.first().is_none() && !lines.changed(), "it stands in nobody's way");
        lines.charge(other, 4096);
        lines.credit(other, 4096);
        assert_eq!(lines.in_turn(), 0, "what others give back is nothing to it");
        lines.credit(greedy, 4096);
        assert_eq!(lines.first(), Some((greedy, command(0))));
    }

    #[test]
    fn a_host_with_its_share_may_still_send_some_data_along() {
        let mut lines = Lines::new(4, 8192, 4096);
        let id = lines.welcome(&"a".into(), 100);
        lines.charge(id, 8192);
        assert!(!lines.may_hold(id, 4096) && lines.may_hold_along(id, 4096));
        lines.charge_along(id, 4096);
        assert!(!lines.may_hold_along(id, 4096));
        lines.uncharge_along(id, 4096);
        lines.credit(id, 4096);
        assert!(lines.may_hold_along(id, 4096) && !lines.may_hold(id, 4096));
    }

    #[test]
    fn hosts_take_turns_and_keep_their_order() {
        let mut lines = Lines::new(4, 1 << 20, 4096);
        let (a, b) = (lines.welcome(&"a".into(), 8), lines.welcome(&"b".into(), 8));
        assert!(lines.is_first(a) && lines.is_first(b));
        [0, 1, 2].into_iter().for_each(|number| lines.join(a, command(number)));
        assert!(!lines.is_first(b), "somebody waits for memory");
        [10, 11].into_iter().for_each(|number| lines.join(b, command(number)));
        let mut order = Vec::new();
        while let Some((_, id)) = lines.first() {
            order.push(id.to_bits());
            lines.serve_first();
        }
        assert_eq!(order, [0, 10, 1, 11, 2]);
    }

    #[test]
    fn an_account_is_its_hosts_for_as_long_as_it_is_connected() {
        let mut lines = Lines::new(4, 8192, 4096);
        let a = lines.welcome(&"a".into(), 8);
        assert_eq!(lines.welcome(&"a".into(), 8), a);
        lines.part(a, 8);
        let b = lines.welcome(&"b".into(), 8);
        assert_ne!(a, b);
        [0, 1].into_iter().for_each(|number| lines.join(a, command(number)));
        lines.join(b, command(2));
        lines.take_changed();
        lines.forget(a, |_| false);
        assert!(lines.take_changed() && lines.first() == Some((b, command(2))), "the next is to be looked at");
        lines.part(a, 8);
        assert_eq!(lines.welcome(&"c".into(), 8), a);
    }
}
