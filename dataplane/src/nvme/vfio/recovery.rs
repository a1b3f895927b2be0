//! What a queue does when not all is well: statuses that are errors, commands that take too long, resets.

use super::link::{Expired, LinkState};
use super::queue::VfioQueue;
use super::slot::Slot;
use crate::nvme::spec::Status;
use crate::nvme::{BlockDone, BlockError, BlockOp};

/// How often one command is sent again, whatever for.
const MAX_TRIES: u8 = 3;
/// How many times within a command's time limit the queue looks for commands that are beyond it.
const LOOKS: u32 = 4;

/// What a status means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sentence {
    /// The next part follows.
    GoesOn,
    /// The same once more.
    Again,
    /// The same once more, after a while.
    Later,
    Ended(Result<(), BlockError>),
}

/// Judges a completion that is not a success (base, "Status Code Type" and "Generic Command Status").
pub(super) fn judge(slot: &Slot, status: Status) -> Sentence {
    let error = |error: i32| Sentence::Ended(Err(BlockError::Media(error)));
    match (status.code_type(), status.code()) {
        // Of these nothing is known of the medium; a namespace that is not there is as good as gone.
        (0, 0x0B) => Sentence::Ended(Err(BlockError::Gone)),
        // What the drive would have read again may still come.
        (2, _) if !status.is_final() && slot.tries < MAX_TRIES => Sentence::Again,
        // Media and data integrity errors: unrecovered read, deallocated or unwritten; the checks of guard, application
        // tag and reference tag; others (base, "Media and Data Integrity Errors").
        (2, 0x81 | 0x87) => error(libc::ENODATA),
        (2, 0x82..=0x84) => error(libc::EILSEQ),
        (2, _) => error(libc::EIO),
        // Aborted because we asked: whether it may be tried again is for us to say.
        (0, 0x07) if slot.expired && slot.tries < MAX_TRIES => Sentence::Again,
        _ if !status.is_final() && slot.tries < MAX_TRIES => {
            if wants_time(status) {
                Sentence::Later
            } else {
                Sentence::Again
            }
        }
        // A hint that the device does not take is still taken.
        _ if slot.io.op == BlockOp::Deallocate => Sentence::Ended(Ok(())),
        // Aborted, for a command that took too long or with its queue: nobody knows what became of it.
        (0, 0x07 | 0x08) => Sentence::Ended(Err(BlockError::Gone)),
        // Not ready; access state inaccessible, lost or in transition.
        (0, 0x82) | (3, 0x01..=0x03) => Sentence::Ended(Err(BlockError::Gone)),
        // Namespace or device full; write protected.
        (0, 0x81) => error(libc::ENOSPC),
        (0, 0x20) | (1, 0x82) => error(libc::EROFS),
        (0, 0x01 | 0x02 | 0x80) => error(libc::EINVAL),
        _ => error(libc::EIO),
    }
}

/// Whether a retry at once would meet the same: the namespace is not ready, its access state changes, or the controller
/// names a delay (base, "Command Retry Delay").
fn wants_time(status: Status) -> bool {
    let delayed = (status.bits() >> 11) & 0b11 != 0;
    delayed || matches!((status.code_type(), status.code()), (0, 0x82) | (3, 0x03))
}

impl VfioQueue {
    /// Lets time pass. Not more at once than a part of the limit: when the control side or this core stalled, commands
    /// had no time to show that they are done.
    #[cold]
    #[inline(never)]
    pub(super) fn advance(&mut self) {
        let tick = self.link.tick();
        let passed = tick.wrapping_sub(self.tick).min((self.timeout / LOOKS).max(1));
        self.tick = tick;
        self.now = self.now.wrapping_add(passed);
        if self.live {
            self.ask_placements();
            self.send_later();
        }
    }

    /// Sends what was put off.
    fn send_later(&mut self) {
        while let Some(index) = self.later.pop() {
            self.send(index);
        }
        crate::nvme::BlockQueue::ring(self);
    }

    /// Takes the queue to where the control side is.
    #[cold]
    #[inline(never)]
    pub(super) fn follow(&mut self, state: LinkState) {
        match state {
            LinkState::Live if self.dead => {}
            LinkState::Live => self.come_back(),
            LinkState::Stop => {
                self.set_live(false);
                // The control side may have killed it meanwhile; the next poll sees that.
                self.link.step(LinkState::Stop, LinkState::Parked);
            }
            LinkState::Parked | LinkState::Ready => {}
            LinkState::Stopped => {
                self.empty_rings();
                let _ = self.link.take_expired();
                self.link.step(LinkState::Stopped, LinkState::Ready);
            }
            LinkState::Dead => self.die(),
        }
    }

    /// The controller knows the queue again: what was outstanding is sent once more. Every command may be carried out
    /// twice without harm, for its memory is lent until it completes, and commands have no order among themselves.
    fn come_back(&mut self) {
        self.set_live(true);
        self.stats.resets += 1;
        // All that is outstanding is sent, and no report is about it.
        self.later.clear();
        let _ = self.link.take_expired();
        self.doubt_placements();
        for index in 0..self.slots.len() as u16 {
            if self.is_free(index) {
                continue;
            }
            let slot = &mut self.slots[usize::from(index)];
            slot.expired = false;
            slot.tries += 1;
            if slot.tries > MAX_TRIES {
                self.end(index, BlockError::Gone);
                continue;
            }
            self.stats.resent += 1;
            self.send(index);
        }
        self.ask_placements();
        crate::nvme::BlockQueue::ring(self);
    }

    /// The controller is gone for good.
    fn die(&mut self) {
        if self.dead {
            return;
        }
        self.dead = true;
        self.set_live(false);
        self.later.clear();
        for index in 0..self.slots.len() as u16 {
            if !self.is_free(index) {
                self.end(index, BlockError::Gone);
            }
        }
    }

    /// Ends a command that the controller has nothing more to do with.
    fn end(&mut self, index: u16, error: BlockError) {
        let io = self.slots[usize::from(index)].io;
        self.finish(index, &io);
        if self.placing.is_question(index) {
            self.give_up_placements();
        } else {
            self.ended.push_back(BlockDone { token: io.token, result: Err(error) });
        }
    }

    /// Keeps a command in its slot until the controller knows the queue again, or ends it if it never will.
    #[cold]
    #[inline(never)]
    pub(super) fn wait_for_controller(&mut self, index: u16) {
        if self.dead {
            return self.end(index, BlockError::Gone);
        }
        let qid = u32::from(self.qid());
        let slot = &mut self.slots[usize::from(index)];
        // Busy; the identifier is not the controller's yet.
        slot.expected |= qid;
        slot.sent_at = self.now;
    }

    /// Looks for commands that take too long, a few times within their limit, and reports one. The controller has none
    /// while the queue is not live.
    #[cold]
    #[inline(never)]
    pub(super) fn watch(&mut self) {
        if !self.live || self.now.wrapping_sub(self.watched_at) < (self.timeout / LOOKS).max(1) {
            return;
        }
        self.watched_at = self.now;
        let (now, timeout) = (self.now, self.timeout);
        let late = |slot: &Slot| slot.expected as u16 != 0 && now.wrapping_sub(slot.sent_at) >= timeout;
        // What was aborted in vain comes first: it asks for a reset.
        let found = self.slots.iter().position(|slot| late(slot) && slot.expired);
        let Some(index) = found.or_else(|| self.slots.iter().position(late)) else { return };
        let slot = &mut self.slots[index];
        let report = Expired { cid: (slot.expected >> 16) as u16, again: slot.expired };
        if self.link.report(report) {
            // Its time begins anew, for the abort to do its work.
            slot.expired = true;
            slot.sent_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::DmaSlice;
    use crate::nvme::BlockIo;

    fn slot(op: BlockOp, tries: u8) -> Slot {
        let io = BlockIo { op, lba: 0, blocks: 1, memory: DmaSlice::EMPTY, token: 0 };
        Slot::for_test(io, tries)
    }

    #[test]
    fn statuses_are_told_apart() {
        let read = |status| judge(&slot(BlockOp::Read, 0), status);
        let media = |error| Sentence::Ended(Err(BlockError::Media(error)));
        let last = |status| judge(&slot(BlockOp::Read, MAX_TRIES), status);
        assert_eq!(read(Status::from_bits(0x281)), Sentence::Again, "an unrecovered read error that may pass");
        assert_eq!(last(Status::from_bits(0x281)), media(libc::ENODATA), "and does not");
        assert_eq!(read(Status::from_bits(0x281).do_not_retry()), media(libc::ENODATA));
        assert_eq!(last(Status::from_bits(0x282)), media(libc::EILSEQ), "guard check");
        assert_eq!(last(Status::from_bits(0x286)), media(libc::EIO), "access denied says nothing of the medium");
        let unreadable = |status| matches!(last(status), Sentence::Ended(Err(error)) if error.is_unreadable());
        assert!(unreadable(Status::from_bits(0x281)) && unreadable(Status::from_bits(0x284)));
        let others = [0x280, 0x285, 0x286, Status::INVALID_NAMESPACE.bits(), Status::INVALID_FIELD.bits()];
        assert!(others.into_iter().all(|bits| !unreadable(Status::from_bits(bits))));
        assert_eq!(read(Status::INVALID_NAMESPACE), Sentence::Ended(Err(BlockError::Gone)));
        assert_eq!(read(Status::INVALID_FIELD), media(libc::EINVAL));
        assert_eq!(read(Status::CAPACITY_EXCEEDED), media(libc::ENOSPC));
        assert_eq!(read(Status::INTERNAL_ERROR), Sentence::Again);
        assert_eq!(read(Status::ABORT_REQUESTED), Sentence::Again);
    }

    #[test]
    fn nothing_is_sent_again_for_ever() {
        let tired = |op, status| judge(&slot(op, MAX_TRIES), status);
        assert_eq!(tired(BlockOp::Read, Status::ABORT_REQUESTED), Sentence::Ended(Err(BlockError::Gone)));
        let media = Sentence::Ended(Err(BlockError::Media(libc::EIO)));
        assert_eq!(tired(BlockOp::write(true), Status::INTERNAL_ERROR), media);
        assert_eq!(tired(BlockOp::Deallocate, Status::INTERNAL_ERROR), Sentence::Ended(Ok(())));
    }
}
