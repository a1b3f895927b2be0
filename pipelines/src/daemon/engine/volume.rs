//! The devices under a store as one, and what was done on each.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dataplane::memory::{Arena, ArenaBuffer, ArenaError, HugePages};
use dataplane::nvme::span::{IoCounters, IoFigures, SpanPart, SpanQueue};
use dataplane::nvme::{BlockQueue, Geometry};

use super::device::{FormatPolicy, QueueSource};
use super::prepare::{EnginePlan, PrepareError, format_options};
use crate::store::{FormatOptions, FoundLabel, SetLabel, StoreError, UNIT_BYTES, find_label, write_label};

/// The counters of one device, over all queues on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Meters(Arc<Mutex<Vec<Arc<IoCounters>>>>);

impl Meters {
    fn all(&self) -> MutexGuard<'_, Vec<Arc<IoCounters>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counters for one more queue.
    fn add(&self) -> Arc<IoCounters> {
        let counters = Arc::new(IoCounters::default());
        self.all().push(Arc::clone(&counters));
        counters
    }

    /// Whether both are the counters of the same device.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What they stand at together.
    pub(super) fn figures(&self) -> IoFigures {
        let mut sum = IoFigures::default();
        self.all().iter().for_each(|counters| sum += counters.figures());
        sum
    }

    /// Tells every queue that the device is gone for good.
    pub(super) fn set_gone(&self) {
        self.all().iter().for_each(|counters| counters.set_gone());
    }
}

/// An open device, before it is known which part of it is the store's.
#[derive(Clone)]
pub(super) struct Opened<S> {
    pub(super) name: String,
    pub(super) source: S,
    pub(super) meters: Meters,
}

#[derive(Clone)]
struct Member<S> {
    opened: Opened<S>,
    geometry: Geometry,
    first_byte: u64,
    bytes: u64,
}

/// The devices under a store, in order.
#[derive(Clone)]
pub(super) struct Volume<S> {
    members: Arc<[Member<S>]>,
}

impl<S: QueueSource> Volume<S> {
    /// A queue on all of them for the calling thread.
    pub(super) fn queue(&self) -> io::Result<SpanQueue<S::Queue>> {
        let part = |member: &Member<S>| {
            let queue = member.opened.source.queue().map_err(|error| named(&member.opened.name, error))?;
            let counters = member.opened.meters.add();
            Ok(SpanPart { queue, first_byte: member.first_byte, bytes: member.bytes, counters })
        };
        SpanQueue::new(self.members.iter().map(part).collect::<io::Result<_>>()?)
    }

    /// Memory that all of them can reach, for one core.
    pub(super) fn arena(&self, bytes: usize, huge: HugePages) -> Result<Arena, ArenaError> {
        // They are of one kind, so what suits one suits all but for those that are processes.
        arena_for(self.members.iter().map(|member| &member.opened), bytes, huge)
    }

    /// The shape of each device, in the order of the store.
    pub(super) fn shapes(&self) -> impl Iterator<Item = (&Opened<S>, &Geometry)> {
        self.members.iter().map(|member| (&member.opened, &member.geometry))
    }
}

fn named(name: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{name}: {error}"))
}

/// Memory from the device that asks for the most particular kind.
fn arena_for<'a, S: QueueSource>(
    devices: impl Iterator<Item = &'a Opened<S>>,
    bytes: usize,
    huge: HugePages,
) -> Result<Arena, ArenaError> {
    let devices: Vec<_> = devices.collect();
    let particular = devices.iter().find(|opened| opened.source.needs_files()).or(devices.first());
    particular.ok_or(ArenaError::Empty)?.source.arena(bytes, huge)
}

/// One device, with a queue and a page of memory to look at it with.
struct Look<S: QueueSource> {
    opened: Opened<S>,
    blocks: S::Queue,
    staging: ArenaBuffer,
    found: FoundLabel,
}

impl<S: QueueSource> Look<S> {
    fn new(opened: Opened<S>) -> Result<Self, PrepareError> {
        let system = |cause| PrepareError::System { what: "cannot set up a queue on the device", cause };
        let mut blocks = opened.source.queue().map_err(|cause| system(named(&opened.name, cause)))?;
        let mut arena = opened.source.arena(UNIT_BYTES as usize, HugePages::Off)?;
        blocks.attach(Arc::clone(arena.region()))?;
        let staging = arena.alloc(UNIT_BYTES as usize, 4096).ok_or(ArenaError::Empty)?;
        let found = find_label(&mut blocks, &staging).map_err(|cause| failed(&opened, cause))?;
        Ok(Self { opened, blocks, staging, found })
    }

    fn label(&self) -> Option<&SetLabel> {
        match &self.found {
            FoundLabel::Label(label) => Some(label),
            _ => None,
        }
    }

    fn write(&mut self, label: Option<&SetLabel>) -> Result<(), PrepareError> {
        write_label(&mut self.blocks, &self.staging, label).map_err(|cause| failed(&self.opened, cause))
    }

    fn member(self, first_byte: u64, bytes: u64) -> Member<S> {
        let geometry = *self.blocks.geometry();
        Member { opened: self.opened, geometry, first_byte, bytes }
    }
}

fn failed<S>(opened: &Opened<S>, cause: StoreError) -> PrepareError {
    PrepareError::Store { name: opened.name.clone(), cause }
}

fn apart<S>(opened: &Opened<S>, why: String) -> PrepareError {
    PrepareError::Set { name: opened.name.clone(), why }
}

/// Devices that were joined, and how the store on them is to be formatted if there is none.
pub(super) struct Joined<S> {
    pub(super) volume: Volume<S>,
    /// The uuid that stands on the devices, which a store on them must have.
    pub(super) uuid: Option<[u8; 16]>,
    pub(super) options: FormatOptions,
}

/// Finds out which device is which, in whatever order they were given, and labels new ones.
pub(super) fn join<S: QueueSource>(plan: &EnginePlan, opened: Vec<Opened<S>>) -> Result<Joined<S>, PrepareError> {
    let mut looks = opened.into_iter().map(Look::new).collect::<Result<Vec<_>, _>>()?;
    let capacities: Vec<u64> = looks.iter().map(|look| look.blocks.geometry().bytes()).collect();
    let mut options = format_options(plan, capacities.iter().sum());
    if let [_] = looks[..] {
        return join_one(plan, looks.remove(0), options);
    }
    let labels = if is_new(plan, &looks)? {
        let labels = options.labels(&capacities);
        let labels = labels.map_err(|cause| PrepareError::Store { name: plan.store.name(), cause })?;
        // The first last: until it has its label, the devices are told to be of no use together.
        for (look, label) in looks.iter_mut().zip(&labels).rev() {
            look.write(Some(label))?;
        }
        labels
    } else {
        order(&mut looks)?
    };
    let Some(first) = labels.first() else { return Err(ArenaError::Empty.into()) };
    (options.uuid, options.segment_bytes) = (first.uuid, first.segment_bytes);
    let uuid = Some(first.uuid);
    let members = looks.into_iter().zip(&labels).map(|(look, label)| look.member(label.first_byte, label.bytes));
    Ok(Joined { volume: Volume { members: members.collect() }, uuid, options })
}

fn join_one<S: QueueSource>(
    plan: &EnginePlan,
    mut look: Look<S>,
    options: FormatOptions,
) -> Result<Joined<S>, PrepareError> {
    if let Some(label) = look.label() {
        if plan.store.format != FormatPolicy::Force {
            let why = format!(
                "it is one of the {} devices of a store; give all of them, or format=force to begin a new store on this \
                 one alone",
                label.count
            );
            return Err(apart(&look.opened, why));
        }
        look.write(None)?;
    }
    let bytes = look.blocks.geometry().bytes();
    Ok(Joined { volume: Volume { members: [look.member(0, bytes)].into() }, uuid: None, options })
}

/// Whether the devices are to be labelled.
fn is_new<S: QueueSource>(plan: &EnginePlan, looks: &[Look<S>]) -> Result<bool, PrepareError> {
    if plan.store.format == FormatPolicy::Force {
        return Ok(true);
    }
    if looks.iter().any(|look| look.label().is_some()) {
        return Ok(false);
    }
    // No store has been made on them together; that none is lost is all there is to see to.
    match looks.iter().find(|look| look.found != FoundLabel::Blank) {
        Some(look) => Err(failed(&look.opened, StoreError::Foreign)),
        None if plan.store.format == FormatPolicy::Never => {
            Err(PrepareError::Store { name: plan.store.name(), cause: StoreError::Blank })
        }
        None => Ok(true),
    }
}

/// Puts the devices in the order of their labels, which must be those of one store and all of them.
fn order<S: QueueSource>(looks: &mut [Look<S>]) -> Result<Vec<SetLabel>, PrepareError> {
    let Some(one) = looks.iter().find_map(|look| look.label().copied()) else { return Ok(Vec::new()) };
    for look in &*looks {
        let bytes = look.blocks.geometry().bytes();
        let why = match look.label() {
            None => "it is none of the devices of the store that is on the others".to_owned(),
            Some(label) if label.uuid != one.uuid => "it belongs to another store than the other devices".to_owned(),
            Some(label) if usize::from(label.count) != looks.len() => {
                format!("it is one of the {} devices of a store, and {} are given", label.count, looks.len())
            }
            Some(label) if label.first_byte.saturating_add(label.bytes) > bytes => {
                format!("it has {bytes} bytes, less than when it was formatted")
            }
            Some(_) => continue,
        };
        return Err(apart(
            &look.opened,
            format!("{why}; give the devices of one store, or format=force to begin anew"),
        ));
    }
    looks.sort_by_key(|look| look.label().map(|label| label.index));
    let labels: Vec<_> = looks.iter().filter_map(|look| look.label().copied()).collect();
    match looks.iter().zip(&labels).zip(0..).find(|((_, label), index)| label.index != *index) {
        Some(((look, _), _)) => Err(apart(&look.opened, "two devices carry the same label; is one a copy?".into())),
        None => Ok(labels),
    }
}
