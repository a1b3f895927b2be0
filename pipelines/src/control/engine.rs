//! What the control plane asks of the running cores.

use std::sync::Arc;
use std::time::Duration;

use dataplane::fabric::SessionId;

use super::report::{
    BlockDeviceReport, CoreReport, NvmeControllerReport, NvmeErrorReport, NvmeEventReport, NvmeHealthReport,
    QueuePairReport, StoreReport, TraceEvent,
};
use super::state::{ListenAddress, Transport};
use crate::policy::table::PolicyTable;

/// What stays the same for as long as the engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Ticks in a second, of every figure that is in ticks.
    pub tick_rate: u64,
    /// Cores that serve queues.
    pub cores: u32,
    /// Shards that the store is cut into.
    pub shards: u32,
    /// Bytes that the store can hold, over all shards.
    pub capacity_bytes: u64,
    /// The longest value that the store takes, in bytes.
    pub max_value_bytes: u32,
    /// The most bytes that one command may move; a power of two times 4096.
    pub max_transfer_bytes: u32,
    /// Value granularity that suits the device, in bytes.
    pub granularity: u32,
}

/// What a carrier offers to each of its controllers. Fixed by how the carrier is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportLimits {
    /// Entries of the longest I/O queue.
    pub max_queue_depth: u32,
    /// Entries of the longest admin queue.
    pub max_admin_depth: u32,
    /// I/O queue pairs of a controller.
    pub max_io_queues: u16,
    /// Bytes of data that a command may bring along in its capsule; 0 for carriers with shared memory.
    pub in_capsule_bytes: u32,
    /// The most bytes that one command may move; a power of two times 4096.
    pub max_io_bytes: u32,
}

/// The engine could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    /// A positive errno that fits best.
    pub errno: i32,
    /// What failed, and what to do about it.
    pub message: String,
}

/// The running cores with their store and carriers.
///
/// Called from control threads only, from several at once. Every call returns within a bounded time (a second or so)
/// even if a core is stuck, and none may be made by a core. No method may wait for a session to open or to be dropped:
/// the caller may hold the lock that those take.
pub trait Engine: Send + Sync {
    /// What stays the same.
    fn shape(&self) -> Shape;

    /// Starts polling. Called once, before any other call but [`shape`](Self::shape).
    ///
    /// # Errors
    /// If a core or a device does not start.
    fn start(&self) -> Result<(), EngineError>;

    /// Stops listening, lets accepted commands end, makes acknowledged durable values durable, and stops the cores.
    /// Later calls of other methods answer with nothing or an error.
    ///
    /// # Errors
    /// If not everything ended within `patience`; the cores are stopped all the same.
    fn stop(&self, patience: Duration) -> Result<(), EngineError>;

    /// Gives every core a new policy, and returns once each uses it: then no command that is judged from now on is
    /// judged by an older one.
    ///
    /// # Errors
    /// If a core did not take it in time. It will still take it, before any later one.
    fn set_policy(&self, table: Arc<PolicyTable>) -> Result<(), EngineError>;

    /// What a carrier offers.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT` if this build or this machine does not have it, with what to do.
    fn transport(&self, transport: Transport) -> Result<TransportLimits, EngineError>;

    /// Begins to listen, once for each address, however many subsystems are reached there. Connections are shown to the
    /// admission that the engine was built with. Hosts can ask the discovery subsystem at every address of a network.
    ///
    /// # Errors
    /// If the address cannot be used: in use, no permission, carrier not there.
    fn listen(&self, address: &ListenAddress) -> Result<(), EngineError>;

    /// Ends listening. Who came in there is disconnected some time later.
    ///
    /// # Errors
    /// If there is no such listener.
    fn unlisten(&self, address: &ListenAddress) -> Result<(), EngineError>;

    /// Asks a session's carrier to disconnect its host. The session is dropped some time later.
    fn close_session(&self, session: SessionId);

    /// Every core's figures. A core that does not answer in time is left out.
    fn reports(&self) -> Vec<CoreReport>;

    /// Sets every counter that [`reports`](Self::reports) shows back to zero.
    fn reset_statistics(&self);

    /// Forgets every value of a namespace. No grant names it any more. Returns the bytes freed.
    ///
    /// # Errors
    /// If a core did not finish in time or a device failed; the call can be repeated.
    fn purge_namespace(&self, ns28: u32) -> Result<u64, EngineError>;

    /// Bytes that a namespace holds, over all shards.
    fn namespace_used(&self, ns28: u32) -> u64;

    /// Every queue pair of every session.
    fn queue_pairs(&self) -> Vec<QueuePairReport>;

    /// The newest events of the flight recorder, oldest first, of one core or of all.
    fn trace(&self, core: Option<u32>) -> Vec<TraceEvent>;

    /// The stores.
    fn stores(&self) -> Vec<StoreReport>;

    /// The time, in ticks.
    fn now(&self) -> u64;

    /// The devices under the stores, and what was done on them since the start.
    fn block_devices(&self) -> Vec<BlockDeviceReport>;

    /// The NVMe controllers that the daemon drives itself.
    fn nvme_controllers(&self) -> Vec<NvmeControllerReport>;

    /// What a controller says of its health. Waits for the controller, some seconds at most.
    ///
    /// # Errors
    /// If there is no such controller, or what it said.
    fn nvme_health(&self, controller: &str) -> Result<NvmeHealthReport, EngineError>;

    /// A controller's error log, and the events that it sent since this was last asked. Waits for the controller, some
    /// seconds at most.
    ///
    /// # Errors
    /// If there is no such controller, or what it said.
    fn nvme_errors(&self, controller: &str) -> Result<(Vec<NvmeErrorReport>, Vec<NvmeEventReport>), EngineError>;

    /// Resets a controller. What was outstanding on it is sent again. Waits for the controller, as long as it says that it
    /// needs.
    ///
    /// # Errors
    /// If there is no such controller, or why it did not come back. It was given up then.
    fn nvme_reset(&self, controller: &str) -> Result<(), EngineError>;
}
