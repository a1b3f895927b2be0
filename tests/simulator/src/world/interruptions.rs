//! Lives that end in the middle of their work: the power goes, a client dies.

use std::sync::Arc;

use dataplane::core::{Clock, Poll, Poller};
use dataplane::fabric::abandoning;
use dataplane::fabric::message::CoreCommand;

use super::{STUCK_TURNS, World, ask};
use crate::carriers::SimCarrierCommand;
use crate::client::Violation;
use crate::fabric::SimCommand;
use crate::link::Link;

impl World {
    /// The power goes and comes back; every core recovers from what the disk kept.
    pub(super) fn power_cut(&mut self) -> Result<(), Violation> {
        for core in &mut self.cores {
            core.blocks_mut().cut();
        }
        self.disk.borrow_mut().power_cut();
        self.links.clear();
        self.count_loans();
        let cores = std::mem::take(&mut self.cores);
        abandoning(|| drop(cores));
        for client in &mut self.clients {
            client.interrupted(true);
        }
        self.summary.power_cuts += 1;
        self.start_cores();
        self.settle("recovery", |core| core.is_ready())
    }

    /// A client dies with commands under way. They end, unheard; then it comes back as a new life.
    pub(super) fn crash_client(&mut self) -> Result<(), Violation> {
        let at = self.random.below(self.clients.len() as u64) as usize;
        self.summary.crashes += 1;
        // What is under way ends first, as a carrier does it: queues are closed and drained before memory goes.
        let mut turns = 0;
        while self.cores.iter().any(|core| core.outstanding() > 0) && turns < STUCK_TURNS {
            let core = self.random.below(self.cores.len() as u64) as usize;
            self.clock.advance_micros(5);
            let now = self.clock.now();
            self.cores[core].poll(now);
            turns += 1;
        }
        let number = self.clients[at].queue();
        for core in 0..self.cores.len() {
            let mut others = std::mem::take(&mut self.cores[core].fabric_mut().local.completions);
            others.retain(|(queue, ..)| *queue != number);
            self.cores[core].fabric_mut().local.completions = others;
        }
        if self.clients[at].link().is_some() {
            return self.restart_remote(at);
        }
        let client = &mut self.clients[at];
        client.interrupted(false);
        let region = Arc::clone(client.region());
        let now = self.clock.now();
        for core in &mut self.cores {
            core.command(SimCarrierCommand::Local(SimCommand::Detach(region.slot())));
            core.poll(now);
            assert_eq!(core.fabric().local.detaching(), 0, "nothing is under way, so nothing names the memory");
            core.command(SimCarrierCommand::Local(SimCommand::Attach(Arc::clone(&region))));
        }
        Ok(())
    }

    /// A client that comes by TCP died. Its session is closed, and its number given to its new life when every core has
    /// said that it forgot it.
    fn restart_remote(&mut self, at: usize) -> Result<(), Violation> {
        self.links[at].iter_mut().for_each(Link::leave);
        let session = self.clients[at].session();
        for core in 0..self.cores.len() {
            let told = ask(&mut self.cores[core], |answer| CoreCommand::CloseSession(session, answer));
            let mut turns = 0;
            while told.try_recv().is_err() {
                turns += 1;
                if turns > STUCK_TURNS {
                    return Err(Violation("a session does not end".into()));
                }
                self.clock.advance_micros(5);
                let now = self.clock.now();
                for core in &mut self.cores {
                    let _: Poll = core.poll(now);
                }
            }
        }
        if !self.links[at].iter().all(Link::is_over) {
            return Err(Violation("a session is said to have ended, but the target has a stream of it".into()));
        }
        self.clients[at].interrupted(false);
        self.links[at] = self.connect(at);
        Ok(())
    }
}
