//! One I/O queue of a host over RDMA: what is posted for it, and what became of that.
//!
//! Work requests of a queue pair end in the order in which they were posted, so the completion of one tells of all before
//! it: only READs, and the last of what is posted together, ask for one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::desk::Desk;
use super::exchange::Phase;
use super::nic::{PortDevice, QueuePair};
use super::port::Port;
use crate::fabric::message::{AccountId, AdminCapsule, QueueTerms, Staging};
use crate::fabric::rdma::verbs::{EndpointId, SendList, Work};
use crate::fabric::rdma::wire::RESPONSE_BYTES;
use crate::fabric::{Completion, QueuePairInfo, SessionId};
use crate::memory::SlotId;
use crate::nvme::spec::{Cqe, Status};

/// Bits of a sequence number beside the name of its queue.
const SEQUENCE_BITS: u32 = 63 - SlotId::BITS;
/// What says that nothing of a failed queue pair is left.
const DRAINED: u32 = (1 << SEQUENCE_BITS) - 1;
/// Work requests of an answer: the data, and the response.
const ANSWER_WORK: u32 = 2;
/// Work requests that a queue may have outstanding, for each command that it counts for among those of its core.
pub(super) const WORK_OF_ENTRY: u32 = ANSWER_WORK;

/// The identifier of a work request.
pub(super) const fn work_id(queue: SlotId, sequence: u32) -> u64 {
    ((sequence as u64) << SlotId::BITS) | queue.to_bits()
}

/// The queue and the sequence number of a work request.
pub(super) const fn of_work_id(id: u64) -> (SlotId, u32) {
    (SlotId::from_bits(id), (id >> SlotId::BITS) as u32 & DRAINED)
}

/// Whether a number says that the queue pair is drained.
pub(super) const fn says_drained(sequence: u32) -> bool {
    sequence == DRAINED
}

/// Whose a queue is.
pub(super) enum Party {
    /// Nobody's yet: its first command goes to the control side.
    Expected {
        connect: Option<SyncSender<AdminCapsule>>,
        room: Vec<u8>,
        /// Whether the first command came.
        came: bool,
    },
    Host(Box<QueueTerms>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// Nothing is taken any more; when all is sent, it is closed.
    Leaving,
    /// The queue pair has failed; waits for what was posted.
    Closed,
    /// Nothing that was posted is left.
    Drained,
}

/// Something to send.
#[derive(Clone, Copy, Debug)]
enum Outgoing {
    Answer(SlotId),
    /// A completion without a command of ours.
    Word(Cqe),
}

/// Work requests that were posted together for one purpose.
#[derive(Clone, Copy, Debug)]
struct Posted {
    sequence: u32,
    work: u32,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Read(SlotId),
    Answer(SlotId),
    Word,
}

/// What became of work requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// A command's data is there.
    Read(SlotId),
    /// The host has a command's answer.
    Answer(SlotId),
}

/// One I/O queue.
pub(super) struct Queue<Q> {
    id: SlotId,
    name: EndpointId,
    /// `None` once the control side is to destroy it.
    endpoint: Option<Arc<Q>>,
    pub port: usize,
    pub party: Party,
    /// Whom the buffers of its commands count for.
    pub account: AccountId,
    state: State,
    /// Entries that the request for the connection told; then those of Connect.
    pub entries: u32,
    /// Commands that it counts for among those of its core.
    pub charged: u32,
    sq_head: u16,
    reads: VecDeque<SlotId>,
    reads_under_way: u8,
    reads_most: u8,
    outgoing: VecDeque<Outgoing>,
    posted: VecDeque<Posted>,
    /// Work requests outstanding, how many may be, and how many the queue pair takes at the most.
    work: u32,
    work_most: u32,
    work_of_pair: u32,
    sequence: u32,
    /// Whether it ends alone, and its controller lives on: the host disconnected or closed it, or the control side wants it
    /// to end. Linux ends its I/O queues before it shuts the controller down over the admin queue (nvme-rdma,
    /// nvme_rdma_shutdown_ctrl).
    alone: bool,
    /// Whether the control thread was told of the end.
    reported: bool,
    /// Whether the log has said why a command of it was refused for want of memory.
    has_warned: bool,
    /// Commands taken in whose answer the device is not done with.
    pub in_use: u32,
    /// Those of them whose answer was not posted. A host sends its next command as soon as it has an answer, which may be
    /// before the device says that it was sent, so it is these that the queue's entries bound.
    unanswered: u32,
    /// Whether it stands in the line of those to be looked after.
    pub due: bool,
    /// Whether it counts among those that are moving.
    pub counted: bool,
    /// Whether its queue pair cannot be drained, and must be destroyed instead.
    doomed: bool,
    /// Purposes that were served; and how many they were at the last sweep, if something was outstanding then.
    served: u64,
    swept: Option<u64>,
    commands: u64,
    completions: u64,
}

impl<Q: QueuePair> Queue<Q> {
    pub fn new(expected: super::ExpectedQueue<Q>, strangers: AccountId) -> Self {
        let mut queue = Self {
            id: SlotId::from_bits(0),
            port: expected.port,
            party: Party::Expected { connect: Some(expected.connect), room: expected.room, came: false },
            account: strangers,
            state: State::Running,
            entries: expected.entries,
            charged: 0,
            // Connect is the first entry, and is counted as any other.
            sq_head: 0,
            reads: VecDeque::with_capacity(4),
            reads_under_way: 0,
            reads_most: expected.reads.max(1),
            outgoing: VecDeque::with_capacity(4),
            posted: VecDeque::with_capacity(4),
            work: 0,
            work_most: 0,
            // One is kept for the last, which tells that the queue pair is drained.
            work_of_pair: expected.send_entries.saturating_sub(1),
            name: expected.endpoint.id(),
            endpoint: Some(expected.endpoint),
            sequence: 0,
            alone: false,
            reported: false,
            has_warned: false,
            in_use: 0,
            unanswered: 0,
            due: false,
            counted: false,
            doomed: false,
            served: 0,
            swept: None,
            commands: 0,
            completions: 0,
        };
        // Connect: its data is read, and then it is answered.
        queue.charge(1);
        queue
    }

    /// Has the queue count for so many commands of its core. Its queue pair was made for what the request for the connection
    /// told, which may be far more: what it is charged for bounds what it may have outstanding.
    fn charge(&mut self, entries: u32) {
        self.charged = entries;
        self.work_most = self.work_of_pair.min(WORK_OF_ENTRY * entries);
    }

    pub fn set_id(&mut self, id: SlotId) {
        self.id = id;
    }

    pub fn endpoint_id(&self) -> EndpointId {
        self.name
    }

    /// The number of its queue pair, for the log.
    pub fn number(&self) -> Option<u32> {
        self.endpoint.as_ref()?.number()
    }

    pub fn session(&self) -> Option<SessionId> {
        match &self.party {
            Party::Expected { .. } => None,
            Party::Host(terms) => Some(terms.session),
        }
    }

    /// Its host is known. From here on it counts for all of its entries.
    pub fn serve(&mut self, terms: Box<QueueTerms>, account: AccountId) {
        self.account = account;
        self.entries = terms.entries;
        self.charge(terms.entries);
        self.party = Party::Host(terms);
        let line = (WORK_OF_ENTRY * self.entries) as usize + 4;
        self.reads.reserve_exact(line);
        self.outgoing.reserve_exact(line);
        self.posted.reserve_exact(line);
    }

    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed | State::Drained)
    }

    pub fn is_drained(&self) -> bool {
        self.state == State::Drained
    }

    /// Whether nothing of it is left anywhere.
    pub fn is_over(&self) -> bool {
        self.state == State::Drained && self.in_use == 0
    }

    /// Whether anything is on its way.
    pub fn is_moving(&self) -> bool {
        self.work > 0 || !self.outgoing.is_empty() || !self.reads.is_empty()
    }

    pub fn info(&self, core: u16) -> Option<QueuePairInfo> {
        let Party::Host(terms) = &self.party else { return None };
        Some(QueuePairInfo {
            session: terms.session,
            qid: terms.qid,
            cqid: terms.qid,
            core,
            depth: terms.entries,
            outstanding: self.in_use,
            commands: self.commands,
            completions: self.completions,
        })
    }

    /// Whether the host has sent as many commands as its queue has room for.
    pub fn is_full(&self) -> bool {
        self.unanswered >= self.entries
    }

    /// Notes a command that was taken in.
    pub fn count(&mut self) {
        self.in_use += 1;
        self.unanswered += 1;
        self.commands += 1;
        self.sq_head = ((u32::from(self.sq_head) + 1) % self.entries.max(1)) as u16;
    }

    /// The command that came last is not one of those in use after all.
    pub fn uncount(&mut self) {
        self.in_use = self.in_use.saturating_sub(1);
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// It is one of those in use again.
    pub fn count_again(&mut self) {
        self.in_use += 1;
        self.unanswered += 1;
    }

    /// A command has its buffer, and its data is still to be read.
    pub fn read(&mut self, exchange: SlotId) {
        self.reads.push_back(exchange);
    }

    /// A command's answer is to be sent.
    pub fn answer(&mut self, exchange: SlotId) {
        self.outgoing.push_back(Outgoing::Answer(exchange));
    }

    /// Says, once a queue, why a command is refused.
    pub fn warn_of_too_little(&mut self, bytes: u32) {
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                queue_pair = self.number(),
                bytes,
                "a core's RDMA ports keep so much staging memory that a command of this size never gets a buffer, and is \
                 refused; listen on fewer RDMA devices, or have hosts use shorter commands"
            );
        }
    }

    /// A completion is to be sent, of a command that counts among those in use.
    pub fn refuse(&mut self, cid: u16, status: Status) {
        self.word(Cqe { dword0: 0, dword1: 0, sq_head: self.sq_head, sq_id: 0, cid, status });
    }

    /// A completion is to be sent as it is.
    pub fn word(&mut self, cqe: Cqe) {
        self.outgoing.push_back(Outgoing::Word(cqe));
    }

    /// Ends the queue, and not its controller, when all is sent.
    pub fn leave(&mut self) {
        self.alone = true;
        if self.state == State::Running {
            self.state = State::Leaving;
        }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = (self.sequence + 1) % DRAINED;
        self.sequence
    }

    /// Posts what there is to post.
    pub fn send(&mut self, list: &mut SendList, desk: &mut Desk, port: &Port<impl PortDevice>, staging: &Staging) {
        if self.is_closed() {
            return;
        }
        self.fill_reads(list, desk, port, staging);
        self.fill_answers(list, desk, port, staging);
        if list.is_empty() {
            if self.state == State::Leaving && !self.is_moving() {
                self.close(list);
            }
            return;
        }
        list.signal_last();
        if self.endpoint.as_ref().is_none_or(|endpoint| endpoint.post(list).is_err()) {
            self.close_alone(list);
        }
    }

    /// Whether there is more to post than could be.
    pub fn has_more(&self) -> bool {
        !self.is_closed() && self.work + ANSWER_WORK <= self.work_most && !self.outgoing.is_empty()
    }

    fn has_room(&self, list: &SendList) -> bool {
        list.room() >= ANSWER_WORK as usize && self.work + ANSWER_WORK <= self.work_most
    }

    fn fill_reads(&mut self, list: &mut SendList, desk: &mut Desk, port: &Port<impl PortDevice>, staging: &Staging) {
        while self.reads_under_way < self.reads_most
            && self.has_room(list)
            && let Some(id) = self.reads.pop_front()
        {
            let Some(exchange) = desk.exchanges.get(id) else { continue };
            let (Some(buffer), Some(place)) = (&exchange.buffer, exchange.route.place) else { continue };
            let Some(piece) = port.piece(staging, buffer, exchange.route.bytes) else { continue };
            let sequence = self.next_sequence();
            if list.push(work_id(self.id, sequence), Work::Read(place), &[piece], true) {
                self.note(sequence, 1, What::Read(id));
                self.reads_under_way += 1;
            }
        }
    }

    fn fill_answers(&mut self, list: &mut SendList, desk: &mut Desk, port: &Port<impl PortDevice>, staging: &Staging) {
        while self.has_room(list)
            && let Some(next) = self.outgoing.pop_front()
        {
            let sequence = self.next_sequence();
            let id = work_id(self.id, sequence);
            let mut work = 1;
            let (cqe, invalidate, what) = match next {
                Outgoing::Word(cqe) => (cqe, None, What::Word),
                Outgoing::Answer(exchange_id) => {
                    let Some(exchange) = desk.exchanges.get(exchange_id) else { continue };
                    let Phase::Answered(completion) = exchange.phase else { continue };
                    if exchange.route.to_host
                        && completion.status.is_success()
                        && let (Some(buffer), Some(place)) = (&exchange.buffer, exchange.route.place)
                        && let bytes @ 1.. = staging.filled(buffer).min(exchange.route.bytes)
                        && let Some(piece) = port.piece(staging, buffer, bytes)
                        && list.push(id, Work::Write(place), &[piece], false)
                    {
                        work += 1;
                    }
                    let Completion { dword0, dword1, status } = completion;
                    let cqe = Cqe { dword0, dword1, sq_head: self.sq_head, sq_id: 0, cid: exchange.cid, status };
                    (cqe, exchange.route.invalidate, What::Answer(exchange_id))
                }
            };
            let words = cqe.to_quadwords(false);
            let bytes: [u8; RESPONSE_BYTES as usize] = zerocopy::transmute!(words);
            let added = list.push_inline(id, invalidate.map_or(Work::Send, Work::SendAndInvalidate), &bytes, false);
            debug_assert!(added, "room was looked for");
            self.unanswered = self.unanswered.saturating_sub(1);
            self.note(sequence, work, what);
        }
    }

    fn note(&mut self, sequence: u32, work: u32, what: What) {
        self.posted.push_back(Posted { sequence, work, what });
        self.work += work;
    }

    /// The next purpose that was served, given that the work request of this number ended well.
    pub fn next_ended(&mut self, sequence: u32) -> Option<Option<Ended>> {
        // Numbers go round, so what matters is whether this one is still in the line.
        let distance = |posted: &Posted| (sequence + DRAINED - posted.sequence) % DRAINED;
        let first = self.posted.front().filter(|first| distance(first) < DRAINED / 2)?;
        let first = *first;
        self.posted.pop_front();
        self.work -= first.work;
        self.served += 1;
        Some(match first.what {
            What::Read(id) => {
                self.reads_under_way -= 1;
                Some(Ended::Read(id))
            }
            What::Answer(id) => {
                self.completions += 1;
                Some(Ended::Answer(id))
            }
            What::Word => {
                self.completions += 1;
                self.in_use = self.in_use.saturating_sub(1);
                None
            }
        })
    }

    /// Ends the queue at once: makes its queue pair fail, and asks to be told when nothing is left that it touches.
    pub fn close(&mut self, list: &mut SendList) {
        if self.is_closed() {
            return;
        }
        if let Some(endpoint) = &self.endpoint {
            endpoint.fail();
        }
        self.drain(list);
    }

    /// As [`close`](Self::close), and the controller lives on.
    pub fn close_alone(&mut self, list: &mut SendList) {
        self.end_alone();
        self.close(list);
    }

    /// As [`close_alone`](Self::close_alone) for a queue pair that has failed already: making it fail takes long.
    pub fn close_failed(&mut self, list: &mut SendList) {
        if !self.is_closed() {
            self.end_alone();
            self.drain(list);
        }
    }

    fn end_alone(&mut self) {
        // Who broke the protocol, and then the connection, has broken the protocol.
        self.alone |= self.state == State::Running;
    }

    fn drain(&mut self, list: &mut SendList) {
        self.state = State::Closed;
        self.swept = None;
        list.clear();
        let added = list.push(work_id(self.id, DRAINED), Work::Send, &[], true);
        let posted = added && self.endpoint.as_ref().is_some_and(|endpoint| endpoint.post(list).is_ok());
        // Some devices take nothing for a queue pair that failed (iWARP's, for one).
        self.doomed |= !posted;
    }

    /// No completion will say that its queue pair is drained.
    pub fn doom(&mut self) {
        self.doomed = true;
    }

    /// The connection of a queue pair that is to be destroyed before it can be over, once.
    pub fn take_doomed(&mut self) -> Option<Arc<Q>> {
        if self.doomed && self.state == State::Closed { self.endpoint.take() } else { None }
    }

    /// The connection of a queue that is over, unless it was destroyed before.
    pub fn into_endpoint(self) -> Option<Arc<Q>> {
        self.endpoint
    }

    /// Whether something was outstanding since before the last sweep, of which nothing ended since.
    pub fn sweep(&mut self) -> bool {
        let outstanding = self.work > 0 || self.state == State::Closed;
        let now = outstanding.then_some(self.served);
        let stuck = now.is_some() && now == self.swept;
        self.swept = now;
        stuck
    }

    /// Nothing that was posted is left. Forgets the commands that nobody works on.
    pub fn drained(&mut self, desk: &mut Desk, staging: &mut Staging) {
        if self.state != State::Closed {
            return;
        }
        self.state = State::Drained;
        self.work = 0;
        let mut over = 0;
        for outgoing in self.outgoing.drain(..) {
            over += match outgoing {
                Outgoing::Word(_) => 1,
                Outgoing::Answer(exchange) => u32::from(desk.close(exchange, staging)),
            };
        }
        for posted in self.posted.drain(..) {
            over += match posted.what {
                What::Word => 1,
                What::Read(exchange) | What::Answer(exchange) => u32::from(desk.close(exchange, staging)),
            };
        }
        for exchange in self.reads.drain(..) {
            over += u32::from(desk.close(exchange, staging));
        }
        self.in_use = self.in_use.saturating_sub(over);
        // The others wait at the desk, or are being worked on.
        if self.in_use > 0 {
            self.in_use -= desk.abandon(self.id, self.account, staging).min(self.in_use);
        }
    }

    /// Tells the control thread of the end, once.
    pub fn report_end(&mut self) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        match &mut self.party {
            Party::Host(terms) if self.alone => terms.link.end_queue(terms.qid),
            Party::Host(terms) => terms.link.lose(),
            // Whoever waits for the first command hears that none comes.
            Party::Expected { connect, .. } => *connect = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_say_what_was_put_into_them() {
        for (bits, sequence) in [(0, 0), ((1 << SlotId::BITS) - 1, DRAINED), (0x12_3456_789A, 77)] {
            let queue = SlotId::from_bits(bits);
            let id = work_id(queue, sequence);
            assert_eq!(of_work_id(id), (queue, sequence));
            assert_eq!(id & super::super::port::RECEIVE, 0);
        }
    }
}
