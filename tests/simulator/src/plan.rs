//! What a run is like: everything is drawn from its seed, so that runs differ in kind and not only in detail.

use crate::client::{ClientPlan, Mix};
use crate::disk::DiskFaults;
use crate::link::LinkPlan;
use crate::random::Random;
use crate::wire::WireFaults;

/// The plan of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed it was drawn from.
    pub seed: u64,
    /// Cores and shards.
    pub cores: u16,
    /// Shards, at least as many as cores.
    pub shards: u32,
    /// Bytes of a logical block.
    pub lba_bytes: u32,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Segments in each shard.
    pub segments: u32,
    /// Whether the disk has a volatile cache.
    pub volatile_cache: bool,
    /// What goes wrong with the disk.
    pub faults: DiskFaults,
    /// Whether the disk is memory itself, out of which values may be sent where they lie.
    pub disk_is_memory: bool,
    /// The slowest command of the disk, in turns.
    pub slowest: u64,
    /// Whether acknowledged writes must outlive a power cut.
    pub durable: bool,
    /// Whether the store is too small for what is stored in it.
    pub evicts: bool,
    /// The clients.
    pub clients: Vec<ClientPlan>,
    /// Commands that clients submit in all.
    pub commands: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Per mille of turns in which a client dies.
    pub client_crashes: u32,
    /// Bytes that each tenant may hold in each shard.
    pub quota: Option<u64>,
    /// Of 100,000 turns, those in which a client is denied its namespace, or given it again.
    pub revocations: u32,
}

impl Plan {
    /// Draws a plan.
    #[must_use]
    pub fn draw(seed: u64, commands: u64) -> Self {
        let mut random = Random::new(seed);
        let cores = random.between(1, 3) as u16;
        let evicts = random.chance(500);
        let faulty = random.chance(400);
        let longest = [4096, 20_000, 65_536, 120_000][random.below(4) as usize];
        let clients = random.between(1, 3) as u16;
        let clients = (0..clients).map(|number| Self::draw_client(&mut random, number, longest, evicts)).collect();
        let rate =
            |random: &mut Random, on: bool| if on && random.chance(500) { random.between(1, 8) as u32 } else { 0 };
        let mut plan = Self {
            seed,
            cores,
            shards: u32::from(cores) * random.between(1, 2) as u32,
            lba_bytes: if random.chance(300) { 512 } else { 4096 },
            segment_bytes: 1 << 20,
            segments: if evicts { random.between(6, 8) as u32 } else { 32 },
            volatile_cache: random.chance(800),
            faults: DiskFaults {
                read_error: rate(&mut random, faulty),
                write_error: rate(&mut random, faulty),
                misdirected: rate(&mut random, faulty),
                flush_error: rate(&mut random, faulty),
            },
            disk_is_memory: false,
            slowest: [1, 4, 20, 100][random.below(4) as usize],
            durable: random.chance(600),
            evicts,
            clients,
            commands,
            power_cuts: random.below(4),
            client_crashes: if random.chance(300) { 1 } else { 0 },
            quota: random.chance(150).then(|| random.between(1, 4) << 20),
            revocations: 0,
        };
        plan.draw_links(&mut Random::new(seed ^ 0x7C9));
        let mut random = Random::new(seed ^ 0x90C);
        plan.revocations = if random.chance(300) { random.between(5, 100) as u32 } else { 0 };
        plan
    }

    /// Has some clients of some runs come by TCP.
    fn draw_links(&mut self, random: &mut Random) {
        if !random.chance(400) {
            return;
        }
        for client in &mut self.clients {
            if random.chance(700) {
                client.link = Some(LinkPlan {
                    wire: WireFaults {
                        latest: [0, 3, 30][random.below(3) as usize],
                        stall: if random.chance(400) { 1 } else { 0 },
                        holds: [9000, 100_000, 1 << 20][random.below(3) as usize],
                        cut: if random.chance(500) { random.between(1, 30) as u32 } else { 0 },
                    },
                    digests: (random.chance(500), random.chance(500)),
                    depth: [2, 5, 15][random.below(3) as usize],
                    max_data: [4096, 20_000, 1 << 20][random.below(3) as usize],
                });
            }
        }
        // Nobody else looks at values where they lie.
        self.disk_is_memory = random.chance(600);
    }

    /// Whether any client comes by TCP.
    #[must_use]
    pub fn has_links(&self) -> bool {
        self.clients.iter().any(|client| client.link.is_some())
    }

    fn draw_client(random: &mut Random, number: u16, longest: u64, evicts: bool) -> ClientPlan {
        ClientPlan {
            number,
            tenant: u32::from(number) + 1,
            keys: if evicts { random.between(200, 800) } else { random.between(4, 60) },
            longest,
            mix: Mix {
                store: random.between(200, 500) as u32,
                delete: random.below(60) as u32,
                lookup: random.below(100) as u32,
                exist: random.below(100) as u32,
                garbage: random.below(30) as u32,
            },
            unaligned: if random.chance(300) { 300 } else { 0 },
            link: None,
        }
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        (2 << 20) + self.segment_bytes * u64::from(self.segments) * u64::from(self.shards)
    }

    /// Whether what was acknowledged is what a power cut leaves. Not so on a disk that loses the page of a record, or writes
    /// something else over it, and says that all is well: what the record superseded or removed is back then.
    #[must_use]
    pub fn keeps_records(&self) -> bool {
        self.durable && self.faults.misdirected == 0
    }

    /// Whether a block that was stored may be missing for no fault of kvplane.
    #[must_use]
    pub fn may_vanish(&self) -> bool {
        self.evicts || self.faults.destroys()
    }
}
