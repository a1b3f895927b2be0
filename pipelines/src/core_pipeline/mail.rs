//! What crosses from core to core, and from the control threads to a core.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use dataplane::core::{Mailbox, PostError, Postbox, WakeEvent, mailbox, mailbox_on};
use dataplane::fabric::{Fabric, QueuePairInfo};

use super::lists::ListJob;
use crate::accounting::{Operations, Stage, StageCounters, TraceEntry};
use crate::classify::Ended;
use crate::policy::{Admitted, PolicyTable};
use crate::store::ShardStats;

/// A message to a core.
pub enum Mail<F: Fabric> {
    /// A command whose key the receiver owns.
    Forward(Admitted),
    /// A command of the receiver's client that its owner has ended.
    Ended(Ended),
    /// A list on its way.
    List(Box<ListJob<F::Data>>),
    /// A lease ended; the receiver may have blocks under it.
    Unlease(u32),
    /// The carrier's control side wants something.
    Fabric(F::Command),
    /// A new policy.
    Policy(Arc<PolicyTable>),
    /// A namespace was deleted.
    Purge(u32),
    /// Fill the snapshot and send it back.
    Snapshot(Box<Snapshot>, SyncSender<Box<Snapshot>>),
    /// Set the counters to zero.
    ResetCounters,
}

/// The two queues of a mailbox. Each is in order; an order may overtake work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// What a core can always take: it takes some of it in every turn.
    Orders,
    /// What a core takes only while it has room for it.
    Work,
}

impl<F: Fabric> Mail<F> {
    pub(super) fn lane(&self) -> Lane {
        match self {
            // The end of a lease goes behind the list that took it.
            Self::Forward(_) | Self::List(_) | Self::Unlease(_) => Lane::Work,
            Self::Ended(_)
            | Self::Fabric(_)
            | Self::Policy(_)
            | Self::Purge(_)
            | Self::Snapshot(..)
            | Self::ResetCounters => Lane::Orders,
        }
    }
}

/// The end that a core takes its mail out of.
pub struct CoreMailbox<F: Fabric> {
    orders: Mailbox<Mail<F>>,
    work: Mailbox<Mail<F>>,
}

/// The end that others put a core's mail into. Cheap to clone, for any thread.
pub struct CorePostbox<F: Fabric> {
    orders: Postbox<Mail<F>>,
    work: Postbox<Mail<F>>,
}

/// A core's mailbox, with room for `capacity` messages in each of its two queues. There are two because a core without room
/// takes no more work, and must hear of a host that left, or of a new policy, all the same: it may be what makes room.
///
/// # Errors
/// What `eventfd` says.
pub fn core_mailbox<F: Fabric>(capacity: usize) -> io::Result<(CorePostbox<F>, CoreMailbox<F>)> {
    let (to_orders, orders) = mailbox(capacity)?;
    let (to_work, work) = mailbox_on(capacity, Arc::clone(orders.event()));
    Ok((CorePostbox { orders: to_orders, work: to_work }, CoreMailbox { orders, work }))
}

impl<F: Fabric> CoreMailbox<F> {
    /// The next order.
    pub(super) fn take_order(&mut self) -> Option<Mail<F>> {
        self.orders.take()
    }

    /// The next piece of work.
    pub(super) fn take_work(&mut self) -> Option<Mail<F>> {
        self.work.take()
    }

    /// What a message sets.
    pub(super) fn event(&self) -> &Arc<WakeEvent> {
        self.orders.event()
    }
}

impl<F: Fabric> CorePostbox<F> {
    /// Puts a message in, and wakes the core if it sleeps. Never waits.
    ///
    /// # Errors
    /// The message, if there is no room or the core has stopped.
    #[allow(clippy::result_large_err, reason = "handing the mail back is the point, and costs no allocation")]
    pub fn post(&self, mail: Mail<F>) -> Result<(), PostError<Mail<F>>> {
        match mail.lane() {
            Lane::Orders => self.orders.post(mail),
            Lane::Work => self.work.post(mail),
        }
    }
}

impl<F: Fabric> Clone for CorePostbox<F> {
    fn clone(&self) -> Self {
        Self { orders: self.orders.clone(), work: self.work.clone() }
    }
}

/// What a core tells of itself. The asker allocates it, so that the core need not.
#[derive(Debug)]
pub struct Snapshot {
    /// The core.
    pub core: u16,
    /// Whether all its shards have recovered.
    pub ready: bool,
    /// Counters of the stages.
    pub stages: Vec<(Stage, StageCounters)>,
    /// Outcomes and latencies by operation.
    pub operations: Operations,
    /// The shards it owns: number and counters.
    pub shards: Vec<(u32, ShardStats)>,
    /// Bytes held by the namespace that was asked for, on this core.
    pub namespace_used: u64,
    /// Whether that namespace is still being purged.
    pub purging: bool,
    /// The queue pairs it serves.
    pub queue_pairs: Vec<QueuePairInfo>,
    /// The flight recorder, if it was asked for.
    pub trace: Vec<TraceEntry>,
    /// Commands forwarded to other cores.
    pub forwarded: u64,
    /// Hints accepted.
    pub hinted: u64,
    /// Bytes of values that the CPU copied because they were not aligned.
    pub staged_bytes: u64,
    /// Bytes that the CPU copied between this process and clients, lists of keys included.
    pub copied_bytes: u64,
    pub(super) wants: Wants,
}

/// What to fill in besides the counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wants {
    /// The flight recorder.
    pub trace: bool,
    /// The bytes held by this namespace.
    pub namespace: Option<u32>,
}

impl Snapshot {
    /// A blank with room for everything.
    #[must_use]
    pub fn blank(wants: Wants) -> Box<Self> {
        Box::new(Self {
            core: 0,
            ready: false,
            stages: Vec::with_capacity(Stage::ALL.len()),
            operations: Operations::new(),
            shards: Vec::with_capacity(256),
            namespace_used: 0,
            purging: false,
            queue_pairs: Vec::with_capacity(1024),
            trace: Vec::with_capacity(if wants.trace { crate::accounting::FlightRecorder::ENTRIES } else { 0 }),
            forwarded: 0,
            hinted: 0,
            staged_bytes: 0,
            copied_bytes: 0,
            wants,
        })
    }
}
