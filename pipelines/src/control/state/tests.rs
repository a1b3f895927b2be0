//! Who may connect, what they see, and what every change does to the cores' table.

mod network;

use std::sync::atomic::Ordering;

use dataplane::fabric::{Admission, CarrierKind, Peer, Refused, Session, SessionId};

use super::*;
use crate::control::fake::{FakeEngine, SHAPE, ready, waiting};

const NQN: &str = "nqn.2026-01.io.kvplane:tier";
const HOST_A: &str = "nqn.2026-01.io.kvplane:host-a";
const HOST_B: &str = "nqn.2026-01.io.kvplane:host-b";
const FOLDER: &str = "/run/kvplane/tier";

fn peer(uid: Option<u32>) -> Peer {
    Peer {
        carrier: CarrierKind::VfioUser,
        listener: FOLDER.into(),
        subsystem_nqn: None,
        host_nqn: None,
        host_id: None,
        address: None,
        uid,
        pid: Some(1),
    }
}

/// A subsystem with a listener and host A, which has uid 1000 and sees namespace 1.
fn set_up() -> (Control, Arc<FakeEngine>) {
    let (context, engine) = ready();
    let control = context.control.clone();
    control.create_subsystem(NewSubsystem { nqn: NQN.into(), ..Default::default() }).unwrap();
    control.add_listener(NQN, &ListenAddress::vfio_user(FOLDER).unwrap()).unwrap();
    control.add_host(NQN, HOST_A, Some(1000)).unwrap();
    control.create_namespace(&namespace("one", &[HOST_A])).unwrap();
    (control, engine)
}

fn namespace(name: &str, hosts: &[&str]) -> NewNamespace {
    NewNamespace {
        name: name.into(),
        nqn: NQN.into(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        ..Default::default()
    }
}

fn refusal(control: &Control, peer: &Peer) -> String {
    let Err(Refused { reason, .. }) = control.open(peer) else { panic!("{peer:?} was let in") };
    reason
}

fn sees(engine: &FakeEngine, session: &dyn Session, nsid: u32) -> Option<u32> {
    engine.table().grant(session.id(), nsid).map(|grant| grant.ns28)
}

#[test]
fn nobody_is_let_in_by_default() {
    let (context, _) = waiting();
    assert!(refusal(&context.control, &peer(Some(0))).contains("framework_start_init"));

    let (context, _) = ready();
    let control = &context.control;
    assert!(refusal(control, &peer(Some(0))).contains("nvmf_subsystem_add_listener"));
    control.create_subsystem(NewSubsystem { nqn: NQN.into(), ..Default::default() }).unwrap();
    assert!(refusal(control, &peer(Some(0))).contains("no subsystem listens"));
    control.add_listener(NQN, &ListenAddress::vfio_user(FOLDER).unwrap()).unwrap();
    for peer in [peer(Some(0)), peer(Some(1000)), peer(None)] {
        assert!(refusal(control, &peer).contains("not attached"), "{peer:?}");
    }
    assert!(control.sessions().is_empty());
}

#[test]
fn an_attached_host_sees_its_namespaces_and_no_others() {
    let (control, engine) = set_up();
    control.add_host(NQN, HOST_B, Some(1001)).unwrap();
    control.create_namespace(&namespace("two", &[HOST_B])).unwrap();
    control.create_namespace(&NewNamespace { auto_visible: true, ..namespace("three", &[]) }).unwrap();

    let a = control.open(&peer(Some(1000))).unwrap();
    let b = control.open(&peer(Some(1001))).unwrap();
    assert!(refusal(&control, &peer(Some(1002))).contains("uid 1002"));
    assert_eq!([1, 2, 3].map(|nsid| sees(&engine, &*a, nsid)), [Some(ns28("one")), None, Some(ns28("three"))]);
    assert_eq!([1, 2, 3].map(|nsid| sees(&engine, &*b, nsid)), [None, Some(ns28("two")), Some(ns28("three"))]);
    let seen: Vec<_> = a.namespaces().iter().map(|it| (it.nsid, it.size_bytes, it.used_bytes)).collect();
    assert_eq!(seen, [(1, SHAPE.capacity_bytes, 8192), (3, SHAPE.capacity_bytes, 8192)]);
    assert_eq!(a.identity().subsystem_nqn, NQN);
    assert_ne!(a.identity().controller_id, b.identity().controller_id);

    let gone = a.id();
    drop(a);
    assert_eq!(engine.table().grant(gone, 1), None);
    assert_eq!(control.sessions().len(), 1);
}

/// A name that a local process gives is not asked for: its user id is what it cannot make up.
#[test]
fn a_name_neither_helps_nor_hinders_a_process_of_this_machine() {
    let (control, _) = set_up();
    control.add_host(NQN, HOST_B, None).unwrap();
    for name in [HOST_A, HOST_B, "garbage"] {
        let named = |uid| Peer { host_nqn: Some(name.into()), ..peer(uid) };
        for uid in [Some(1001), None] {
            assert!(refusal(&control, &named(uid)).contains("not attached"), "{name}");
        }
        assert!(control.open(&named(Some(1000))).is_ok());
    }
}

#[test]
fn any_host_sees_what_is_made_for_all_only() {
    let (control, engine) = set_up();
    control.create_namespace(&NewNamespace { auto_visible: true, ..namespace("open", &[]) }).unwrap();
    control.allow_any_host(NQN, true).unwrap();
    let stranger = control.open(&peer(Some(4711))).unwrap();
    assert_eq!([1, 2].map(|nsid| sees(&engine, &*stranger, nsid)), [None, Some(ns28("open"))]);
    control.allow_any_host(NQN, false).unwrap();
    assert_eq!(sees(&engine, &*stranger, 2), None);
    assert!(stranger.namespaces().is_empty());
    assert_eq!(*engine.closed.lock().unwrap(), [stranger.id()]);
}

#[test]
fn a_detached_host_loses_everything_at_once_and_for_good() {
    let (control, engine) = set_up();
    let session = control.open(&peer(Some(1000))).unwrap();
    let before = session.generation();
    control.remove_host(NQN, HOST_A).unwrap();
    assert_ne!(session.generation(), before);
    assert_eq!(sees(&engine, &*session, 1), None);
    assert_eq!(*engine.closed.lock().unwrap(), [session.id()]);
    // The name belongs to somebody else now; the old session must not profit.
    control.add_host(NQN, HOST_A, Some(2000)).unwrap();
    control.namespace_add_host(NQN, 1, HOST_A).unwrap();
    assert_eq!(sees(&engine, &*session, 1), None);
    assert!(session.namespaces().is_empty());
    assert!(control.open(&peer(Some(2000))).is_ok());
}

#[test]
fn visibility_changes_reach_the_cores_and_the_generation() {
    let (control, engine) = set_up();
    let session = control.open(&peer(Some(1000))).unwrap();
    let mut generation = session.generation();
    let mut changed = || std::mem::replace(&mut generation, session.generation()) != session.generation();
    control.namespace_remove_host(NQN, 1, HOST_A).unwrap();
    assert!(changed());
    assert_eq!(sees(&engine, &*session, 1), None);
    control.namespace_add_host(NQN, 1, HOST_A).unwrap();
    assert!(changed());
    assert_eq!(sees(&engine, &*session, 1), Some(ns28("one")));
    assert!(!changed());
    control.delete_namespace("one", true).unwrap();
    assert!(changed());
    assert_eq!(sees(&engine, &*session, 1), None);
    assert_eq!(*engine.purged.lock().unwrap(), [ns28("one")]);
}

#[test]
fn a_session_number_rests_until_every_core_has_forgotten_it() {
    let (control, engine) = set_up();
    let first = control.open(&peer(Some(1000))).unwrap();
    assert_eq!(first.id(), SessionId(0));
    engine.stuck.store(true, Ordering::SeqCst);
    drop(first);
    assert!(refusal(&control, &peer(Some(1000))).contains("core 1 does not answer"));
    engine.stuck.store(false, Ordering::SeqCst);
    // 0 and 1 may still be known to the stuck core when the next number is chosen.
    let next = control.open(&peer(Some(1000))).unwrap();
    assert_eq!(next.id(), SessionId(2));
    assert_eq!(control.open(&peer(Some(1000))).unwrap().id(), SessionId(0));
}

#[test]
fn sessions_are_limited() {
    let (control, _) = set_up();
    let all: Vec<_> = (0..256).map(|_| control.open(&peer(Some(1000))).unwrap()).collect();
    assert!(refusal(&control, &peer(Some(1000))).contains("256 sessions"));
    drop(all);
    assert!(control.open(&peer(Some(1000))).is_ok());
}

#[test]
fn a_refused_change_changes_nothing() {
    let (control, engine) = set_up();
    let before = control.subsystems();
    let listener = ListenAddress::vfio_user(FOLDER).unwrap();
    let forbidden = ListenAddress::vfio_user("/forbidden/x").unwrap();
    let errno = |outcome: Result<(), ControlError>| outcome.unwrap_err().errno();
    let create = |new: NewNamespace| control.create_namespace(&new).map(|_| ());
    let subsystem = |nqn: &str| control.create_subsystem(NewSubsystem { nqn: nqn.into(), ..Default::default() });
    assert_eq!(errno(subsystem(NQN)), libc::EEXIST);
    assert_eq!(errno(subsystem("nqn.x")), libc::EINVAL);
    assert_eq!(errno(control.delete_subsystem(NQN)), libc::EBUSY);
    assert_eq!(errno(control.delete_subsystem(HOST_A)), libc::ENODEV);
    assert_eq!(errno(control.add_listener(NQN, &listener)), libc::EEXIST);
    assert_eq!(errno(control.add_listener(NQN, &forbidden)), libc::EACCES);
    assert_eq!(errno(control.remove_listener(NQN, &forbidden)), libc::ENODEV);
    assert_eq!(errno(control.add_host(NQN, HOST_A, None)), libc::EEXIST);
    assert_eq!(errno(control.add_host(NQN, HOST_B, Some(1000))), libc::EEXIST);
    assert_eq!(errno(control.remove_host(NQN, HOST_B)), libc::ENODEV);
    assert_eq!(errno(create(namespace("one", &[]))), libc::EEXIST);
    assert_eq!(errno(create(namespace("two", &[HOST_B]))), libc::ENODEV);
    assert_eq!(errno(create(NewNamespace { nsid: Some(1), ..namespace("two", &[]) })), libc::EEXIST);
    assert_eq!(errno(create(NewNamespace { nsid: Some(33), ..namespace("two", &[]) })), libc::EINVAL);
    assert_eq!(errno(control.delete_namespace("two", true).map(|_| ())), libc::ENODEV);
    assert_eq!(errno(control.namespace_add_host(NQN, 1, HOST_A)), libc::EEXIST);
    assert_eq!(errno(control.namespace_add_host(NQN, 2, HOST_A)), libc::ENODEV);
    assert_eq!(errno(control.namespace_remove_host(NQN, 1, HOST_B)), libc::ENODEV);
    assert_eq!(control.subsystems(), before);
    assert_eq!(engine.listeners.lock().unwrap().len(), 1);
}

#[test]
fn names_that_the_store_cannot_tell_apart_are_refused() {
    let (control, _) = set_up();
    // Found by trying: the least pair of `nN` with one number. The birthday bound for 28 bits is some 20,000 names.
    let mut seen = std::collections::HashMap::new();
    let (first, second) = (0..)
        .find_map(|n: u32| seen.insert(ns28(&format!("n{n}")), n).map(|other| (format!("n{other}"), format!("n{n}"))))
        .unwrap();
    control.create_namespace(&namespace(&first, &[])).unwrap();
    let error = control.create_namespace(&namespace(&second, &[])).unwrap_err();
    assert!(matches!(&error, ControlError::Exists(why) if why.contains("cannot tell")), "{error}");
}

#[test]
fn a_deleted_subsystem_takes_its_listeners_and_hosts_along() {
    let (control, engine) = set_up();
    let session = control.open(&peer(Some(1000))).unwrap();
    control.delete_namespace("one", false).unwrap();
    assert!(engine.purged.lock().unwrap().is_empty());
    control.delete_subsystem(NQN).unwrap();
    assert!(engine.listeners.lock().unwrap().is_empty());
    assert_eq!(*engine.closed.lock().unwrap(), [session.id()]);
    assert!(refusal(&control, &peer(Some(1000))).contains("no subsystem listens"));
}

#[test]
fn a_quota_is_divided_among_the_shards() {
    let (control, engine) = set_up();
    let quota = NewNamespace { quota_bytes: Some((64 << 20) + 1), ..namespace("small", &[HOST_A]) };
    control.create_namespace(&quota).unwrap();
    let session = control.open(&peer(Some(1000))).unwrap();
    let table = engine.table();
    let grant = table.grant(session.id(), 2).unwrap();
    assert_eq!(grant.quota_bytes, Some((32 << 20) + 1));
    assert_eq!(session.namespaces()[1].size_bytes, (64 << 20) + 1);
}
