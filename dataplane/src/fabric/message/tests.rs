//! What control threads and cores promise each other, with cores that are behind or refuse.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::hosts::{Host, HostName, HostOptions, Hosts, Way};
use super::orders::{CoreCommand, HostLink};
use super::staging::StagingLayout;
use crate::fabric::controller::{Controller, ControllerLimits};
use crate::fabric::{
    Admission, CarrierKind, ControllerIdentity, CorePort, NamespaceInfo, Peer, Refused, RefusedKind, Session, SessionId,
};
use crate::memory::Region;
use crate::nvme::spec::vendor::OwnerMap;

struct Nobody;

impl Admission for Nobody {
    fn open(&self, _: &Peer) -> Result<Box<dyn Session>, Refused> {
        Err(Refused::new(RefusedKind::Other, "a test"))
    }
}

/// Three cores, of which the first has a full mailbox until the others were told.
#[derive(Default)]
struct Cores {
    told: Mutex<Vec<u16>>,
    changed: Condvar,
    sweeps: AtomicUsize,
    /// Regions that devices know, and from how many on they refuse.
    held: AtomicUsize,
    refused_from: usize,
}

impl Cores {
    fn take(&self, core: u16, command: CoreCommand) {
        match command {
            CoreCommand::CloseSession(_, answer) => {
                self.told.lock().unwrap().push(core);
                self.changed.notify_all();
                answer.send(Ok(())).unwrap();
            }
            CoreCommand::Sweep => drop(self.sweeps.fetch_add(1, Ordering::SeqCst)),
            other => panic!("{other:?}"),
        }
    }
}

impl CorePort<CoreCommand> for Cores {
    fn cores(&self) -> u16 {
        3
    }

    fn send(&self, core: u16, command: CoreCommand) -> Result<(), CoreCommand> {
        let told = self.told.lock().unwrap();
        drop(self.changed.wait_while(told, |told| told.len() < 2).unwrap());
        self.take(core, command);
        Ok(())
    }

    fn offer(&self, core: u16, command: CoreCommand) -> Result<(), CoreCommand> {
        if core == 0 {
            return Err(command);
        }
        self.take(core, command);
        Ok(())
    }

    fn hold_memory(&self, _: &Arc<Region>) -> io::Result<()> {
        if self.held.load(Ordering::SeqCst) >= self.refused_from {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.held.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn release_memory(&self, _: &Arc<Region>) {
        self.held.fetch_sub(1, Ordering::SeqCst);
    }
}

fn hosts(cores: &Arc<Cores>) -> Hosts {
    let layout = StagingLayout { areas: 1, area_bytes: 4096, buffer_bytes: 64 << 10 };
    let options = HostOptions { layout, max_queue_entries: 128, max_transfer_bytes: 65_536, in_capsule_bytes: 8192 };
    Hosts::new(Arc::new(Nobody), Arc::clone(cores) as Arc<dyn CorePort<CoreCommand>>, options)
}

#[test]
fn a_core_that_is_behind_holds_up_no_other() {
    let cores = Arc::new(Cores::default());
    // Told in order of their numbers, the first would keep this waiting for ever.
    assert!(hosts(&cores).end_queues(SessionId(1)));
    assert_eq!(*cores.told.lock().unwrap(), [1, 2, 0]);
}

#[test]
fn carriers_end_what_takes_long_before_cores_are_asked_to() {
    let cores = Arc::new(Cores::default());
    let hosts = hosts(&cores);
    let ended = Arc::new(Mutex::new(Vec::new()));
    let (seen, told) = (Arc::clone(&ended), Arc::clone(&cores));
    hosts.before_queues_end(move |session| seen.lock().unwrap().push((session, told.told.lock().unwrap().len())));
    assert!(hosts.end_queues(SessionId(7)));
    assert_eq!(*ended.lock().unwrap(), [(SessionId(7), 0)]);
    assert_eq!(cores.told.lock().unwrap().len(), 3);
}

#[test]
fn a_sweep_waits_for_no_core() {
    let cores = Arc::new(Cores::default());
    let watch = hosts(&cores).watch().unwrap();
    // It ends with a round over all cores.
    drop(watch);
    assert_eq!(cores.sweeps.load(Ordering::SeqCst), 2);
}

#[test]
fn memory_that_was_made_known_is_released_if_the_rest_cannot_be_had() {
    for refused_from in 0..3 {
        let cores = Arc::new(Cores { refused_from, ..Cores::default() });
        hosts(&cores).open().unwrap_err();
        assert_eq!(cores.held.load(Ordering::SeqCst), 0, "{refused_from} were made known");
    }
}

struct One;

impl Session for One {
    fn id(&self) -> SessionId {
        SessionId(1)
    }

    fn identity(&self) -> ControllerIdentity {
        ControllerIdentity {
            subsystem_nqn: "nqn.2026-01.test:s".to_owned(),
            serial: "S".to_owned(),
            model: "M".to_owned(),
            firmware: "F".to_owned(),
            controller_id: 1,
            max_transfer_bytes: 65_536,
            owners: OwnerMap { shards: 1, cores: 1 },
        }
    }

    fn namespaces(&self) -> Vec<NamespaceInfo> {
        Vec::new()
    }

    fn generation(&self) -> u64 {
        0
    }
}

fn host() -> Arc<Host> {
    let limits = ControllerLimits { max_queue_entries: 128, io_queues: 8, vectors: 1, cores: 1, fabrics: None };
    let name = HostName {
        subsystem_nqn: "nqn.2026-01.test:s".to_owned(),
        host_nqn: "nqn.2026-01.test:h".to_owned(),
        host_id: [1; 16],
        controller_id: 1,
    };
    let peer = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let way = Way { carrier: CarrierKind::Tcp, listener: "127.0.0.1:4420".to_owned(), peer };
    let controller = Mutex::new(Controller::new(One.identity(), Vec::new(), limits));
    Arc::new(Host { session: Arc::new(One), link: Arc::new(HostLink::of(&name.host_nqn)), name, way, controller })
}

#[test]
fn an_io_queue_comes_the_way_that_its_admin_queue_came() {
    let (hosts, host) = (hosts(&Arc::new(Cores::default())), host());
    hosts.add(&host);
    assert!(hosts.find(&host.name, &host.way).is_some());
    let other_peer = Way { peer: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))), ..host.way.clone() };
    let other_listener = Way { listener: "127.0.0.1:4421".to_owned(), ..host.way.clone() };
    let other_carrier = Way { carrier: CarrierKind::Rdma, ..host.way.clone() };
    for way in [other_peer, other_listener, other_carrier] {
        assert!(hosts.find(&host.name, &way).is_none(), "{way:?}");
    }
}

#[test]
fn a_late_refusal_erases_no_newer_queue() {
    let host = host();
    let is_taken = || host.lock().has_queue(1);
    let epoch = host.link.epoch();
    host.lock().queue_connected(1);
    host.release(1, epoch);
    assert!(!is_taken());
    // All queues were ended meanwhile, and the host connected it anew.
    host.link.begin_epoch();
    host.lock().queue_connected(1);
    host.release(1, epoch);
    assert!(is_taken());
}
