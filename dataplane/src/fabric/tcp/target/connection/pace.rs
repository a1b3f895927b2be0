//! Whether a host goes on with what it began: from one sweep to the next, each kind of debt is judged by what came of it,
//! so that a trickle of one does not keep another alive.

use super::super::streams::Progress;

/// A host that moves at least so much of a debt from one sweep to the next goes on.
const SWEEP_BYTES: u64 = 64 << 10;

/// What a host had before it at the last sweep, and how much of that it did since.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Sweeps so far.
    sweep: u32,
    /// Commands whose data was asked for and has not all come: all, and those that were asked for before the last sweep;
    /// and bytes of the data of the latter that came since.
    asked: u32,
    old_asked: u32,
    came: u64,
    /// Answers that waited at the last sweep and have not been sent, those of the send under way; and bytes sent since.
    old_unsent: u32,
    in_send: u32,
    sent: u64,
    /// Whether a PDU that had begun at the last sweep has not ended; and bytes read since.
    old_pdu: bool,
    read: u64,
    /// Whether the connection was leaving at the last sweep.
    leaving: bool,
    /// How far its stream was at the last sweep: bytes of a transfer that is under way are told of nowhere else.
    progress: Option<Progress>,
}

/// A connection as a sweep finds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Answers that wait or are being sent.
    pub unsent: u32,
    /// Whether part of a PDU has come.
    pub pdu: bool,
    /// Whether its next capsule waits for memory: the host cannot go on.
    pub stalled: bool,
    /// Whether nothing more is taken from it.
    pub leaving: bool,
    /// Of whose data part has come, if that is what comes: when it was asked for.
    pub body: Option<u32>,
    /// How far its stream is, if that is known.
    pub progress: Option<Progress>,
}

impl Pace {
    /// The host is asked for the data of a command. Says when, for [`data`](Self::data) and [`has_all`](Self::has_all).
    pub fn ask(&mut self) -> u32 {
        self.asked += 1;
        self.sweep
    }

    /// Data came of a command that was asked for then.
    pub fn data(&mut self, asked: u32, bytes: u32) {
        if asked != self.sweep {
            self.came += u64::from(bytes);
        }
    }

    /// All data came of a command that was asked for then.
    pub fn has_all(&mut self, asked: u32) {
        self.asked = self.asked.saturating_sub(1);
        if asked != self.sweep {
            self.old_asked = self.old_asked.saturating_sub(1);
        }
    }

    /// Bytes were read, whatever they are.
    pub fn read(&mut self, bytes: u32) {
        self.read += u64::from(bytes);
    }

    /// A PDU came in as a whole.
    pub fn pdu_over(&mut self) {
        self.old_pdu = false;
    }

    /// The host could not go on.
    pub fn excuse(&mut self) {
        (self.old_asked, self.old_pdu) = (0, false);
    }

    /// A send with so many answers begins.
    pub fn send(&mut self, answers: u32) {
        self.in_send = answers;
    }

    /// Bytes were sent.
    pub fn sent(&mut self, bytes: u32) {
        self.sent += u64::from(bytes);
    }

    /// All of a send is out.
    pub fn send_over(&mut self) {
        self.old_unsent = self.old_unsent.saturating_sub(std::mem::take(&mut self.in_send));
    }

    /// Whether the host did next to nothing of something that was its turn at the last sweep and still is.
    pub fn sweep(&mut self, found: Found) -> bool {
        let moved = match (self.progress, found.progress) {
            (Some(then), Some(now)) => now.since(then),
            _ => Progress::default(),
        };
        // A stream has an order: what came and was not told of yet belongs to what is being received.
        let untold = moved.received.saturating_sub(self.read);
        let of_old = found.body.is_some_and(|asked| asked != self.sweep);
        let (read, sent) = (self.read + untold, self.sent.max(moved.acked));
        let came = self.came + if of_old { untold } else { 0 };
        let owes = self.old_asked > 0 && came < SWEEP_BYTES && !found.stalled;
        let stops = self.old_pdu && found.pdu && read < SWEEP_BYTES && !found.stalled;
        let is_deaf = self.old_unsent > 0 && sent < SWEEP_BYTES;
        let stays = self.leaving && found.leaving && sent < SWEEP_BYTES;
        self.progress = found.progress;
        self.sweep = self.sweep.wrapping_add(1);
        (self.old_asked, self.came) = (self.asked, 0);
        (self.old_unsent, self.sent) = (found.unsent, 0);
        (self.old_pdu, self.read) = (found.pdu, 0);
        self.leaving = found.leaving;
        owes || stops || is_deaf || stays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Found = Found { unsent: 0, pdu: false, stalled: false, leaving: false, body: None, progress: None };

    #[test]
    fn bytes_of_a_transfer_that_is_under_way_count() {
        let mut pace = Pace::default();
        let at = |acked, received| Some(Progress { acked, received });
        let old = pace.ask();
        let found = |progress| Found { unsent: 1, body: Some(old), pdu: true, progress, ..IDLE };
        assert!(!pace.sweep(found(at(u64::MAX, u64::MAX))));
        assert!(!pace.sweep(found(at((64 << 10) - 1, (64 << 10) - 1))), "enough in both directions");
        assert!(pace.sweep(found(at(128 << 10, 64 << 10))), "too little is received");
        assert!(pace.sweep(found(at(128 << 10, 128 << 10))), "too little is sent");
        // What came of something else, and was told of, is not what is owed.
        pace.read(64 << 10);
        pace.pdu_over();
        assert!(pace.sweep(found(at(192 << 10, 192 << 10))));
        let new = pace.ask();
        let found = Found { body: Some(new), progress: at(256 << 10, 256 << 10), ..IDLE };
        assert!(pace.sweep(found), "nor is what was asked for later");
    }

    #[test]
    fn data_that_is_owed_is_judged_by_data_that_came_of_it() {
        let mut pace = Pace::default();
        let old = pace.ask();
        assert!(!pace.sweep(IDLE), "it was asked for a moment ago");
        // Answers, and data of what was asked for later, are not what it owes.
        let new = pace.ask();
        pace.data(new, 1 << 20);
        pace.has_all(new);
        pace.sent(1 << 20);
        pace.read(1 << 20);
        assert!(pace.sweep(IDLE));
        pace.data(old, 64 << 10);
        assert!(!pace.sweep(IDLE), "it goes on");
        assert!(!pace.sweep(Found { stalled: true, ..IDLE }), "it cannot");
        pace.excuse();
        assert!(!pace.sweep(IDLE), "it could not until now");
        pace.has_all(old);
        assert!(!pace.sweep(IDLE));
    }

    #[test]
    fn answers_are_judged_by_answers_that_went() {
        let mut pace = Pace::default();
        let many = Found { unsent: 100, ..IDLE };
        assert!(!pace.sweep(many));
        pace.send(40);
        pace.sent(1000);
        pace.send_over();
        let asked = pace.ask();
        pace.data(asked, 1 << 20);
        pace.has_all(asked);
        assert!(pace.sweep(many), "a few of many, and hardly any bytes");
        pace.sent(64 << 10);
        assert!(!pace.sweep(Found { unsent: 1, ..IDLE }));
        pace.send(1);
        pace.sent(24);
        pace.send_over();
        assert!(!pace.sweep(IDLE), "all that there was");
    }

    #[test]
    fn what_was_begun_is_to_end() {
        let mut pace = Pace::default();
        let begun = Found { pdu: true, ..IDLE };
        assert!(!pace.sweep(begun));
        assert!(pace.sweep(begun));
        pace.pdu_over();
        assert!(!pace.sweep(begun), "another one");
        assert!(!pace.sweep(IDLE));
        let leaving = Found { leaving: true, ..IDLE };
        assert!(!pace.sweep(leaving));
        assert!(pace.sweep(leaving));
    }
}
