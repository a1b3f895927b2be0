//! The first command of a queue: it goes to the control side with its data, and the answer comes back as an order.

use super::super::exchange::Route;
use super::super::nic::PortDevice;
use super::super::queue::Party;
use super::RdmaEnd;
use crate::fabric::message::{AdminCapsule, Staging};
use crate::memory::SlotId;
use crate::nvme::spec::Sqe;
use crate::nvme::spec::fabrics::{ConnectData, FABRICS_OPCODE, FabricsCommand};

impl<P: PortDevice> RdmaEnd<P> {
    /// The first command of a queue: goes to the control side with its data.
    pub(super) fn connect(&mut self, id: SlotId, port: usize, index: u16, sqe: &Sqe, data: u32, staging: &mut Staging) {
        const BYTES: u32 = ConnectData::BYTES as u32;
        let is_connect =
            sqe.opcode() == FABRICS_OPCODE && matches!(FabricsCommand::decode(sqe), Ok(FabricsCommand::Connect(_)));
        let route = Route::with_bytes(sqe, BYTES, (true, false), data, BYTES);
        // Nothing may follow before it was answered.
        let first = match self.queues.get_mut(id).map(|queue| &mut queue.party) {
            Some(Party::Expected { came, .. }) => !std::mem::replace(came, true),
            _ => false,
        };
        let (Ok(route), true, true) = (route, is_connect, first) else { return self.refuse_first(id) };
        if route.place.is_some() {
            let Some(exchange) = self.desk.open((id, None, self.desk.strangers), *sqe, route) else {
                return self.refuse_first(id);
            };
            if let Some(served) = self.desk.seek_buffer(exchange, staging) {
                self.served(served, staging);
            }
            return;
        }
        let mut bytes = [0; ConnectData::BYTES];
        let along = self.port(port).and_then(|port| port.data(index));
        let read = along.and_then(|buffer| staging.read(buffer, 0, &mut bytes));
        match read {
            Some(()) => self.deliver(id, *sqe, &bytes),
            None => self.refuse_first(id),
        }
    }

    /// A first command that is none ends its queue.
    pub(super) fn refuse_first(&mut self, id: SlotId) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.uncount();
        }
        self.close(id);
    }

    /// The data of a first command was read.
    pub(super) fn connect_read(&mut self, id: SlotId, exchange: SlotId, staging: &mut Staging) {
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
            Party::Expected { connect, room, .. } => {
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
}
