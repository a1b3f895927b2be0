//! Byte streams between a host and a target that split, merge, delay, hold up and cut what goes through them.
//!
//! One end is the host's, asked whenever its queue is polled; the other the target's, whose receives and sends end some
//! time after they began. Memory is read and written when they end, as late as a kernel may do it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use dataplane::Burst;
use dataplane::fabric::tcp::initiator::{ByteStream, Incoming, Outgoing};
use dataplane::fabric::tcp::target::streams::{StreamDone, Streams, Transfer};
use dataplane::memory::{DmaSlice, Region};

use crate::random::Random;

/// What streams do to what goes through them.
#[derive(Clone, Copy, Debug, Default)]
pub struct WireFaults {
    /// How late bytes come at the latest, in calls on their stream.
    pub latest: u64,
    /// Per mille of calls after which a direction stands still for a while.
    pub stall: u32,
    /// How many bytes one direction holds.
    pub holds: usize,
    /// Per 100,000 turns: how often a stream is cut.
    pub cut: u32,
}

/// One direction.
#[derive(Default)]
struct Way {
    /// Bytes on their way, with the call from which on they are there.
    flying: VecDeque<(u64, Vec<u8>)>,
    arrived: VecDeque<u8>,
    /// Nothing arrives before this call.
    stalled: u64,
    /// The sender closed it; what is on its way still arrives.
    closed: bool,
}

impl Way {
    fn held(&self) -> usize {
        self.arrived.len() + self.flying.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
    }

    fn is_over(&self) -> bool {
        self.closed && self.held() == 0
    }

    /// Takes bytes in that begin their way now.
    fn put(&mut self, bytes: Vec<u8>, now: u64, faults: &WireFaults, random: &mut Random) {
        // Bytes never overtake each other.
        let earliest = self.flying.back().map_or(now, |(due, _)| *due);
        self.flying.push_back((earliest.max(now + random.below(faults.latest + 1)), bytes));
    }

    fn move_on(&mut self, now: u64) {
        while self.stalled <= now && self.flying.front().is_some_and(|(due, _)| *due <= now) {
            self.arrived.extend(self.flying.pop_front().map(|(_, bytes)| bytes).unwrap_or_default());
        }
    }

    /// All of what has arrived that fits, or a part of it.
    fn take(&mut self, most: usize, random: &mut Random) -> Vec<u8> {
        let there = self.arrived.len().min(most);
        let bytes = if there == 0 || random.chance(500) { there } else { 1 + random.below(there as u64) as usize };
        self.arrived.drain(..bytes).collect()
    }
}

/// A stream.
pub struct Wire {
    to_target: Way,
    to_host: Way,
    faults: WireFaults,
    random: Random,
    /// Calls so far.
    now: u64,
    cut: bool,
    ended_by_target: bool,
}

impl Wire {
    /// One more call.
    fn tick(&mut self) {
        self.now += 1;
        if self.random.chance(self.faults.stall) {
            let until = self.now + self.random.between(10, 2000);
            let way = if self.random.chance(500) { &mut self.to_target } else { &mut self.to_host };
            way.stalled = until;
        }
        self.to_target.move_on(self.now);
        self.to_host.move_on(self.now);
    }

    /// Some of what is on its way may still arrive, and nothing after it.
    fn cut(&mut self) {
        self.cut = true;
        for way in [&mut self.to_target, &mut self.to_host] {
            let kept = self.random.below(way.flying.len() as u64 + 1) as usize;
            way.flying.truncate(kept);
            if let Some((_, last)) = way.flying.back_mut() {
                last.truncate(self.random.below(last.len() as u64 + 1) as usize);
            }
            way.flying.retain(|(_, bytes)| !bytes.is_empty());
            way.closed = true;
            way.stalled = 0;
        }
    }
}

/// The target's end. It lets go of the stream when it drops this.
#[derive(Clone)]
pub struct Socket(Arc<Mutex<Wire>>);

/// The host's end.
pub struct HostSocket(Arc<Mutex<Wire>>);

/// Looks at a stream from outside, and holds on to no end of it.
pub struct Watch(Weak<Mutex<Wire>>);

fn lock(wire: &Mutex<Wire>) -> MutexGuard<'_, Wire> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new stream: its two ends, and somebody who watches.
#[must_use]
pub fn wire(faults: WireFaults, random: Random) -> (HostSocket, Socket, Watch) {
    let wire = Wire {
        to_target: Way::default(),
        to_host: Way::default(),
        faults,
        random,
        now: 0,
        cut: false,
        ended_by_target: false,
    };
    let wire = Arc::new(Mutex::new(wire));
    (HostSocket(Arc::clone(&wire)), Socket(Arc::clone(&wire)), Watch(Arc::downgrade(&wire)))
}

impl Watch {
    /// Cuts the stream.
    pub fn cut(&self) {
        if let Some(wire) = self.0.upgrade() {
            lock(&wire).cut();
        }
    }

    /// Whether it was cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.0.upgrade().is_none_or(|wire| lock(&wire).cut)
    }

    /// Whether both ends let go of it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl ByteStream for HostSocket {
    fn send(&mut self, pieces: &Outgoing<'_>) -> io::Result<usize> {
        let mut wire = lock(&self.0);
        wire.tick();
        let Wire { to_target, faults, random, now, .. } = &mut *wire;
        if to_target.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let room = faults.holds.saturating_sub(to_target.held()).min(pieces.bytes());
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = if random.chance(500) { room } else { 1 + random.below(room as u64) as usize };
        let mut taken = vec![0; bytes];
        let bytes = pieces.gather(&mut taken);
        to_target.put(taken, *now, faults, random);
        Ok(bytes)
    }

    fn receive(&mut self, pieces: &mut Incoming<'_>) -> io::Result<usize> {
        let mut wire = lock(&self.0);
        wire.tick();
        let Wire { to_host, random, .. } = &mut *wire;
        if to_host.arrived.is_empty() {
            return if to_host.is_over() { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let bytes = to_host.take(pieces.bytes(), random);
        Ok(pieces.scatter(&bytes))
    }

    fn wants_to_send(&mut self, _waiting: bool) {}

    fn close(&mut self) {
        lock(&self.0).to_target.closed = true;
    }
}

impl Drop for HostSocket {
    fn drop(&mut self) {
        let mut wire = lock(&self.0);
        (wire.to_target.closed, wire.to_host.closed) = (true, true);
    }
}

/// What is under way at one place of the target.
struct Place {
    socket: Socket,
    receive: Option<(DmaSlice, bool)>,
    send: Option<Vec<DmaSlice>>,
}

/// The streams of one core of the target.
pub struct SimStreams {
    region: Arc<Region>,
    /// The disk's memory, which is sent from too.
    others: Vec<Arc<Region>>,
    places: BTreeMap<u16, Place>,
    /// Whose turn it is to be looked at first.
    turn: u16,
}

impl Place {
    fn received(&mut self, region: &Region) -> Option<Result<u32, i32>> {
        let (into, all) = self.receive?;
        let mut wire = lock(&self.socket.0);
        wire.tick();
        let Wire { to_target, random, ended_by_target, .. } = &mut *wire;
        let there = to_target.arrived.len().min(into.bytes() as usize);
        let whole = there == into.bytes() as usize;
        let over = to_target.closed && to_target.flying.is_empty() || *ended_by_target;
        if there == 0 && !over {
            return None;
        }
        // Even if all of it was asked for, the kernel may come back with less.
        if !whole && all && !over && !random.chance(50) {
            return None;
        }
        self.receive = None;
        let bytes = to_target.take(into.bytes() as usize, random);
        if bytes.is_empty() && random.chance(300) {
            return Some(Err(libc::ECONNRESET));
        }
        region.write(region.offset_of(&into).expect("memory of the target"), &bytes).expect("memory of the target");
        Some(Ok(bytes.len() as u32))
    }

    fn sent(&mut self, regions: &[&Region]) -> Option<Result<u32, i32>> {
        let parts = self.send.as_ref()?;
        let mut wire = lock(&self.socket.0);
        wire.tick();
        let Wire { to_host, faults, random, now, ended_by_target, .. } = &mut *wire;
        if to_host.closed || *ended_by_target {
            self.send = None;
            return Some(Err(libc::EPIPE));
        }
        let mut room = faults.holds.saturating_sub(to_host.held());
        if room == 0 || random.chance(200) {
            return None;
        }
        if random.chance(300) {
            room = 1 + random.below(room as u64) as usize;
        }
        let mut bytes = Vec::new();
        for part in parts {
            let left = (room - bytes.len()).min(part.bytes() as usize);
            let mut piece = vec![0; left];
            let found = regions.iter().find_map(|region| region.read(region.offset_of(part)?, &mut piece));
            found.expect("memory of the target or of the disk");
            bytes.extend(piece);
        }
        let sent = bytes.len() as u32;
        to_host.put(bytes, *now, faults, random);
        self.send = None;
        Some(Ok(sent))
    }
}

impl SimStreams {
    fn place(&mut self, place: u16, socket: &Socket) -> &mut Place {
        let fresh = || Place { socket: socket.clone(), receive: None, send: None };
        let found = self.places.entry(place).or_insert_with(fresh);
        assert!(Arc::ptr_eq(&found.socket.0, &socket.0), "a stream still has something under way at this place");
        found
    }
}

impl Streams for SimStreams {
    type Stream = Socket;

    fn new(_streams: u16, region: Arc<Region>) -> io::Result<Self> {
        Ok(Self { region, others: Vec::new(), places: BTreeMap::new(), turn: 0 })
    }

    fn read_from(&mut self, memory: &[Arc<Region>]) {
        self.others.extend_from_slice(memory);
    }

    fn receive(&mut self, place: u16, stream: &Socket, into: DmaSlice, all: bool) {
        let under_way = self.place(place, stream).receive.replace((into, all));
        assert!(under_way.is_none(), "two receives at once");
    }

    fn send(&mut self, place: u16, stream: &Socket, parts: &[DmaSlice], most: u32) {
        let mut left = most;
        let cut = |part: &DmaSlice| {
            let part = part.split_at(part.bytes().min(left)).0;
            left -= part.bytes();
            part
        };
        let parts: Vec<_> = parts.iter().map(cut).filter(|part| part.bytes() > 0).collect();
        assert!(!parts.is_empty(), "a send of nothing");
        let under_way = self.place(place, stream).send.replace(parts);
        assert!(under_way.is_none(), "two sends at once");
    }

    fn submit(&mut self) {}

    fn poll(&mut self, done: &mut Burst<StreamDone>) {
        self.turn = self.turn.wrapping_add(1);
        let count = self.places.len().max(1);
        let first = usize::from(self.turn) % count;
        let order: Vec<u16> = self.places.keys().copied().cycle().skip(first).take(self.places.len()).collect();
        let regions: Vec<&Region> = self.others.iter().chain([&self.region]).map(|region| &**region).collect();
        for at in order {
            let Some(place) = self.places.get_mut(&at) else { continue };
            if done.remaining_capacity() < 2 {
                break;
            }
            let receive = place.received(&self.region);
            let send = place.sent(&regions);
            let mut ended = |send, result: Option<_>| {
                done.extend(result.map(|result| StreamDone { transfer: Transfer { place: at, send }, result }));
            };
            ended(false, receive);
            ended(true, send);
            if place.receive.is_none() && place.send.is_none() {
                self.places.remove(&at);
            }
        }
    }

    fn end_sending(&mut self, stream: &Socket) {
        lock(&stream.0).to_host.closed = true;
    }

    fn shut_down(&mut self, stream: &Socket) {
        let mut wire = lock(&stream.0);
        wire.ended_by_target = true;
        // What was sent still arrives; what comes is heard by nobody.
        (wire.to_host.closed, wire.to_target.closed) = (true, true);
    }
}
