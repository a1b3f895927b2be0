//! A queue pair of an initiator.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use zerocopy::IntoBytes;

use super::ConnectError;
use super::dial::{Dial, Link};
use crate::Burst;
use crate::fabric::rdma::verbs::{Access, Piece, ReceiveList, RegisteredMemory, SendList, Work, WorkDone};
use crate::fabric::rdma::wire::{COMMAND_BYTES, ConnectQuery, RESPONSE_BYTES};
use crate::memory::{Region, RegionSlot};
use crate::nvme::spec::{Cqe, Sqe};

/// Work requests that are posted, and completions that are taken, at once.
const BURST: usize = 32;
/// Marks the identifier of a receive.
const RECEIVE: u64 = 1 << 63;

/// What was found among a device's completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Nothing,
    /// Only of what was sent.
    NoResponse,
    Responses,
}

/// Takes until there is a response, or there is nothing and a notice was asked for before that was seen: whoever then waits for
/// the notice misses none. `arm` says whether there is one to be had.
fn until_armed<Q>(queue: &mut Q, mut take: impl FnMut(&mut Q) -> Taken, mut arm: impl FnMut(&mut Q) -> bool) {
    let mut armed = false;
    loop {
        match take(queue) {
            Taken::Responses => return,
            // It may have used up the notice.
            Taken::NoResponse => armed = false,
            Taken::Nothing if armed || !arm(queue) => return,
            Taken::Nothing => armed = true,
        }
    }
}

/// Commands and completions over one connection. Belongs to one thread at a time.
///
/// Commands are pushed, then sent together with [`ring`](Self::ring), and complete in any order through
/// [`poll`](Self::poll).
pub struct InitiatorQueue {
    link: Link,
    /// Commands, one place for each identifier; then responses.
    memory: RegisteredMemory,
    region: Arc<Region>,
    responses_at: u64,
    sends: SendList,
    receives: ReceiveList,
    /// Command identifiers that are free.
    free: Vec<u16>,
    commands: Vec<Command>,
    /// Identifiers whose response came before the device said that the command was sent: their place in memory may still
    /// be read from.
    unsent: Vec<u16>,
    /// Commands sent so far, and how many of them the device is done with.
    sent: u64,
    done: u64,
    qid: u16,
    core: u16,
    depth: u16,
    notices: bool,
    /// Completions that named no command of ours.
    strays: u64,
}

#[derive(Clone, Copy, Default)]
struct Command {
    outstanding: bool,
    /// Which send it was, counted from 1.
    send: u64,
}

impl std::fmt::Debug for InitiatorQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InitiatorQueue")
            .field("qid", &self.qid)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl InitiatorQueue {
    /// Makes the connection. The Connect command is still to be sent.
    pub(super) fn dial(
        dial: &Dial<'_>,
        qid: u16,
        controller_id: u16,
        depth: u16,
        notices: bool,
    ) -> Result<Self, ConnectError> {
        // A queue of n entries takes n - 1 commands.
        let entries = u32::from(depth) + 1;
        let link = dial.prepare(entries, notices)?;
        let responses_at = u64::from(entries * COMMAND_BYTES);
        let bytes = responses_at as usize + (entries * RESPONSE_BYTES) as usize;
        let region =
            Region::anonymous(bytes, RegionSlot(0)).map_err(|_| ConnectError::Invalid("there is no memory"))?;
        let region = Arc::new(region);
        let memory = RegisteredMemory::new(&link.domain, &region, Access::Local)?;
        let mut queue = Self {
            link,
            memory,
            region,
            responses_at,
            sends: SendList::new(BURST),
            receives: ReceiveList::new(BURST),
            free: (0..depth).rev().collect(),
            commands: vec![Command::default(); usize::from(depth)],
            unsent: Vec::with_capacity(usize::from(depth)),
            sent: 0,
            done: 0,
            qid,
            core: 0,
            depth,
            notices,
            strays: 0,
        };
        for index in 0..entries {
            queue.receive(u64::from(index));
        }
        queue.post_receives();
        let query = ConnectQuery { qid, host_receives: entries as u16, host_sends: depth, controller_id };
        dial.establish(&queue.link, &query)?;
        Ok(queue)
    }

    pub(super) fn set_core(&mut self, core: u16) {
        self.core = core;
    }

    pub(super) fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Commands that may be pushed now.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Commands pushed and not yet completed.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.commands.len() - self.free.len() - self.unsent.len()
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

    /// Commands that may be outstanding.
    #[must_use]
    pub fn depth(&self) -> u16 {
        self.depth
    }

    /// Puts a command into the queue under a command identifier that is not outstanding, and says which. Its data pointer
    /// is as [`Initiator::address`](super::Initiator::address) made it, and `data` what goes along. It reaches the
    /// controller with the next [`ring`](Self::ring).
    ///
    /// # Errors
    /// The command, if the queue is full.
    #[inline]
    pub fn push(&mut self, mut sqe: Sqe, data: Option<Piece>) -> Result<u16, Sqe> {
        if self.sends.room() == 0 {
            self.ring();
        }
        let Some(cid) = self.free.pop() else { return Err(sqe) };
        sqe.set_cid(cid);
        let offset = u64::from(cid) * u64::from(COMMAND_BYTES);
        let command =
            self.memory.piece(offset, COMMAND_BYTES).filter(|_| self.region.write(offset, sqe.as_bytes()).is_some());
        let Some(command) = command else { return Err(sqe) };
        self.sent += 1;
        let pieces = [command, data.unwrap_or_default()];
        let pieces = if data.is_some() { &pieces[..] } else { &pieces[..1] };
        let added = self.sends.push(self.sent, Work::Send, pieces, false);
        debug_assert!(added, "room was made");
        self.commands[usize::from(cid)] = Command { outstanding: true, send: self.sent };
        Ok(cid)
    }

    /// Sends what was pushed.
    #[inline]
    pub fn ring(&mut self) {
        // The last of them tells that all are sent.
        self.sends.signal_last();
        if self.link.endpoint.post(&mut self.sends).is_err() {
            self.link.lose();
        }
    }

    /// Takes completions until `done` is full or there are none. Never waits.
    #[inline]
    pub fn poll(&mut self, done: &mut Burst<Cqe>) {
        let wants = done.len();
        until_armed(
            self,
            |queue| match queue.take(done) {
                0 => Taken::Nothing,
                _ if done.len() == wants => Taken::NoResponse,
                _ => Taken::Responses,
            },
            |queue| queue.notices && !queue.link.is_lost() && queue.arm(),
        );
    }

    /// From here on nothing more comes without a notice. False if that cannot be.
    fn arm(&mut self) -> bool {
        self.link.completions.take_notices();
        let armed = self.link.completions.arm().is_ok();
        if !armed {
            self.link.lose();
        }
        armed
    }

    fn take(&mut self, done: &mut Burst<Cqe>) -> usize {
        let mut ended = [WorkDone::default(); BURST];
        let room = done.remaining_capacity().min(BURST);
        let Ok(count) = self.link.completions.poll(&mut ended[..room]) else {
            self.link.lose();
            return 0;
        };
        for ended in &ended[..count] {
            if ended.failed().is_some() {
                self.link.lose();
            } else if ended.id() & RECEIVE == 0 {
                self.done = ended.id();
            } else if let Some(cqe) = self.response(ended) {
                done.push(cqe);
            }
        }
        if count > 0 {
            self.post_receives();
            let (now, commands, free) = (self.done, &self.commands, &mut self.free);
            self.unsent.retain(|&cid| {
                let sent = commands[usize::from(cid)].send <= now;
                if sent {
                    free.push(cid);
                }
                !sent
            });
        }
        count
    }

    /// Reads a response. `None` if it names no command of ours.
    fn response(&mut self, ended: &WorkDone) -> Option<Cqe> {
        let index = ended.id() & !RECEIVE;
        let mut words = [0; 2];
        let whole = ended.received() == Some(RESPONSE_BYTES);
        let read = self.region.read_words(self.responses_at + index * u64::from(RESPONSE_BYTES), &mut words);
        self.receive(index);
        let (cqe, _) = Cqe::from_quadwords(words);
        // A controller that completes twice must not make us use an identifier twice.
        match self.commands.get_mut(usize::from(cqe.cid)).filter(|command| whole && command.outstanding) {
            Some(command) if read.is_some() => {
                command.outstanding = false;
                self.unsent.push(cqe.cid);
                Some(cqe)
            }
            _ => {
                self.strays += 1;
                None
            }
        }
    }

    /// Gives the device a place for a response.
    fn receive(&mut self, index: u64) {
        let offset = self.responses_at + index * u64::from(RESPONSE_BYTES);
        let Some(piece) = self.memory.piece(offset, RESPONSE_BYTES) else { return };
        if self.receives.is_full() {
            self.post_receives();
        }
        let added = self.receives.push(RECEIVE | index, &[piece]);
        debug_assert!(added, "room was made");
    }

    fn post_receives(&mut self) {
        if self.link.endpoint.post_receives(&mut self.receives).is_err() {
            self.link.lose();
        }
    }

    /// The descriptor that becomes readable with a completion after a [`poll`](Self::poll) that found none; `None` if it
    /// was not asked for.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.link.completions.descriptor()
    }

    /// Whether the target still holds its end of the connection. A system call.
    #[must_use]
    pub fn is_alive(&mut self) -> bool {
        self.link.is_alive()
    }

    /// Completions that named no command of ours: a controller that is broken, or lies.
    #[must_use]
    pub fn stray_completions(&self) -> u64 {
        self.strays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a queue finds, and whether a notice was asked for when nothing was found last.
    fn polled(found: &[Taken]) -> (usize, usize) {
        let mut counts = (0, 0);
        until_armed(
            &mut counts,
            |counts| {
                counts.0 += 1;
                found.get(counts.0 - 1).copied().unwrap_or(Taken::Nothing)
            },
            |counts| {
                counts.1 += 1;
                true
            },
        );
        counts
    }

    #[test]
    fn who_finds_no_response_has_asked_for_a_notice() {
        use Taken::{NoResponse, Nothing, Responses};
        assert_eq!(polled(&[]), (2, 1));
        assert_eq!(polled(&[Responses]), (1, 0));
        // The end of a send is no response, and may be all that comes before the caller waits.
        assert_eq!(polled(&[NoResponse]), (3, 1));
        assert_eq!(polled(&[Nothing, NoResponse]), (4, 2));
        assert_eq!(polled(&[Nothing, NoResponse, Responses]), (3, 1));
        let mut takes = 0;
        until_armed(
            &mut takes,
            |takes| {
                *takes += 1;
                Nothing
            },
            |_| false,
        );
        assert_eq!(takes, 1, "without notices");
    }
}
