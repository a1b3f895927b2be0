//! The flight recorder: the last commands of a core, for the morning after.

use dataplane::core::Ticks;
use dataplane::fabric::SessionId;
use dataplane::nvme::spec::Status;

use crate::classify::OperationKind;

/// One completed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceEntry {
    /// When it was completed.
    pub at: Ticks,
    /// Ticks from taking it to completing it, at most `u32::MAX`.
    pub ticks: u32,
    /// Bytes of value moved.
    pub bytes: u32,
    /// Who sent it.
    pub session: SessionId,
    /// What it asked for.
    pub kind: OperationKind,
    /// How it ended.
    pub status: Status,
}

/// A ring of the last commands.
#[derive(Debug)]
pub struct FlightRecorder {
    ring: Box<[TraceEntry; FlightRecorder::ENTRIES]>,
    written: u64,
}

impl FlightRecorder {
    /// Entries kept.
    pub const ENTRIES: usize = 4096;

    /// An empty ring.
    #[must_use]
    pub fn new() -> Self {
        let blank = TraceEntry {
            at: Ticks(0),
            ticks: 0,
            bytes: 0,
            session: SessionId(0),
            kind: OperationKind::Other,
            status: Status::SUCCESS,
        };
        Self { ring: Box::new([blank; Self::ENTRIES]), written: 0 }
    }

    /// Records a command, over the oldest one if the ring is full.
    #[inline]
    pub fn record(&mut self, entry: TraceEntry) {
        self.ring[self.written as usize % Self::ENTRIES] = entry;
        self.written += 1;
    }

    /// The entries, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &TraceEntry> {
        let kept = self.written.min(Self::ENTRIES as u64);
        (self.written - kept..self.written).map(|at| &self.ring[at as usize % Self::ENTRIES])
    }
}

impl Default for FlightRecorder {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest_in_order() {
        let mut recorder = FlightRecorder::new();
        let blank = recorder.ring[0];
        for at in 0..FlightRecorder::ENTRIES as u64 + 10 {
            recorder.record(TraceEntry { at: Ticks(at), ..blank });
        }
        let kept: Vec<u64> = recorder.iter().map(|entry| entry.at.0).collect();
        assert_eq!(kept, (10..FlightRecorder::ENTRIES as u64 + 10).collect::<Vec<_>>());
    }
}
