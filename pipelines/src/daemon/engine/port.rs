//! The control threads' way to the cores' mailboxes.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use dataplane::core::PostError;
use dataplane::fabric::carriers::{CarrierCommand, Carriers};
use dataplane::fabric::{CorePort, Fabric, message, vfio_user};
use dataplane::memory::Region;

use super::nvme::Controllers;
use crate::core_pipeline::{CorePostbox, Mail, Snapshot, Wants};

/// How long a control thread waits for a core before it gives up on it.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Every core's postbox, and the controllers that reach clients' memory.
pub(super) struct Cores {
    postboxes: Vec<CorePostbox<Carriers>>,
    controllers: Arc<Controllers>,
}

/// A core did not take a message, or did not answer, in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silent {
    pub(super) core: u16,
}

impl Cores {
    pub(super) fn new(postboxes: Vec<CorePostbox<Carriers>>, controllers: Arc<Controllers>) -> Self {
        Self { postboxes, controllers }
    }

    pub(super) fn controllers(&self) -> &Controllers {
        &self.controllers
    }

    pub(super) fn count(&self) -> u16 {
        self.postboxes.len() as u16
    }

    /// Posts to one core, waiting for room: [`PATIENCE`] at most.
    #[allow(clippy::result_large_err, reason = "handing the mail back is the point, and costs no allocation")]
    fn post<F: Fabric>(postbox: &CorePostbox<F>, mail: Mail<F>) -> Result<(), Mail<F>> {
        Self::post_until(postbox, mail, Some(Instant::now() + PATIENCE))
    }

    /// Posts to one core, waiting for room until the deadline, or without one until the core stops.
    #[allow(clippy::result_large_err, reason = "handing the mail back is the point, and costs no allocation")]
    fn post_until<F: Fabric>(
        postbox: &CorePostbox<F>,
        mail: Mail<F>,
        deadline: Option<Instant>,
    ) -> Result<(), Mail<F>> {
        let mut mail = mail;
        loop {
            match postbox.post(mail) {
                Ok(()) => return Ok(()),
                Err(PostError::Stopped(back)) => return Err(back),
                Err(PostError::Full(back)) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    return Err(back);
                }
                Err(PostError::Full(back)) => mail = back,
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Posts what `make` makes to every core.
    pub(super) fn tell_all(&self, mut make: impl FnMut() -> Mail<Carriers>) -> Result<(), Silent> {
        let mut result = Ok(());
        for (core, postbox) in self.postboxes.iter().enumerate() {
            if Self::post(postbox, make()).is_err() {
                result = Err(Silent { core: core as u16 });
            }
        }
        result
    }

    /// Asks every core for a snapshot; one that does not answer is left out. As orders are taken in the order in which they
    /// came, an answer also means that all earlier ones were acted on.
    pub(super) fn ask_all(&self, wants: Wants) -> Vec<Snapshot> {
        let asked: Vec<_> = self
            .postboxes
            .iter()
            .filter_map(|postbox| {
                let (answer, answered) = sync_channel(1);
                Self::post(postbox, Mail::Snapshot(Snapshot::blank(wants), answer)).ok().map(|()| answered)
            })
            .collect();
        let deadline = Instant::now() + PATIENCE;
        asked
            .into_iter()
            .filter_map(|answered| {
                answered.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok().map(|snapshot| *snapshot)
            })
            .collect()
    }

    /// Waits until every core has acted on all orders posted so far.
    pub(super) fn barrier(&self) -> Result<(), Silent> {
        let answered = self.ask_all(Wants::default());
        match (0..self.count()).find(|&core| answered.iter().all(|snapshot| snapshot.core != core)) {
            Some(core) => Err(Silent { core }),
            None => Ok(()),
        }
    }
}

impl Cores {
    /// Hands a command to a core's end of the carriers, however long it takes: whoever sends takes an error to mean that
    /// the core has stopped for good, and may never give up queues and memory that a slow core still holds.
    fn hand_over(&self, core: u16, command: CarrierCommand) -> Result<(), CarrierCommand> {
        let Some(postbox) = self.postboxes.get(usize::from(core)) else { return Err(command) };
        Self::post_until(postbox, Mail::Fabric(command), None).map_err(|mail| match mail {
            Mail::Fabric(command) => command,
            _ => unreachable!("the same message comes back"),
        })
    }
}

fn message_command(command: CarrierCommand) -> message::CoreCommand {
    match command {
        CarrierCommand::Message(command) => command,
        CarrierCommand::VfioUser(_) => unreachable!("the same command comes back"),
    }
}

impl CorePort<vfio_user::CoreCommand> for Cores {
    fn cores(&self) -> u16 {
        self.count()
    }

    fn send(&self, core: u16, command: vfio_user::CoreCommand) -> Result<(), vfio_user::CoreCommand> {
        self.hand_over(core, CarrierCommand::VfioUser(command)).map_err(|command| match command {
            CarrierCommand::VfioUser(command) => command,
            CarrierCommand::Message(_) => unreachable!("the same command comes back"),
        })
    }

    fn hold_memory(&self, region: &Arc<Region>) -> io::Result<()> {
        self.controllers.hold_memory(region)
    }

    fn release_memory(&self, region: &Arc<Region>) {
        self.controllers.release_memory(region);
    }
}

impl CorePort<message::CoreCommand> for Cores {
    fn cores(&self) -> u16 {
        self.count()
    }

    fn send(&self, core: u16, command: message::CoreCommand) -> Result<(), message::CoreCommand> {
        self.hand_over(core, CarrierCommand::Message(command)).map_err(message_command)
    }

    fn offer(&self, core: u16, command: message::CoreCommand) -> Result<(), message::CoreCommand> {
        let Some(postbox) = self.postboxes.get(usize::from(core)) else { return Err(command) };
        postbox.post(Mail::Fabric(CarrierCommand::Message(command))).map_err(|refused| match refused.into_inner() {
            Mail::Fabric(command) => message_command(command),
            _ => unreachable!("the same message comes back"),
        })
    }

    fn hold_memory(&self, region: &Arc<Region>) -> io::Result<()> {
        self.controllers.hold_memory(region)
    }

    fn release_memory(&self, region: &Arc<Region>) {
        self.controllers.release_memory(region);
    }
}
