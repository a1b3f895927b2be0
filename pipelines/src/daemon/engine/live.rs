//! The engine that runs: cores, store and listeners, as the control plane sees them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataplane::core::{Clock, ReactorHandle, TscClock};
use dataplane::fabric::message::Hosts;
use dataplane::fabric::{Admission, SessionId};

use super::listeners::{self, Listener, Listeners};
use super::port::{Cores, PATIENCE, Silent};
use super::reports::{self, DeviceFacts, ReactorFacts, StoreFacts};
use crate::control::report::{
    BlockDeviceReport, CoreReport, NvmeControllerReport, NvmeErrorReport, NvmeEventReport, NvmeHealthReport,
    QueuePairReport, StoreReport, TraceEvent,
};
use crate::control::state::{ListenAddress, Transport};
use crate::control::{Engine, EngineError, Shape, TransportLimits};
use crate::core_pipeline::{Mail, Snapshot, Wants};
use crate::policy::PolicyTable;

/// Starts the cores; done once.
pub(super) type Launch = Box<dyn FnOnce() -> Result<Vec<ReactorHandle>, EngineError> + Send>;

enum Stage {
    Prepared(Launch),
    Running { reactors: Vec<ReactorHandle>, listeners: Listeners },
    Stopped,
}

/// Cores, store and listeners.
pub(super) struct LiveEngine {
    shape: Shape,
    clock: TscClock,
    store: StoreFacts,
    devices: Vec<DeviceFacts>,
    /// The processor of each core of ours, by core.
    cpus: Vec<u32>,
    cores: Arc<Cores>,
    admission: Arc<dyn Admission>,
    /// The hosts over the network.
    hosts: Hosts,
    stage: Mutex<Stage>,
    /// Whether the cores take mail. Apart from `stage`, because a session that opens or ends sets a policy while a
    /// listener's lock is held, and whoever holds `stage` may want that lock.
    running: AtomicBool,
    /// Threads on which listeners end.
    ending: Mutex<Vec<JoinHandle<()>>>,
}

impl LiveEngine {
    #[expect(clippy::too_many_arguments, reason = "each is one part of the engine, and all are needed")]
    pub(super) fn new(
        shape: Shape,
        clock: TscClock,
        store: StoreFacts,
        devices: Vec<DeviceFacts>,
        cpus: Vec<u32>,
        cores: Cores,
        admission: Arc<dyn Admission>,
        launch: Launch,
    ) -> Self {
        let (stage, cores) = (Mutex::new(Stage::Prepared(launch)), Arc::new(cores));
        let options = listeners::host_options(shape.max_transfer_bytes);
        let hosts = Hosts::new(Arc::clone(&admission), Arc::clone(&cores) as _, options);
        Self {
            shape,
            clock,
            store,
            devices,
            cpus,
            cores,
            admission,
            hosts,
            stage,
            running: AtomicBool::new(false),
            ending: Mutex::new(Vec::new()),
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops listeners on a thread of its own. Whoever drops the last hold on one waits for its connections, and those
    /// may wait for whoever called this.
    fn end_elsewhere(&self, targets: Vec<Listener>) {
        let thread = std::thread::spawn(move || drop(targets));
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        ending.retain(|thread| !thread.is_finished());
        ending.push(thread);
    }

    fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    fn cpu(&self, core: u16) -> u32 {
        self.cpus.get(usize::from(core)).copied().unwrap_or_default()
    }

    /// The reactors' own counters; empty unless they run.
    fn reactors(&self) -> Vec<ReactorFacts> {
        match &*self.stage() {
            Stage::Running { reactors, .. } => reactors
                .iter()
                .map(|reactor| ReactorFacts { cpu: reactor.core(), tid: reactor.tid(), counters: reactor.snapshot() })
                .collect(),
            _ => Vec::new(),
        }
    }

    fn snapshots(&self, wants: Wants) -> Vec<Snapshot> {
        if self.is_running() { self.cores.ask_all(wants) } else { Vec::new() }
    }

    fn silent(&self, silent: Silent) -> EngineError {
        let message = format!("core {} does not answer; see its log lines and trace_dump", self.cpu(silent.core));
        EngineError { errno: libc::ETIMEDOUT, message }
    }

    fn not_running() -> EngineError {
        EngineError { errno: libc::ESHUTDOWN, message: "the cores do not run".into() }
    }
}

impl Engine for LiveEngine {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn start(&self) -> Result<(), EngineError> {
        let mut stage = self.stage();
        match std::mem::replace(&mut *stage, Stage::Stopped) {
            Stage::Prepared(launch) => {
                let reactors = launch()?;
                let listeners = Listeners::new(self.hosts.clone()).map_err(|error| EngineError {
                    errno: error.raw_os_error().unwrap_or(libc::EIO),
                    message: format!("cannot start the thread that watches hosts: {error}"),
                })?;
                *stage = Stage::Running { reactors, listeners };
                self.running.store(true, Ordering::Release);
                Ok(())
            }
            other => {
                *stage = other;
                Err(EngineError { errno: libc::EALREADY, message: "the engine was started before".into() })
            }
        }
    }

    fn stop(&self, patience: Duration) -> Result<(), EngineError> {
        let before = std::mem::replace(&mut *self.stage(), Stage::Stopped);
        let Stage::Running { reactors, listeners } = before else {
            drop(before);
            self.cores.controllers().close();
            return Ok(());
        };
        // Clients are disconnected while the cores still run, for it is they that give up queues and memory.
        drop(listeners);
        let ending = std::mem::take(&mut *self.ending.lock().unwrap_or_else(PoisonError::into_inner));
        ending.into_iter().for_each(|thread| drop(thread.join()));
        self.running.store(false, Ordering::Release);
        reactors.iter().for_each(|reactor| reactor.stop_within(patience));
        let mut trouble = None;
        for reactor in reactors {
            let cpu = reactor.core();
            match reactor.join() {
                Ok(end) if end.drained => {}
                Ok(_) => trouble = Some(format!("core {cpu} did not finish its work in time")),
                Err(panicked) => trouble = Some(panicked.to_string()),
            }
        }
        // After the queues, which the reactors had.
        self.cores.controllers().close();
        trouble.map_or(Ok(()), |message| Err(EngineError { errno: libc::EIO, message }))
    }

    fn set_policy(&self, table: Arc<PolicyTable>) -> Result<(), EngineError> {
        if !self.is_running() {
            return Err(Self::not_running());
        }
        self.cores.tell_all(|| Mail::Policy(Arc::clone(&table))).map_err(|silent| self.silent(silent))?;
        self.cores.barrier().map_err(|silent| self.silent(silent))
    }

    fn transport(&self, transport: Transport) -> Result<TransportLimits, EngineError> {
        listeners::limits(transport, self.hosts.options())
    }

    fn listen(&self, address: &ListenAddress) -> Result<(), EngineError> {
        match &mut *self.stage() {
            Stage::Running { listeners, .. } => listeners.listen(address, &self.cores, &self.admission),
            _ => Err(Self::not_running()),
        }
    }

    fn unlisten(&self, address: &ListenAddress) -> Result<(), EngineError> {
        let target = match &mut *self.stage() {
            Stage::Running { listeners, .. } => listeners.remove(address),
            _ => return Err(Self::not_running()),
        };
        // Ended elsewhere: it waits for its connections, which may wait for whoever called this.
        match target {
            Some(target) => {
                self.end_elsewhere(vec![target]);
                Ok(())
            }
            None => Err(EngineError { errno: libc::ENOENT, message: format!("nothing listens on {address}") }),
        }
    }

    fn close_session(&self, session: SessionId) {
        // Not under the lock: a listener that admits a client holds its own and waits for the control state, and who
        // holds the control state may wait for this one.
        let targets = match &*self.stage() {
            Stage::Running { listeners, .. } => listeners.all(),
            _ => Vec::new(),
        };
        targets.iter().for_each(|target| target.close_session(session));
        self.hosts.close_session(session);
        self.end_elsewhere(targets);
    }

    fn reports(&self) -> Vec<CoreReport> {
        let reactors = self.reactors();
        self.snapshots(Wants::default())
            .iter()
            .filter_map(|snapshot| {
                let facts = reactors.get(usize::from(snapshot.core))?;
                Some(reports::core(snapshot, facts, &self.clock))
            })
            .collect()
    }

    fn reset_statistics(&self) {
        // A core that does not answer keeps its counters; the next report leaves it out.
        let _ = self.cores.tell_all(|| Mail::ResetCounters);
        let _ = self.cores.barrier();
    }

    fn purge_namespace(&self, ns28: u32) -> Result<u64, EngineError> {
        let held = self.namespace_used(ns28);
        self.cores.tell_all(|| Mail::Purge(ns28)).map_err(|silent| self.silent(silent))?;
        let deadline = Instant::now() + PATIENCE;
        let wants = Wants { namespace: Some(ns28), ..Wants::default() };
        loop {
            let snapshots = self.cores.ask_all(wants);
            if snapshots.len() == usize::from(self.cores.count()) && !snapshots.iter().any(|snapshot| snapshot.purging)
            {
                break;
            }
            if Instant::now() >= deadline {
                let message = "the purge goes on but is not finished yet; ask again".into();
                return Err(EngineError { errno: libc::ETIMEDOUT, message });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(held)
    }

    fn namespace_used(&self, ns28: u32) -> u64 {
        let wants = Wants { namespace: Some(ns28), ..Wants::default() };
        self.snapshots(wants).iter().map(|snapshot| snapshot.namespace_used).sum()
    }

    fn queue_pairs(&self) -> Vec<QueuePairReport> {
        let snapshots = self.snapshots(Wants::default());
        let pairs = snapshots.iter().flat_map(|snapshot| &snapshot.queue_pairs);
        pairs.map(|info| reports::queue_pair(info, self.cpu(info.core))).collect()
    }

    fn trace(&self, core: Option<u32>) -> Vec<TraceEvent> {
        let mut events: Vec<_> = self
            .snapshots(Wants { trace: true, ..Wants::default() })
            .iter()
            .filter(|snapshot| core.is_none_or(|cpu| cpu == self.cpu(snapshot.core)))
            .flat_map(|snapshot| snapshot.trace.iter().map(|entry| reports::trace(entry, self.cpu(snapshot.core))))
            .collect();
        events.sort_by_key(|event| event.ticks);
        events
    }

    fn stores(&self) -> Vec<StoreReport> {
        vec![reports::store(&self.store, &self.snapshots(Wants::default()))]
    }

    fn now(&self) -> u64 {
        self.clock.now().0
    }

    fn block_devices(&self) -> Vec<BlockDeviceReport> {
        let controllers = self.nvme_controllers();
        self.devices.iter().map(|facts| reports::block_device(facts, &controllers)).collect()
    }

    fn nvme_controllers(&self) -> Vec<NvmeControllerReport> {
        self.cores.controllers().reports()
    }

    fn nvme_health(&self, controller: &str) -> Result<NvmeHealthReport, EngineError> {
        self.cores.controllers().health(controller)
    }

    fn nvme_errors(&self, controller: &str) -> Result<(Vec<NvmeErrorReport>, Vec<NvmeEventReport>), EngineError> {
        self.cores.controllers().errors(controller)
    }

    fn nvme_reset(&self, controller: &str) -> Result<(), EngineError> {
        self.cores.controllers().reset(controller)
    }
}
