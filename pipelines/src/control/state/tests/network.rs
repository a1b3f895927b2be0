//! Hosts of a network: who is let in at which listener, and what the discovery subsystem tells whom.

use std::net::SocketAddr;

use dataplane::fabric::{Admission, CarrierKind, Peer, RefusedKind};
use dataplane::nvme::spec::fabrics::{DISCOVERY_NQN, DiscoveryEntry, TransportType};

use super::super::listening::access;
use super::super::*;
use super::{FOLDER, HOST_A, HOST_B, NQN, namespace, peer, sees};
use crate::control::fake::{FakeEngine, SHAPE, ready};

const OTHER: &str = "nqn.2026-01.io.kvplane:other";
const HOST_ID: [u8; 16] = *b"0123456789abcdef";
const HERE: &str = "192.0.2.7:4420";

fn tcp(listener: &str, subsystem: &str, host: &str) -> Peer {
    Peer {
        carrier: CarrierKind::Tcp,
        listener: listener.into(),
        subsystem_nqn: Some(subsystem.into()),
        host_nqn: Some(host.into()),
        host_id: Some(HOST_ID),
        address: Some("198.51.100.9:50000".parse().unwrap()),
        uid: None,
        pid: None,
    }
}

fn address(text: &str) -> ListenAddress {
    text.parse().unwrap()
}

/// Two subsystems that share a TCP listener; host A is attached to the first, host B to the second.
fn set_up() -> (Control, Arc<FakeEngine>) {
    let (context, engine) = ready();
    let control = context.control.clone();
    for (nqn, host) in [(NQN, HOST_A), (OTHER, HOST_B)] {
        control.create_subsystem(NewSubsystem { nqn: nqn.into(), ..Default::default() }).unwrap();
        control.add_host(nqn, host, None).unwrap();
        control.add_listener(nqn, &address("tcp://192.0.2.7")).unwrap();
    }
    control.create_namespace(&namespace("one", &[HOST_A])).unwrap();
    (control, engine)
}

fn refused(control: &Control, peer: &Peer) -> (RefusedKind, String) {
    let Err(refused) = control.open(peer) else { panic!("{peer:?} was let in") };
    (refused.kind, refused.reason)
}

fn listens(engine: &FakeEngine) -> Vec<String> {
    engine.listeners.lock().unwrap().iter().map(ToString::to_string).collect()
}

/// Where a peer is told that it may connect, and to what.
fn told(control: &Control, peer: &Peer) -> Vec<(String, String)> {
    let place = |entry: DiscoveryEntry| {
        let scheme = if entry.trtype == TransportType::Tcp { "tcp" } else { "rdma" };
        let socket = SocketAddr::new(entry.traddr.parse().unwrap(), entry.trsvcid.parse().unwrap());
        (entry.subnqn, format!("{scheme}://{socket}"))
    };
    control.discover(peer).entries.into_iter().map(place).collect()
}

#[test]
fn the_name_that_a_host_gives_decides() {
    let (control, engine) = set_up();
    let a = control.open(&tcp(HERE, NQN, HOST_A)).unwrap();
    assert_eq!(sees(&engine, &*a, 1), Some(ns28("one")));
    assert_eq!(a.identity().subsystem_nqn, NQN);
    let b = control.open(&tcp(HERE, OTHER, HOST_B)).unwrap();
    assert_eq!(b.identity().subsystem_nqn, OTHER);
    assert_ne!(a.identity().controller_id, b.identity().controller_id);

    use RefusedKind::{HostNotAllowed, NotListening, UnknownSubsystem};
    for (peer, kind, reason) in [
        (tcp(HERE, OTHER, HOST_A), HostNotAllowed, "not attached"),
        (tcp(HERE, NQN, "nqn.2026-01.io.kvplane:host-c"), HostNotAllowed, "not attached"),
        (tcp(HERE, NQN, "garbage"), HostNotAllowed, "invalid NQN"),
        (Peer { host_nqn: None, ..tcp(HERE, NQN, HOST_A) }, HostNotAllowed, "invalid NQN"),
        (tcp(HERE, "nqn.2026-01.io.kvplane:no", HOST_A), UnknownSubsystem, "nvmf_create_subsystem"),
        (tcp(HERE, "garbage\n", HOST_A), UnknownSubsystem, "no subsystem"),
        (tcp(HERE, DISCOVERY_NQN, HOST_A), UnknownSubsystem, "no subsystem"),
        (Peer { subsystem_nqn: None, ..tcp(HERE, NQN, HOST_A) }, UnknownSubsystem, "no subsystem"),
        (tcp("192.0.2.7:4421", NQN, HOST_A), NotListening, "nvmf_subsystem_add_listener"),
        (tcp("192.0.2.8:4420", NQN, HOST_A), NotListening, "nvmf_subsystem_add_listener"),
        (tcp("garbage", NQN, HOST_A), NotListening, "nvmf_subsystem_add_listener"),
        (Peer { carrier: CarrierKind::Rdma, ..tcp(HERE, NQN, HOST_A) }, NotListening, "nvmf_subsystem_add_listener"),
    ] {
        let (got, why) = refused(&control, &peer);
        assert!(got == kind && why.contains(reason), "{peer:?}: {got:?}, {why}");
    }
    engine.stuck.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(refused(&control, &tcp(HERE, NQN, HOST_A)).0, RefusedKind::Other);
}

#[test]
fn a_host_that_is_tied_to_a_user_does_not_get_in_over_a_network() {
    let (control, _) = set_up();
    let local = "nqn.2026-01.io.kvplane:uid-0";
    control.add_listener(NQN, &ListenAddress::vfio_user(FOLDER).unwrap()).unwrap();
    control.add_host(NQN, local, Some(0)).unwrap();
    assert!(control.open(&peer(Some(0))).is_ok());
    let (kind, why) = refused(&control, &tcp(HERE, NQN, local));
    assert!(kind == RefusedKind::HostNotAllowed && why.contains("not attached"), "{why}");
    assert_eq!(told(&control, &tcp(HERE, DISCOVERY_NQN, local)), []);
    // Nor does a user id that came by a network count.
    let liar = Peer { uid: Some(0), ..tcp(HERE, NQN, local) };
    assert_eq!(refused(&control, &liar).0, RefusedKind::HostNotAllowed);
}

#[test]
fn strangers_are_let_in_where_any_host_is_and_sent_away_when_it_is_not() {
    let (control, engine) = set_up();
    control.create_namespace(&NewNamespace { auto_visible: true, ..namespace("open", &[]) }).unwrap();
    control.allow_any_host(NQN, true).unwrap();
    let name = "nqn.2026-01.io.kvplane:host-c";
    let stranger = control.open(&tcp(HERE, NQN, name)).unwrap();
    assert_eq!([1, 2].map(|nsid| sees(&engine, &*stranger, nsid)), [None, Some(ns28("open"))]);
    let record = control.sessions().remove(0);
    assert_eq!((record.host, record.host_nqn), (None, Some(Nqn::parse(name).unwrap())));
    assert_eq!((record.host_id, record.address.map(|it| it.port())), (Some(HOST_ID), Some(50_000)));
    assert_eq!((record.listener, record.uid), (address("tcp://192.0.2.7"), None));
    // A host without a proper name stays out even so.
    assert_eq!(refused(&control, &tcp(HERE, NQN, "")).0, RefusedKind::HostNotAllowed);
    control.allow_any_host(NQN, false).unwrap();
    assert_eq!(*engine.closed.lock().unwrap(), [stranger.id()]);
    let a = control.open(&tcp(HERE, NQN, HOST_A)).unwrap();
    control.remove_host(NQN, HOST_A).unwrap();
    assert_eq!(*engine.closed.lock().unwrap(), [stranger.id(), a.id()]);
}

#[test]
fn one_host_does_not_keep_the_others_out() {
    let (control, _) = set_up();
    control.allow_any_host(NQN, true).unwrap();
    let full = |peer: &Peer| {
        let (kind, why) = refused(&control, peer);
        assert!(kind == RefusedKind::Full && why.contains("disconnect"), "{kind:?}: {why}");
    };
    let strange = |number: usize| tcp(HERE, NQN, &format!("nqn.2026-01.io.kvplane:stranger-{number}"));
    let own: Vec<_> = (0..64).map(|_| control.open(&tcp(HERE, NQN, HOST_A)).unwrap()).collect();
    full(&tcp(HERE, NQN, HOST_A));
    let strangers: Vec<_> = (0..128).map(|number| control.open(&strange(number)).unwrap()).collect();
    full(&strange(128));
    let others: Vec<_> = (0..64).map(|_| control.open(&tcp(HERE, OTHER, HOST_B)).unwrap()).collect();
    assert_eq!(control.sessions().len(), 256);
    drop(own);
    control.open(&tcp(HERE, NQN, HOST_A)).unwrap();
    drop(strangers);
    control.open(&strange(128)).unwrap();
    drop(others);
}

#[test]
fn a_shared_listener_begins_with_the_first_subsystem_and_ends_with_the_last() {
    let (control, engine) = set_up();
    let shared = address("tcp://192.0.2.7");
    assert_eq!(listens(&engine), ["tcp://192.0.2.7:4420"]);
    assert_eq!(control.add_listener(NQN, &shared).unwrap_err().errno(), libc::EEXIST);
    control.add_listener(NQN, &address("tcp://192.0.2.8")).unwrap();
    let [a, b] = [(NQN, HOST_A), (OTHER, HOST_B)].map(|(nqn, host)| control.open(&tcp(HERE, nqn, host)).unwrap());
    let elsewhere = control.open(&tcp("192.0.2.8:4420", NQN, HOST_A)).unwrap();
    control.remove_listener(NQN, &shared).unwrap();
    // The hosts of the subsystem that came in there go, and no others.
    assert_eq!(*engine.closed.lock().unwrap(), [a.id()]);
    let grants = [a.id(), elsewhere.id()].map(|id| engine.table().grant(id, 1).is_some());
    assert_eq!(grants, [false, true]);
    drop((b, elsewhere));
    control.remove_listener(NQN, &address("tcp://192.0.2.8")).unwrap();
    assert_eq!(control.remove_listener(NQN, &shared).unwrap_err().errno(), libc::ENODEV);
    assert_eq!(listens(&engine), ["tcp://192.0.2.7:4420"]);
    assert_eq!(refused(&control, &tcp(HERE, NQN, HOST_A)).0, RefusedKind::NotListening);
    assert!(control.open(&tcp(HERE, OTHER, HOST_B)).is_ok());
    // RDMA at the same address is another listener.
    control.add_listener(NQN, &address("rdma://192.0.2.7")).unwrap();
    assert_eq!(listens(&engine), ["tcp://192.0.2.7:4420", "rdma://192.0.2.7:4420"]);
    control.delete_subsystem(OTHER).unwrap();
    assert_eq!(listens(&engine), ["rdma://192.0.2.7:4420"]);
    control.remove_listener(NQN, &address("rdma://192.0.2.7")).unwrap();
    assert_eq!(listens(&engine), [""; 0]);
}

#[test]
fn a_listener_that_the_engine_does_not_begin_is_not_kept() {
    let (context, engine) = ready();
    let control = context.control.clone();
    control.create_subsystem(NewSubsystem { nqn: NQN.into(), ..Default::default() }).unwrap();
    engine.lacking.lock().unwrap().insert(Transport::Rdma);
    let error = control.add_listener(NQN, &address("rdma://192.0.2.7")).unwrap_err();
    assert_eq!(error.errno(), libc::EPROTONOSUPPORT);
    assert_eq!(control.create_transport(Transport::Rdma, None).unwrap_err().errno(), libc::EPROTONOSUPPORT);
    assert!(control.subsystem(NQN).unwrap().listeners.is_empty() && control.transports().is_empty());
}

#[test]
fn addresses_that_overlap_are_refused() {
    let (control, engine) = set_up();
    for overlapping in ["tcp://0.0.0.0", "tcp://[::]"] {
        let error = control.add_listener(OTHER, &address(overlapping)).unwrap_err();
        assert!(error.errno() == libc::EEXIST && error.to_string().contains("add tcp://192.0.2.7:4420"), "{error}");
    }
    control.add_listener(OTHER, &address("tcp://0.0.0.0:4421")).unwrap();
    let error = control.add_listener(NQN, &address("tcp://192.0.2.7:4421")).unwrap_err();
    assert!(error.to_string().contains("add tcp://0.0.0.0:4421"), "{error}");
    control.add_listener(NQN, &address("tcp://0.0.0.0:4421")).unwrap();
    control.add_listener(NQN, &address("rdma://192.0.2.7:4421")).unwrap();
    assert_eq!(listens(&engine).len(), 3);
    // A folder leads to one subsystem.
    let folder = ListenAddress::vfio_user(FOLDER).unwrap();
    control.add_listener(NQN, &folder).unwrap();
    assert_eq!(control.add_listener(OTHER, &folder).unwrap_err().errno(), libc::EEXIST);
}

#[test]
fn a_listener_on_all_addresses_is_reached_at_each() {
    let (context, _) = ready();
    let control = context.control.clone();
    control.create_subsystem(NewSubsystem { nqn: NQN.into(), ..Default::default() }).unwrap();
    control.add_host(NQN, HOST_A, None).unwrap();
    control.add_listener(NQN, &address("tcp://0.0.0.0")).unwrap();
    control.add_listener(NQN, &address("tcp://[::]:4421")).unwrap();
    for (reached, lets_in) in [
        ("192.0.2.7:4420", true),
        ("127.0.0.1:4420", true),
        ("[::ffff:192.0.2.7]:4420", true),
        ("[2001:db8::7]:4420", false),
        ("[2001:db8::7]:4421", true),
        ("192.0.2.7:4421", true),
        ("192.0.2.7:4422", false),
    ] {
        assert_eq!(control.open(&tcp(reached, NQN, HOST_A)).is_ok(), lets_in, "{reached}");
    }
}

#[test]
fn a_host_is_told_of_what_it_may_connect_to_and_of_nothing_else() {
    let (control, _) = set_up();
    control.add_listener(NQN, &address("rdma://[2001:db8::7]:4421")).unwrap();
    control.add_listener(NQN, &address("tcp://0.0.0.0:4430")).unwrap();
    control.add_listener(NQN, &address("rdma://[::]:4431")).unwrap();
    control.add_listener(NQN, &address("tcp://127.0.0.1:4440")).unwrap();
    control.add_listener(NQN, &ListenAddress::vfio_user(FOLDER).unwrap()).unwrap();
    let at = |listener: &str, host: &str| -> Vec<String> {
        let entries = told(&control, &tcp(listener, DISCOVERY_NQN, host));
        assert!(entries.iter().all(|(nqn, _)| nqn == NQN), "{entries:?}");
        entries.into_iter().map(|(_, place)| place).collect()
    };
    // All addresses of this machine are told as the one that the host reached.
    assert_eq!(
        at(HERE, HOST_A),
        ["tcp://192.0.2.7:4420", "rdma://[2001:db8::7]:4421", "tcp://192.0.2.7:4430", "rdma://192.0.2.7:4431"]
    );
    assert_eq!(
        at("[2001:db8::8]:4431", HOST_A),
        ["tcp://192.0.2.7:4420", "rdma://[2001:db8::7]:4421", "rdma://[2001:db8::8]:4431"]
    );
    assert_eq!(at("[fe80::7%2]:4431", HOST_A), ["tcp://192.0.2.7:4420", "rdma://[2001:db8::7]:4421"]);
    // Who is on this machine is also told what only this machine can reach.
    assert_eq!(at("127.0.0.1:4440", HOST_A).last().unwrap(), "tcp://127.0.0.1:4440");
    assert_eq!(at("0.0.0.0:4430", HOST_A), ["tcp://192.0.2.7:4420", "rdma://[2001:db8::7]:4421"]);
    for stranger in ["nqn.2026-01.io.kvplane:host-c", "garbage", ""] {
        assert_eq!(at(HERE, stranger), [""; 0], "{stranger}");
    }
    assert_eq!(told(&control, &tcp(HERE, DISCOVERY_NQN, HOST_B)), [(OTHER.into(), "tcp://192.0.2.7:4420".into())]);
    // What is told can be used: each place lets the host in.
    for place in at(HERE, HOST_A) {
        let (scheme, socket) = place.split_once("://").unwrap();
        let carrier = if scheme == "tcp" { CarrierKind::Tcp } else { CarrierKind::Rdma };
        assert!(control.open(&Peer { carrier, ..tcp(socket, NQN, HOST_A) }).is_ok(), "{place}");
    }
    let numbers = |host| control.discover(&tcp(HERE, DISCOVERY_NQN, host)).entries.into_iter().map(|it| it.portid);
    control.add_host(OTHER, HOST_A, None).unwrap();
    let shared: Vec<_> = numbers(HOST_B).collect();
    assert_eq!(numbers(HOST_A).filter(|number| shared.contains(number)).count(), 2, "one address, one number");
}

#[test]
fn what_discovery_tells_has_a_new_generation_after_every_change() {
    let (control, _) = set_up();
    let mut before = control.discover(&tcp(HERE, DISCOVERY_NQN, HOST_A)).generation;
    let mut changed = || {
        let now = control.discover(&tcp(HERE, DISCOVERY_NQN, HOST_A)).generation;
        std::mem::replace(&mut before, now) != now
    };
    assert!(!changed());
    let session = control.open(&tcp(HERE, NQN, HOST_A)).unwrap();
    drop(session);
    assert!(!changed(), "who comes and goes changes nothing");
    control.add_listener(NQN, &address("tcp://192.0.2.8")).unwrap();
    assert!(changed());
    control.add_listener(NQN, &address("tcp://192.0.2.8")).unwrap_err();
    assert!(!changed());
    control.remove_listener(NQN, &address("tcp://192.0.2.8")).unwrap();
    assert!(changed());
    control.remove_host(NQN, HOST_A).unwrap();
    assert!(changed());
    control.allow_any_host(NQN, true).unwrap();
    assert!(changed());
}

#[test]
fn the_discovery_subsystem_is_everywhere_and_may_listen_alone() {
    let (control, engine) = set_up();
    let alone = address("tcp://192.0.2.7:8009");
    control.add_listener(DISCOVERY_NQN, &alone).unwrap();
    assert_eq!(listens(&engine).len(), 2);
    assert_eq!(control.discovery_listeners(), [address("tcp://192.0.2.7"), alone.clone()]);
    assert_eq!(control.own_discovery_listeners(), std::slice::from_ref(&alone));
    assert_eq!(refused(&control, &tcp("192.0.2.7:8009", NQN, HOST_A)).0, RefusedKind::NotListening);
    assert_eq!(told(&control, &tcp("192.0.2.7:8009", DISCOVERY_NQN, HOST_A)).len(), 1);
    let errno = |outcome: Result<(), ControlError>| outcome.unwrap_err().errno();
    assert_eq!(errno(control.remove_listener(DISCOVERY_NQN, &address("tcp://192.0.2.7"))), libc::ENODEV);
    assert_eq!(errno(control.add_listener(DISCOVERY_NQN, &ListenAddress::vfio_user(FOLDER).unwrap())), libc::ENOTSUP);
    assert_eq!(errno(control.add_host(DISCOVERY_NQN, HOST_A, None)), libc::ENOTSUP);
    assert_eq!(errno(control.delete_subsystem(DISCOVERY_NQN)), libc::ENOTSUP);
    let again = control.create_subsystem(NewSubsystem { nqn: DISCOVERY_NQN.into(), ..Default::default() });
    assert_eq!(errno(again), libc::EEXIST);
    control.remove_listener(DISCOVERY_NQN, &alone).unwrap();
    assert_eq!(listens(&engine).len(), 1);
}

#[test]
fn a_transport_may_limit_what_a_command_moves() {
    let (context, _) = ready();
    let control = context.control.clone();
    for (bytes, fits) in [(2048, false), (4096, true), (12_288, false), (SHAPE.max_transfer_bytes * 2, false)] {
        assert_eq!(control.create_transport(Transport::Rdma, Some(bytes)).is_ok(), fits, "{bytes}");
    }
    control.create_transport(Transport::Tcp, Some(1 << 20)).unwrap();
    assert_eq!(control.create_transport(Transport::Tcp, None).unwrap_err().errno(), libc::EEXIST);
    control.create_subsystem(NewSubsystem { nqn: NQN.into(), ..Default::default() }).unwrap();
    control.add_host(NQN, HOST_A, None).unwrap();
    control.create_namespace(&namespace("one", &[HOST_A])).unwrap();
    control.create_namespace(&NewNamespace { max_value_bytes: Some(64 << 10), ..namespace("two", &[HOST_A]) }).unwrap();
    control.add_listener(NQN, &address("tcp://192.0.2.7")).unwrap();
    let session = control.open(&tcp(HERE, NQN, HOST_A)).unwrap();
    assert_eq!(session.identity().max_transfer_bytes, 1 << 20);
    let longest: Vec<_> = session.namespaces().iter().map(|it| it.max_value_bytes).collect();
    assert_eq!(longest, [1 << 20, 64 << 10]);
    refused(&control, &tcp(HERE, NQN, HOST_B));
    let counts: Vec<_> = control.transports().iter().map(|it| (it.transport, it.admitted, it.refused)).collect();
    assert_eq!(counts, [(Transport::Tcp, 1, 1), (Transport::Rdma, 0, 0)]);
}

#[test]
fn a_listener_that_lets_in_nobody_or_anybody_says_so() {
    let (context, _) = ready();
    let control = context.control.clone();
    control.create_subsystem(NewSubsystem { nqn: NQN.into(), ..Default::default() }).unwrap();
    control.add_host(NQN, "nqn.2026-01.io.kvplane:uid-0", Some(0)).unwrap();
    let said = |at: &str| access(&control.subsystem(NQN).unwrap(), &address(at));
    assert_eq!(said("vfio-user:/run/kv"), None);
    let nobody = said("tcp://192.0.2.7").unwrap();
    assert!(nobody.contains("nobody may connect") && nobody.contains("nvmf_subsystem_add_host --nqn"), "{nobody}");
    control.add_host(NQN, HOST_A, None).unwrap();
    assert_eq!(said("tcp://192.0.2.7"), None);
    control.allow_any_host(NQN, true).unwrap();
    assert!(said("rdma://[::]").unwrap().contains("anybody who can reach rdma://[::]:4420"));
    assert!(said("vfio-user:/run/kv").unwrap().contains("anybody who can reach vfio-user:/run/kv"));
}
