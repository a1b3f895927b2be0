//! The loop that submits and reaps.
//!
//! It acts only in [`Engine::turn`], which never waits. It reads the clock once a turn, after the poll, and once more
//! before a command whose buffer took time to fill; it allocates nothing after the beginning.

use dataplane::Burst;
use dataplane::core::Clock;

use super::keys::UNKNOWN;
use super::{Arrivals, Keys, Schedule, Settings};
use crate::measure::{Latency, Timeline};
use crate::random::Random;
use crate::target::{Command, Done, Op, Outcome, Span, Target, TargetError};
use crate::value::{Identity, SECTOR_BYTES, Verify};

/// What was measured of one kind of command.
#[derive(Clone, Debug, Default)]
pub struct OpMeasured {
    /// Commands that ended.
    pub ops: u64,
    /// Those that found a value, or stored one; for lookups the keys found.
    pub hits: u64,
    /// Those that found none.
    pub misses: u64,
    /// Those that failed.
    pub errors: u64,
    /// Bytes of values moved.
    pub bytes: u64,
    /// From the start (open loop: the intended start) to the end.
    pub latency: Latency,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// By [`Op::index`].
    pub per_op: [OpMeasured; Op::ALL.len()],
    /// Throughput over time.
    pub timeline: Timeline,
    /// Bytes that were not as they must be.
    pub wrong_bytes: u64,
    /// Commands of an open loop that could not even start before the run was given up.
    pub not_started: u64,
    /// Nanoseconds from the end of the warm-up to the last end of a command.
    pub nanos: u64,
    /// What the last failure was.
    pub failure: Option<String>,
}

impl Measured {
    /// Commands of all kinds that ended.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.per_op.iter().map(|op| op.ops).sum()
    }
}

/// A place for one command.
#[derive(Clone, Copy, Debug)]
struct Slot {
    number: u64,
    start: u64,
    version: u32,
    bytes: u32,
    op: Op,
}

/// A run under way.
pub struct Engine<'a> {
    settings: &'a Settings,
    keys: &'a mut Keys,
    schedule: Schedule,
    random: Random,
    slots: Vec<Slot>,
    free: Vec<u32>,
    slot_bytes: u64,
    /// Values change, so that versions must be looked after.
    versions: bool,
    issued: u64,
    counted: u64,
    count_from: u64,
    stop_at: u64,
    measured: Measured,
}

impl<'a> Engine<'a> {
    /// Prepares a run that begins now. The target's memory must hold [`Self::memory_bytes`].
    #[must_use]
    pub fn new(settings: &'a Settings, keys: &'a mut Keys, now: u64) -> Self {
        let depth = settings.depth.max(1);
        let count_from = now + settings.warm_up;
        let nothing = Slot { number: 0, start: 0, version: 0, bytes: 0, op: Op::Exist };
        let room = settings.duration / 1_000_000_000 + 60;
        Self {
            schedule: Schedule::new(settings.arrivals, settings.seed, now),
            random: Random::new(settings.seed),
            slots: vec![nothing; depth as usize],
            free: (0..depth).rev().collect(),
            slot_bytes: slot_bytes(settings),
            versions: settings.mix.changes_values(),
            issued: 0,
            counted: 0,
            count_from,
            stop_at: if settings.duration == 0 { u64::MAX } else { count_from + settings.duration },
            measured: Measured { timeline: Timeline::with_room(room), ..Measured::default() },
            settings,
            keys,
        }
    }

    /// Bytes of registered memory that a run with these settings needs.
    #[must_use]
    pub fn memory_bytes(settings: &Settings) -> usize {
        (slot_bytes(settings) * u64::from(settings.depth.max(1))) as usize
    }

    /// What was measured up to now.
    #[must_use]
    pub fn measured(&self) -> &Measured {
        &self.measured
    }

    /// What was measured.
    #[must_use]
    pub fn finish(self) -> Measured {
        self.measured
    }

    /// Handles what ended and starts what is due. True when the run is over.
    ///
    /// # Errors
    /// If the target is gone.
    pub fn turn<T: Target>(&mut self, target: &mut T, clock: &impl Clock) -> Result<bool, TargetError> {
        let mut done = Burst::new();
        target.poll(&mut done)?;
        let now = clock.nanos_of_ticks(clock.now().0);
        for end in &done {
            self.end(target, end, now);
        }
        let more = self.start(target, clock, now)?;
        target.ring();
        Ok(!more && self.free.len() == self.slots.len())
    }

    /// Starts commands while there is room and they are due. False if there is nothing left to start.
    fn start<T: Target>(&mut self, target: &mut T, clock: &impl Clock, now: u64) -> Result<bool, TargetError> {
        loop {
            if self.settings.ops > 0 && self.counted >= self.settings.ops {
                return Ok(false);
            }
            if now >= self.stop_at && self.give_up(now) {
                return Ok(false);
            }
            let Some(&slot) = self.free.last() else { return Ok(true) };
            // What was due before the end is started even after it: it would be an omission to leave it out.
            let Some(due) = self.schedule.take(now.min(self.stop_at - 1)) else { return Ok(now < self.stop_at) };
            let (command, costly) = self.command(target, slot);
            let closed = self.settings.arrivals == Arrivals::Closed;
            let fresh = closed && (costly || self.slots.len() == 1);
            let start = if fresh { clock.nanos_of_ticks(clock.now().0) } else { due };
            // The depth is within the target's, so a refusal is a passing one.
            while !target.submit(command)? {
                target.ring();
                let mut done = Burst::new();
                target.poll(&mut done)?;
                let now = clock.nanos_of_ticks(clock.now().0);
                self.free.pop();
                done.iter().for_each(|end| self.end(target, end, now));
                self.free.push(slot);
            }
            self.slots[slot as usize].start = start;
            self.free.pop();
            self.issued += 1;
            self.counted += u64::from(start >= self.count_from);
        }
    }

    /// After the end: whether to start nothing more. An open loop that fell behind gets as long again as the run took.
    fn give_up(&mut self, now: u64) -> bool {
        if self.settings.arrivals == Arrivals::Closed {
            return true;
        }
        if now < self.stop_at + self.settings.duration {
            return false;
        }
        while self.schedule.take(self.stop_at - 1).is_some() {
            self.measured.not_started += 1;
        }
        true
    }

    /// Makes a command in a slot, and says whether that cost more than a few nanoseconds.
    #[inline]
    fn command<T: Target>(&mut self, target: &mut T, slot: u32) -> (Command, bool) {
        let op = self.settings.mix.draw(&mut self.random);
        let drawn = self.keys.draw(&self.settings.choice, &mut self.random, self.issued);
        let (number, version) = match op {
            Op::Store | Op::Delete => self.keys.begin_change(drawn),
            Op::Retrieve | Op::Exist if self.versions => self.keys.begin_read(drawn),
            _ => (drawn, 1),
        };
        let key = self.keys.key(number);
        let offset = u64::from(slot) * self.slot_bytes;
        let size = || self.settings.sizes.of(Keys::size_number(number, version));
        let (bytes, span) = match op {
            Op::Store => (size(), Span { offset, bytes: size() }),
            Op::Retrieve => (size(), Span { offset, bytes: self.settings.sizes.largest() }),
            Op::Lookup => (0, Span { offset, bytes: self.settings.lookup_keys * 16 }),
            Op::Exist | Op::Delete => (0, Span::EMPTY),
        };
        let fills = op == Op::Store && self.settings.verify != Verify::Off;
        if fills {
            let identity = Identity::new(&key, version);
            identity.fill(bytes as usize, |at, from| target.write(offset + at as u64, from));
        } else if op == Op::Lookup {
            for place in 0..u64::from(self.settings.lookup_keys) {
                let key = self.keys.key((number + place) % self.keys.count());
                target.write(offset + place * 16, key.bytes());
            }
        }
        self.slots[slot as usize] = Slot { number, start: 0, version, bytes, op };
        (Command { op, key, span, parent: None, token: slot }, fills || op == Op::Lookup)
    }

    #[inline]
    fn end<T: Target>(&mut self, target: &T, end: &Done, now: u64) {
        let Some(&slot) = self.slots.get(end.token as usize) else { return };
        self.free.push(end.token);
        let hit = matches!(end.outcome, Outcome::Hit(_));
        match slot.op {
            Op::Store => self.keys.end_change(slot.number, if hit { slot.version } else { UNKNOWN }),
            Op::Delete if end.outcome == Outcome::Failed => self.keys.end_change(slot.number, UNKNOWN),
            Op::Delete => self.keys.end_change(slot.number, 0),
            Op::Retrieve | Op::Exist if self.versions => self.keys.end_read(slot.number),
            _ => {}
        }
        if let (Op::Retrieve, Outcome::Hit(bytes)) = (slot.op, end.outcome) {
            self.measured.wrong_bytes += self.wrong_bytes(target, &slot, end.token, bytes);
        }
        if end.outcome == Outcome::Failed && self.measured.failure.is_none() {
            self.measured.failure = target.last_failure();
        }
        if slot.start >= self.count_from {
            self.count(&slot, end.outcome, now);
        }
    }

    #[inline]
    fn count(&mut self, slot: &Slot, outcome: Outcome, now: u64) {
        let since = now - self.count_from;
        self.measured.nanos = since;
        let op = &mut self.measured.per_op[slot.op.index()];
        op.ops += 1;
        op.latency.record(now.saturating_sub(slot.start));
        let (read, written) = match (slot.op, outcome) {
            (Op::Retrieve, Outcome::Hit(bytes)) => (u64::from(bytes), 0),
            (Op::Store, Outcome::Hit(_)) => (0, u64::from(slot.bytes)),
            _ => (0, 0),
        };
        op.bytes += read + written;
        match outcome {
            Outcome::Hit(_) => op.hits += 1,
            Outcome::Prefix(found) => op.hits += u64::from(found),
            Outcome::Miss => op.misses += 1,
            Outcome::Failed => op.errors += 1,
        }
        self.measured.timeline.count(since, 1, read, written);
    }

    fn wrong_bytes<T: Target>(&self, target: &T, slot: &Slot, token: u32, bytes: u32) -> u64 {
        if self.settings.verify == Verify::Off || slot.version == UNKNOWN {
            return 0;
        }
        // Version 0: the key was deleted or never stored. Another length: wrong as a whole.
        if slot.version == 0 || bytes != slot.bytes {
            return u64::from(bytes.max(1));
        }
        let offset = u64::from(token) * self.slot_bytes;
        let identity = Identity::new(&self.keys.key(slot.number), slot.version);
        identity.wrong_bytes(bytes as usize, self.settings.verify, |at, into| target.read(offset + at as u64, into))
    }
}

fn slot_bytes(settings: &Settings) -> u64 {
    let largest = |op| match op {
        Op::Retrieve | Op::Store => settings.sizes.largest(),
        Op::Lookup => settings.lookup_keys * 16,
        Op::Exist | Op::Delete => 1,
    };
    let bytes = settings.mix.ops().map(largest).max().unwrap_or(1);
    u64::from(bytes).next_multiple_of(SECTOR_BYTES as u64)
}
