//! Mail, as a core's turn takes it in and sends it.

use dataplane::core::{Clock, PostError, Ticks};
use dataplane::fabric::Fabric;
use dataplane::nvme::BlockQueue;
use dataplane::nvme::spec::Status;
use dataplane::{BURST, Burst};

use super::CorePipeline;
use super::mail::Mail;
use crate::classify::Ended;
use crate::policy::Admitted;

/// Messages taken from each queue of the mailbox in one turn.
const MAIL_A_TURN: usize = 2 * BURST;

impl<B: BlockQueue, F: Fabric, C: Clock> CorePipeline<B, F, C> {
    /// Sends mail to a peer, behind what waits for it.
    #[inline]
    pub(super) fn send(&mut self, core: u16, mail: Mail<F>) {
        let line = &mut self.outgoing[mail.lane() as usize];
        if !line.is_empty() {
            line.push_back((core, mail));
            return;
        }
        self.post(core, mail);
    }

    /// Posts to a peer; what does not fit is kept at the front of the line.
    fn post(&mut self, core: u16, mail: Mail<F>) -> bool {
        let Some(peer) = self.peers.get(usize::from(core)) else {
            // No such core: only a command that came with a core number nobody has could do that.
            return true;
        };
        match peer.post(mail) {
            Ok(()) => true,
            Err(PostError::Full(mail)) => {
                self.outgoing[mail.lane() as usize].push_front((core, mail));
                false
            }
            Err(PostError::Stopped(mail)) => {
                self.return_to_sender(mail);
                true
            }
        }
    }

    /// A core has stopped: what was for it ends here, so that the others go on with their own keys.
    fn return_to_sender(&mut self, mail: Mail<F>) {
        let ended = match mail {
            Mail::Forward(command) => Some(command.into_origin().fail(Status::INTERNAL_ERROR)),
            Mail::Ended(ended) => Some(ended),
            Mail::List(mut job) => job.give_up(),
            _ => None,
        };
        let Some(ended) = ended else { return };
        if ended.origin.permit.core() == self.ownership.core {
            self.complete(ended, self.meter.boundary());
        } else {
            // Its home is the core that stopped; nobody is left to be told.
            dataplane::fabric::abandoning(|| drop(ended));
        }
    }

    /// Sends what did not fit before.
    #[inline]
    pub(super) fn send_outgoing(&mut self) -> usize {
        let mut sent = 0;
        for lane in 0..self.outgoing.len() {
            while let Some((core, mail)) = self.outgoing[lane].pop_front() {
                if !self.post(core, mail) {
                    break;
                }
                sent += 1;
            }
        }
        sent
    }

    /// Takes mail in: orders in any case, work while there is room for it.
    #[inline]
    pub(super) fn receive_mail(&mut self, now: Ticks) -> usize {
        let (mut forwarded, mut ended) = (Burst::new(), Burst::new());
        let (mut orders, mut work) = (0, 0);
        while orders < MAIL_A_TURN
            && !ended.is_full()
            && let Some(mail) = self.mailbox.take_order()
        {
            orders += 1;
            self.take_in(mail, &mut forwarded, &mut ended);
        }
        while work < MAIL_A_TURN
            && !forwarded.is_full()
            && self.dma.room() >= BURST + self.waiting.len()
            && self.has_room_for_lists()
            && let Some(mail) = self.mailbox.take_work()
        {
            work += 1;
            self.take_in(mail, &mut forwarded, &mut ended);
        }
        if !forwarded.is_empty() {
            self.place_again(&mut forwarded, now);
        }
        self.complete_all(&mut ended);
        orders + work
    }

    fn take_in(&mut self, mail: Mail<F>, forwarded: &mut Burst<Admitted>, ended: &mut Burst<Ended>) {
        match mail {
            Mail::Forward(command) => forwarded.push(command),
            Mail::Ended(command) => ended.push(command),
            Mail::List(job) => self.lists.push_back(job),
            Mail::Unlease(lease) => self.shards.iter_mut().for_each(|shard| shard.unlease(lease)),
            Mail::Fabric(command) => self.fabric.command(command, &mut self.blocks),
            Mail::Policy(table) => self.policy = table,
            Mail::Purge(ns28) => self.purges.push(ns28),
            Mail::Snapshot(mut snapshot, answer) => {
                self.fill(&mut snapshot);
                // The asker may have given up; then nobody needs it.
                let _ = answer.try_send(snapshot);
            }
            Mail::ResetCounters => {
                self.meter.reset();
                self.operations.reset();
            }
        }
    }
}
