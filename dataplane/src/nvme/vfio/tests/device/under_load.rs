//! Resets while two queues are full of commands.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::super::super::Attendant;
use super::*;

const DEPTH: u64 = 32;
/// Bytes of a piece: a multiple of every block size.
const PIECE: u32 = 4096;
/// Pieces of a queue's part of the device.
const PIECES: u64 = 200;
const RESETS: u64 = 12;
/// Commands that complete between two resets, at the least.
const BETWEEN: u64 = 300;

/// What a core knows of its part of the device.
struct Load {
    queue: VfioQueue,
    region: Arc<Region>,
    /// First logical block of its part.
    first: u64,
    /// The version of each piece that was written last; acknowledged unless it is busy.
    versions: Vec<u64>,
    busy: Vec<bool>,
    /// What each place in memory is for: a piece, and whether it is written.
    places: Vec<Option<(u64, bool)>>,
    drawn: u64,
}

fn pattern(piece: u64, version: u64) -> Vec<u8> {
    (0..u64::from(PIECE) / 8).flat_map(|word| (piece << 48 ^ version << 16 ^ word).to_le_bytes()).collect()
}

impl Load {
    fn new(device: &VfioDevice, part: u64) -> Self {
        let mut queue = device.queue(DEPTH as u32, 1).unwrap();
        let region = Arc::new(Region::anonymous((DEPTH * u64::from(PIECE)) as usize, RegionSlot(0)).unwrap());
        queue.attach(Arc::clone(&region)).unwrap();
        let blocks = u64::from(PIECE / queue.geometry().lba_bytes);
        Self {
            queue,
            region,
            first: part * PIECES * blocks,
            versions: vec![0; PIECES as usize],
            busy: vec![false; PIECES as usize],
            places: vec![None; DEPTH as usize],
            drawn: part + 1,
        }
    }

    /// A number that follows no pattern (a multiplicative congruential generator).
    fn draw(&mut self, below: u64) -> u64 {
        self.drawn = self.drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.drawn >> 33) % below
    }

    fn push(&mut self, place: u64, piece: u64, write: bool) {
        let blocks = PIECE / self.queue.geometry().lba_bytes;
        let offset = place * u64::from(PIECE);
        if write {
            self.versions[piece as usize] += 1;
            self.region.write(offset, &pattern(piece, self.versions[piece as usize])).unwrap();
        } else {
            self.region.fill(offset, PIECE as usize, 0xEE).unwrap();
        }
        let memory = self.region.slice(offset, PIECE).unwrap();
        let lba = self.first + piece * u64::from(blocks);
        let op = if write { WRITE } else { BlockOp::Read };
        self.queue.push(BlockIo { op, lba, blocks, memory, token: place }).unwrap();
        self.busy[piece as usize] = true;
        self.places[place as usize] = Some((piece, write));
    }

    /// Fills the queue. A piece has one command at a time.
    fn fill(&mut self) {
        for place in 0..DEPTH {
            let piece = self.draw(PIECES);
            if self.places[place as usize].is_none() && !self.busy[piece as usize] {
                let write = self.versions[piece as usize] == 0 || self.draw(2) == 0;
                self.push(place, piece, write);
            }
        }
        self.queue.ring();
    }

    /// Takes what has completed, and looks at what was read; how many there were.
    fn collect(&mut self) -> u64 {
        let mut done = Burst::new();
        self.queue.poll(&mut done);
        for done in &done {
            let (piece, write) = self.places[done.token as usize].take().expect("a command that was outstanding");
            self.busy[piece as usize] = false;
            assert_eq!(done.result, Ok(()), "piece {piece}");
            if !write {
                let mut seen = vec![0; PIECE as usize];
                self.region.read(done.token * u64::from(PIECE), &mut seen).unwrap();
                let version = self.versions[piece as usize];
                assert!(seen == pattern(piece, version), "piece {piece} is not as version {version} left it");
            }
        }
        done.len() as u64
    }

    fn drain(&mut self, controller: &Controller) {
        let begin = Instant::now();
        while self.queue.in_flight() > 0 {
            self.collect();
            assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", controller.status());
        }
    }

    fn verify_all(&mut self, controller: &Controller) {
        self.drain(controller);
        for piece in 0..PIECES {
            if self.versions[piece as usize] > 0 {
                self.push(0, piece, false);
                self.queue.ring();
                self.drain(controller);
            }
        }
    }
}

#[test]
#[ignore = "needs a controller that is bound to vfio-pci, whose contents are lost (tests/testbed/driver.sh)"]
fn resets_under_load_lose_nothing_acknowledged() {
    let controller = controller();
    let _attendant = Attendant::start(controller.clone(), Duration::from_millis(20), |_| ()).unwrap();
    let device = controller.namespace(1).unwrap();
    let mut loads = [Load::new(&device, 0), Load::new(&device, 1)];
    let (completed, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for reset in 1..=RESETS {
                while completed.load(Ordering::Relaxed) < reset * BETWEEN && !over.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                controller.reset().unwrap();
            }
            over.store(true, Ordering::Relaxed);
        });
        let begin = Instant::now();
        while !over.load(Ordering::Relaxed) {
            for load in &mut loads {
                load.fill();
                completed.fetch_add(load.collect(), Ordering::Relaxed);
            }
            let late = begin.elapsed() > Duration::from_secs(60);
            over.fetch_or(late, Ordering::Relaxed);
            assert!(!late, "{} commands: {:?}", completed.load(Ordering::Relaxed), controller.status());
        }
    });
    for load in &mut loads {
        load.verify_all(&controller);
        assert!(load.versions.iter().sum::<u64>() > PIECES, "the load was too light to prove anything");
    }
    let status = controller.status();
    assert_eq!((status.state, status.resets, status.stray_completions), (ControllerState::Ready, RESETS, 0));
}
