//! A turn of a core's pipeline.

use std::collections::VecDeque;

use dataplane::BURST;
use dataplane::Burst;
use dataplane::core::{Clock, Poll, Ticks};
use dataplane::fabric::{Completion, Fabric};
use dataplane::nvme::BlockQueue;
use dataplane::nvme::spec::Status;

use super::CorePipeline;
use super::leases::{LONGEST_LEASE_MS, Leases};
use super::lists::{LeaseTerms, Progress};
use super::mail::{Mail, Snapshot};
use crate::accounting::{Outcome, Stage, TraceEntry};
use crate::classify::{Ended, Operation, OperationKind, classify};
use crate::dma::Surroundings;
use crate::lines::CapsuleBurst;
use crate::placement::{PlacedBurst, place};
use crate::policy::{Admitted, AdmittedBurst, admit, admit_again};
use crate::store::Shard;

/// How long a host has for what it is being sent of a value whose segment is to be freed.
const PATIENCE_MICROS: u64 = 4_000_000;

impl<B: BlockQueue, F: Fabric, C: Clock> CorePipeline<B, F, C> {
    /// Does what there is to do now.
    pub(super) fn turn(&mut self, now: Ticks) -> Poll {
        self.meter.begin(now);
        let mut items = self.device_completions(now);
        items += self.send_outgoing();
        items += self.receive_mail(now);
        self.begin_purges();
        items += self.retry_waiting(now);
        items += self.receive_capsules(now);
        items += self.issue(now);
        items += self.work_on_lists(now);
        items += self.store_work(now);
        self.blocks.ring();
        self.fabric.settle(&mut self.blocks);
        self.take_loans_back();
        self.fabric.flush();
        Poll::of(items + usize::from(self.fabric.is_moving()))
    }

    /// Completions of the device: the dma stage's pieces, and the shards' own commands.
    fn device_completions(&mut self, now: Ticks) -> usize {
        let mut done = Burst::new();
        self.blocks.poll(&mut done);
        let count = done.len();
        if count > 0 {
            let mut ended = Burst::new();
            for completion in done.drain(..) {
                match (completion.token >> 56) as usize {
                    0 => {
                        let mut around = Surroundings {
                            blocks: &mut self.blocks,
                            fabric: &mut self.fabric,
                            shards: &mut self.shards,
                            now,
                        };
                        self.dma.done(completion, &mut around, &mut ended);
                    }
                    owner => {
                        if let Some(shard) = self.shards.get_mut(owner - 1) {
                            shard.done(completion.token, completion.result, &mut self.blocks);
                        }
                    }
                }
            }
            self.meter.charge(Stage::Device, count, &self.clock);
            self.complete_all(&mut ended);
        }
        count + self.commits()
    }

    /// Values that carriers have sent from where they lie.
    #[inline]
    fn take_loans_back(&mut self) {
        if self.dma.lent() == 0 {
            return;
        }
        let mut returned = Burst::new();
        self.fabric.take_returned(&mut returned);
        for loan in returned {
            self.dma.returned(loan, &mut self.shards);
        }
        if self.shards.iter().any(Shard::awaits_readers) {
            let patience = self.clock.ticks_of_micros(PATIENCE_MICROS);
            self.dma.recall(&mut self.fabric, &self.shards, patience);
        }
    }

    /// Durable Stores and Deletes whose records are on the medium now.
    fn commits(&mut self) -> usize {
        let mut count = 0;
        for index in 0..self.shards.len() {
            let mut tickets = Burst::new();
            self.shards[index].committed(&mut tickets);
            if tickets.is_empty() {
                continue;
            }
            count += tickets.len();
            let mut ended = Burst::new();
            for (ticket, durable) in tickets.drain(..) {
                self.dma.committed(ticket, durable, &mut ended);
            }
            self.complete_all(&mut ended);
        }
        count
    }

    /// Room for a whole burst of new commands everywhere they might go.
    fn has_room(&self) -> bool {
        self.dma.room() >= BURST + self.waiting.len()
            && self.outgoing.iter().all(VecDeque::is_empty)
            && self.has_room_for_lists()
    }

    /// Lists that wait for a context hold up nobody else until there are as many as fit.
    pub(super) fn has_room_for_lists(&self) -> bool {
        self.waiting_lists.len() + BURST <= self.waiting_lists.capacity()
    }

    /// New commands of this core's clients.
    fn receive_capsules(&mut self, now: Ticks) -> usize {
        if self.draining || !self.has_room() {
            return 0;
        }
        let Some(mut burst) = self.burst.take() else { return 0 };
        self.fabric.poll(burst.capsules());
        let count = burst.capsules().len();
        if count == 0 {
            self.burst = Some(burst);
            return 0;
        }
        self.meter.charge(Stage::Receive, count, &self.clock);
        let classified = classify(now, burst);
        self.meter.charge(Stage::Classify, count, &self.clock);
        let admitted = admit(&self.policy, classified);
        self.meter.charge(Stage::Policy, count, &self.clock);
        self.place_and_start(admitted, now);
        count
    }

    /// Placement and what follows, for commands from clients, from other cores, and from those that had to wait.
    fn place_and_start(&mut self, mut admitted: AdmittedBurst, now: Ticks) {
        let items = admitted.lines().open.len();
        let mut burst = place(self.ownership, &mut self.shards, admitted);
        self.meter.charge(Stage::Placement, items, &self.clock);
        self.send_on(&mut burst);
        let items = burst.lines().placed();
        if items > 0 {
            let mut around =
                Surroundings { blocks: &mut self.blocks, fabric: &mut self.fabric, shards: &mut self.shards, now };
            let mut refused = Burst::new();
            self.dma.start(&mut burst, &mut around, &mut refused);
            self.meter.charge(Stage::Dma, items, &self.clock);
            self.complete_all(&mut refused);
        }
        let mut lines = burst.into_lines();
        let ended = lines.ended;
        if ended.len() > 0 {
            let now = self.meter.boundary();
            for lane in ended {
                self.complete_or_send(lines.take_ended(lane), now);
            }
            self.meter.charge(Stage::Complete, ended.len(), &self.clock);
        }
        self.burst = Some(CapsuleBurst::reuse(lines));
    }

    /// What does not go to the dma stage: to another core, among the lists, or in line for room.
    #[inline]
    fn send_on(&mut self, burst: &mut PlacedBurst) {
        let (elsewhere, lists, waiting) = (burst.lines().elsewhere, burst.lines().lists, burst.lines().waiting);
        for lane in elsewhere {
            let core = burst.lines().notes[lane].core;
            self.forwarded += 1;
            self.send(core, Mail::Forward(burst.take(lane)));
        }
        self.waiting_lists.extend(lists.map(|lane| burst.take(lane)));
        self.waiting.extend(waiting.map(|lane| burst.take(lane)));
    }

    /// Has commands that waited, or came from another core, placed. They are admitted by the policy of now: who was let in when
    /// they came may not be any more, and nothing of a namespace may be stored after it was purged.
    pub(super) fn place_again(&mut self, commands: &mut Burst<Admitted>, now: Ticks) {
        // It is always there between two calls; the commands must not be lost if it ever is not.
        let burst = self.burst.take().unwrap_or_else(CapsuleBurst::new);
        self.place_and_start(admit_again(&self.policy, burst, commands.drain(..)), now);
    }

    /// Stores that had to wait for room: all of them once more, in order.
    fn retry_waiting(&mut self, now: Ticks) -> usize {
        let count = self.waiting.len().min(BURST);
        if count == 0 {
            return 0;
        }
        let mut again = Burst::new();
        again.extend(self.waiting.drain(..count));
        self.place_again(&mut again, now);
        // Those that still wait were put at the back: waiting for the store is not progress.
        count.saturating_sub(self.waiting.len())
    }

    fn issue(&mut self, now: Ticks) -> usize {
        let mut ended = Burst::new();
        let mut around =
            Surroundings { blocks: &mut self.blocks, fabric: &mut self.fabric, shards: &mut self.shards, now };
        let moved = self.dma.issue(&mut around, &mut ended);
        self.meter.charge(Stage::Dma, moved, &self.clock);
        self.complete_all(&mut ended);
        moved
    }

    fn store_work(&mut self, now: Ticks) -> usize {
        let mut items = 0;
        for shard in &mut self.shards {
            if let Poll::Busy(count) = shard.poll(now, &mut self.blocks) {
                items += count as usize;
            }
        }
        self.meter.charge(Stage::Store, items, &self.clock);
        items
    }

    /// Tells clients of this core, and sends the rest home.
    #[inline]
    pub(super) fn complete_all(&mut self, ended: &mut Burst<Ended>) {
        let count = ended.len();
        if count == 0 {
            return;
        }
        let now = self.meter.boundary();
        for command in ended.drain(..) {
            self.complete_or_send(command, now);
        }
        self.meter.charge(Stage::Complete, count, &self.clock);
    }

    #[inline(always)]
    fn complete_or_send(&mut self, command: Ended, now: Ticks) {
        let home = command.origin.permit.core();
        if home == self.ownership.core {
            self.complete(command, now);
        } else {
            self.send(home, Mail::Ended(command));
        }
    }

    #[inline(always)]
    pub(super) fn complete(&mut self, command: Ended, now: Ticks) {
        let Ended { origin, completion, value_bytes } = command;
        let ticks = now.since(origin.received);
        let status = completion.status;
        self.operations.record(
            origin.kind,
            Outcome {
                failed: !status.is_success(),
                missing: status == Status::KEY_DOES_NOT_EXIST,
                bytes: value_bytes,
                ticks,
            },
        );
        self.recorder.record(TraceEntry {
            at: now,
            ticks: ticks.min(u64::from(u32::MAX)) as u32,
            bytes: value_bytes,
            session: origin.session,
            kind: origin.kind,
            status,
        });
        self.hinted += u64::from(origin.kind == OperationKind::Hint && status.is_success());
        self.fabric.complete(origin.permit, completion);
    }

    /// Has every shard begin the purges that were asked for; a shard that cannot yet is asked again.
    fn begin_purges(&mut self) {
        let shards = &mut self.shards;
        self.purges.retain(|&ns28| !shards.iter_mut().all(|shard| shard.purge(ns28)));
    }

    pub(super) fn fill(&mut self, snapshot: &mut Snapshot) {
        self.operations.settle();
        snapshot.core = self.ownership.core;
        snapshot.ready = self.is_ready();
        snapshot.stages.clear();
        snapshot.stages.extend(self.meter.iter());
        snapshot.operations.clone_from_core(&self.operations);
        let (map, core) = (self.ownership.map, u32::from(self.ownership.core));
        snapshot.shards.clear();
        snapshot
            .shards
            .extend((0u32..).zip(&self.shards).map(|(local, shard)| (core + local * map.cores, shard.stats())));
        if let Some(ns28) = snapshot.wants.namespace {
            snapshot.namespace_used = self.shards.iter().map(|shard| shard.used_bytes(ns28)).sum();
            snapshot.purging = self.purges.contains(&ns28) || self.shards.iter().any(|shard| shard.is_purging(ns28));
        }
        snapshot.queue_pairs.clear();
        self.fabric.queue_pairs(&mut snapshot.queue_pairs);
        if snapshot.wants.trace {
            snapshot.trace.clear();
            snapshot.trace.extend(self.recorder.iter().copied());
        }
        snapshot.forwarded = self.forwarded;
        snapshot.hinted = self.hinted;
        snapshot.staged_bytes = self.dma.staged_bytes();
        snapshot.copied_bytes = self.fabric.copied_bytes();
    }
}

/// Lists of keys.
impl<B: BlockQueue, F: Fabric, C: Clock> CorePipeline<B, F, C> {
    fn work_on_lists(&mut self, now: Ticks) -> usize {
        if self.waiting_lists.is_empty() && self.lists.is_empty() {
            return 0;
        }
        let mut ended = Burst::new();
        let begun = self.begin_lists(now, &mut ended);
        let mut worked = 0;
        // One slice of work a turn, of the list at the front; then the next list has its turn.
        if let Some(mut job) = self.lists.pop_front() {
            worked = 1;
            match job.work(self.ownership, &mut self.shards) {
                Progress::Again => self.lists.push_back(job),
                Progress::Travel(core) => self.send(core, Mail::List(job)),
                Progress::Finished if job.home != self.ownership.core => {
                    let home = job.home;
                    self.send(home, Mail::List(job));
                }
                Progress::Finished => {
                    if let Some((command, lease)) = job.finish(&mut self.fabric) {
                        if let Some(lease) = lease {
                            self.leases.release(lease, command.origin.session);
                            self.end_lease(lease);
                        }
                        ended.push(command);
                    }
                    self.spare_lists.push(job);
                }
            }
        }
        self.meter.charge(Stage::Lists, begun + worked, &self.clock);
        self.complete_all(&mut ended);
        begun + worked
    }

    fn begin_lists(&mut self, now: Ticks, ended: &mut Burst<Ended>) -> usize {
        let mut begun = 0;
        while ended.len() < BURST - 1
            && let Some(command) = self.waiting_lists.pop_front()
        {
            begun += 1;
            if let Ok(Operation::Release { lease }) = command.operation() {
                self.release(lease, command, ended);
                continue;
            }
            let Some(mut job) = self.spare_lists.pop() else {
                self.waiting_lists.push_front(command);
                return begun - 1;
            };
            let session = command.capsule.session;
            let lease = self.lease_terms(&command, now);
            match job.begin(command, lease, &mut self.fabric) {
                Ok(()) => self.lists.push_back(job),
                Err(command) => {
                    if let Some(terms) = lease {
                        self.leases.release(terms.id, session);
                    }
                    ended.push(command);
                    self.spare_lists.push(job);
                }
            }
        }
        begun
    }

    fn lease_terms(&mut self, command: &Admitted, now: Ticks) -> Option<LeaseTerms> {
        let Ok(Operation::LookupPrefix { lease_ms: Some(millis), .. }) = command.operation() else { return None };
        let ticks = self.clock.ticks_of_micros(u64::from(millis.min(LONGEST_LEASE_MS)) * 1000);
        let expires = Ticks(now.0 + ticks);
        let id = self.leases.take(command.capsule.session, now, expires)?;
        Some(LeaseTerms { id, expires })
    }

    fn release(&mut self, lease: u32, command: Admitted, ended: &mut Burst<Ended>) {
        let home = Leases::home(lease);
        if home != self.ownership.core && u32::from(home) < self.ownership.map.cores {
            self.forwarded += 1;
            self.send(home, Mail::Forward(command));
            return;
        }
        if !self.leases.release(lease, command.capsule.session) {
            ended.push(command.into_origin().fail(Status::INVALID_FIELD));
            return;
        }
        self.end_lease(lease);
        ended.push(command.into_origin().end(Completion::success(0, 0)));
    }

    /// Frees the blocks under a lease, here and wherever else they are.
    fn end_lease(&mut self, lease: u32) {
        self.shards.iter_mut().for_each(|shard| shard.unlease(lease));
        let (cores, me) = (self.ownership.map.cores as u16, self.ownership.core);
        for core in (0..cores).filter(|&core| core != me) {
            self.send(core, Mail::Unlease(lease));
        }
    }
}
