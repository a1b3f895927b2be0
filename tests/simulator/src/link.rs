//! One queue of a client that comes by TCP: our own initiator at one end of a simulated stream, our target at the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataplane::Burst;
use dataplane::fabric::message::HostLink;
use dataplane::fabric::tcp::initiator::fuzzing::queue_over;
use dataplane::fabric::tcp::initiator::{InitiatorQueue, Lost, QueueTerms};
use dataplane::fabric::tcp::target::NewTcpQueue;
use dataplane::fabric::tcp::wire::{Alignment, Decoder, Digests, End, Framing, Limits};
use dataplane::fabric::{Completion, SessionId};
use dataplane::memory::Region;
use dataplane::nvme::spec::{SglDescriptor, Sqe};

use crate::client::Violation;
use crate::fabric::SimData;
use crate::random::Random;
use crate::wire::{HostSocket, Socket, Watch, WireFaults, wire};

/// Data that comes with a capsule at most.
const CAPSULE_DATA: u32 = 8192;

/// What a client that comes by TCP agrees on with the target.
#[derive(Clone, Copy, Debug)]
pub struct LinkPlan {
    /// What the streams do.
    pub wire: WireFaults,
    /// Whether headers and data have digests.
    pub digests: (bool, bool),
    /// Commands that a queue holds.
    pub depth: u16,
    /// Data in one H2CData PDU.
    pub max_data: u32,
}

/// A queue to one core.
pub struct Link {
    queue: Option<InitiatorQueue<HostSocket>>,
    watch: Watch,
    /// What the target has to say of the host.
    told: Arc<HostLink>,
    /// The client's commands by the queue's identifiers.
    commands: BTreeMap<u16, u16>,
    /// The client ends it.
    leaving: bool,
}

impl Link {
    /// A connected queue, and what the target's core is to take over.
    #[must_use]
    pub fn new(
        plan: &LinkPlan,
        session: SessionId,
        core: u16,
        region: &Arc<Region>,
        random: Random,
    ) -> (Self, NewTcpQueue<Socket>) {
        let (host, target, watch) = wire(plan.wire, random);
        let digests = Digests { header: plan.digests.0, data: plan.digests.1 };
        let framing = Framing { digests, alignment: Alignment::DWORD };
        let told = Arc::new(HostLink::default());
        let mut decoder = Decoder::new(End::Controller);
        (decoder.initialized, decoder.framing) = (true, framing);
        decoder.limits = Limits { capsule_data: CAPSULE_DATA, h2c_data: plan.max_data };
        let taken = NewTcpQueue {
            stream: target,
            session,
            qid: core + 1,
            // A queue of n entries holds n - 1 commands.
            entries: u32::from(plan.depth) + 1,
            decoder,
            framing,
            max_transfer_bytes: 1 << 20,
            link: Arc::clone(&told),
        };
        let terms = QueueTerms { qid: core + 1, depth: plan.depth, core, capsule_data: CAPSULE_DATA };
        let mut queue = queue_over(host, terms, digests, Alignment::DWORD, plan.max_data);
        assert!(queue.attach(region), "one region");
        (Self { queue: Some(queue), watch, told, commands: BTreeMap::new(), leaving: false }, taken)
    }

    /// Whether it takes a command now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.room() > 0)
    }

    /// Sends a command of the client, whose data lies in the region.
    ///
    /// # Errors
    /// What is violated.
    pub fn submit(&mut self, mut sqe: Sqe, region: &Region, data: &SimData) -> Result<(), Violation> {
        let named = sqe.cid();
        sqe.set_sgl(SglDescriptor::data_block(region.base() + data.offset, data.bytes));
        let pushed = self.queue.as_mut().and_then(|queue| queue.push(sqe).ok());
        let Some(cid) = pushed else { return Err(Violation("a queue with room takes no command".into())) };
        match self.commands.insert(cid, named) {
            None => Ok(()),
            Some(_) => Err(Violation(format!("identifier {cid} was given out while it is outstanding"))),
        }
    }

    /// The client's identifiers of commands that ended, and how.
    ///
    /// # Errors
    /// What is violated.
    pub fn poll(&mut self) -> Result<Vec<(u16, Completion)>, Violation> {
        let Some(queue) = &mut self.queue else { return Ok(Vec::new()) };
        let mut done = Burst::new();
        queue.ring();
        queue.poll(&mut done);
        let mut ended = Vec::new();
        for cqe in done {
            let Some(named) = self.commands.remove(&cqe.cid) else {
                return Err(Violation(format!("identifier {} was completed and is not outstanding", cqe.cid)));
            };
            ended.push((named, Completion { dword0: cqe.dword0, dword1: cqe.dword1, status: cqe.status }));
        }
        let lost = queue.lost().map(|lost| (lost.to_string(), matches!(lost, Lost::Closed)));
        if let Some((why, closed)) = lost {
            if !self.watch.is_cut() || !closed {
                return Err(Violation(format!("a connection ended that nobody cut: {why}")));
            }
            self.queue = None;
        } else if self.told.is_lost() && !self.watch.is_cut() {
            return Err(Violation("the target says that the host broke the protocol".into()));
        }
        Ok(ended)
    }

    /// Cuts the stream.
    pub fn cut(&self) {
        self.watch.cut();
    }

    /// Closes the client's end.
    pub fn leave(&mut self) {
        self.leaving = true;
        self.queue = None;
    }

    /// Whether the stream is over at both ends: nothing of its commands happens any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.queue.is_none() && self.watch.is_gone()
    }

    /// Whether it was cut, so that another is to follow it.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.queue.is_none() && !self.leaving
    }

    /// The client's commands that never got an answer.
    #[must_use]
    pub fn unanswered(&self) -> Vec<u16> {
        self.commands.values().copied().collect()
    }
}
