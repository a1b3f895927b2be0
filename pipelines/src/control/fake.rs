//! An engine for tests and fuzzing that remembers what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dataplane::fabric::SessionId;

use super::report::{
    BlockDeviceReport, CoreReport, NvmeControllerReport, NvmeErrorReport, NvmeEventReport, NvmeHealthReport,
    OperationReport, PollerReport, QueuePairReport, StageReport, StoreReport, TraceEvent,
};
use super::state::{ListenAddress, Transport};
use super::{Context, Control, Engine, EngineError, Framework, LogControl, LogLevel, Shape, TransportLimits};
use crate::policy::table::PolicyTable;

/// The shape of the fake.
pub const SHAPE: Shape = Shape {
    tick_rate: 1_000_000_000,
    cores: 2,
    shards: 2,
    capacity_bytes: 1 << 40,
    max_value_bytes: 16 << 20,
    max_transfer_bytes: 16 << 20,
    granularity: 4096,
};

/// The fake.
pub struct FakeEngine {
    /// The policy that it was given last.
    pub table: Mutex<Arc<PolicyTable>>,
    /// Where it listens.
    pub listeners: Mutex<BTreeSet<ListenAddress>>,
    /// Carriers that it does not have.
    pub lacking: Mutex<BTreeSet<Transport>>,
    /// Sessions that it was told to close.
    pub closed: Mutex<Vec<SessionId>>,
    /// Namespaces that it was told to purge.
    pub purged: Mutex<Vec<u32>>,
    /// How often its statistics were reset.
    pub resets: AtomicU64,
    /// A core that does not take over policies.
    pub stuck: AtomicBool,
    /// Whether it was stopped.
    pub stopped: AtomicBool,
}

impl Default for FakeEngine {
    fn default() -> Self {
        Self {
            table: Mutex::new(Arc::new(PolicyTable::deny_all())),
            listeners: Mutex::default(),
            lacking: Mutex::default(),
            closed: Mutex::default(),
            purged: Mutex::default(),
            resets: AtomicU64::default(),
            stuck: AtomicBool::default(),
            stopped: AtomicBool::default(),
        }
    }
}

impl FakeEngine {
    /// The policy that it was given last.
    #[must_use]
    pub fn table(&self) -> Arc<PolicyTable> {
        Arc::clone(&self.table.lock().unwrap())
    }
}

impl Engine for FakeEngine {
    fn shape(&self) -> Shape {
        SHAPE
    }
    fn start(&self) -> Result<(), EngineError> {
        Ok(())
    }
    fn stop(&self, _: Duration) -> Result<(), EngineError> {
        self.stopped.store(true, Ordering::SeqCst);
        Ok(())
    }
    fn set_policy(&self, table: Arc<PolicyTable>) -> Result<(), EngineError> {
        *self.table.lock().unwrap() = table;
        if self.stuck.load(Ordering::SeqCst) {
            return Err(EngineError { errno: libc::ETIMEDOUT, message: "core 1 does not answer".into() });
        }
        Ok(())
    }
    fn transport(&self, transport: Transport) -> Result<TransportLimits, EngineError> {
        if self.lacking.lock().unwrap().contains(&transport) {
            return Err(EngineError { errno: libc::EPROTONOSUPPORT, message: "this build has no such carrier".into() });
        }
        let in_capsule_bytes = if transport.is_network() { 8192 } else { 0 };
        let max_io_bytes = SHAPE.max_transfer_bytes;
        Ok(TransportLimits {
            max_queue_depth: 128,
            max_admin_depth: 32,
            max_io_queues: 64,
            in_capsule_bytes,
            max_io_bytes,
        })
    }
    fn listen(&self, address: &ListenAddress) -> Result<(), EngineError> {
        if address.traddr().starts_with("/forbidden") {
            return Err(EngineError {
                errno: libc::EACCES,
                message: format!("{}: permission denied", address.traddr()),
            });
        }
        assert!(self.listeners.lock().unwrap().insert(address.clone()), "listens on {address} already");
        Ok(())
    }
    fn unlisten(&self, address: &ListenAddress) -> Result<(), EngineError> {
        assert!(self.listeners.lock().unwrap().remove(address), "does not listen on {address}");
        Ok(())
    }
    fn close_session(&self, session: SessionId) {
        self.closed.lock().unwrap().push(session);
    }
    fn reports(&self) -> Vec<CoreReport> {
        (0..SHAPE.cores).map(report).collect()
    }
    fn reset_statistics(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
    fn purge_namespace(&self, ns28: u32) -> Result<u64, EngineError> {
        self.purged.lock().unwrap().push(ns28);
        Ok(4096)
    }
    fn namespace_used(&self, _: u32) -> u64 {
        8192
    }
    fn queue_pairs(&self) -> Vec<QueuePairReport> {
        vec![QueuePairReport {
            session: 0,
            qid: 1,
            core: 0,
            entries: 128,
            outstanding: 3,
            commands: 10,
            completions: 7,
            state: "enabled".into(),
        }]
    }
    fn trace(&self, core: Option<u32>) -> Vec<TraceEvent> {
        (0..SHAPE.cores)
            .filter(|it| core.is_none_or(|core| core == *it))
            .map(|core| TraceEvent { core, event: "turn".into(), ..Default::default() })
            .collect()
    }
    fn stores(&self) -> Vec<StoreReport> {
        vec![StoreReport { name: "null:1G".into(), shards: 2, ..Default::default() }]
    }
    fn now(&self) -> u64 {
        77
    }
    fn block_devices(&self) -> Vec<BlockDeviceReport> {
        let plain = BlockDeviceReport {
            name: "Uring0".into(),
            product_name: "URING bdev".into(),
            block_size: 4096,
            num_blocks: 256,
            num_read_ops: 3,
            bytes_read: 12_288,
            ..Default::default()
        };
        let nvme = Some(controller());
        let id = Some("00112233".to_owned());
        let namespace = BlockDeviceReport {
            name: "Nvme0n1".into(),
            nvme,
            nsid: Some(1),
            id,
            unmap: true,
            errors: 1,
            ..plain.clone()
        };
        vec![plain, namespace]
    }
    fn nvme_controllers(&self) -> Vec<NvmeControllerReport> {
        vec![controller()]
    }
    fn nvme_health(&self, name: &str) -> Result<NvmeHealthReport, EngineError> {
        known(name)?;
        Ok(NvmeHealthReport { model_number: "fake".into(), temperature_celsius: 40, ..Default::default() })
    }
    fn nvme_errors(&self, name: &str) -> Result<(Vec<NvmeErrorReport>, Vec<NvmeEventReport>), EngineError> {
        known(name)?;
        Ok((vec![NvmeErrorReport { count: 1, ..Default::default() }], vec![NvmeEventReport::default()]))
    }
    fn nvme_reset(&self, name: &str) -> Result<(), EngineError> {
        known(name)?;
        self.resets.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

fn controller() -> NvmeControllerReport {
    NvmeControllerReport {
        name: "Nvme0".into(),
        state: "enabled".into(),
        trtype: "PCIe".into(),
        traddr: "0000:01:00.0".into(),
        resets: 2,
        ..Default::default()
    }
}

fn known(name: &str) -> Result<(), EngineError> {
    let message = format!("there is no NVMe controller {name:?}");
    if name == "Nvme0" { Ok(()) } else { Err(EngineError { errno: libc::ENODEV, message }) }
}

fn report(core: u32) -> CoreReport {
    CoreReport {
        core,
        tid: 1000 + core,
        busy: 70,
        idle: 30,
        turns: 9,
        asleep: false,
        pollers: vec![PollerReport { name: "fabric".into(), run_count: 9, busy_count: 7 }],
        stages: vec![StageReport { name: "classify".into(), calls: 4, items: 40, ticks: 400 }],
        operations: vec![OperationReport { name: "retrieve".into(), count: 40, ..Default::default() }],
        pipeline: BTreeMap::from([("staged_bytes".into(), 0)]),
        store: BTreeMap::from([("evictions".into(), 1)]),
    }
}

/// A log that is not there.
pub struct FakeLog(Mutex<LogLevel>);

impl LogControl for FakeLog {
    fn level(&self) -> LogLevel {
        *self.0.lock().unwrap()
    }
    fn set_level(&self, level: LogLevel) {
        *self.0.lock().unwrap() = level;
    }
    fn flags(&self) -> Vec<(&'static str, bool)> {
        vec![("rpc", false)]
    }
    fn set_flag(&self, flag: &str, _: bool) -> bool {
        flag == "rpc"
    }
}

/// A context that waits for `framework_start_init`, and the engine that it will then have.
pub fn waiting() -> (Arc<Context>, Arc<FakeEngine>) {
    let control = Control::new();
    let engine = Arc::new(FakeEngine::default());
    let (later, attached) = (control.clone(), Arc::clone(&engine));
    let framework = Framework::new(Box::new(move || {
        later.attach(attached);
        Ok(())
    }));
    let context = Context {
        control,
        framework: Arc::new(framework),
        log: Arc::new(FakeLog(Mutex::new(LogLevel::Notice))),
        kill: Box::new(|_| ()),
    };
    (Arc::new(context), engine)
}

/// A context that is ready.
pub fn ready() -> (Arc<Context>, Arc<FakeEngine>) {
    let (context, engine) = waiting();
    context.framework.start().unwrap();
    (context, engine)
}
