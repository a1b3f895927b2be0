//! One core's end of all message carriers.

use std::sync::Arc;

use super::carrier;
use super::orders::{Answer, CoreCommand, CoreError};
use super::staging::{Staging, StagingMap};
use crate::Burst;
use crate::fabric::rdma::target::{RdmaEnd, RdmaOrder};
use crate::fabric::tcp::target::TcpEnd;
use crate::fabric::tcp::target::streams::{RingStreams, Streams};
use crate::fabric::{Capsule, Completion, Fabric, Permit, QueuePairInfo, SessionId};
use crate::memory::{DmaSlice, SlotId};
use crate::nvme::BlockQueue;
use crate::nvme::spec::{Sqe, Status};

/// Where the bytes of a command lie in staging memory, and how far they have been read or written.
#[derive(Clone, Copy, Debug)]
pub struct StagedData {
    core: u16,
    unit: u32,
    at: u32,
    bytes: u32,
}

impl StagedData {
    /// For carriers: makes a command, in its private copy, name its buffer.
    pub(crate) fn name_buffer(sqe: &mut Sqe, unit: u32, bytes: u32) {
        sqe.set_quadword(6, u64::from(unit));
        sqe.set_quadword(8, u64::from(bytes));
    }

    fn of(capsule: &Capsule) -> Self {
        let (unit, bytes) = (capsule.sqe.quadword(6) as u32, capsule.sqe.quadword(8) as u32);
        Self { core: capsule.permit.core(), unit, at: 0, bytes }
    }

    /// Moves on by at most `max` bytes: where they begin, and how many they are.
    #[inline]
    fn advance(&mut self, max: u32) -> Result<(u32, u32), Status> {
        let (at, bytes) = (self.at, max.min(self.bytes - self.at));
        if bytes == 0 {
            return Err(Status::DATA_SGL_LENGTH_INVALID);
        }
        self.at += bytes;
        Ok((at, bytes))
    }

    /// Moves on by exactly `bytes`.
    fn advance_by(&mut self, bytes: usize) -> Result<u32, Status> {
        let bytes = u32::try_from(bytes).map_err(|_| Status::DATA_SGL_LENGTH_INVALID)?;
        if bytes > self.bytes - self.at {
            return Err(Status::DATA_SGL_LENGTH_INVALID);
        }
        let at = self.at;
        self.at += bytes;
        Ok(at)
    }
}

/// A session that is to end, and who waits for it.
struct Closing {
    session: SessionId,
    answer: Answer,
}

/// One core's end of the carriers that have no memory in common with their hosts. `S` is what is under TCP.
pub struct MessageFabric<S: Streams = RingStreams> {
    core: u16,
    open: Option<Open<S>>,
    closing: Vec<Closing>,
    copied: u64,
    /// A sweep is due, once what has come is known.
    sweep: bool,
}

/// What there is once a listener needs it.
struct Open<S: Streams> {
    staging: Staging,
    tcp: TcpEnd<S>,
    rdma: RdmaEnd,
    /// Whose turn it is to be asked first.
    rdma_first: bool,
}

impl<S: Streams> std::fmt::Debug for MessageFabric<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MessageFabric")
            .field("core", &self.core)
            .field("open", &self.open.is_some())
            .finish_non_exhaustive()
    }
}

/// What queues over TCP hold of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Queues.
    pub connections: usize,
    /// Commands, from the first byte that comes of them to the last that is sent.
    pub commands: usize,
    /// Bytes of staging buffers.
    pub buffer_bytes: u32,
}

impl<S: Streams> MessageFabric<S> {
    /// The end of core `core`. Costs nothing until staging memory is given to it.
    #[must_use]
    pub fn new(core: u16) -> Self {
        Self { core, open: None, closing: Vec::new(), copied: 0, sweep: false }
    }

    /// Whether there is any connection.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.tcp.connections() == 0 && open.rdma.queues() == 0)
    }

    /// What queues over TCP hold, for those who look from outside.
    #[must_use]
    pub fn held(&self) -> Held {
        self.open.as_ref().map_or_else(Held::default, |open| Held {
            connections: open.tcp.connections(),
            commands: open.tcp.commands(),
            buffer_bytes: open.staging.map().layout().buffer_bytes - open.staging.free_bytes(),
        })
    }

    fn open<B: BlockQueue>(&mut self, map: StagingMap, blocks: &mut B) -> Result<(), CoreError> {
        if self.open.is_some() {
            return Ok(());
        }
        let mut attached = 0;
        let made = self.attach(&map, blocks, &mut attached).and_then(|()| {
            let staging = Staging::new(self.core, map.clone()).ok_or(CoreError::NotOpen)?;
            let mut tcp = TcpEnd::new(self.core, &staging).map_err(|error| CoreError::System(error.to_string()))?;
            tcp.lend_from(&blocks.memory());
            Ok(Open { staging, tcp, rdma: RdmaEnd::new(self.core, map.layout().buffer_bytes), rdma_first: false })
        });
        match made {
            Ok(open) => {
                self.open = Some(open);
                Ok(())
            }
            Err(error) => {
                // Nothing has used it yet, so this cannot be busy.
                for region in &map.regions()[..attached] {
                    let _ = blocks.detach(region.slot());
                }
                Err(error)
            }
        }
    }

    fn attach<B: BlockQueue>(&self, map: &StagingMap, blocks: &mut B, attached: &mut usize) -> Result<(), CoreError> {
        for region in map.regions() {
            blocks.attach(Arc::clone(region)).map_err(|error| CoreError::Attach(error.to_string()))?;
            *attached += 1;
        }
        Ok(())
    }

    fn close_session(&mut self, session: SessionId, answer: Answer) {
        if let Some(open) = &mut self.open {
            open.tcp.close_session(session, &mut open.staging);
            open.rdma.close_session(session);
        }
        self.closing.push(Closing { session, answer });
    }

    fn rdma(&mut self, order: RdmaOrder) {
        match &mut self.open {
            Some(open) => open.rdma.order(order, &mut open.staging),
            // Dropping it drops the way to answer, which says enough.
            None => drop(order),
        }
    }

    fn map(&self) -> Result<&StagingMap, Status> {
        self.open.as_ref().map(|open| open.staging.map()).ok_or(Status::DATA_TRANSFER_ERROR)
    }
}

impl<S: Streams> Fabric for MessageFabric<S> {
    type Data = StagedData;
    type Command = CoreCommand<S::Stream>;

    fn command<B: BlockQueue>(&mut self, command: CoreCommand<S::Stream>, blocks: &mut B) {
        // Whoever no longer waits for the answer is no reason to stop.
        match command {
            CoreCommand::Open(map, answer) => drop(answer.try_send(self.open(map, blocks))),
            CoreCommand::TakeTcp(queue, answer) => {
                let taken = match &mut self.open {
                    Some(open) => open.tcp.take(*queue, &mut open.staging),
                    None => Err(CoreError::NotOpen),
                };
                drop(answer.try_send(taken));
            }
            CoreCommand::Rdma(order) => self.rdma(order),
            CoreCommand::CloseSession(session, answer) => self.close_session(session, answer),
            // Two of them that come together are one: between sweeps, hosts are to have had their time.
            CoreCommand::Sweep => self.sweep = true,
        }
    }

    fn settle<B: BlockQueue>(&mut self, _blocks: &mut B) {
        if let Some(open) = &mut self.open {
            open.tcp.harvest(&mut open.staging);
            if std::mem::take(&mut self.sweep) {
                open.tcp.sweep(&mut open.staging);
                open.rdma.sweep(&mut open.staging);
            }
            open.rdma.settle();
        }
        if self.closing.is_empty() {
            return;
        }
        let open = &self.open;
        self.closing.retain(|closing| {
            let gone = open
                .as_ref()
                .is_none_or(|open| !open.tcp.serves(closing.session) && !open.rdma.serves(closing.session));
            if gone {
                let _ = closing.answer.try_send(Ok(()));
            }
            !gone
        });
    }

    fn outstanding(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.tcp.outstanding() + open.rdma.outstanding())
    }

    #[inline]
    fn poll(&mut self, capsules: &mut Burst<Capsule>) {
        if let Some(open) = &mut self.open {
            // In turns, so that neither keeps the other out by filling every burst.
            open.rdma_first = !open.rdma_first;
            if open.rdma_first {
                open.rdma.poll(&mut open.staging, capsules);
                open.tcp.poll(capsules);
            } else {
                open.tcp.poll(capsules);
                open.rdma.poll(&mut open.staging, capsules);
            }
        }
    }

    #[inline]
    fn data(&self, capsule: &Capsule) -> StagedData {
        StagedData::of(capsule)
    }

    #[inline]
    fn complete(&mut self, permit: Permit, completion: Completion) {
        debug_assert_eq!(permit.core(), self.core, "a permit goes back to the core that issued it");
        let (carrier, (exchange, _)) = (permit.carrier(), permit.redeem());
        let Some(open) = &mut self.open else { return };
        if carrier == carrier::RDMA {
            open.rdma.complete(exchange, completion, &mut open.staging);
        } else {
            open.tcp.complete(exchange, completion, &mut open.staging);
        }
    }

    #[inline]
    fn borrows(&self, permit: &Permit) -> bool {
        permit.carrier() == carrier::TCP
            && permit.core() == self.core
            && self.open.as_ref().is_some_and(|open| open.tcp.borrows(permit.queue()))
    }

    fn lend(&mut self, permit: &Permit, bytes: DmaSlice, loan: u64) -> bool {
        self.borrows(permit) && self.open.as_mut().is_some_and(|open| open.tcp.lend(permit.queue(), bytes, loan))
    }

    fn recall(&mut self, queue: SlotId, loan: u64, overdue: bool) -> u32 {
        self.open.as_mut().map_or(0, |open| open.tcp.recall(queue, loan, overdue, &mut open.staging))
    }

    #[inline]
    fn take_returned(&mut self, into: &mut Burst<u64>) {
        if let Some(open) = &mut self.open {
            open.tcp.take_returned(into);
        }
    }

    fn flush(&mut self) {
        if let Some(open) = &mut self.open {
            open.tcp.flush(&mut open.staging);
            open.rdma.flush(&mut open.staging);
        }
    }

    fn is_moving(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.tcp.is_moving(&open.staging) || open.rdma.is_moving(&open.staging))
    }

    #[inline]
    fn window(&mut self, data: &mut StagedData, max: u32) -> Result<DmaSlice, Status> {
        let (at, bytes) = data.advance(max)?;
        let map = self.map()?;
        map.note_filled(data.core, data.unit, data.at);
        map.slice(data.core, data.unit, at, bytes).ok_or(Status::DATA_TRANSFER_ERROR)
    }

    fn copy_from_client(&mut self, data: &mut StagedData, into: &mut [u8]) -> Result<(), Status> {
        let at = data.advance_by(into.len())?;
        self.map()?.read(data.core, data.unit, at, into).ok_or(Status::DATA_TRANSFER_ERROR)?;
        self.copied += into.len() as u64;
        Ok(())
    }

    fn copy_to_client(&mut self, data: &mut StagedData, from: &[u8]) -> Result<(), Status> {
        let at = data.advance_by(from.len())?;
        let map = self.map()?;
        map.write(data.core, data.unit, at, from).ok_or(Status::DATA_TRANSFER_ERROR)?;
        map.note_filled(data.core, data.unit, data.at);
        self.copied += from.len() as u64;
        Ok(())
    }

    fn copied_bytes(&self) -> u64 {
        self.copied + self.open.as_ref().map_or(0, |open| open.tcp.copied_bytes())
    }

    fn queue_pairs(&self, into: &mut Vec<QueuePairInfo>) {
        if let Some(open) = &self.open {
            open.tcp.queue_pairs(into);
            open.rdma.queue_pairs(into);
        }
    }
}
