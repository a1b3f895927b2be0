//! Random work, power cuts at any point, and a model of what may then be found.
//!
//! For each key the model keeps the last state that is sure to be durable and every state since. After a power cut
//! any of these may be found, and nothing else; while power lasts, only the last, unless eviction may have taken it.

use std::collections::BTreeMap;

use super::device::{Dice, Medium};
use super::world::{NAMESPACE, World, id_in, value_of};
use crate::store::{BlockId, Class, Deleted, Published};
use dataplane::core::Ticks;

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// The version of its value; `None` if it was removed.
    value: Option<(u64, Class)>,
    /// The step's own name, which is its ticket.
    step: u64,
}

#[derive(Clone, Debug)]
struct History {
    /// Oldest first; the first is durable.
    states: Vec<State>,
}

impl History {
    fn new() -> Self {
        Self { states: vec![State { value: None, step: 0 }] }
    }

    fn last(&self) -> State {
        *self.states.last().unwrap()
    }

    /// A step was acknowledged as durable: nothing before it may come back.
    fn is_durable(&mut self, step: u64) {
        if let Some(at) = self.states.iter().position(|state| state.step == step) {
            self.states.drain(..at);
        }
    }

    /// Whether a value may be found after a power cut.
    fn allows(&self, version: Option<u64>) -> bool {
        let evictable = self.states.iter().any(|state| matches!(state.value, Some((_, Class::Cache))));
        version.is_none() && evictable || self.states.iter().any(|state| state.value.map(|value| value.0) == version)
    }
}

struct Model {
    keys: BTreeMap<BlockId, History>,
    lengths: BTreeMap<u64, u32>,
    next: u64,
}

impl Model {
    fn note(&mut self, id: BlockId, state: State) {
        self.keys.entry(id).or_insert_with(History::new).states.push(state);
    }

    fn settle(&mut self, world: &mut World) {
        for (ticket, ok) in world.ended.drain(..) {
            assert!(ok, "no device error, no failed ticket");
            self.keys.values_mut().for_each(|history| history.is_durable(ticket));
        }
    }
}

fn random_id(dice: &mut Dice) -> BlockId {
    id_in(NAMESPACE + dice.below(2) as u32, dice.below(40))
}

/// One random step.
fn step(world: &mut World, model: &mut Model, dice: &mut Dice, durable: u64) {
    match dice.below(20) {
        0..=6 => {
            let version = model.next;
            let bytes = [0, 100, 4096, 9000, 20_000, 40_000][dice.below(6) as usize];
            let class = if dice.chance(durable) { Class::Durable } else { Class::Cache };
            if world.begin(random_id(dice), version, bytes, class).is_ok() {
                model.lengths.insert(version, bytes);
                model.next += 1;
            }
        }
        7..=12 => {
            if let Some((id, version, class, published)) = world.publish() {
                match published {
                    Some(Published::Visible)
                        if world.shard.is_purging(id.space.namespace()) && world.find(&id).is_none() => {}
                    Some(Published::Visible | Published::Pending) => {
                        model.note(id, State { value: Some((version, class)), step: version });
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        13 => {
            let id = random_id(dice);
            let class = if dice.chance(50) { Class::Durable } else { Class::Cache };
            let ticket = model.next;
            let hash = world.shard.hash(&id);
            if matches!(world.shard.delete(hash, &id, class, ticket), Deleted::Done | Deleted::Pending) {
                model.next += 1;
                model.note(id, State { value: None, step: ticket });
            }
        }
        14 => {
            let id = random_id(dice);
            if let Some(found) = world.find(&id) {
                world.shard.touch(&found);
                if dice.chance(30) {
                    assert!(world.shard.lease(&found, dice.below(4) as u32, Ticks(world.now + 200)));
                }
            }
        }
        15 if dice.chance(10) => world.shard.unlease(dice.below(4) as u32),
        16 if dice.chance(5) => {
            let namespace = NAMESPACE + 1;
            if world.shard.purge(namespace) {
                let step = model.next;
                model.next += 1;
                for (id, history) in &mut model.keys {
                    if id.space.namespace() == namespace {
                        history.states.push(State { value: None, step });
                    }
                }
            }
        }
        17 => check_one(world, model, random_id(dice)),
        _ => world.turn(),
    }
    model.settle(world);
}

/// Whether what is found now is what was put last.
fn check_one(world: &mut World, model: &Model, id: BlockId) {
    let last = model.keys.get(&id).map_or(State { value: None, step: 0 }, History::last);
    match (world.find(&id), last.value) {
        (None, None | Some((_, Class::Cache))) => {}
        (Some(found), Some((version, class))) => {
            assert_eq!((found.checksum, found.class), (version, class), "{id:?}");
            let bytes = world.read(&found).expect("no errors here");
            assert!(bytes == value_of(&id, version, model.lengths[&version]), "wrong bytes of {id:?} {version}");
        }
        (found, value) => panic!("{id:?}: found {found:?}, should be {value:?}"),
    }
}

/// Recovers and compares everything with the model, which then goes on from what was found.
fn check_recovered(world: &mut World, model: &mut Model) {
    world.recover();
    let ids: Vec<BlockId> = (0..2).flat_map(|ns| (0..40).map(move |number| id_in(NAMESPACE + ns, number))).collect();
    for id in ids {
        let history = model.keys.entry(id).or_insert_with(History::new);
        let found = world.find(&id);
        let version = found.map(|found| found.checksum);
        assert!(history.allows(version), "{id:?}: found {version:?}, allowed {history:?}");
        history.states = vec![State { value: found.map(|found| (found.checksum, found.class)), step: 0 }];
        if let Some(found) = found {
            let bytes = world.read(&found).expect("no errors here");
            assert!(bytes == value_of(&id, found.checksum, model.lengths[&found.checksum]), "wrong bytes of {id:?}");
        }
    }
    let stats = world.shard.stats();
    assert_eq!((stats.recovery.quarantined, stats.recovery.index_full, stats.lost_blocks), (0, 0, 0), "{stats:?}");
    let held: u64 = (0..2).map(|ns| world.shard.used_bytes(NAMESPACE + ns)).sum();
    assert_eq!(held, stats.live_bytes, "quota and segments agree");
}

fn run(seed: u64, volatile: bool, durable: u64) {
    let mut dice = Dice::new(seed);
    let medium = Medium::new((1 << 20) + (8 + dice.below(6)) * (256 << 10), volatile, seed + 1);
    World::format(&medium);
    let mut world = World::open(&medium);
    let mut model = Model { keys: BTreeMap::new(), lengths: BTreeMap::new(), next: 1 };
    for _ in 0..12 {
        check_recovered(&mut world, &mut model);
        let steps = dice.below(3000);
        for _ in 0..steps {
            step(&mut world, &mut model, &mut dice, durable);
        }
        // Sometimes again in the middle of recovery.
        let mut medium = world.crash();
        while dice.chance(30) {
            let mut again = World::open(&medium);
            (0..dice.below(20)).for_each(|_| again.turn());
            medium = again.crash();
        }
        world = World::open(&medium);
    }
    check_recovered(&mut world, &mut model);
    world.crash();
}

#[test]
fn whatever_a_power_cut_leaves_is_right() {
    for seed in 0..12 {
        for (volatile, durable) in [(true, 5), (true, 40), (false, 20)] {
            let outcome = std::panic::catch_unwind(|| run(seed, volatile, durable));
            assert!(outcome.is_ok(), "seed {seed}, volatile {volatile}, durable {durable}%");
        }
    }
}

#[test]
#[ignore = "a long soak: KVPLANE_SEEDS=1000 cargo test -p pipelines -- --ignored soak"]
fn soak() {
    let seeds = std::env::var("KVPLANE_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(200);
    for seed in 100..100 + seeds {
        for (volatile, durable) in [(true, 5), (true, 40), (false, 20)] {
            let outcome = std::panic::catch_unwind(|| run(seed, volatile, durable));
            assert!(outcome.is_ok(), "seed {seed}, volatile {volatile}, durable {durable}%");
        }
    }
}
