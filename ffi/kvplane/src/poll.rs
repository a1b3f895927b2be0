//! Handing out the ends of commands.

use std::time::Instant;

use dataplane::Burst;
use dataplane::memory::SlotId;
use dataplane::nvme::spec::Cqe;

use crate::in_flight::{self, Asked, InFlight};
use crate::transport::Transport;
use crate::{Checksum, Client, Error, Event, Outcome, Ticket};

impl Client {
    /// Adds events to the burst until it is full or there are none, and says how many. Never waits. Ends come in
    /// any order.
    pub fn poll(&mut self, events: &mut Burst<Event>) -> usize {
        let before = events.len();
        if self.ready.is_empty() {
            self.harvest();
        } else {
            self.ring();
        }
        while !events.is_full()
            && let Some(event) = self.ready.pop_front()
        {
            events.push(event);
        }
        events.len() - before
    }

    /// Takes the completions that there are, turns them into events, and now and then looks whether the target
    /// still lives.
    pub(crate) fn harvest(&mut self) {
        self.ring();
        if !self.waiting.is_empty() {
            self.send_again(Instant::now());
        }
        let found = self.take_completions();
        if self.liveness.polled(found > 0) && self.look(Instant::now()) {
            // What the look found in the sockets wakes nobody any more.
            self.take_completions();
        }
    }

    /// One burst of completions of each queue; how many there were.
    pub(crate) fn take_completions(&mut self) -> usize {
        let mut completions = Burst::new();
        let mut found = 0;
        for queue in 0..self.lanes.len() {
            let Some(link) = &mut self.link else { break };
            if self.lanes[queue].load == 0 {
                continue;
            }
            completions.clear();
            link.poll(queue, &mut completions);
            found += completions.len();
            for cqe in &completions {
                self.complete(queue, cqe);
            }
        }
        found
    }

    fn complete(&mut self, queue: usize, cqe: &Cqe) {
        let Some(id) = self.lanes[queue].completed(cqe.cid) else {
            self.stats.unknown_completions += 1;
            return;
        };
        let Some(command) = self.slots.get_mut(id) else { return };
        if self.options.retry.covers(cqe.status) && command.attempt < self.options.retry.attempts {
            let due = Instant::now() + self.options.retry.delay(command.attempt);
            command.attempt += 1;
            self.waiting.push((due, id));
            self.stats.retries += 1;
            return;
        }
        let Some(command) = self.slots.remove(id) else { return };
        let checked = match command.asked {
            Asked::Retrieve { buffer, .. } if self.options.checksum == Checksum::Verify => {
                self.memories.get(buffer.memory).and_then(|entry| entry.memory().ok())
            }
            _ => None,
        };
        let outcome = in_flight::outcome(&command, cqe, checked);
        self.finish(id, &command, outcome);
    }

    /// The end of a command that was taken out of its slot.
    pub(crate) fn finish(&mut self, id: SlotId, command: &InFlight, outcome: Outcome) {
        self.lanes[usize::from(command.queue)].load -= 1;
        if let Some(buffer) = command.buffer {
            self.memories.let_go(buffer.memory);
        }
        if let Some(place) = command.list_place {
            self.lists.give_back(place);
        }
        self.stats.completed += 1;
        if let Outcome::Failed(error) = &outcome {
            self.stats.failed += 1;
            self.stats.corrupt += u64::from(matches!(error, Error::Corrupt { .. }));
        }
        self.ready.push_back(Event { ticket: Ticket(id), user: command.user, outcome });
    }

    /// Sends commands again whose wait is over.
    fn send_again(&mut self, now: Instant) {
        let Some(link) = &mut self.link else { return };
        let mut at = 0;
        while let Some(&(due, id)) = self.waiting.get(at) {
            if due > now {
                at += 1;
                continue;
            }
            let Some(command) = self.slots.get_mut(id) else {
                self.waiting.swap_remove(at);
                continue;
            };
            let queue = usize::from(command.queue);
            let Ok(cid) = link.push(queue, command.sqe) else {
                at += 1;
                continue;
            };
            command.sweep = self.liveness.sweep();
            self.lanes[queue].pushed(cid, id);
            link.ring(queue);
            self.lanes[queue].dirty = false;
            self.waiting.swap_remove(at);
        }
    }
}
