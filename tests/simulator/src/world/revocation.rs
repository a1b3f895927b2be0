//! A namespace is taken from a client while it is at work, purged, and given back.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use dataplane::core::PostError;
use pipelines::core_pipeline::{Mail, Snapshot, Wants};

use super::{STUCK_TURNS, World, ns28};
use crate::carriers::SimCarriers;
use crate::client::Violation;

/// Questions to the cores within which a purge comes to its end, unless the store is full of what must stay.
const PURGE_QUESTIONS: u64 = 20_000;

impl World {
    /// Takes a client's namespace from it, or gives it back.
    pub(super) fn change_policy(&mut self) -> Result<(), Violation> {
        let at = self.random.below(self.clients.len() as u64) as usize;
        if self.unpurged[at] {
            return Ok(());
        }
        let denied = !self.clients[at].is_denied();
        self.clients[at].deny(denied);
        let policy = Arc::new(self.policy());
        for core in 0..self.postboxes.len() {
            self.post(core, Mail::Policy(Arc::clone(&policy)))?;
        }
        self.ask_all(Wants::default())?;
        if denied && self.random.chance(500) { self.purge(at) } else { Ok(()) }
    }

    /// Purges a client's namespace. Nothing of it may be there afterwards, whatever was under way.
    fn purge(&mut self, at: usize) -> Result<(), Violation> {
        let ns28 = ns28(self.clients[at].tenant());
        self.clients[at].purge_begins();
        for core in 0..self.postboxes.len() {
            self.post(core, Mail::Purge(ns28))?;
        }
        let wants = Wants { namespace: Some(ns28), ..Wants::default() };
        let mut questions = 0;
        while self.ask_all(wants)?.iter().any(|core| core.purging) {
            questions += 1;
            if questions > PURGE_QUESTIONS {
                self.unpurged[at] = true;
                return Ok(());
            }
        }
        let mut turns = 0;
        while self.clients[at].outstanding() > 0 || self.cores.iter().any(|core| core.outstanding() > 0) {
            turns += 1;
            if turns > STUCK_TURNS {
                return Err(Violation("what a client without a namespace had under way does not end".into()));
            }
            self.turn()?;
        }
        let left: u64 = self.ask_all(wants)?.iter().map(|core| core.namespace_used).sum();
        if left > 0 {
            return Err(Violation(format!("{left} bytes were stored in a namespace after its purge")));
        }
        self.clients[at].oracle.purged();
        self.summary.purged += 1;
        Ok(())
    }

    /// Posts to a core, which has turns until there is room.
    fn post(&mut self, core: usize, mail: Mail<SimCarriers>) -> Result<(), Violation> {
        let mut mail = mail;
        for _ in 0..STUCK_TURNS {
            match self.postboxes[core].post(mail) {
                Ok(()) => return Ok(()),
                Err(PostError::Full(back)) => mail = back,
                Err(PostError::Stopped(_)) => return Err(Violation("a core has stopped".into())),
            }
            self.turn()?;
        }
        Err(Violation("a core takes no orders".into()))
    }

    /// What every core says of itself, when it has acted on all orders before.
    fn ask_all(&mut self, wants: Wants) -> Result<Vec<Snapshot>, Violation> {
        let mut answers = Vec::new();
        for core in 0..self.postboxes.len() {
            let (answer, answered) = sync_channel(1);
            self.post(core, Mail::Snapshot(Snapshot::blank(wants), answer))?;
            let mut turns = 0;
            answers.push(loop {
                if let Ok(snapshot) = answered.try_recv() {
                    break *snapshot;
                }
                turns += 1;
                if turns > STUCK_TURNS {
                    return Err(Violation("a core does not answer".into()));
                }
                self.turn()?;
            });
        }
        Ok(answers)
    }
}
