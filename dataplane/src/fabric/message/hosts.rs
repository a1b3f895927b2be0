//! The hosts that are connected over message carriers, over all listeners: who has which controller, and the cores'
//! staging memory.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::orders::{Answer, CoreCommand, CoreError, HostLink};
use super::staging::{StagingLayout, StagingMap};
use crate::fabric::controller::Controller;
use crate::fabric::{Admission, CarrierKind, CorePort, Session, SessionId};
use crate::memory::{Region, SlotAccount, SlotLease, populate};

/// How often cores look for hosts that do not go on with what they began: such a host has between once and twice as long.
const SWEEP: Duration = Duration::from_secs(15);
/// I/O queues of one controller at most.
pub const MAX_IO_QUEUES: u16 = 64;

/// How hosts are treated.
#[derive(Clone, Copy, Debug)]
pub struct HostOptions {
    /// Staging memory of each core, and how it is cut.
    pub layout: StagingLayout,
    /// Entries of the longest queue, 2 to 4096.
    pub max_queue_entries: u32,
    /// The most bytes that one command may move.
    pub max_transfer_bytes: u32,
    /// Data that may come in a capsule, in bytes: 0 to 8192, a multiple of 16.
    pub in_capsule_bytes: u32,
}

/// Why there is no staging memory.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No memory, or none of the numbers it is known by.
    #[error("cannot set up {bytes} bytes of staging memory for each core: {cause}")]
    Memory {
        /// Bytes a core.
        bytes: u64,
        /// Why not.
        cause: io::Error,
    },
    /// A core refused.
    #[error("core {core}: {cause}")]
    Core {
        /// Which.
        core: u16,
        /// Why.
        cause: CoreError,
    },
    /// A core has stopped.
    #[error("core {0} has stopped")]
    Stopped(u16),
}

/// A host's controller: what its admin queue's thread and the threads that connect its I/O queues share.
pub(super) struct Host {
    pub session: Arc<dyn Session>,
    pub link: Arc<HostLink>,
    pub name: HostName,
    pub way: Way,
    pub controller: Mutex<Controller>,
}

/// How a connection came: those of one controller come the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub carrier: CarrierKind,
    /// The listener's address.
    pub listener: String,
    /// The host's address.
    pub peer: Option<IpAddr>,
}

/// Who a host is, and which controller it has: what Connect of an I/O queue must name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostName {
    pub subsystem_nqn: String,
    pub host_nqn: String,
    pub host_id: [u8; 16],
    pub controller_id: u16,
}

impl Host {
    /// Has the controller forget the I/O queues that the host ended.
    pub fn take_ended(&self, controller: &mut Controller) {
        for qid in self.link.take_ended() {
            controller.queue_lost(qid);
        }
    }

    /// Gives back what an I/O queue had reserved in that epoch, unless all were ended since: then another connection may
    /// have it.
    pub fn release(&self, qid: u16, epoch: u32) {
        let mut controller = self.lock();
        if self.link.epoch() == epoch {
            controller.queue_lost(qid);
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Controller> {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that was made for [`Hosts::open`]. Kept for good: a core that has it keeps it too.
struct Staged {
    map: StagingMap,
    /// Cores that have it.
    open: u16,
    _slots: Vec<SlotLease>,
}

struct Shared {
    admission: Arc<dyn Admission>,
    cores: Arc<dyn CorePort<CoreCommand>>,
    options: HostOptions,
    hosts: Mutex<BTreeMap<SessionId, Arc<Host>>>,
    staged: Mutex<Option<Staged>>,
    stop: AtomicBool,
    chores: Mutex<Vec<Chore>>,
    endings: Mutex<Vec<Arc<Ending>>>,
}

/// Something to be done now and then; false when it need not be done again.
type Chore = Box<dyn FnMut() -> bool + Send>;

/// What a carrier does before the cores are asked to end a session's queues.
type Ending = dyn Fn(SessionId) + Send + Sync;

/// The hosts over message carriers. Clones are the same.
#[derive(Clone)]
pub struct Hosts {
    shared: Arc<Shared>,
}

impl Hosts {
    /// None yet.
    #[must_use]
    pub fn new(admission: Arc<dyn Admission>, cores: Arc<dyn CorePort<CoreCommand>>, options: HostOptions) -> Self {
        let (hosts, staged, stop) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        let (chores, endings) = (Mutex::default(), Mutex::default());
        Self { shared: Arc::new(Shared { admission, cores, options, hosts, staged, stop, chores, endings }) }
    }

    pub(super) fn admission(&self) -> &dyn Admission {
        &*self.shared.admission
    }

    /// How hosts are treated.
    #[must_use]
    pub fn options(&self) -> &HostOptions {
        &self.shared.options
    }

    /// How many cores there are.
    #[must_use]
    pub fn cores(&self) -> u16 {
        self.shared.cores.cores().max(1)
    }

    /// Sets up staging memory on every core, if that was not done before. Takes a while.
    ///
    /// # Errors
    /// See [`OpenError`]. Cores that have it keep it.
    pub fn open(&self) -> Result<(), OpenError> {
        let mut kept = self.shared.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.shared.options.layout.bytes();
        let staged = match &mut *kept {
            Some(staged) => staged,
            none => none.insert(self.make_regions().map_err(|cause| OpenError::Memory { bytes, cause })?),
        };
        // After a failure the next attempt goes on with the same memory, which some cores have then.
        while staged.open < self.cores() {
            let core = staged.open;
            match self.ask(core, |answer| CoreCommand::Open(staged.map.clone(), answer)) {
                Some(Ok(())) => staged.open += 1,
                Some(Err(cause)) => return Err(OpenError::Core { core, cause }),
                None => return Err(OpenError::Stopped(core)),
            }
        }
        Ok(())
    }

    fn make_regions(&self) -> io::Result<Staged> {
        let (mut regions, mut slots) = (Vec::new(), Vec::new());
        let layout = self.shared.options.layout;
        // On nobody's account: there are as many as cores, once.
        let account = SlotAccount { uid: u32::MAX, most: usize::MAX };
        let mut make = || {
            let slot = SlotLease::take(account).map_err(io::Error::other)?;
            let region = Arc::new(Region::shared(layout.bytes() as usize, slot.slot())?);
            populate(&region)?;
            self.shared.cores.hold_memory(&region)?;
            regions.push(region);
            slots.push(slot);
            Ok(())
        };
        let made = (0..self.cores()).try_for_each(|_| make());
        let map = made
            .and_then(|()| StagingMap::new(layout, regions.clone()).ok_or_else(|| io::ErrorKind::InvalidInput.into()));
        match map {
            Ok(map) => Ok(Staged { map, open: 0, _slots: slots }),
            Err(error) => {
                // No device keeps what nobody has.
                regions.iter().for_each(|region| self.shared.cores.release_memory(region));
                Err(error)
            }
        }
    }

    /// The staging memory of each core, for carriers that make it known to something else besides the devices.
    #[must_use]
    pub fn staging(&self) -> Option<StagingMap> {
        let staged = self.shared.staged.lock().unwrap_or_else(PoisonError::into_inner);
        staged.as_ref().map(|staged| staged.map.clone())
    }

    /// Asks a core and waits for the answer; `None` if it has stopped.
    pub fn ask(&self, core: u16, order: impl FnOnce(Answer) -> CoreCommand) -> Option<Result<(), CoreError>> {
        let (answer, answers) = sync_channel(1);
        self.shared.cores.send(core, order(answer)).ok()?;
        answers.recv().ok()
    }

    /// Tells a core something that has no answer.
    pub fn tell(&self, core: u16, order: CoreCommand) {
        // A core that has stopped has nothing to be told.
        let _ = self.shared.cores.send(core, order);
    }

    /// Ends a session's I/O queues on every core, and waits until none is left. Says whether every core did.
    pub(super) fn end_queues(&self, session: SessionId) -> bool {
        let endings = self.shared.endings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        endings.iter().for_each(|ending| ending(session));
        let (mut answers, mut full) = (Vec::new(), Vec::new());
        // Every core is told before any is waited for, and those that are behind come last: none holds up another.
        for core in 0..self.cores() {
            let (told, answered) = sync_channel(1);
            answers.push(answered);
            if let Err(order) = self.shared.cores.offer(core, CoreCommand::CloseSession(session, told)) {
                full.push((core, order));
            }
        }
        for (core, order) in full {
            self.tell(core, order);
        }
        // A core that has stopped drops the order, and with it the way to answer.
        answers.into_iter().fold(true, |all, answered| all & (answered.recv() == Ok(Ok(()))))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Arc<Host>>> {
        self.shared.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, host: &Arc<Host>) {
        self.lock().insert(host.session.id(), Arc::clone(host));
    }

    pub(super) fn remove(&self, host: &Host) {
        self.lock().remove(&host.session.id());
    }

    /// The host that Connect of an I/O queue names, if it came the way that its admin queue did.
    pub(super) fn find(&self, name: &HostName, way: &Way) -> Option<Arc<Host>> {
        self.lock().values().find(|host| host.name == *name && host.way == *way).cloned()
    }

    /// Disconnects a host. Does not wait.
    pub fn close_session(&self, session: SessionId) {
        if let Some(host) = self.lock().get(&session) {
            host.link.lose();
        }
    }

    /// Has something done with each sweep of [`watch`](Self::watch), until it returns false. For what is left of carriers
    /// without anybody who looks after it.
    pub fn at_each_sweep(&self, chore: impl FnMut() -> bool + Send + 'static) {
        self.shared.chores.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(chore));
    }

    /// Has something done before the cores are asked to end a session's queues: what takes too long for them.
    pub fn before_queues_end(&self, ending: impl Fn(SessionId) + Send + Sync + 'static) {
        self.shared.endings.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(ending));
    }

    fn do_chores(&self) {
        let mut chores = self.shared.chores.lock().unwrap_or_else(PoisonError::into_inner);
        chores.retain_mut(|chore| chore());
    }

    /// Waits until then, or until the end was asked for, which it tells.
    fn wait_for_sweep(&self, due: Instant) -> bool {
        loop {
            if self.shared.stop.load(Ordering::Acquire) {
                return true;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // It may come back early; hosts are to have had their time.
            std::thread::park_timeout(left);
        }
    }

    /// Begins to look for hosts that do not go on with what they began, until this is dropped.
    ///
    /// # Errors
    /// What the system says.
    pub fn watch(&self) -> io::Result<Watch> {
        let hosts = self.clone();
        let thread = std::thread::Builder::new().name("nvmf-sweep".into()).spawn(move || {
            // The last round comes after the end was asked for, however early that was.
            let mut last = false;
            while !last {
                last = hosts.wait_for_sweep(Instant::now() + SWEEP);
                for core in 0..hosts.cores() {
                    // One that is behind is swept the next time; the others must not wait for it.
                    let _ = hosts.shared.cores.offer(core, CoreCommand::Sweep);
                }
                hosts.do_chores();
            }
        })?;
        Ok(Watch { hosts: self.clone(), thread: Some(thread) })
    }
}

/// See [`Hosts::watch`].
pub struct Watch {
    hosts: Hosts,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.hosts.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
