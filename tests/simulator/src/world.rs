//! One run: cores, disk, clients and the clock, turned by chance.

mod interruptions;
mod revocation;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use dataplane::core::{Clock, ManualClock, Poll, Poller, Ticks};
use dataplane::fabric::message::{Answer, CoreCommand, CoreError, Held, StagingLayout, StagingMap};
use dataplane::fabric::tcp::target::staging_layout;
use dataplane::fabric::{SessionId, abandoning, lost_completions};
use dataplane::memory::{Arena, HugePages, Region, RegionSlot};
use dataplane::nvme::BlockQueue;
use dataplane::nvme::spec::vendor::OwnerMap;
use pipelines::core_pipeline::{CorePipeline, CorePlan, CorePostbox, Parts, core_mailbox};
use pipelines::dma::pacing::PacingConfig;
use pipelines::placement::Ownership;
use pipelines::policy::{Durability, Grant, PolicyTable};
use pipelines::store::{self, FormatOptions, Superblock};

use crate::carriers::{SimCarrierCommand, SimCarriers};
use crate::client::{Client, Violation};
use crate::disk::{Disk, DiskFaults, SimQueue};
use crate::fabric::SimCommand;
use crate::link::Link;
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::random::Random;
use crate::wire::Socket;

type Core = CorePipeline<SimQueue, SimCarriers, ManualClock>;

/// What a run that ended well did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Answers that were checked.
    pub answers: u64,
    /// Turns of cores.
    pub turns: u64,
    /// Power cuts survived.
    pub power_cuts: u64,
    /// Clients that died.
    pub crashes: u64,
    /// Answers whose checksum told of damage.
    pub corrupt: u64,
    /// Segments evicted.
    pub evicted: u64,
    /// Answers that came by TCP.
    pub by_tcp: u64,
    /// Streams that were cut.
    pub cuts: u64,
    /// Values sent from where they lay on the disk.
    pub lent: u64,
    /// Those of them that were copied after all, because somebody wanted their place.
    pub recalled: u64,
    /// Commands refused because their client's namespace was taken from it.
    pub refused: u64,
    /// Namespaces purged.
    pub purged: u64,
}

/// Turns without an answer while commands are under way, after which a run is stuck.
const STUCK_TURNS: u64 = 200_000;

/// Staging memory of each core: connections, and bytes for values.
const STAGING: StagingLayout = StagingLayout { areas: 16, ..staging_layout(8 << 20) };
/// The slot of the first core's; below are those of clients.
const FIRST_STAGING_SLOT: u16 = 100;

/// The simulated world.
pub struct World {
    plan: Plan,
    random: Random,
    disk: Rc<RefCell<Disk>>,
    superblock: Superblock,
    clock: ManualClock,
    cores: Vec<Core>,
    /// The ways to their mailboxes.
    postboxes: Vec<CorePostbox<SimCarriers>>,
    clients: Vec<Client>,
    /// Clients whose namespace is being purged and could not be to the end: they do not get it back.
    unpurged: Vec<bool>,
    /// By client, the queues of those that come by TCP, one to each core.
    links: Vec<Vec<Link>>,
    summary: Summary,
}

/// A tenant's namespace in the store.
fn ns28(tenant: u32) -> u32 {
    1000 + tenant
}

fn ask(core: &mut Core, order: impl FnOnce(Answer) -> CoreCommand<Socket>) -> Receiver<Result<(), CoreError>> {
    let (answer, told) = sync_channel(1);
    core.command(SimCarrierCommand::Message(order(answer)));
    told
}

impl World {
    /// A formatted disk, running cores and clients that have done nothing yet.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let mut random = Random::new(plan.seed ^ 0xD15C);
        let blocks = plan.disk_bytes() / u64::from(plan.lba_bytes);
        // Formatting is not what is tested here: nothing goes wrong yet.
        let disk = Disk::new(blocks, plan.lba_bytes, plan.volatile_cache, DiskFaults::default(), random.fork());
        let superblock = format(&plan, SimQueue::new(&disk, random.fork(), 1));
        disk.borrow_mut().set_faults(plan.faults);
        if plan.disk_is_memory {
            disk.borrow_mut().be_memory();
        }
        let clients = plan
            .clients
            .iter()
            .map(|client| {
                let slot = RegionSlot(1 + client.number);
                let region = Region::anonymous(Client::memory_bytes(), slot).expect("memory for a client");
                let oracle = Oracle::new(plan.may_vanish() || plan.quota.is_some(), plan.keeps_records());
                Client::new(client.clone(), oracle, random.fork(), Arc::new(region), plan.faults.destroys())
            })
            .collect();
        let mut world = Self {
            unpurged: vec![false; plan.clients.len()],
            plan,
            random,
            disk,
            superblock,
            clock: ManualClock::new(),
            cores: Vec::new(),
            postboxes: Vec::new(),
            clients,
            links: Vec::new(),
            summary: Summary::default(),
        };
        world.start_cores();
        world
    }

    fn start_cores(&mut self) {
        let (postboxes, mailboxes): (Vec<CorePostbox<SimCarriers>>, Vec<_>) =
            (0..self.plan.cores).map(|_| core_mailbox(4 + self.random.below(60) as usize).expect("an eventfd")).unzip();
        let policy = Arc::new(self.policy());
        for (core, mailbox) in mailboxes.into_iter().enumerate() {
            let core = core as u16;
            let mut blocks = SimQueue::new(&self.disk, self.random.fork(), self.plan.slowest);
            let map = OwnerMap { shards: self.plan.shards, cores: u32::from(self.plan.cores) };
            let ownership = Ownership { map, core };
            let plan = CorePlan {
                superblock: self.superblock,
                ownership,
                seed: self.random.bits(),
                entries: None,
                commit_ticks: self.clock.ticks_of_micros(self.random.between(1, 5_000)),
                staging_buffers: 4,
            };
            let mut arena = Arena::new(plan.arena_bytes(), HugePages::Off, RegionSlot(0)).expect("memory for a core");
            blocks.attach(Arc::clone(arena.region())).expect("an empty table");
            let (shards, staging) = plan.assemble(&mut arena).expect("a plan that fits");
            let mut pipeline = CorePipeline::new(Parts {
                ownership,
                blocks,
                fabric: SimCarriers::new(core),
                clock: self.clock.clone(),
                shards,
                staging,
                pacing: PacingConfig {
                    write_window_bytes: 128 << 10,
                    write_piece_bytes: 32 << 10,
                    quiet_ticks: 50_000,
                },
                mailbox,
                peers: postboxes.clone(),
                policy: Arc::clone(&policy),
            });
            for client in self.clients.iter().filter(|client| client.link().is_none()) {
                let region = Arc::clone(client.region());
                pipeline.command(SimCarrierCommand::Local(SimCommand::Attach(region)));
            }
            self.cores.push(pipeline);
        }
        self.postboxes = postboxes;
        if self.plan.has_links() {
            self.open_links();
        }
    }

    /// Gives the cores their staging memory, and connects the clients that come by TCP.
    fn open_links(&mut self) {
        let region = |core: u16| {
            let slot = RegionSlot(FIRST_STAGING_SLOT + core);
            Arc::new(Region::anonymous(STAGING.bytes() as usize, slot).expect("staging memory"))
        };
        let map = StagingMap::new(STAGING, (0..self.plan.cores).map(region).collect()).expect("regions as laid out");
        for core in &mut self.cores {
            let told = ask(core, |answer| CoreCommand::Open(map.clone(), answer));
            assert_eq!(told.try_recv(), Ok(Ok(())), "memory that no device refuses");
        }
        self.links = (0..self.clients.len()).map(|client| self.connect(client)).collect();
    }

    fn connect(&mut self, client: usize) -> Vec<Link> {
        (0..self.cores.len()).filter_map(|core| self.connect_to(client, core)).collect()
    }

    fn connect_to(&mut self, client: usize, core: usize) -> Option<Link> {
        let client = &self.clients[client];
        let (link, taken) =
            Link::new(&client.link()?, client.session(), core as u16, client.region(), self.random.fork());
        let told = ask(&mut self.cores[core], |answer| CoreCommand::TakeTcp(Box::new(taken), answer));
        assert_eq!(told.try_recv(), Ok(Ok(())), "a core has room for all of them");
        Some(link)
    }

    fn policy(&self) -> PolicyTable {
        let mut builder = PolicyTable::builder();
        let clients = self.plan.clients.iter().zip(&self.clients);
        for (client, _) in clients.filter(|(_, client)| !client.is_denied()) {
            let grant = Grant {
                ns28: ns28(client.tenant),
                namespace: client.number,
                class: if self.plan.durable { Durability::Durable } else { Durability::Cache },
                quota_bytes: self.plan.quota,
                max_value_bytes: client.longest as u32,
                writable: true,
            };
            let view = builder.view([(1, grant)]);
            builder.session(SessionId(client.number), view);
        }
        builder.build()
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The first violation.
    pub fn run(mut self) -> Result<Summary, Violation> {
        let result = self.live();
        let summary = self.summary;
        // A violation ends the world as it is.
        abandoning(|| drop(self));
        result.map(|()| summary)
    }

    fn live(&mut self) -> Result<(), Violation> {
        self.settle("the first start", |core| core.is_ready())?;
        let mut submitted = 0;
        let mut quiet = 0;
        let cut_every = self.plan.commands / (self.plan.power_cuts + 1) + 1;
        let mut next_cut = cut_every;
        while submitted < self.plan.commands {
            let answered = self.turn()?;
            quiet = if answered > 0 { 0 } else { quiet + 1 };
            if quiet > STUCK_TURNS {
                return Err(self.stuck());
            }
            submitted += self.submit()?;
            if submitted >= next_cut {
                next_cut += cut_every;
                self.power_cut()?;
            }
            if self.random.chance(self.plan.client_crashes) && self.random.chance(20) {
                self.crash_client()?;
            }
            if self.plan.revocations > 0 && self.random.below(100_000) < u64::from(self.plan.revocations) {
                self.change_policy()?;
            }
        }
        self.finish()
    }

    /// One core has its turn, and time goes on.
    fn turn(&mut self) -> Result<usize, Violation> {
        let core = self.random.below(self.cores.len() as u64) as usize;
        self.clock.advance_micros(1 + self.random.below(20));
        let now = self.clock.now();
        let _: Poll = self.cores[core].poll(now);
        self.summary.turns += 1;
        let answered = self.collect(core)?;
        Ok(answered + if self.plan.has_links() { self.turn_link()? } else { 0 })
    }

    /// One queue over TCP is polled, or connected again if it was cut and the target is through with it.
    fn turn_link(&mut self) -> Result<usize, Violation> {
        let (client, core) = (
            self.random.below(self.clients.len() as u64) as usize,
            self.random.below(self.cores.len() as u64) as usize,
        );
        let Some(link) = self.links[client].get_mut(core) else { return Ok(0) };
        let ended = link.poll()?;
        let count = ended.len();
        for (cid, completion) in ended {
            self.clients[client].answered(cid, completion)?;
        }
        self.summary.answers += count as u64;
        self.summary.by_tcp += count as u64;
        let often = self.clients[client].link().map_or(0, |link| link.wire.cut);
        if often > 0 && self.random.below(100_000) < u64::from(often) {
            link.cut();
            self.summary.cuts += 1;
        }
        if link.is_lost() && link.is_over() {
            link.unanswered().into_iter().for_each(|cid| self.clients[client].unanswered(cid));
            self.links[client][core] = self.connect_to(client, core).expect("it comes by TCP");
        }
        Ok(count)
    }

    fn collect(&mut self, core: usize) -> Result<usize, Violation> {
        let completions = std::mem::take(&mut self.cores[core].fabric_mut().local.completions);
        let count = completions.len();
        for (queue, cid, completion) in completions {
            // A client that died meanwhile has a new life; what was for the old one is nobody's.
            let Some(client) = self.clients.iter_mut().find(|client| client.queue() == queue) else { continue };
            client.answered(cid, completion)?;
            self.summary.answers += 1;
        }
        if lost_completions() > 0 {
            return Err(Violation("a command was dropped without a completion".into()));
        }
        Ok(count)
    }

    fn submit(&mut self) -> Result<u64, Violation> {
        let mut submitted = 0;
        for at in 0..self.clients.len() {
            if !self.random.chance(300) {
                continue;
            }
            if self.clients[at].link().is_some() {
                submitted += self.submit_by_link(at)?;
                continue;
            }
            let client = &mut self.clients[at];
            let Some((sqe, data)) = client.submit() else { continue };
            client.began(&sqe);
            let (queue, session) = (client.queue(), client.session());
            // Any queue may carry any key.
            let core = self.random.below(self.cores.len() as u64) as usize;
            self.cores[core].fabric_mut().local.submit(queue, session, sqe, data);
            submitted += 1;
        }
        Ok(submitted)
    }

    fn submit_by_link(&mut self, at: usize) -> Result<u64, Violation> {
        let core = self.random.below(self.cores.len() as u64) as usize;
        let Some(link) = self.links[at].get_mut(core).filter(|link| link.has_room()) else { return Ok(0) };
        let client = &mut self.clients[at];
        let Some((sqe, data)) = client.submit() else { return Ok(0) };
        client.began(&sqe);
        link.submit(sqe, client.region(), &data)?;
        Ok(1)
    }

    /// Turns the cores until `done` says so of each.
    fn settle(&mut self, what: &str, done: impl Fn(&Core) -> bool) -> Result<(), Violation> {
        for _ in 0..STUCK_TURNS * self.cores.len() as u64 {
            if self.cores.iter().all(&done) {
                return Ok(());
            }
            self.turn()?;
        }
        Err(Violation(format!("{what} does not come to an end")))
    }

    /// Every command ends, every key is read once more, and nothing leaks.
    fn finish(&mut self) -> Result<(), Violation> {
        self.settle("the work under way", |core| core.outstanding() == 0)?;
        self.end_links()?;
        if self.clients.iter().any(|client| client.outstanding() > 0) {
            return Err(Violation("the cores are idle, but a command has no completion".into()));
        }
        self.count_loans();
        self.summary.corrupt = self.clients.iter().map(|client| client.corrupt).sum();
        self.summary.refused = self.clients.iter().map(|client| client.refused).sum();
        self.summary.evicted =
            self.cores.iter().flat_map(|core| core.shards()).map(|shard| shard.stats().evicted_segments).sum();
        for core in 0..self.cores.len() {
            let mut turns = 0;
            while !self.drain(core) {
                turns += 1;
                if turns > STUCK_TURNS {
                    return Err(Violation("a core does not drain".into()));
                }
            }
        }
        Ok(())
    }

    /// Waits for every answer over TCP, then closes the queues: nothing may be left of them.
    fn end_links(&mut self) -> Result<(), Violation> {
        let mut turns = 0;
        let mut until = |world: &mut Self, what: &str, done: &dyn Fn(&Self) -> bool| {
            while !done(world) {
                turns += 1;
                if turns > STUCK_TURNS * world.cores.len() as u64 {
                    return Err(Violation(format!("{what}; {:?}", world.held())));
                }
                world.turn()?;
            }
            Ok(())
        };
        let all_answered = |world: &Self| {
            let idle = world.clients.iter().all(|client| client.outstanding() == 0);
            idle && world.cores.iter().all(|core| core.outstanding() == 0)
        };
        until(self, "a command gets no answer", &all_answered)?;
        self.links.iter_mut().flatten().for_each(Link::leave);
        let nothing_left = |world: &Self| {
            let over = world.links.iter().flatten().all(Link::is_over);
            over && world.held().iter().all(|held| *held == Held::default())
        };
        until(self, "something is left of queues that ended", &nothing_left)
    }

    /// Of the cores that there are, which do not count any more then.
    fn count_loans(&mut self) {
        for core in &self.cores {
            self.summary.lent += core.fabric().lent;
            self.summary.recalled += core.fabric().recalled;
        }
    }

    fn held(&self) -> Vec<Held> {
        self.cores.iter().map(|core| core.fabric().message.held()).collect()
    }

    fn drain(&mut self, core: usize) -> bool {
        self.clock.advance_micros(10);
        let now: Ticks = self.clock.now();
        self.cores[core].drain(now)
    }

    fn stuck(&self) -> Violation {
        let outstanding: Vec<_> = self.cores.iter().map(CorePipeline::outstanding).collect();
        Violation(format!("no answer for {STUCK_TURNS} turns; outstanding by core: {outstanding:?}"))
    }
}

fn format(plan: &Plan, mut blocks: SimQueue) -> Superblock {
    let mut arena = Arena::new(store::UNIT_BYTES as usize, HugePages::Off, RegionSlot(0)).expect("scratch memory");
    blocks.attach(Arc::clone(arena.region())).expect("an empty table");
    let scratch = arena.alloc(store::UNIT_BYTES as usize, 4096).expect("all of the arena");
    let mut options = FormatOptions::new([0x51; 16], plan.shards);
    options.segment_bytes = plan.segment_bytes;
    options.max_value_bytes = 256 << 10;
    store::format(&mut blocks, &scratch, &options).expect("a disk without faults")
}
