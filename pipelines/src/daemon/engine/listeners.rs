//! Where the engine listens, over every carrier.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use dataplane::fabric::message::{HostOptions, Hosts, Watch};
use dataplane::fabric::rdma::target::{MAX_TRANSFER_BYTES, RdmaDevices, RdmaTarget};
use dataplane::fabric::rdma::verbs::EventChannel;
use dataplane::fabric::rdma::wire::ADMIN_ENTRIES;
use dataplane::fabric::tcp::target::{TcpTarget, staging_layout};
use dataplane::fabric::vfio_user::{Target, TargetOptions};
use dataplane::fabric::{Admission, SessionId, message, vfio_user};

use super::port::Cores;
use crate::control::state::{ListenAddress, Transport};
use crate::control::{EngineError, TransportLimits};

/// Staging memory for data of hosts over the network, of each core: four of the longest values, or sixteen and more of a
/// usual size.
const STAGING_BYTES: u32 = 64 << 20;
/// Entries of the longest queue over the network.
const MAX_QUEUE_ENTRIES: u32 = 1024;
/// Data that may come in a capsule.
const IN_CAPSULE_BYTES: u32 = 8192;

/// A listener of any carrier. Dropping the last hold on one ends it and waits for its connections.
#[derive(Clone)]
pub(super) enum Listener {
    VfioUser(Arc<Target>),
    /// Only held: it does all it does by itself.
    Tcp {
        _target: Arc<TcpTarget>,
    },
    /// Likewise.
    Rdma {
        _target: Arc<RdmaTarget>,
    },
}

impl Listener {
    /// Disconnects the host of a session, if it came in here by a carrier whose listeners know.
    pub(super) fn close_session(&self, session: SessionId) {
        match self {
            Self::VfioUser(target) => target.close_session(session),
            // Hosts over the network are known to all of its listeners together.
            Self::Tcp { .. } | Self::Rdma { .. } => {}
        }
    }
}

/// The listeners, and the hosts that came in over the network.
pub(super) struct Listeners {
    listeners: BTreeMap<ListenAddress, Listener>,
    hosts: Hosts,
    rdma: RdmaDevices,
    /// Ends after the listeners, which need it to end stuck hosts.
    _watch: Watch,
}

impl Listeners {
    /// None yet.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn new(hosts: Hosts) -> io::Result<Self> {
        let watch = hosts.watch()?;
        let rdma = RdmaDevices::new(&hosts);
        Ok(Self { listeners: BTreeMap::new(), hosts, rdma, _watch: watch })
    }

    /// Begins to listen.
    pub(super) fn listen(
        &mut self,
        address: &ListenAddress,
        cores: &Arc<Cores>,
        admission: &Arc<dyn Admission>,
    ) -> Result<(), EngineError> {
        if self.listeners.contains_key(address) {
            let message = format!("already listening on {address}");
            return Err(EngineError { errno: libc::EADDRINUSE, message });
        }
        let listener = match address {
            ListenAddress::VfioUser(folder) => listen_vfio_user(folder, cores, admission)?,
            ListenAddress::Tcp(address) => self.tcp(*address)?,
            ListenAddress::Rdma(address) => self.rdma(*address)?,
        };
        self.listeners.insert(address.clone(), listener);
        Ok(())
    }

    fn tcp(&self, address: SocketAddr) -> Result<Listener, EngineError> {
        let target = TcpTarget::listen(address, &self.hosts);
        let target = target.map_err(|error| not_available(&error))?;
        Ok(Listener::Tcp { _target: Arc::new(target) })
    }

    fn rdma(&self, address: SocketAddr) -> Result<Listener, EngineError> {
        let target = RdmaTarget::listen(address, &self.rdma);
        let target = target.map_err(|error| not_available(&error))?;
        Ok(Listener::Rdma { _target: Arc::new(target) })
    }

    /// Takes a listener out, to be ended.
    pub(super) fn remove(&mut self, address: &ListenAddress) -> Option<Listener> {
        self.listeners.remove(address)
    }

    /// Every listener.
    pub(super) fn all(&self) -> Vec<Listener> {
        self.listeners.values().cloned().collect()
    }
}

fn listen_vfio_user(folder: &str, cores: &Arc<Cores>, admission: &Arc<dyn Admission>) -> Result<Listener, EngineError> {
    // Any user may knock; whom the policy does not know by user id is turned away before a byte is read.
    let keep_files = cores.controllers().any_remote();
    let options = TargetOptions { socket_mode: 0o666, keep_files, ..TargetOptions::default() };
    let target = Target::listen(Path::new(folder), options, Arc::clone(cores) as _, Arc::clone(admission));
    let target = target.map_err(|error| not_available(&error))?;
    Ok(Listener::VfioUser(Arc::new(target)))
}

/// With the number that the system said, if it was the system.
fn not_available(error: &(dyn std::error::Error + 'static)) -> EngineError {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let errno = causes.filter_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error()).next();
    EngineError { errno: errno.unwrap_or(libc::EADDRNOTAVAIL), message: error.to_string() }
}

/// Whether this machine can serve RDMA at all.
fn needs_rdma() -> Result<(), EngineError> {
    let missing =
        |error| EngineError { errno: libc::EPROTONOSUPPORT, message: format!("there is no RDMA here: {error}") };
    EventChannel::new().map(drop).map_err(missing)
}

/// How hosts over the network are treated.
pub(super) fn host_options(max_transfer_bytes: u32) -> HostOptions {
    HostOptions {
        layout: staging_layout(STAGING_BYTES),
        max_queue_entries: MAX_QUEUE_ENTRIES,
        max_transfer_bytes,
        in_capsule_bytes: IN_CAPSULE_BYTES,
    }
}

/// What a carrier can do.
pub(super) fn limits(transport: Transport, hosts: &HostOptions) -> Result<TransportLimits, EngineError> {
    let entries = TargetOptions::default().max_queue_entries;
    match transport {
        Transport::VfioUser => Ok(TransportLimits {
            max_queue_depth: entries,
            max_admin_depth: entries,
            max_io_queues: vfio_user::MAX_IO_QUEUES,
            in_capsule_bytes: 0,
            max_io_bytes: hosts.max_transfer_bytes,
        }),
        Transport::Tcp => Ok(TransportLimits {
            max_queue_depth: hosts.max_queue_entries,
            max_admin_depth: hosts.max_queue_entries,
            max_io_queues: message::MAX_IO_QUEUES,
            in_capsule_bytes: hosts.in_capsule_bytes,
            max_io_bytes: hosts.max_transfer_bytes,
        }),
        Transport::Rdma => needs_rdma().map(|()| TransportLimits {
            max_queue_depth: hosts.max_queue_entries,
            max_admin_depth: u32::from(ADMIN_ENTRIES),
            max_io_queues: message::MAX_IO_QUEUES,
            in_capsule_bytes: hosts.in_capsule_bytes,
            max_io_bytes: hosts.max_transfer_bytes.min(MAX_TRANSFER_BYTES),
        }),
    }
}
