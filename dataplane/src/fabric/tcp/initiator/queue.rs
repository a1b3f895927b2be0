//! One queue pair: one connection.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use super::super::wire::{Digests, End, HEAD_BYTES, Pdu, PduFault, R2t, TermReq};
use super::commands::Commands;
use super::inbox::{Arrived, Inbox};
use super::outbox::Outbox;
use super::pieces::{Incoming, Outgoing};
use super::regions::{Place, Regions};
use super::stream::{ByteStream, Socket};
use crate::Burst;
use crate::memory::Region;
use crate::nvme::spec::fabrics::FABRICS_OPCODE;
use crate::nvme::spec::{Cqe, DataPointer, SglDescriptor, Sqe, Status};

/// Calls of the system for one poll, so that a target that never stops sending holds nobody up.
const CALLS: usize = 64;

/// Why a connection ended. It can only be made anew.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The target closed it.
    #[error("the target closed the connection; its log says why")]
    Closed,
    /// The system gave it up.
    #[error("the connection failed: {0}")]
    System(#[from] io::Error),
    /// The target terminated it because of what this end sent.
    #[error("the target terminated the connection: {0}")]
    Terminated(PduFault),
    /// What the target sent is not right.
    #[error("the target broke the protocol: {0}")]
    Protocol(PduFault),
}

/// A submission queue and a completion queue on a connection of their own. Belongs to one thread at a time.
///
/// Commands are pushed, then sent together with [`ring`](Self::ring), and complete in any order through
/// [`poll`](Self::poll). Their data is one SGL data block whose address is one of this process, in memory that was
/// [attached](Self::attach); it moves between there and the socket without a copy in this process.
pub struct InitiatorQueue<S = Socket> {
    stream: S,
    inbox: Inbox,
    outbox: Outbox,
    commands: Commands,
    regions: Regions,
    /// Completions that were not handed out yet.
    ended: VecDeque<Cqe>,
    /// Data that may go with a capsule, in bytes.
    capsule_data: u32,
    lost: Option<Lost>,
    qid: u16,
    core: u16,
}

/// What was agreed on when the connection was made.
#[derive(Clone, Copy, Debug)]
pub struct QueueTerms {
    /// Queue identifier; 0 for the admin queue.
    pub qid: u16,
    /// Commands that may be outstanding.
    pub depth: u16,
    /// The core of the target that serves it.
    pub core: u16,
    /// Data that may go with a capsule, in bytes.
    pub capsule_data: u32,
}

impl<S> std::fmt::Debug for InitiatorQueue<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InitiatorQueue")
            .field("qid", &self.qid)
            .field("in_flight", &self.commands.in_flight())
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

impl<S: ByteStream> InitiatorQueue<S> {
    pub(super) fn new(stream: S, inbox: Inbox, outbox: Outbox, terms: QueueTerms) -> Self {
        let QueueTerms { qid, depth, core, capsule_data } = terms;
        let ended = VecDeque::with_capacity(usize::from(depth));
        let (commands, regions) = (Commands::new(depth), Regions::default());
        Self { stream, inbox, outbox, commands, regions, ended, capsule_data, lost: None, qid, core }
    }

    /// Commands that may be pushed now.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        if self.lost.is_some() { 0 } else { self.commands.room() }
    }

    /// Commands pushed and not yet completed.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.commands.in_flight()
    }

    /// Queue identifier.
    #[must_use]
    pub fn qid(&self) -> u16 {
        self.qid
    }

    /// The core of the target that serves this queue; 0 if the target does not say.
    #[must_use]
    pub fn core(&self) -> u16 {
        self.core
    }

    /// The digests that hold on this connection.
    #[must_use]
    pub fn digests(&self) -> Digests {
        self.outbox.framing.digests
    }

    /// Why the connection ended; `None` while it lives, as far as is known.
    #[must_use]
    pub fn lost(&self) -> Option<&Lost> {
        self.lost.as_ref()
    }

    /// As [`lost`](Self::lost), and leaves in its place that the connection is closed.
    pub(super) fn take_lost(&mut self) -> Option<Lost> {
        self.lost.as_mut().map(|lost| std::mem::replace(lost, Lost::Closed))
    }

    /// Has the memory that commands may name from now on. It stays mapped until it is detached. Not for the hot path.
    /// False if there are 65,536 regions already.
    #[must_use]
    pub fn attach(&mut self, region: &Arc<Region>) -> bool {
        self.regions.attach(region)
    }

    /// Commands may not name the memory any more. False, and nothing changed, while outstanding commands do.
    #[must_use]
    pub fn detach(&mut self, region: &Region) -> bool {
        self.regions.detach(region)
    }

    /// Takes a command, under an identifier that is not outstanding, and says which. It is sent with the next
    /// [`ring`](Self::ring). A command whose data does not lie in attached memory, or is named by PRPs or by a list, ends
    /// by itself, with Invalid Field.
    ///
    /// # Errors
    /// The command, if the queue is full or the connection lost.
    #[inline]
    pub fn push(&mut self, mut sqe: Sqe) -> Result<u16, Sqe> {
        if self.room() == 0 {
            return Err(sqe);
        }
        let direction = super::commands::Direction::of(&sqe);
        let moves = direction.to_controller || direction.to_host;
        let place = if moves { self.place(&sqe) } else { Ok(None) };
        let Ok(place) = place else {
            let cid = self.commands.begin(sqe, None, false).ok_or(sqe)?;
            self.refuse(cid);
            return Ok(cid);
        };
        let bytes = place.map_or(0, |place| place.bytes);
        let limit = if sqe.opcode() == FABRICS_OPCODE {
            super::super::wire::ADMIN_CAPSULE_DATA_BYTES
        } else {
            self.capsule_data
        };
        // A command that has data both ways needs the buffer that only the other descriptor names.
        let in_capsule = direction.to_controller && !direction.to_host && bytes > 0 && bytes <= limit;
        let descriptor = if in_capsule { SglDescriptor::in_capsule(0, bytes) } else { SglDescriptor::transport(bytes) };
        sqe.set_sgl(descriptor);
        let cid = self.commands.begin(sqe, place, in_capsule).ok_or(sqe)?;
        self.outbox.push_capsule(cid);
        Ok(cid)
    }

    /// Where a command's data lies, held; `None` for no bytes. An error for what cannot be sent.
    fn place(&mut self, sqe: &Sqe) -> Result<Option<Place>, ()> {
        match sqe.data_pointer() {
            Some(DataPointer::Sgl(data)) if data.identifier == 0 && data.length == 0 => Ok(None),
            Some(DataPointer::Sgl(data)) if data.identifier == 0 => {
                self.regions.hold(data.address, data.length).map(Some).ok_or(())
            }
            _ => Err(()),
        }
    }

    /// Ends a command that is never sent.
    fn refuse(&mut self, cid: u16) {
        let status = Status::INVALID_FIELD;
        self.commands.sent(cid);
        let cqe = Cqe { dword0: 0, dword1: 0, sq_head: 0, sq_id: self.qid, cid, status };
        if self.commands.end(cqe, self.qid != 0).is_ok() {
            self.take_ended(cid);
        }
    }

    fn take_ended(&mut self, cid: u16) {
        take_ended(cid, &mut self.commands, &mut self.regions, &mut self.ended);
    }

    /// Sends what was pushed, as far as the socket takes it; [`poll`](Self::poll) sends the rest.
    #[inline]
    pub fn ring(&mut self) {
        if self.lost.is_none() && !self.outbox.is_empty() {
            self.send();
        }
    }

    fn send(&mut self) {
        for _ in 0..CALLS {
            self.outbox.fill(&mut self.commands, &self.regions);
            let mut pieces = Outgoing::new();
            self.outbox.gather(&self.regions, &mut pieces);
            let asked = pieces.bytes();
            if asked == 0 {
                break;
            }
            let sent = match self.stream.send(&pieces) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The other end may have said why it closed.
                Err(error) if is_closed(&error) => break,
                Err(error) => return self.lose(Lost::System(error)),
            };
            let Self { outbox, commands, regions, ended, .. } = self;
            outbox.sent(sent, commands, |cid, commands| take_ended(cid, commands, regions, ended));
            if sent < asked {
                break;
            }
        }
        let waiting = !self.outbox.is_empty();
        self.stream.wants_to_send(waiting);
    }

    /// Takes completions until `done` is full or there are none, and sends what waits. Never waits.
    #[inline]
    pub fn poll(&mut self, done: &mut Burst<Cqe>) {
        if self.lost.is_none() {
            self.ring();
            self.receive(done.remaining_capacity());
            self.ring();
        }
        while !done.is_full()
            && let Some(cqe) = self.ended.pop_front()
        {
            self.commands.release(cqe.cid);
            done.push(cqe);
        }
    }

    /// Looks whether the connection still lives; completions that come meanwhile wait for [`poll`](Self::poll). A few
    /// system calls: not for the hot path.
    pub fn is_alive(&mut self) -> bool {
        if self.lost.is_none() {
            self.ring();
            self.receive(usize::MAX);
            self.ring();
        }
        self.lost.is_none()
    }

    /// Receives until so many completions wait, or nothing is left.
    fn receive(&mut self, enough: usize) {
        for _ in 0..CALLS {
            self.arrivals(enough);
            if self.ended.len() >= enough || self.lost.is_some() {
                return;
            }
            let mut pieces = Incoming::new();
            self.inbox.want(&self.commands, &self.regions, &mut pieces);
            let asked = pieces.bytes();
            let came = match self.stream.receive(&mut pieces) {
                Ok(0) => return self.lose(Lost::Closed),
                Ok(came) => came,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_closed(&error) => return self.lose(Lost::Closed),
                Err(error) => return self.lose(Lost::System(error)),
            };
            self.inbox.came(came);
            if came < asked {
                // The socket is empty; what came may be a whole PDU.
                return self.arrivals(enough);
            }
        }
    }

    /// Looks at what came, until so many completions wait.
    fn arrivals(&mut self, enough: usize) {
        while self.ended.len() < enough && self.lost.is_none() {
            match self.inbox.next(&mut self.commands, &self.regions) {
                Ok(Some(arrived)) => self.arrived(arrived),
                Ok(None) => return,
                Err(fault) => self.protocol(fault),
            }
        }
    }

    fn arrived(&mut self, arrived: Arrived) {
        let result = match arrived {
            Arrived::Pdu(Pdu::CapsuleResp(response)) => self.end(response.cqe),
            Arrived::Pdu(Pdu::R2t(r2t)) => self.ready(&r2t),
            Arrived::Pdu(Pdu::TermReq(TermReq { fes, fei })) => {
                return self.lose(Lost::Terminated(PduFault { fes, fei }));
            }
            Arrived::Data(transfer) if transfer.success => {
                // The completion that the controller did not send (TCP transport, 3.3.2.1).
                let status = Status::SUCCESS;
                self.end(Cqe { dword0: 0, dword1: 0, sq_head: 0, sq_id: self.qid, cid: transfer.cid, status })
            }
            Arrived::Data(_) => Ok(()),
            // The decoder lets nothing else through.
            Arrived::Pdu(_) => Err(PduFault::SEQUENCE),
        };
        if let Err(fault) = result {
            self.protocol(fault);
        }
    }

    fn ready(&mut self, r2t: &R2t) -> Result<(), PduFault> {
        let place = self.commands.ready(r2t)?;
        self.outbox.push_data(r2t.cid, r2t.tag, r2t.offset, place);
        Ok(())
    }

    fn end(&mut self, cqe: Cqe) -> Result<(), PduFault> {
        self.commands.end(cqe, self.qid != 0)?;
        if self.commands.get(cqe.cid).is_some_and(|command| command.awaits_data()) {
            self.outbox.cancel(cqe.cid);
        }
        self.take_ended(cqe.cid);
        Ok(())
    }

    /// The target broke the protocol: tells it so, if a PDU may begin here, and ends the connection.
    fn protocol(&mut self, fault: PduFault) {
        if fault.is_answered() && self.outbox.between_pdus() {
            let mut head = [0; HEAD_BYTES];
            let bytes = TermReq::from(fault).encode(End::Host, self.inbox.offending(), &mut head);
            let mut pieces = Outgoing::new();
            pieces.add(&head[..bytes]);
            // Without it, the end of the connection says enough.
            let _ = self.stream.send(&pieces);
        }
        self.lose(Lost::Protocol(fault));
    }

    pub(super) fn lose(&mut self, lost: Lost) {
        if self.lost.is_none() {
            self.lost = Some(lost);
            self.stream.close();
        }
    }

    /// The stream under the queue.
    #[doc(hidden)]
    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

/// Hands a command's end out if nothing of it is on its way any more.
fn take_ended(cid: u16, commands: &mut Commands, regions: &mut Regions, ended: &mut VecDeque<Cqe>) {
    if let Some((cqe, place)) = commands.take_ended(cid) {
        if let Some(place) = place {
            regions.let_go(place);
        }
        ended.push_back(cqe);
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

impl InitiatorQueue<Socket> {
    /// What becomes readable when the queue is to be polled, if it was made so. It stays readable until the queue was
    /// polled; nothing has to be read from it.
    #[must_use]
    pub fn wake(&self) -> Option<BorrowedFd<'_>> {
        self.stream.wake()
    }

    /// Waits until polling may bring something, for so long at the most.
    pub(super) fn wait(&self, time: Duration) {
        self.stream.wait(!self.outbox.is_empty(), time);
    }
}
