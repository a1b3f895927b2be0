//! One core's I/O queues over RDMA.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use super::desk::Desk;
use super::exchange::{Phase, Route};
use super::orders::{ExpectedQueue, RdmaOrder};
use super::port::{MAX_COMPLETIONS, Port, PortParts, RECEIVE};
use super::queue::{Ended, Party, Queue, of_work_id};
use crate::Burst;
use crate::fabric::message::{AdminCapsule, CoreError, QueueTerms, Staging, carrier};
use crate::fabric::rdma::verbs::{Endpoint, EndpointId, SendList, WorkDone};
use crate::fabric::rdma::wire::COMMAND_BYTES;
use crate::fabric::{Capsule, Completion, Permit, QueuePairInfo, SessionId};
use crate::memory::{SlotId, SlotPool};
use crate::nvme::spec::fabrics::{ConnectData, FABRICS_OPCODE, FabricsCommand};
use crate::nvme::spec::{Sqe, Status};

/// I/O queues that a core serves at once.
const MAX_QUEUES: u16 = 256;
/// Commands that all queues of a core together may have open. Their completions must fit a port's completion queue: two
/// work requests a command, one more a queue and for its end, and the receives.
const MAX_COMMANDS: u32 = 6144;
const _: () = assert!(2 * MAX_COMMANDS + 4 * MAX_QUEUES as u32 + 1024 <= MAX_COMPLETIONS);
/// Completions that are taken at once, and how often in a turn.
const BURST: usize = 32;
const BURSTS_A_TURN: usize = 4;
/// Work requests that are posted at once.
const POST: usize = 64;

/// Connections that cores are done with, to be destroyed by control threads, because that takes long.
pub type Remains = Arc<ArrayQueue<Arc<Endpoint>>>;

/// One core's I/O queues over RDMA.
pub struct RdmaEnd {
    core: u16,
    ports: Vec<Port>,
    queues: SlotPool<Queue>,
    /// By port and number of the queue pair, sorted.
    by_number: Vec<(usize, u32, SlotId)>,
    /// Sum of the queues' entries.
    entries: u32,
    desk: Desk,
    /// Queues that have something to post, or that are to end.
    due: Vec<SlotId>,
    sends: SendList,
    /// Commands that were taken and not completed.
    outstanding: usize,
    remains: Vec<Arc<Endpoint>>,
}

impl RdmaEnd {
    /// The end of core `core`. Costs nothing while there is no device.
    #[must_use]
    pub fn new(core: u16) -> Self {
        let places = usize::from(MAX_QUEUES);
        Self {
            core,
            ports: Vec::new(),
            queues: SlotPool::new(MAX_QUEUES),
            by_number: Vec::with_capacity(places),
            entries: 0,
            // As many again may have been answered, and the device not be done with them.
            desk: Desk::new(2 * MAX_COMMANDS as u16),
            due: Vec::with_capacity(places),
            sends: SendList::new(POST),
            outstanding: 0,
            remains: Vec::with_capacity(places),
        }
    }

    /// Carries out an order.
    pub fn order(&mut self, order: RdmaOrder, staging: &mut Staging) {
        // Whoever no longer waits for the answer is no reason to stop.
        match order {
            RdmaOrder::Open(parts, answer) => {
                self.open(parts, staging);
                drop(answer.try_send(Ok(())));
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
                    self.close_alone(id);
                }
            }
        }
        self.flush(staging);
    }

    fn open(&mut self, parts: Arc<PortParts>, staging: &mut Staging) {
        self.ports.push(Port::new(parts, staging));
    }

    fn expect(&mut self, expected: ExpectedQueue) -> Result<(), CoreError> {
        let (port, entries) = (expected.port, expected.entries);
        let number = expected.endpoint.number();
        let (Some(number), Some(_)) = (number, self.ports.get(port)) else { return Err(CoreError::NotOpen) };
        if self.entries + entries > MAX_COMMANDS {
            return Err(CoreError::NoRoom);
        }
        let id = self.queues.insert(Queue::new(expected)).map_err(|_| CoreError::NoRoom)?;
        if let Some(queue) = self.queues.get_mut(id) {
            queue.set_id(id);
        }
        let at = self.by_number.partition_point(|(p, n, _)| (*p, *n) < (port, number));
        self.by_number.insert(at, (port, number, id));
        self.entries += entries;
        Ok(())
    }

    fn take(&mut self, id: EndpointId, terms: Box<QueueTerms>) -> Result<(), CoreError> {
        let (_, queue) = self.find(id).ok_or(CoreError::NotOpen)?;
        if !queue.is_running() {
            return Err(CoreError::NotOpen);
        }
        if terms.entries > queue.entries {
            return Err(CoreError::NoRoom);
        }
        queue.party = Party::Host(terms);
        Ok(())
    }

    fn find(&mut self, endpoint: EndpointId) -> Option<(SlotId, &mut Queue)> {
        let id = self.by_number.iter().map(|(.., id)| *id);
        let id = id.into_iter().find(|id| self.queues.get(*id).is_some_and(|queue| queue.endpoint_id() == endpoint))?;
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

    /// Whether a session has a queue here.
    #[must_use]
    pub fn serves(&self, session: SessionId) -> bool {
        self.queues.iter().any(|queue| queue.session() == Some(session))
    }

    /// Whether anything is on its way, or a buffer is there for those that wait.
    #[must_use]
    pub fn is_moving(&self, staging: &Staging) -> bool {
        let waits = || !self.desk.is_fed() || self.ports.iter().any(Port::is_bare);
        !self.due.is_empty()
            || self.queues.in_use() > 0
                && (self.queues.iter().any(Queue::is_moving) || self.desk.is_to_be_fed(staging) && waits())
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
        while let Some(endpoint) = self.remains.pop() {
            let Some(port) = self.ports.first() else { break };
            if let Err(endpoint) = port.parts.remains.push(endpoint) {
                self.remains.push(endpoint);
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
            && let Some((id, exchange)) = self.desk.next_ready()
        {
            exchange.phase = Phase::Running;
            let permit = Permit::issue_by(carrier::RDMA, self.core, id, exchange.cid);
            capsules.push(Capsule { sqe: exchange.sqe, session: exchange.session, permit });
            self.outstanding += 1;
        }
    }

    fn poll_port(&mut self, port: usize, staging: &mut Staging) {
        for _ in 0..BURSTS_A_TURN {
            let mut done = [WorkDone::default(); BURST];
            let taken = self.ports[port].parts.completions.poll(&mut done);
            let Ok(count) = taken else { return self.fail_port(port) };
            if count == 0 {
                return;
            }
            for done in &done[..count] {
                if done.id() & RECEIVE == 0 {
                    self.worked(done, staging);
                } else {
                    self.received(port, done, staging);
                }
            }
            self.ports[port].post();
            if self.ports[port].failed {
                return self.fail_port(port);
            }
            if count < BURST {
                return;
            }
        }
    }

    /// The device is of no use any more: its queues end.
    fn fail_port(&mut self, port: usize) {
        if !std::mem::replace(&mut self.ports[port].failed, true) {
            tracing::error!(core = self.core, "an RDMA device failed; its queues end");
        }
        let ids: Vec<SlotId> = self.by_number.iter().filter(|(of, ..)| *of == port).map(|(.., id)| *id).collect();
        for id in ids {
            self.close(id);
        }
    }

    /// A work request of ours ended.
    fn worked(&mut self, done: &WorkDone, staging: &mut Staging) {
        let (id, sequence) = of_work_id(done.id());
        let Some(queue) = self.queues.get_mut(id) else { return };
        if Queue::says_drained(sequence) {
            queue.drained(&mut self.desk, staging);
            self.make_due(id);
            return;
        }
        if let Some(fault) = done.failed() {
            if !queue.is_closed() {
                tracing::debug!(queue_pair = done.queue_pair(), %fault, "an RDMA queue pair failed");
                self.close_alone(id);
            }
            return;
        }
        while let Some(queue) = self.queues.get_mut(id)
            && let Some(ended) = queue.next_ended(sequence)
        {
            match ended {
                Some(Ended::Read(exchange)) if queue.session().is_some() => self.desk.make_ready(exchange),
                Some(Ended::Read(exchange)) => self.connect_read(id, exchange, staging),
                Some(Ended::Answer(exchange)) => {
                    queue.in_use -= 1;
                    self.desk.close(exchange, staging);
                }
                None => {}
            }
        }
        // There is room again, for READs at least.
        self.make_due(id);
    }

    /// A message came in, or the place for it came back.
    fn received(&mut self, port: usize, done: &WorkDone, staging: &mut Staging) {
        let index = (done.id() & !RECEIVE) as u16;
        if let Some(id) = self.by_number(port, done.queue_pair()) {
            match done.received().filter(|_| done.failed().is_none()) {
                Some(bytes) if bytes >= COMMAND_BYTES => self.capsule(id, port, index, bytes - COMMAND_BYTES, staging),
                // Too short for a command.
                Some(_) => self.close(id),
                None => self.close_alone(id),
            }
        }
        self.ports[port].reuse(index, staging);
    }

    fn capsule(&mut self, id: SlotId, port: usize, index: u16, data: u32, staging: &mut Staging) {
        let Some(sqe) = self.ports[port].command(index) else { return };
        let Some(queue) = self.queues.get_mut(id).filter(|queue| queue.is_running()) else { return };
        if queue.is_full() {
            tracing::debug!(
                queue_pair = queue.endpoint.number(),
                "an RDMA host sent more commands than its queue has room for"
            );
            return self.close(id);
        }
        queue.count();
        let Party::Host(terms) = &queue.party else { return self.connect(id, port, index, &sqe, data, staging) };
        if sqe.opcode() == FABRICS_OPCODE {
            return self.fabrics(id, &sqe);
        }
        let session = terms.session;
        let route = match Route::of(&sqe, data, terms.max_transfer_bytes) {
            Ok(route) => route,
            Err(status) => return self.refuse(id, sqe.cid(), status),
        };
        let along = route.bytes > 0 && route.place.is_none();
        let buffer = if along { self.ports[port].take_data(index) } else { None };
        if along && buffer.is_none() {
            return self.refuse(id, sqe.cid(), Status::INTERNAL_ERROR);
        }
        let exchange = match self.desk.open(id, session, sqe, route, buffer) {
            Ok(exchange) => exchange,
            Err(buffer) => {
                if let Some(buffer) = buffer {
                    staging.give_back(buffer);
                }
                return self.refuse(id, sqe.cid(), Status::INTERNAL_ERROR);
            }
        };
        if route.bytes == 0 || along {
            self.desk.make_ready(exchange);
        } else if self.desk.seek_buffer(exchange, staging) {
            self.fed(exchange);
        }
    }

    fn refuse(&mut self, id: SlotId, cid: u16, status: Status) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.refuse(cid, status);
            self.make_due(id);
        }
    }

    /// A Fabrics command on a queue that is connected.
    fn fabrics(&mut self, id: SlotId, sqe: &Sqe) {
        let status = match FabricsCommand::decode(sqe) {
            Ok(FabricsCommand::Disconnect) => {
                if let Some(queue) = self.queues.get_mut(id) {
                    queue.leave();
                }
                Status::SUCCESS
            }
            Ok(FabricsCommand::Connect(_)) => Status::COMMAND_SEQUENCE_ERROR,
            Ok(_) => Status::INVALID_FIELD,
            Err(status) => status,
        };
        self.refuse(id, sqe.cid(), status);
    }

    /// A command has its buffer: on with it.
    fn fed(&mut self, exchange: SlotId) {
        let Some(found) = self.desk.exchanges.get_mut(exchange) else { return };
        let queue = found.queue;
        if !found.route.from_host {
            return self.desk.make_ready(exchange);
        }
        found.phase = Phase::Reading;
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.read(exchange);
        }
        self.make_due(queue);
    }

    /// Gives buffers that came free to those that wait for them.
    fn feed(&mut self, staging: &mut Staging) {
        while let Some(exchange) = self.desk.next_fed(staging) {
            self.fed(exchange);
        }
        if self.desk.is_fed() {
            for port in self.ports.iter_mut().filter(|port| port.is_bare()) {
                port.refill(staging);
            }
        }
    }

    /// The first command of a queue: goes to the control side with its data.
    fn connect(&mut self, id: SlotId, port: usize, index: u16, sqe: &Sqe, data: u32, staging: &mut Staging) {
        const BYTES: u32 = ConnectData::BYTES as u32;
        let is_connect =
            sqe.opcode() == FABRICS_OPCODE && matches!(FabricsCommand::decode(sqe), Ok(FabricsCommand::Connect(_)));
        let route = Route::with_bytes(sqe, BYTES, (true, false), data, BYTES);
        // Nothing may follow before it was answered.
        let alone = self.queues.get(id).is_some_and(|queue| queue.in_use == 1);
        let (Ok(route), true, true) = (route, is_connect, alone) else { return self.refuse_first(id) };
        if route.place.is_some() {
            // Never yielded, so no session sees it.
            let Ok(exchange) = self.desk.open(id, SessionId(u16::MAX), *sqe, route, None) else {
                return self.refuse_first(id);
            };
            if self.desk.seek_buffer(exchange, staging) {
                self.fed(exchange);
            }
            return;
        }
        let mut bytes = [0; ConnectData::BYTES];
        let read = self.ports[port].data(index).and_then(|buffer| staging.read(buffer, 0, &mut bytes));
        match read {
            Some(()) => self.deliver(id, *sqe, &bytes),
            None => self.refuse_first(id),
        }
    }

    /// A first command that is none ends its queue.
    fn refuse_first(&mut self, id: SlotId) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.uncount();
        }
        self.close(id);
    }

    /// The data of a first command was read.
    fn connect_read(&mut self, id: SlotId, exchange: SlotId, staging: &mut Staging) {
        let mut bytes = [0; ConnectData::BYTES];
        let found = self.desk.exchanges.get(exchange);
        let sqe = found.map(|found| found.sqe);
        let read = found.and_then(|found| staging.read(found.buffer.as_ref()?, 0, &mut bytes));
        self.desk.close(exchange, staging);
        match (sqe, read) {
            (Some(sqe), Some(())) => self.deliver(id, sqe, &bytes),
            _ => self.refuse_first(id),
        }
    }

    /// Hands Connect to the control side. It does not count among the queue's commands until it has an answer: none may
    /// ever come.
    fn deliver(&mut self, id: SlotId, sqe: Sqe, bytes: &[u8]) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        queue.uncount();
        let delivered = match &mut queue.party {
            Party::Expected { connect, room } => {
                let mut data = std::mem::take(room);
                data.extend_from_slice(bytes);
                connect.take().is_some_and(|connect| connect.try_send(AdminCapsule { sqe, data }).is_ok())
            }
            Party::Host(_) => false,
        };
        if !delivered {
            self.close(id);
        }
    }

    /// Ends a queue at once, whose connection came to its end.
    fn close_alone(&mut self, id: SlotId) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.close_alone(&mut self.sends);
            self.make_due(id);
        }
    }

    /// Ends a queue at once, and with it its controller.
    fn close(&mut self, id: SlotId) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.close(&mut self.sends);
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
            self.desk.answer(exchange, completion);
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
            loop {
                queue.send(&mut self.sends, &mut self.desk, &self.ports[queue.port], staging);
                if !queue.has_more() {
                    break;
                }
            }
            if queue.is_closed() {
                queue.report_end();
                self.remove_if_over(id);
            }
        }
    }

    fn remove_if_over(&mut self, id: SlotId) {
        if !self.queues.get(id).is_some_and(Queue::is_over) {
            return;
        }
        let Some(queue) = self.queues.remove(id) else { return };
        self.entries -= queue.entries;
        self.by_number.retain(|(.., other)| *other != id);
        self.remains.push(queue.endpoint);
    }

    /// Appends what there is to tell of the queues.
    pub fn queue_pairs(&self, into: &mut Vec<QueuePairInfo>) {
        into.extend(self.queues.iter().filter_map(|queue| queue.info(self.core)));
    }
}
