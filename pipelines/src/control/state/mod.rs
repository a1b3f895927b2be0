//! What is configured: subsystems with their listeners, hosts and namespaces; and who is connected.

mod changes;
mod compile;
mod discovery;
mod listener;
mod listening;
mod namespace;
mod nqn;
mod session;
mod subsystem;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use dataplane::nvme::spec::fabrics::DISCOVERY_NQN;

pub use listener::{DEFAULT_PORT, ListenAddress, Transport};
pub use listening::TransportRecord;
pub use namespace::{MAX_NAMESPACES, Namespace, NewNamespace, ns28};
pub use nqn::Nqn;
pub use session::SessionRecord;
pub use subsystem::{DEFAULT_MAX_NAMESPACES, Host, MAX_NAMESPACES_OF_SUBSYSTEM, NewSubsystem, Subsystem};

use super::{ControlError, Engine};
use crate::policy::table::MAX_SESSIONS;

/// The most subsystems.
pub const MAX_SUBSYSTEMS: usize = 256;
/// The most hosts of a subsystem.
pub const MAX_HOSTS: usize = 1024;
/// The most listeners of a subsystem.
pub const MAX_LISTENERS: usize = 64;

/// Everything that is configured, and the sessions. A change is made on a copy, which takes the place of the original
/// only if all of it worked.
#[derive(Clone, Default)]
struct State {
    subsystems: BTreeMap<Nqn, Subsystem>,
    /// Carriers that are ready for listeners.
    transports: BTreeMap<Transport, TransportRecord>,
    /// Addresses at which there is the discovery subsystem and perhaps no other.
    discovery: Vec<ListenAddress>,
    /// Counts changes.
    generation: u64,
    sessions: BTreeMap<u16, SessionRecord>,
    /// Numbers of sessions that have ended, but that a core may still know.
    ended: BTreeSet<u16>,
    /// Namespaces whose values are being forgotten: they cannot be made again yet.
    purging: BTreeSet<u32>,
}

impl State {
    fn subsystem(&self, nqn: &str) -> Result<&Subsystem, ControlError> {
        let nqn = subsystem_name(nqn)?;
        self.subsystems.get(&nqn).ok_or_else(|| ControlError::Missing(format!("there is no subsystem {nqn}")))
    }

    fn subsystem_mut(&mut self, nqn: &str) -> Result<&mut Subsystem, ControlError> {
        let nqn = subsystem_name(nqn)?;
        self.subsystems.get_mut(&nqn).ok_or_else(|| ControlError::Missing(format!("there is no subsystem {nqn}")))
    }

    fn namespaces(&self) -> impl Iterator<Item = (&Subsystem, u32, &Namespace)> {
        self.subsystems.values().flat_map(|subsystem| {
            subsystem.namespaces.iter().map(move |(nsid, namespace)| (subsystem, *nsid, namespace))
        })
    }

    fn free_session(&self) -> Option<u16> {
        (0..MAX_SESSIONS as u16).find(|id| !self.sessions.contains_key(id) && !self.ended.contains(id))
    }
}

/// The name of a subsystem that can be configured.
fn subsystem_name(nqn: &str) -> Result<Nqn, ControlError> {
    if nqn == DISCOVERY_NQN {
        return Err(ControlError::Unsupported(
            "the discovery subsystem has no hosts and no namespaces: any host may ask it, and is told of the subsystems \
             that it is attached to"
                .into(),
        ));
    }
    Nqn::parse(nqn)
}

struct Shared {
    state: Mutex<State>,
    engine: RwLock<Option<Arc<dyn Engine>>>,
}

/// The control plane's state. Clones are the same one.
///
/// It decides who may connect ([`Admission`](dataplane::fabric::Admission)), keeps the sessions, and gives the engine a
/// new policy after every change. An `Err` means that nothing was changed, with one exception, which its message tells:
/// if a core did not take over a new policy in time.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

impl Default for Control {
    fn default() -> Self {
        Self::new()
    }
}

impl Control {
    /// Nothing configured, no engine: everybody is refused.
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::default(), engine: RwLock::default() }) }
    }

    /// Gives it the engine, which has been started.
    pub fn attach(&self, engine: Arc<dyn Engine>) {
        *self.shared.engine.write().unwrap_or_else(PoisonError::into_inner) = Some(engine);
    }

    /// Takes the engine away again: from now on everybody is refused.
    pub fn detach(&self) -> Option<Arc<dyn Engine>> {
        self.shared.engine.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The engine.
    ///
    /// # Errors
    /// If there is none yet.
    pub fn engine(&self) -> Result<Arc<dyn Engine>, ControlError> {
        let engine = self.shared.engine.read().unwrap_or_else(PoisonError::into_inner);
        engine.clone().ok_or(ControlError::NotReady)
    }

    /// Every subsystem, by name.
    #[must_use]
    pub fn subsystems(&self) -> Vec<Subsystem> {
        self.lock().subsystems.values().cloned().collect()
    }

    /// One subsystem.
    ///
    /// # Errors
    /// If the name is not valid or there is none.
    pub fn subsystem(&self, nqn: &str) -> Result<Subsystem, ControlError> {
        self.lock().subsystem(nqn).cloned()
    }

    /// Every session, by number.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionRecord> {
        self.lock().sessions.values().cloned().collect()
    }

    /// A panic cannot leave a change half made, because changes are made on a copy.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change, and gives the cores the policy that follows from it.
    fn change<R>(
        &self,
        change: impl FnOnce(&mut State, &dyn Engine) -> Result<R, ControlError>,
    ) -> Result<R, ControlError> {
        let engine = self.engine()?;
        let mut state = self.lock();
        let mut next = state.clone();
        let result = change(&mut next, &*engine)?;
        next.generation += 1;
        *state = next;
        state.distribute(&*engine)?;
        Ok(result)
    }
}

impl State {
    /// Gives the cores the policy that follows from this state. When they have it, no core knows ended sessions any
    /// more.
    fn distribute(&mut self, engine: &dyn Engine) -> Result<(), ControlError> {
        engine.set_policy(Arc::new(self.compile(engine.shape().shards))).map_err(|mut error| {
            tracing::error!(%error, "a core has not taken over the new policy yet");
            error.message = format!("the change is made, but not every core has taken it over yet: {}", error.message);
            ControlError::Engine(error)
        })?;
        self.ended.clear();
        Ok(())
    }
}
