//! Start-up over an engine that only remembers what it is told.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use clap::Parser;
use dataplane::fabric::{Admission, CarrierKind, Peer};
use serde_json::{Value, json};

use super::run::Daemon;
use super::*;
use crate::control::fake::FakeEngine;
use crate::control::{LogLevel, rpc};

fn options(folder: &tempfile::TempDir, config: &Value, more: &[&str]) -> (Options, PathBuf) {
    let path = folder.path().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let mut line = vec!["kvplaned", "--store", "null:1G", "-c", path.to_str().unwrap()];
    line.extend(more);
    (Options::parse_from(line), path)
}

fn file(calls: Value) -> Value {
    json!({ "subsystems": [{ "subsystem": "log", "config": null }, { "subsystem": "nvmf", "config": calls }] })
}

fn create(nqn: &str) -> Value {
    json!({ "method": "nvmf_create_subsystem", "params": { "nqn": nqn } })
}

/// A daemon with the fake, whether the fake was asked for, and the fake.
type WithFake = (Daemon, Arc<Mutex<bool>>, Arc<FakeEngine>);

fn daemon(options: Options) -> Result<WithFake, StartError> {
    let calls = super::run::read_calls(&options)?;
    let (engine, assembled) = (Arc::new(FakeEngine::default()), Arc::new(Mutex::new(false)));
    let (given, told) = (Arc::clone(&engine), Arc::clone(&assembled));
    let assemble: Assemble = Box::new(move |_, _| {
        *told.lock().unwrap() = true;
        Ok(given)
    });
    let log = Arc::new(Logging::start(LogLevel::Notice, &[], LogFormat::Text));
    Ok((Daemon::new(options, assemble, calls, log)?, assembled, engine))
}

#[test]
fn calls_are_made_in_their_phase() {
    let folder = tempfile::tempdir().unwrap();
    let nqn = "nqn.2026-01.io.kvplane:other";
    // SPDK groups calls into batches; the log's level needs no engine.
    let calls = json!([[create(nqn)], { "method": "log_set_level", "params": { "level": "WARNING" } }]);
    let more = ["--listen", "vfio-user:/run/kv", "--namespace", "a,class=durable", "--namespace", "b"];
    let (options, _) = options(&folder, &file(calls), &more);
    let (daemon, assembled, engine) = daemon(options).unwrap();
    let context = daemon.context();
    assert_eq!(context.log.level(), LogLevel::Warning);
    assert!(!*assembled.lock().unwrap() && context.control.subsystems().is_empty());

    context.framework.start().unwrap();
    let names: Vec<_> = context.control.subsystems().iter().map(|it| it.nqn.to_string()).collect();
    assert_eq!(names, [nqn, DEFAULT_NQN]);
    let tier = context.control.subsystem(DEFAULT_NQN).unwrap();
    assert_eq!(
        tier.namespaces.values().map(|it| (&*it.name, it.class.name())).collect::<Vec<_>>(),
        [("a", "durable"), ("b", "cache")]
    );
    assert!(tier.namespaces.values().all(|it| it.hosts.len() == 1));
    assert_eq!(engine.listeners.lock().unwrap().len(), 1);
    assert!(!engine.stopped.load(Ordering::SeqCst));
}

#[test]
fn a_file_that_is_not_valid_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (config, told) in [
        (json!([]), "expected {\"subsystems\""),
        (json!({ "subsystems": [{}] }), "subsystems[0] has no name"),
        (json!({ "subsystems": [{ "subsystem": "nvmf", "config": 1 }] }), "not a list"),
        (
            file(json!([create("nqn.2026-01.io.a:b"), { "method": "bdev_malloc_create" }])),
            "config[1]: bdev_malloc_create: Method not found",
        ),
        (
            file(json!([{ "method": "nvmf_create_subsystem", "params": { "nqm": 1 } }])),
            "config[0]: nvmf_create_subsystem: unknown parameter \"nqm\"",
        ),
        (file(json!([{ "params": {} }])), "config[0]"),
        (file(json!([{ "method": "framework_start_init" }])), "cannot be called at start-up"),
    ] {
        let (options, path) = options(&folder, &config, &[]);
        let error = daemon(options).err().unwrap();
        assert_eq!(error.exit, Exit::Config, "{config}");
        assert!(error.message.starts_with(path.to_str().unwrap()) && error.message.contains(told), "{error}");
    }
}

#[test]
fn a_call_that_fails_undoes_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let twice = file(json!([create("nqn.2026-01.io.a:b"), create("nqn.2026-01.io.a:b")]));
    let (options, path) = options(&folder, &twice, &[]);
    let (daemon, _, engine) = daemon(options).unwrap();
    let why = daemon.context().framework.start().unwrap_err().unwrap();
    assert!(why.starts_with(path.to_str().unwrap()), "{why}");
    assert!(why.contains("subsystem nvmf, config[1]: nvmf_create_subsystem: File exists"), "{why}");
    assert!(engine.stopped.load(Ordering::SeqCst));
    assert!(daemon.context().control.engine().is_err());
}

#[test]
fn a_saved_configuration_starts_another_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let (first, _) =
        options(&folder, &file(json!([])), &["--listen", "vfio-user:/run/kv", "--namespace", "a,quota=1G"]);
    let (first, ..) = daemon(first).unwrap();
    first.context().framework.start().unwrap();
    let (method, arguments) = rpc::check("save_config", None).unwrap();
    let saved = rpc::call(&first.context(), method, &arguments).unwrap();
    let (second, _) = options(&folder, &saved, &[]);
    let (second, ..) = daemon(second).unwrap();
    second.context().framework.start().unwrap();
    assert_eq!(second.context().control.subsystems(), first.context().control.subsystems());
}

#[test]
fn hosts_of_a_network_are_attached_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (named, stranger) = ("nqn.2026-01.io.kvplane:gpu1", "nqn.2026-01.io.kvplane:gpu2");
    let listen = ["--listen", "tcp://192.0.2.7", "--listen", "rdma://[2001:db8::7]:5", "--namespace", "a"];
    let lets_in = |more: &[&str], host: &str| {
        let (options, _) = options(&folder, &file(json!([])), &[&listen, more].concat());
        let (daemon, _, engine) = daemon(options).unwrap();
        daemon.context().framework.start().unwrap();
        let listeners: Vec<_> = engine.listeners.lock().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(listeners, ["tcp://192.0.2.7:4420", "rdma://[2001:db8::7]:5"]);
        let peer = Peer {
            carrier: CarrierKind::Tcp,
            listener: "192.0.2.7:4420".into(),
            subsystem_nqn: Some(DEFAULT_NQN.into()),
            host_nqn: Some(host.into()),
            host_id: None,
            address: None,
            uid: None,
            pid: None,
        };
        daemon.context().control.open(&peer).is_ok_and(|session| session.namespaces().len() == 1)
    };
    assert!(!lets_in(&[], named) && !lets_in(&[], "nqn.2026-01.io.kvplane:uid-0"));
    assert!(lets_in(&["--host", named], named) && !lets_in(&["--host", named], stranger));
    assert!(lets_in(&["--host", stranger, "--host", named], named));
    assert!(lets_in(&["--host", named, "--allow-any-host"], stranger));
}
