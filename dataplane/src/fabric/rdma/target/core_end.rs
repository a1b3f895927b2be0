//! One core's I/O queues over RDMA.

mod connect;
mod incoming;

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use super::desk::Desk;
use super::exchange::Phase;
use super::nic::{PortDevice, QueuePair};
use super::orders::{ExpectedQueue, RdmaOrder};
use super::port::{MAX_COMPLETIONS, MAX_RECEIVES, Port, PortParts};
use super::queue::{Queue, WORK_OF_ENTRY};
use crate::Burst;
use crate::fabric::message::{Buffer, CoreError, QueueTerms, Staging, carrier};
use crate::fabric::rdma::verbs::{Endpoint, EndpointId, SendList};
use crate::fabric::{Capsule, Completion, Permit, QueuePairInfo, SessionId};
use crate::memory::{SlotId, SlotPool};

/// I/O queues that a core serves at once.
const MAX_QUEUES: u16 = 256;
/// Queues at once whose first command was not answered yet: as many as a listener lets wait at its door.
const MAX_EXPECTED: u16 = 512;
/// Commands that all queues of a core together may count for. What these may have outstanding must fit a port's completion
/// queue, as one that overruns fails with all of its queues: the work requests of each command, one for the end of each
/// queue, and the receives.
const MAX_COMMANDS: u32 = 6144;
const _: () = assert!(
    WORK_OF_ENTRY * MAX_COMMANDS + (MAX_QUEUES + MAX_EXPECTED) as u32 + MAX_RECEIVES <= MAX_COMPLETIONS,
    "completions of a port"
);
/// Commands of a queue that are not answered, and answers that its device is not done with, one work request each at least;
/// and the first commands.
const MAX_EXCHANGES: u32 = (1 + WORK_OF_ENTRY) * MAX_COMMANDS + MAX_EXPECTED as u32;
const _: () = assert!(MAX_EXCHANGES <= u16::MAX as u32);
/// Queues, and commands of them, that one session may have on one core, so that one host leaves room for others.
const MAX_OF_SESSION: (u32, u32) = (64, MAX_COMMANDS / 2);
/// Completions that are taken at once, and how often in a turn.
const BURST: usize = 32;
const BURSTS_A_TURN: usize = 4;
/// Work requests that are posted at once.
const POST: usize = 64;

/// Connections that cores are done with, to be destroyed by control threads, because that takes long.
pub type Remains<Q = Endpoint> = Arc<ArrayQueue<Remain<Q>>>;

/// One of them.
#[derive(Debug)]
pub struct Remain<Q = Endpoint> {
    /// The connection.
    pub endpoint: Arc<Q>,
    /// The core that waits to hear that it is gone ([`RdmaOrder::Gone`]), because it could not drain the queue pair.
    pub waiting: Option<u16>,
}

/// One core's I/O queues over RDMA.
pub struct RdmaEnd<P: PortDevice = PortParts> {
    core: u16,
    /// By number of the device; `None` once it was let go of.
    ports: Vec<Option<Port<P>>>,
    /// Buffers of the receives of those, until nothing of the device is left that could write to them.
    left: Vec<(usize, Vec<Buffer>)>,
    queues: SlotPool<Queue<P::Pair>>,
    /// By port and number of the queue pair, sorted: those whose queue pair was not handed out to be destroyed, after which
    /// another may have its number.
    by_number: Vec<(usize, u32, SlotId)>,
    /// Sum of what the queues count for.
    entries: u32,
    /// Queues whose host is not known yet.
    expected: u16,
    desk: Desk,
    /// Queues that have something to post, or that are to end.
    due: Vec<SlotId>,
    sends: SendList,
    /// Commands that were taken and not completed.
    outstanding: usize,
    /// Queues that are moving.
    moving: usize,
    remains: Vec<Remain<P::Pair>>,
}

impl<P: PortDevice> RdmaEnd<P> {
    /// The end of core `core`, whose staging memory has so many bytes of buffers.
    #[must_use]
    pub fn new(core: u16, buffer_bytes: u32) -> Self {
        let places = usize::from(MAX_QUEUES + MAX_EXPECTED);
        Self {
            core,
            ports: Vec::new(),
            left: Vec::new(),
            queues: SlotPool::new(MAX_QUEUES + MAX_EXPECTED),
            by_number: Vec::with_capacity(places),
            entries: 0,
            expected: 0,
            desk: Desk::new(MAX_EXCHANGES as u16, MAX_QUEUES, MAX_EXPECTED, buffer_bytes),
            due: Vec::with_capacity(places),
            sends: SendList::new(POST),
            outstanding: 0,
            moving: 0,
            remains: Vec::with_capacity(places),
        }
    }

    /// Carries out an order.
    pub fn order(&mut self, order: RdmaOrder<P>, staging: &mut Staging) {
        // Whoever no longer waits for the answer is no reason to stop.
        match order {
            RdmaOrder::Open(port, parts, answer) => {
                self.open(port, parts, staging);
                drop(answer.try_send(Ok(())));
            }
            RdmaOrder::Leave(port, answer) => drop(answer.try_send(self.leave(port))),
            RdmaOrder::Reclaim(port) => {
                if let Some(at) = self.left.iter().position(|(of, _)| *of == port) {
                    staging.give_back_kept(self.left.swap_remove(at).1);
                }
            }
            RdmaOrder::Expect(expected, answer) => drop(answer.try_send(self.expect(*expected))),
            RdmaOrder::Take(id, terms, answer) => drop(answer.try_send(self.take(id, terms))),
            RdmaOrder::Respond(id, cqe) => {
                // One that has ended meanwhile has nobody to be told.
                if let Some((id, queue)) = self.find(id)
                    && !queue.is_closed()
                {
                    queue.count_again();
                    queue.word(cqe);
                    if !cqe.status.is_success() {
                        queue.leave();
                    }
                    self.make_due(id);
                }
            }
            RdmaOrder::Lose(id) => {
                if let Some((id, _)) = self.find(id) {
                    self.close_failed(id);
                }
            }
            RdmaOrder::Gone(name) => {
                if let Some((id, _)) = self.find(name) {
                    self.drained(id, staging);
                }
            }
        }
        self.flush(staging);
    }

    fn open(&mut self, port: usize, parts: Arc<P>, staging: &mut Staging) {
        self.ports.resize_with(self.ports.len().max(port + 1), || None);
        self.ports[port] = Some(Port::new(parts, staging));
    }

    /// Lets go of a device that was removed.
    fn leave(&mut self, port: usize) -> Result<(), CoreError> {
        let has_queues = self.queues.iter().any(|queue| queue.port == port);
        // What was its queues' goes the usual way first.
        if has_queues || !self.remains.is_empty() || !self.desk.returned.is_empty() {
            return Err(CoreError::InUse);
        }
        if let Some(left) = self.ports.get_mut(port).and_then(Option::take) {
            self.left.push((port, left.into_buffers()));
        }
        Ok(())
    }

    fn port(&self, port: usize) -> Option<&Port<P>> {
        self.ports.get(port)?.as_ref()
    }

    fn port_mut(&mut self, port: usize) -> Option<&mut Port<P>> {
        self.ports.get_mut(port)?.as_mut()
    }

    fn expect(&mut self, expected: ExpectedQueue<P::Pair>) -> Result<(), CoreError> {
        let port = expected.port;
        let number = expected.endpoint.number();
        let usable = self.port(port).is_some_and(|port| !port.failed);
        let (Some(number), true) = (number, usable) else { return Err(CoreError::NotOpen) };
        // Its commands count when its host is known: until then it has one.
        if self.expected == MAX_EXPECTED || self.entries == MAX_COMMANDS {
            return Err(CoreError::NoRoom);
        }
        let queue = Queue::new(expected, self.desk.strangers);
        let charged = queue.charged;
        let id = self.queues.insert(queue).map_err(|_| CoreError::NoRoom)?;
        if let Some(queue) = self.queues.get_mut(id) {
            queue.set_id(id);
        }
        let at = self.by_number.partition_point(|(p, n, _)| (*p, *n) < (port, number));
        self.by_number.insert(at, (port, number, id));
        self.entries += charged;
        self.expected += 1;
        Ok(())
    }

    fn take(&mut self, id: EndpointId, terms: Box<QueueTerms>) -> Result<(), CoreError> {
        let (all, of_session) = (self.entries, self.of_session(terms.session));
        let full = self.queues.in_use() - usize::from(self.expected) >= usize::from(MAX_QUEUES);
        let (id, _) = self.find(id).ok_or(CoreError::NotOpen)?;
        let (desk, Some(queue)) = (&mut self.desk, self.queues.get_mut(id)) else { return Err(CoreError::NotOpen) };
        if !queue.is_running() || queue.session().is_some() {
            return Err(CoreError::NotOpen);
        }
        let entries = terms.entries;
        let too_many = entries > queue.entries || all - queue.charged + entries > MAX_COMMANDS;
        if full || too_many || of_session.0 >= MAX_OF_SESSION.0 || of_session.1 + entries > MAX_OF_SESSION.1 {
            return Err(CoreError::NoRoom);
        }
        let before = queue.charged;
        let account = desk.lines.welcome(terms.link.host(), entries);
        queue.serve(terms, account);
        self.entries = all - before + entries;
        self.expected -= 1;
        Ok(())
    }

    /// Queues that a session has here, and the entries of them.
    fn of_session(&self, session: SessionId) -> (u32, u32) {
        let queues = self.queues.iter().filter(|queue| queue.session() == Some(session));
        queues.fold((0, 0), |sum, queue| (sum.0 + 1, sum.1 + queue.charged))
    }

    fn find(&mut self, endpoint: EndpointId) -> Option<(SlotId, &mut Queue<P::Pair>)> {
        let named = |id: &SlotId| self.queues.get(*id).is_some_and(|queue| queue.endpoint_id() == endpoint);
        let id = self.queues.ids().find(named)?;
        self.queues.get_mut(id).map(|queue| (id, queue))
    }

    fn by_number(&self, port: usize, number: u32) -> Option<SlotId> {
        let at = self.by_number.binary_search_by(|(p, n, _)| (*p, *n).cmp(&(port, number))).ok()?;
        Some(self.by_number[at].2)
    }

    /// I/O queues that it serves.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.queues.in_use()
    }

    /// Commands taken and not completed.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Sum of the entries that its queues count for.
    #[cfg(test)]
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Whether a session has a queue here.
    #[must_use]
    pub fn serves(&self, session: SessionId) -> bool {
        self.queues.iter().any(|queue| queue.session() == Some(session))
    }

    /// Whether anything is on its way, or a buffer is there for those that wait.
    #[must_use]
    pub fn is_moving(&self, staging: &Staging) -> bool {
        let waits = || !self.desk.is_fed() || self.ports.iter().flatten().any(Port::is_bare);
        self.moving > 0
            || !self.due.is_empty()
            || self.queues.in_use() > 0 && self.desk.is_to_be_fed(staging) && waits()
    }

    /// Ends the queues of hosts that took or answered nothing since the last sweep, and gives up those that do not drain.
    pub fn sweep(&mut self, staging: &mut Staging) {
        let ids: Vec<SlotId> = self.queues.ids().collect();
        for id in ids {
            let Some(queue) = self.queues.get_mut(id) else { continue };
            if !queue.sweep() {
                continue;
            }
            let queue_pair = queue.number();
            if queue.is_closed() {
                tracing::warn!(queue_pair, "an RDMA queue pair does not drain; it is destroyed as it is");
                queue.doom();
                self.make_due(id);
            } else {
                tracing::warn!(queue_pair, "an NVMe/RDMA host does not go on with what it began; its queue ends");
                self.close(id);
            }
        }
        self.flush(staging);
    }

    /// Ends the queues of a session.
    pub fn close_session(&mut self, session: SessionId) {
        let ids: Vec<SlotId> = self.queues.ids().collect();
        for id in ids {
            let Some(queue) = self.queues.get_mut(id) else { continue };
            if queue.session() == Some(session) {
                queue.close_alone(&mut self.sends);
                self.make_due(id);
            }
        }
    }

    /// Hands connections that are over to the control side.
    pub fn settle(&mut self) {
        while let Some(remain) = self.remains.pop() {
            // All of them are the same.
            let handed = match self.ports.iter().flatten().next() {
                Some(port) => port.parts.remains().push(remain),
                None => Err(remain),
            };
            if let Err(remain) = handed {
                self.remains.push(remain);
                break;
            }
        }
    }

    /// Takes new commands, and moves bytes on.
    pub fn poll(&mut self, staging: &mut Staging, capsules: &mut Burst<Capsule>) {
        for port in 0..self.ports.len() {
            self.poll_port(port, staging);
        }
        if self.desk.look(staging) {
            self.feed(staging);
        }
        while !capsules.is_full()
            && let Some((id, session, exchange)) = self.desk.next_ready()
        {
            exchange.phase = Phase::Running;
            let permit = Permit::issue_by(carrier::RDMA, self.core, id, exchange.cid);
            capsules.push(Capsule { sqe: exchange.sqe, session, permit });
            self.outstanding += 1;
        }
    }

    /// Ends a queue at once, and with it its controller.
    fn close(&mut self, id: SlotId) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.close(&mut self.sends);
            self.make_due(id);
        }
    }

    /// Ends a queue at once, whose queue pair has failed.
    fn close_failed(&mut self, id: SlotId) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.close_failed(&mut self.sends);
            self.make_due(id);
        }
    }

    /// Nothing that was posted for a queue is left.
    fn drained(&mut self, id: SlotId, staging: &mut Staging) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.drained(&mut self.desk, staging);
            self.make_due(id);
        }
    }

    fn make_due(&mut self, id: SlotId) {
        if let Some(queue) = self.queues.get_mut(id)
            && !std::mem::replace(&mut queue.due, true)
        {
            self.due.push(id);
        }
    }

    /// Takes the completion of a command.
    #[inline]
    pub fn complete(&mut self, exchange: SlotId, completion: Completion, staging: &mut Staging) {
        self.outstanding -= 1;
        let Some(owner) = self.desk.exchanges.get(exchange).map(|exchange| exchange.queue) else { return };
        // A queue stays until its last command was completed.
        let Some(queue) = self.queues.get_mut(owner) else { return };
        if queue.is_drained() {
            self.desk.close(exchange, staging);
            queue.in_use -= 1;
        } else {
            self.desk.answer(exchange, completion, staging);
            queue.answer(exchange);
        }
        self.make_due(owner);
    }

    /// Posts what is to be posted, and ends what is to end.
    pub fn flush(&mut self, staging: &mut Staging) {
        for _ in 0..self.due.len() {
            let Some(id) = self.due.pop() else { break };
            let Some(queue) = self.queues.get_mut(id) else { continue };
            queue.due = false;
            if let Some(Some(port)) = self.ports.get(queue.port) {
                loop {
                    queue.send(&mut self.sends, &mut self.desk, port, staging);
                    if !queue.has_more() {
                        break;
                    }
                }
            }
            if queue.is_closed() {
                queue.report_end();
                if let Some(endpoint) = queue.take_doomed() {
                    self.by_number.retain(|(.., other)| *other != id);
                    self.remains.push(Remain { endpoint, waiting: Some(self.core) });
                }
            }
            Self::count(queue, &mut self.moving);
            self.remove_if_over(id);
        }
        self.post_returned(staging);
    }

    /// Keeps count of the queues that are moving.
    fn count(queue: &mut Queue<P::Pair>, moving: &mut usize) {
        let is_moving = queue.is_moving();
        match (std::mem::replace(&mut queue.counted, is_moving), is_moving) {
            (false, true) => *moving += 1,
            (true, false) => *moving -= 1,
            _ => {}
        }
    }

    /// Posts the receives whose buffers came back.
    fn post_returned(&mut self, staging: &mut Staging) {
        if self.desk.returned.is_empty() {
            return;
        }
        while let Some((port, index, buffer)) = self.desk.returned.pop() {
            match self.ports.get_mut(port) {
                Some(Some(port)) => port.put_back(index, buffer, staging),
                _ => staging.give_back(buffer),
            }
        }
        self.ports.iter_mut().flatten().for_each(Port::post);
    }

    fn remove_if_over(&mut self, id: SlotId) {
        if !self.queues.get(id).is_some_and(Queue::is_over) {
            return;
        }
        let Some(queue) = self.queues.remove(id) else { return };
        self.entries -= queue.charged;
        match queue.session() {
            Some(_) => self.desk.lines.part(queue.account, queue.entries),
            None => self.expected -= 1,
        }
        self.by_number.retain(|(.., other)| *other != id);
        self.moving -= usize::from(queue.counted);
        if let Some(port) = self.port_mut(queue.port) {
            port.queue_ended();
        }
        self.remains.extend(queue.into_endpoint().map(|endpoint| Remain { endpoint, waiting: None }));
    }

    /// Appends what there is to tell of the queues.
    pub fn queue_pairs(&self, into: &mut Vec<QueuePairInfo>) {
        into.extend(self.queues.iter().filter_map(|queue| queue.info(self.core)));
    }
}
