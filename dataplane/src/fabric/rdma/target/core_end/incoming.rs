//! What comes in over a device: commands, and the ends of work requests.

use super::super::device_table::Condition;
use super::super::exchange::{Phase, Route};
use super::super::nic::PortDevice;
use super::super::port::RECEIVE;
use super::super::queue::{Ended, Party, of_work_id, says_drained};
use super::{BURST, BURSTS_A_TURN, RdmaEnd};
use crate::fabric::Completion;
use crate::fabric::message::{NO_MEMORY, Served, Staging};
use crate::fabric::rdma::verbs::WorkDone;
use crate::fabric::rdma::wire::COMMAND_BYTES;
use crate::memory::SlotId;
use crate::nvme::spec::fabrics::{FABRICS_OPCODE, FabricsCommand};
use crate::nvme::spec::{Sqe, Status};

impl<P: PortDevice> RdmaEnd<P> {
    pub(super) fn poll_port(&mut self, port: usize, staging: &mut Staging) {
        for _ in 0..BURSTS_A_TURN {
            let mut done = [WorkDone::default(); BURST];
            let count = match self.port(port) {
                Some(open) if open.failed => return self.fail_port(port),
                Some(open) => match open.parts.poll(&mut done) {
                    Ok(count) => count,
                    Err(_) => return self.fail_port(port),
                },
                None => return,
            };
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
            let Some(open) = self.port_mut(port) else { return };
            open.post();
            if open.failed {
                return self.fail_port(port);
            }
            if count < BURST {
                return;
            }
        }
    }

    /// The device is of no use any more: its queues end.
    fn fail_port(&mut self, port: usize) {
        let Some(failed) = self.port_mut(port) else { return };
        failed.failed = true;
        failed.parts.note(Condition::Useless);
        if std::mem::replace(&mut failed.ended, true) {
            return;
        }
        tracing::error!(core = self.core, "an RDMA device failed; its queues end");
        let ids: Vec<SlotId> = self.by_number.iter().filter(|(of, ..)| *of == port).map(|(.., id)| *id).collect();
        for id in ids {
            self.close(id);
            // Nothing will say that it is drained.
            if let Some(queue) = self.queues.get_mut(id) {
                queue.doom();
            }
        }
    }

    /// A work request of ours ended.
    fn worked(&mut self, done: &WorkDone, staging: &mut Staging) {
        let (id, sequence) = of_work_id(done.id());
        let Some(queue) = self.queues.get_mut(id) else { return };
        if says_drained(sequence) {
            return self.drained(id, staging);
        }
        if let Some(fault) = done.failed() {
            if !queue.is_closed() {
                tracing::debug!(queue_pair = done.queue_pair(), %fault, "an RDMA queue pair failed");
                self.close_failed(id);
            }
            return;
        }
        while let Some(queue) = self.queues.get_mut(id)
            && let Some(ended) = queue.next_ended(sequence)
        {
            match ended {
                Some(Ended::Read(exchange)) if self.desk.is_first(exchange) => self.connect_read(id, exchange, staging),
                Some(Ended::Read(exchange)) => self.desk.make_ready(exchange),
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
                None => self.close_failed(id),
            }
        }
        if let Some(port) = self.port_mut(port) {
            port.reuse(index, staging);
        }
    }

    fn capsule(&mut self, id: SlotId, port: usize, index: u16, data: u32, staging: &mut Staging) {
        let Some(sqe) = self.port(port).and_then(|port| port.parts.command(index)) else { return };
        let Some(queue) = self.queues.get_mut(id).filter(|queue| queue.is_running()) else { return };
        if queue.is_full() {
            tracing::debug!(queue_pair = queue.number(), "an RDMA host sent more commands than its queue has room for");
            return self.close(id);
        }
        queue.count();
        let Party::Host(terms) = &queue.party else { return self.connect(id, port, index, &sqe, data, staging) };
        if sqe.opcode() == FABRICS_OPCODE {
            return self.fabrics(id, &sqe);
        }
        let (session, account) = (terms.session, queue.account);
        let route = match Route::of(&sqe, data, terms.max_transfer_bytes) {
            Ok(route) => route,
            Err(status) => return self.refuse(id, sqe.cid(), status),
        };
        let along = route.bytes > 0 && route.place.is_none();
        let Some(exchange) = self.desk.open((id, Some(session), account), sqe, route) else {
            return self.refuse(id, sqe.cid(), Status::INTERNAL_ERROR);
        };
        let buffer = if along { self.port_mut(port).and_then(|port| port.take_data(index)) } else { None };
        if let Some(buffer) = buffer {
            self.desk.lend(exchange, buffer, (port, index));
        }
        if route.bytes == 0 || along {
            self.desk.make_ready(exchange);
        } else if let Some(served) = self.desk.seek_buffer(exchange, staging) {
            self.served(served, staging);
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

    /// A command has its buffer, or never will: on with it.
    pub(super) fn served(&mut self, served: Served, staging: &mut Staging) {
        match served {
            Served::Fed(exchange) => self.fed(exchange),
            Served::Never(exchange) => self.never_fed(exchange, staging),
        }
    }

    #[cold]
    fn never_fed(&mut self, exchange: SlotId, staging: &mut Staging) {
        let Some(found) = self.desk.exchanges.get(exchange) else { return };
        let (id, bytes) = (found.queue, found.route.bytes);
        if self.desk.is_first(exchange) {
            self.desk.close(exchange, staging);
            return self.refuse_first(id);
        }
        self.desk.answer(exchange, Completion::failed(NO_MEMORY), staging);
        if let Some(queue) = self.queues.get_mut(id) {
            queue.warn_of_too_little(bytes);
            queue.answer(exchange);
        }
        self.make_due(id);
    }

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
    pub(super) fn feed(&mut self, staging: &mut Staging) {
        while let Some(served) = self.desk.next_served(staging) {
            self.served(served, staging);
        }
        if self.desk.is_fed() {
            for port in self.ports.iter_mut().flatten().filter(|port| port.is_bare()) {
                port.refill(staging);
            }
        }
    }
}
