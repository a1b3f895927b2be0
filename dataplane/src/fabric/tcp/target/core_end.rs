//! One core's I/O queues over TCP.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::connection::{AREA_BYTES, BATCH, Connection, NewTcpQueue};
use super::desk::Desk;
use super::exchange::{Lent, Phase};
use super::streams::{RingStreams, StreamDone, Streams};
use crate::Burst;
use crate::fabric::message::{CoreError, Served, Staging, StagingLayout, carrier};
use crate::fabric::{Capsule, Completion, Permit, QueuePairInfo, SessionId};
use crate::memory::{DmaSlice, Region, SlotId, SlotPool};

/// I/O queues that a core serves at once.
const MAX_CONNECTIONS: u16 = 256;
/// Commands that all queues of a core together may have open; their lengths are admitted against it.
const MAX_COMMANDS: u16 = 16_384;
/// Queues, and commands of them, that one session may have on one core, so that one host leaves room for others.
const MAX_OF_SESSION: (u32, u32) = (64, MAX_COMMANDS as u32 / 2);
/// Bursts of receives and sends that are looked at in one turn.
const BURSTS_A_TURN: usize = 4;

/// Places that the commands of a queue need: those whose answer is on its way do not count against its length any more.
fn places_of(entries: u32) -> u32 {
    entries + BATCH as u32
}

/// How a core's staging memory is laid out, with `buffer_bytes` for the data of commands.
#[must_use]
pub const fn staging_layout(buffer_bytes: u32) -> StagingLayout {
    StagingLayout { areas: MAX_CONNECTIONS, area_bytes: AREA_BYTES, buffer_bytes }
}

/// One core's I/O queues over TCP.
pub struct TcpEnd<S: Streams = RingStreams> {
    core: u16,
    streams: S,
    connections: SlotPool<Connection<S::Stream>>,
    /// By place in the pool.
    places: Box<[Option<SlotId>]>,
    /// Sum of the queues' entries.
    entries: u32,
    desk: Desk,
    /// Connections that have something to send, or that are to end.
    due: Vec<SlotId>,
    /// Connections whose next capsule waits for a buffer.
    stalled: VecDeque<SlotId>,
    /// Commands that were taken and not completed.
    outstanding: usize,
    /// Connections that are moving.
    moving: usize,
}

impl<S: Streams> TcpEnd<S> {
    /// The end of core `core`, made on the core's own thread.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(core: u16, staging: &Staging) -> io::Result<Self> {
        let places = usize::from(MAX_CONNECTIONS);
        Ok(Self {
            core,
            streams: S::new(MAX_CONNECTIONS, Arc::clone(staging.region()))?,
            connections: SlotPool::new(MAX_CONNECTIONS),
            places: vec![None; places].into(),
            entries: 0,
            desk: Desk::new(MAX_CONNECTIONS, MAX_COMMANDS, staging.map().layout().buffer_bytes),
            due: Vec::with_capacity(places),
            stalled: VecDeque::with_capacity(places),
            outstanding: 0,
            moving: 0,
        })
    }

    /// Lets values be sent from this memory of devices, where they lie.
    pub fn lend_from(&mut self, memory: &[Arc<Region>]) {
        self.desk.lenders = memory.to_vec();
        self.streams.read_from(memory);
    }

    /// Whether a command's data would be sent from such memory.
    #[must_use]
    pub fn borrows(&self, exchange: SlotId) -> bool {
        if self.desk.lenders.is_empty() {
            return false;
        }
        let Some(exchange) = self.desk.exchanges.get(exchange) else { return false };
        // A digest is made of what lies in staging memory.
        let digests = |owner| self.connections.get(owner).is_none_or(|owner| owner.queue.framing.digests.data);
        exchange.route.to_host && exchange.lent.is_none() && !digests(exchange.connection)
    }

    /// Has a command's data sent from there. It keeps its buffer, by which its session's share is counted.
    pub fn lend(&mut self, exchange: SlotId, bytes: DmaSlice, loan: u64) -> bool {
        let known = self.desk.lenders.iter().any(|region| region.contains(&bytes));
        let Some(exchange) = self.desk.exchanges.get_mut(exchange).filter(|_| known) else { return false };
        let fits = exchange.phase == Phase::Running && bytes.bytes() <= exchange.route.bytes;
        if fits {
            exchange.lent = Some(Lent { bytes, loan, recalled: false });
        }
        fits
    }

    /// Asks for a loan back: see [`Fabric::recall`](crate::fabric::Fabric::recall).
    pub fn recall(&mut self, id: SlotId, loan: u64, overdue: bool, staging: &mut Staging) -> u32 {
        let Some(exchange) = self.desk.exchanges.get_mut(id) else { return 0 };
        let Some(lent) = exchange.lent.as_mut().filter(|lent| lent.loan == loan) else { return 0 };
        let owner = exchange.connection;
        let Some(connection) = self.connections.get_mut(owner) else { return 0 };
        if !connection.is_sending(id) {
            return self.desk.copy_lent(id, staging);
        }
        lent.recalled = true;
        if overdue && !connection.is_closed() {
            let (session, qid) = (connection.queue.session.0, connection.queue.qid);
            tracing::warn!(
                session,
                qid,
                "an NVMe/TCP host does not take a value whose place is needed; its queue ends"
            );
            connection.close();
            self.tend(owner, staging);
        }
        0
    }

    /// Takes loans whose bytes are no longer looked at.
    #[inline]
    pub fn take_returned(&mut self, into: &mut Burst<u64>) {
        while !into.is_full()
            && let Some(loan) = self.desk.returned.pop()
        {
            into.push(loan);
        }
    }

    /// The streams, for those who look from outside.
    pub fn streams_mut(&mut self) -> &mut S {
        &mut self.streams
    }

    /// Takes an I/O queue over.
    ///
    /// # Errors
    /// If it does not fit.
    pub fn take(&mut self, queue: NewTcpQueue<S::Stream>, staging: &mut Staging) -> Result<(), CoreError> {
        let (entries, session) = (places_of(queue.entries), queue.session);
        let of_session = self.connections.iter().filter(|other| other.queue.session == session);
        let (queues, commands) = of_session.fold((0, 0), |sum, other| (sum.0 + 1, sum.1 + other.queue.entries));
        let too_many = self.entries + entries > u32::from(MAX_COMMANDS);
        if too_many || queues >= MAX_OF_SESSION.0 || commands + queue.entries > MAX_OF_SESSION.1 {
            return Err(CoreError::NoRoom);
        }
        let area = staging.take_area().ok_or(CoreError::NoRoom)?;
        let account = self.desk.lines.welcome(queue.link.host(), entries);
        let id = match self.connections.insert(Connection::new(queue, account, area)) {
            Ok(id) => id,
            Err(connection) => {
                self.desk.lines.part(account, entries);
                staging.give_area_back(connection.area_back().0);
                return Err(CoreError::NoRoom);
            }
        };
        self.places[id.index()] = Some(id);
        self.entries += entries;
        if let Some(connection) = self.connections.get_mut(id) {
            connection.set_id(id);
            connection.receive(&mut self.streams, &self.desk, staging);
        }
        self.streams.submit();
        Ok(())
    }

    /// I/O queues that it serves.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.in_use()
    }

    /// Commands taken and not completed.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Commands that have a place here, taken or not.
    #[must_use]
    pub fn commands(&self) -> usize {
        self.desk.exchanges.in_use()
    }

    /// Bytes that the CPU copied.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        self.desk.copied
    }

    /// Whether a session has a queue here.
    #[must_use]
    pub fn serves(&self, session: SessionId) -> bool {
        self.connections.iter().any(|connection| connection.queue.session == session)
    }

    /// Whether bytes are on their way, or a buffer is there for those that wait.
    #[must_use]
    pub fn is_moving(&self, staging: &Staging) -> bool {
        let open = self.connections.in_use() > 0;
        self.moving > 0 || !self.due.is_empty() || open && self.desk.is_to_be_fed(staging)
    }

    /// Ends the queues of a session.
    pub fn close_session(&mut self, session: SessionId, staging: &mut Staging) {
        let ids: Vec<SlotId> = self.connections.ids().collect();
        for id in ids {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if connection.queue.session == session {
                connection.close_as_asked();
                self.tend(id, staging);
            }
        }
    }

    /// Ends the queues of hosts that did nothing since the last sweep although it was their turn.
    pub fn sweep(&mut self, staging: &mut Staging) {
        let ids: Vec<SlotId> = self.connections.ids().collect();
        for id in ids {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if connection.sweep(&self.streams) && !connection.is_closed() {
                let (session, qid) = (connection.queue.session.0, connection.queue.qid);
                tracing::warn!(session, qid, "an NVMe/TCP host does not go on with what it began; its queue ends");
                connection.close();
                self.tend(id, staging);
            }
        }
    }

    /// Takes new commands that are complete.
    pub fn poll(&mut self, capsules: &mut Burst<Capsule>) {
        while !capsules.is_full()
            && let Some((id, exchange)) = self.desk.next_ready()
        {
            exchange.phase = Phase::Running;
            let permit = Permit::issue_by(carrier::TCP, self.core, id, exchange.cid);
            capsules.push(Capsule { sqe: exchange.sqe, session: exchange.session, permit });
            self.outstanding += 1;
        }
    }

    /// Looks at what has been received and sent, and goes on with it. Also while no commands are taken: answers are to
    /// reach their hosts, and queues that end are to end.
    pub fn harvest(&mut self, staging: &mut Staging) {
        if self.connections.in_use() == 0 {
            return;
        }
        for _ in 0..BURSTS_A_TURN {
            let mut done = Burst::new();
            self.streams.poll(&mut done);
            let more = done.is_full();
            for done in done {
                self.done(done, staging);
            }
            if !more {
                break;
            }
        }
        self.feed(staging);
    }

    fn done(&mut self, done: StreamDone, staging: &mut Staging) {
        let Some(id) = self.places.get(usize::from(done.transfer.place)).copied().flatten() else { return };
        let Some(connection) = self.connections.get_mut(id) else { return };
        if done.transfer.send {
            connection.sent(done.result, &mut self.streams, &mut self.desk, staging);
        } else {
            connection.received(done.result, &mut self.desk, staging);
        }
        self.tend(id, staging);
    }

    /// Gives buffers that came free to those that wait for them.
    fn feed(&mut self, staging: &mut Staging) {
        if !self.desk.look(staging) {
            return;
        }
        while let Some(served) = self.desk.next_served(staging) {
            let (Served::Fed(id) | Served::Never(id)) = served;
            let Some(owner) = self.desk.exchanges.get(id).map(|exchange| exchange.connection) else { continue };
            if let Some(connection) = self.connections.get_mut(owner) {
                connection.served(served, &mut self.desk, staging);
                self.tend(owner, staging);
            }
        }
        // The first that is stalled again stays the first.
        while let Some(&id) = self.stalled.front() {
            let Some(connection) = self.connections.get_mut(id) else {
                self.stalled.pop_front();
                continue;
            };
            connection.take_in(&mut self.desk, staging);
            let stalled = connection.is_stalled();
            if !stalled {
                self.stalled.pop_front();
            }
            // Even if it is stalled again: it may have got on before that, and have something to say.
            self.tend(id, staging);
            if stalled {
                break;
            }
        }
    }

    /// Does what follows for a connection on which something happened.
    fn tend(&mut self, id: SlotId, staging: &mut Staging) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.receive(&mut self.streams, &self.desk, staging);
        Self::count(connection, &mut self.moving);
        if connection.is_stalled() && !self.stalled.contains(&id) {
            self.stalled.push_back(id);
        }
        if !std::mem::replace(&mut connection.due, true) {
            self.due.push(id);
        }
    }

    /// Keeps count of the connections that are moving.
    fn count(connection: &mut Connection<S::Stream>, moving: &mut usize) {
        let is_moving = connection.is_moving();
        match (std::mem::replace(&mut connection.counted, is_moving), is_moving) {
            (false, true) => *moving += 1,
            (true, false) => *moving -= 1,
            _ => {}
        }
    }

    /// Takes the completion of a command.
    #[inline]
    pub fn complete(&mut self, exchange: SlotId, completion: Completion, staging: &mut Staging) {
        self.outstanding -= 1;
        let Some(owner) = self.desk.exchanges.get(exchange).map(|exchange| exchange.connection) else { return };
        // A connection stays until its last command was completed.
        let Some(connection) = self.connections.get_mut(owner) else { return };
        if connection.is_closed() {
            self.desk.close(exchange, staging);
            connection.in_use -= 1;
        } else {
            connection.answer(exchange, completion, &mut self.desk, staging);
        }
        if !std::mem::replace(&mut connection.due, true) {
            self.due.push(owner);
        }
    }

    /// Sends what is to be sent, and ends what is to end.
    pub fn flush(&mut self, staging: &mut Staging) {
        if self.connections.in_use() == 0 {
            return;
        }
        while let Some(id) = self.due.pop() {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            connection.due = false;
            connection.send(&mut self.streams, &mut self.desk, staging);
            if connection.is_closed() {
                self.streams.shut_down(&connection.queue.stream);
                connection.abandon(&mut self.desk, staging);
                connection.report_end();
            }
            Self::count(connection, &mut self.moving);
            self.remove_if_over(id, staging);
        }
        self.streams.submit();
    }

    fn remove_if_over(&mut self, id: SlotId, staging: &mut Staging) {
        if !self.connections.get(id).is_some_and(Connection::is_over) {
            return;
        }
        let Some(connection) = self.connections.remove(id) else { return };
        let counted = connection.counted;
        let account = connection.account;
        let (area, queue) = connection.area_back();
        self.desk.lines.part(account, places_of(queue.entries));
        staging.give_area_back(area);
        self.entries -= places_of(queue.entries);
        self.moving -= usize::from(counted);
        self.places[id.index()] = None;
        self.stalled.retain(|&other| other != id);
    }

    /// Appends what there is to tell of the queues.
    pub fn queue_pairs(&self, into: &mut Vec<QueuePairInfo>) {
        into.extend(self.connections.iter().map(|connection| connection.info(self.core)));
    }
}

impl<S: Streams> Drop for TcpEnd<S> {
    /// Ends every stream, for the streams wait until nothing is under way.
    fn drop(&mut self) {
        for connection in self.connections.iter() {
            self.streams.shut_down(&connection.queue.stream);
        }
    }
}
