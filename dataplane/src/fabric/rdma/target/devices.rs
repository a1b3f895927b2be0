//! What control threads know: the devices with their ports on the cores, and every connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;

use super::core_end::{Remain, Remains};
use super::device_table::{DeviceTable, Ports};
use super::orders::RdmaOrder;
use super::port::{PortParts, check_room};
use crate::fabric::SessionId;
use crate::fabric::message::{CoreCommand, Hosts};
use crate::fabric::rdma::verbs::{Device, Endpoint, EndpointId, VerbsError};
use crate::memory::Region;

/// How long a connection that is over stays before it is destroyed. A message that was coming in when its queue pair failed has
/// taken one of the receives that all share, and its completion may come after that of the drain; once the queue pair is
/// destroyed, it never comes (mlx5 takes what is left out of the completion queue).
const GRACE: Duration = Duration::from_millis(200);
/// How long the removal of a device may take after it is known of. The kernel takes its calls away first, and then makes it stop;
/// from then on it answers in the same way, whether it has stopped or not.
const REMOVAL: Duration = Duration::from_secs(10);
/// Connections that may wait to be destroyed.
const REMAINS: usize = 4096;

/// The RDMA devices and connections of a process, over all listeners. Clones are the same.
#[derive(Clone)]
pub struct RdmaDevices {
    shared: Arc<Shared>,
}

struct Shared {
    hosts: Hosts,
    devices: Mutex<DeviceTable<Device, PortParts>>,
    connections: Mutex<HashMap<EndpointId, Connection>>,
    remains: Remains,
    dying: Mutex<Vec<Dying>>,
}

/// A connection that is to be destroyed.
struct Dying {
    since: Instant,
    remain: Remain,
}

/// A connection that was accepted.
pub(super) struct Connection {
    pub endpoint: Arc<Endpoint>,
    /// Which listener accepted it.
    pub listener: EndpointId,
    pub kind: Kind,
    /// Whose it is, once that is known of an I/O queue.
    pub session: Option<SessionId>,
}

#[derive(Clone)]
pub(super) enum Kind {
    /// An admin queue; the flag says that the connection is at its end.
    Admin(Arc<AtomicBool>),
    /// An I/O queue, of this core.
    Io(u16),
}

impl std::fmt::Debug for RdmaDevices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RdmaDevices").field("connections", &self.connections().len()).finish_non_exhaustive()
    }
}

impl RdmaDevices {
    /// None yet: a device is set up when a host comes in over it.
    #[must_use]
    pub fn new(hosts: &Hosts) -> Self {
        let shared = Shared {
            hosts: hosts.clone(),
            devices: Mutex::default(),
            connections: Mutex::default(),
            remains: Arc::new(ArrayQueue::new(REMAINS)),
            dying: Mutex::default(),
        };
        let devices = Self { shared: Arc::new(shared) };
        // What is left when the last listener has ended, and of devices that were removed.
        let later = Arc::downgrade(&devices.shared);
        hosts.at_each_sweep(move || later.upgrade().map(|shared| Self { shared }.sweep()).is_some());
        let later = Arc::downgrade(&devices.shared);
        hosts.before_queues_end(move |session| {
            if let Some(shared) = later.upgrade() {
                Self { shared }.lose_all(session);
            }
        });
        devices
    }

    /// The hosts.
    #[must_use]
    pub fn hosts(&self) -> &Hosts {
        &self.shared.hosts
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<EndpointId, Connection>> {
        self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn devices(&self) -> MutexGuard<'_, DeviceTable<Device, PortParts>> {
        self.shared.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device's number on the cores, and its ports by core. Sets it up if that was not done before, or is to be done anew, which
    /// takes a while.
    pub(super) fn ports(&self, device: Device) -> Result<(usize, Ports<PortParts>), VerbsError> {
        let mut devices = self.devices();
        if let Some(found) = devices.find(&device, PortParts::condition) {
            return Ok(found);
        }
        // It may be one that was removed and came back.
        self.retire(&mut devices);
        match self.make_ports(device, &devices) {
            Ok(ports) => {
                let number = devices.enter(device, Arc::clone(&ports));
                for (core, parts) in (0..).zip(&*ports) {
                    // A core that has stopped serves nothing anyway.
                    let open = |answer| CoreCommand::Rdma(RdmaOrder::Open(number, Arc::clone(parts), answer));
                    let _ = self.hosts().ask(core, open);
                }
                Ok((number, ports))
            }
            Err(error) => devices.find_worn(&device, PortParts::condition).ok_or(error),
        }
    }

    fn make_ports(
        &self,
        device: Device,
        devices: &DeviceTable<Device, PortParts>,
    ) -> Result<Ports<PortParts>, VerbsError> {
        let hosts = self.hosts();
        let options = hosts.options();
        check_room(options, devices.held(PortParts::held_bytes), &device.limits())?;
        let make = |staging: &Arc<Region>| {
            let (layout, remains) = (options.layout, Arc::clone(&self.shared.remains));
            PortParts::new(device, staging, layout.buffer_bytes, options.in_capsule_bytes, remains).map(Arc::new)
        };
        let staging = hosts.staging();
        let regions = staging.as_ref().map_or(&[][..], |map| map.regions());
        let ports: Vec<_> = regions.iter().map(make).collect::<Result<_, _>>()?;
        Ok(ports.into())
    }

    /// Goes on with devices that were removed, and with what is to be made anew of others.
    fn retire(&self, devices: &mut DeviceTable<Device, PortParts>) {
        let hosts = self.hosts();
        let leave = |number| {
            let left = |core| hosts.ask(core, |answer| CoreCommand::Rdma(RdmaOrder::Leave(number, answer)));
            // A core that has stopped uses nothing any more.
            let all = (0..hosts.cores()).all(|core| !matches!(left(core), Some(Err(_))));
            if all {
                tracing::info!(
                    device = number,
                    "nothing uses an RDMA device any more that was removed, or what there was of it is being made anew"
                );
            }
            all
        };
        let reclaim = |number| {
            for core in 0..hosts.cores() {
                hosts.tell(core, CoreCommand::Rdma(RdmaOrder::Reclaim(number)));
            }
        };
        devices.retire(REMOVAL, Device::is_there, PortParts::condition, leave, PortParts::is_unused, reclaim);
    }

    fn sweep(&self) {
        self.bury();
        self.retire(&mut self.devices());
    }

    pub(super) fn add(&self, connection: Connection) {
        self.connections().insert(connection.endpoint.id(), connection);
    }

    /// Forgets a connection.
    pub(super) fn remove(&self, id: EndpointId) {
        // Destroyed, if it is, after the lock was given back.
        let removed = self.connections().remove(&id);
        drop(removed);
    }

    /// A connection is at its end: makes it fail, and tells whoever serves it.
    pub(super) fn lose(&self, id: EndpointId) {
        let found = self.connections().get(&id).map(|found| (Arc::clone(&found.endpoint), found.kind.clone()));
        let Some((endpoint, kind)) = found else { return };
        endpoint.disconnect();
        match kind {
            Kind::Admin(gone) => gone.store(true, Ordering::Release),
            Kind::Io(core) => self.hosts().tell(core, CoreCommand::Rdma(RdmaOrder::Lose(id))),
        }
    }

    /// A connection is that of a session's queue.
    pub(super) fn belongs(&self, id: EndpointId, session: SessionId) {
        if let Some(connection) = self.connections().get_mut(&id) {
            connection.session = Some(session);
        }
    }

    /// The queues of a session are to end: makes them fail here, because that takes a system call each. The core ends what
    /// it has of them, and what is on its way to it.
    fn lose_all(&self, session: SessionId) {
        let connections = self.connections();
        let of_session = connections.iter().filter(|(_, of)| of.session == Some(session));
        let ids: Vec<EndpointId> = of_session.map(|(id, _)| *id).collect();
        drop(connections);
        ids.into_iter().for_each(|id| self.lose(id));
    }

    /// The connections of a listener.
    pub(super) fn of(&self, listener: EndpointId) -> Vec<EndpointId> {
        let connections = self.connections();
        connections.iter().filter(|(_, of)| of.listener == listener).map(|(id, _)| *id).collect()
    }

    /// Destroys the connections that cores are done with.
    pub(super) fn bury(&self) {
        let mut dying = self.shared.dying.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(remain) = self.shared.remains.pop() {
            remain.endpoint.disconnect();
            self.remove(remain.endpoint.id());
            dying.push(Dying { since: Instant::now(), remain });
        }
        for Dying { since, remain: Remain { endpoint, waiting } } in std::mem::take(&mut *dying) {
            let (id, due) = (endpoint.id(), since.elapsed() >= GRACE);
            // Others may still have it, such as the thread that waits for Connect.
            match if due { Arc::try_unwrap(endpoint) } else { Err(endpoint) } {
                Ok(endpoint) => {
                    // Returns when the device has let go of whatever the queue pair touched.
                    drop(endpoint);
                    if let Some(core) = waiting {
                        self.hosts().tell(core, CoreCommand::Rdma(RdmaOrder::Gone(id)));
                    }
                }
                Err(endpoint) => dying.push(Dying { since, remain: Remain { endpoint, waiting } }),
            }
        }
    }
}
