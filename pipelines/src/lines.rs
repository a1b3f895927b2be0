//! A burst of commands on its way through the stages: one array, which every stage works on where it lies.
//!
//! Handing 32 commands from one array to the next at every stage costs more than the stages do. So the type that
//! says how far the commands have come stands on the burst (`CapsuleBurst -> ClassifiedBurst -> AdmittedBurst ->
//! PlacedBurst`), each made by its stage's module alone and taken by the next by value, and what is handed on is one
//! pointer.

use dataplane::core::Ticks;
use dataplane::fabric::{Capsule, Completion};
use dataplane::nvme::spec::Status;
use dataplane::{BURST, Burst};

use crate::classify::{Ended, OperationKind, Origin};
use crate::placement::{PlacedErasure, PlacedLoad, PlacedSave};
use crate::policy::Grant;

/// A set of the burst's commands, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lanes(u32);

const _: () = assert!(BURST <= u32::BITS as usize);

impl Lanes {
    /// The first `count` of them, which are [`BURST`] at most.
    #[inline]
    pub fn first(count: usize) -> Self {
        Self(u32::MAX.checked_shr(u32::BITS - count as u32).unwrap_or(0))
    }

    #[inline]
    pub fn insert(&mut self, lane: usize) {
        self.0 |= 1 << lane;
    }

    #[inline]
    pub fn remove(&mut self, lane: usize) {
        self.0 &= !(1 << lane);
    }

    #[inline]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }
}

impl Iterator for Lanes {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let lane = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(lane)
    }
}

/// What the stages found out about a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note {
    pub received: Ticks,
    pub kind: OperationKind,
    /// The core it belongs to, if that is another one.
    pub core: u16,
    pub grant: Grant,
    /// Its answer, if it has one.
    pub completion: Completion,
}

impl Note {
    /// Takes out who asked for a command, for its answer.
    #[inline]
    pub fn take_origin(&self, capsule: &mut Capsule) -> Origin {
        Origin { permit: capsule.permit.take(), session: capsule.session, kind: self.kind, received: self.received }
    }
}

const BLANK: Note = Note {
    received: Ticks(0),
    kind: OperationKind::Other,
    core: 0,
    grant: Grant::NOTHING,
    completion: Completion::failed(Status::INTERNAL_ERROR),
};

/// The commands of a burst and what is known of them. Allocated once per core and used over and over.
#[derive(Debug)]
pub(crate) struct Lines {
    pub capsules: Burst<Capsule>,
    pub notes: [Note; BURST],
    /// Commands that go on to the next stage.
    pub open: Lanes,
    /// Commands whose answer stands in their note.
    pub ended: Lanes,
    /// Where placement sent the others: to the dma stage, each kind by itself and with no more to carry than it needs,
    /// to another core, among the lists, or to wait for room.
    pub loads: Burst<PlacedLoad>,
    pub saves: Burst<PlacedSave>,
    pub erasures: Burst<PlacedErasure>,
    pub elsewhere: Lanes,
    pub lists: Lanes,
    pub waiting: Lanes,
}

impl Lines {
    pub fn new() -> Box<Self> {
        Box::new(Self {
            capsules: Burst::new(),
            notes: [BLANK; BURST],
            open: Lanes::default(),
            ended: Lanes::default(),
            loads: Burst::new(),
            saves: Burst::new(),
            erasures: Burst::new(),
            elsewhere: Lanes::default(),
            lists: Lanes::default(),
            waiting: Lanes::default(),
        })
    }

    /// Commands for the dma stage.
    #[inline]
    pub fn placed(&self) -> usize {
        self.loads.len() + self.saves.len() + self.erasures.len()
    }

    /// Gives a command its answer: it goes no further.
    #[inline]
    pub fn end(&mut self, lane: usize, completion: Completion) {
        self.open.remove(lane);
        self.ended.insert(lane);
        self.notes[lane].completion = completion;
    }

    /// Takes out a command that has its answer.
    #[inline]
    pub fn take_ended(&mut self, lane: usize) -> Ended {
        let note = &self.notes[lane];
        note.take_origin(&mut self.capsules[lane]).end(note.completion)
    }

    /// Makes room for the next burst. Every command of this one was taken out.
    #[inline]
    pub fn clear(&mut self) {
        self.capsules.clear();
        self.ended = Lanes::default();
        self.elsewhere = Lanes::default();
        self.lists = Lanes::default();
        self.waiting = Lanes::default();
    }
}

/// A burst fresh from the clients.
#[derive(Debug)]
pub struct CapsuleBurst(Box<Lines>);

impl CapsuleBurst {
    pub(crate) fn new() -> Self {
        Self(Lines::new())
    }

    /// The same memory for the next burst.
    #[inline]
    pub(crate) fn reuse(mut lines: Box<Lines>) -> Self {
        lines.clear();
        Self(lines)
    }

    /// Where a fabric puts the commands.
    #[inline]
    pub fn capsules(&mut self) -> &mut Burst<Capsule> {
        &mut self.0.capsules
    }

    #[inline]
    pub(crate) fn into_lines(self) -> Box<Lines> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_come_in_order_and_once() {
        assert_eq!(Lanes::first(0).count(), 0);
        assert_eq!(Lanes::first(BURST).collect::<Vec<_>>(), (0..BURST).collect::<Vec<_>>());
        let mut lanes = Lanes::first(5);
        lanes.remove(3);
        lanes.insert(31);
        assert_eq!((lanes.len(), lanes.collect::<Vec<_>>()), (5, vec![0, 1, 2, 4, 31]));
    }
}
