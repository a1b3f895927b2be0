//! The control socket: SPDK's methods, its errors, configuration in a circle, and waiting for start-up.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use e2e::daemon::{DEFAULT_NQN, Home};
use e2e::{Daemon, Setup, key};
use serde_json::{Value, json};

#[test]
fn spdks_methods_answer_in_spdks_shapes() {
    let daemon = Daemon::start(Setup::default());
    let methods = daemon.rpc("rpc_get_methods", Value::Null);
    let methods: Vec<&str> = methods.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    for method in [
        "rpc_get_methods",
        "spdk_get_version",
        "framework_get_reactors",
        "framework_wait_init",
        "framework_start_init",
        "thread_get_stats",
        "log_get_level",
        "log_set_level",
        "save_config",
        "nvmf_create_subsystem",
        "nvmf_subsystem_add_listener",
        "nvmf_subsystem_add_host",
        "namespace_create",
        "namespace_list",
        "namespace_delete",
        "store_get_stats",
        "pipeline_get_stats",
        "nvmf_create_transport",
        "nvmf_get_transports",
        "nvmf_subsystem_get_listeners",
        "nvmf_subsystem_get_controllers",
        "nvmf_subsystem_get_qpairs",
        "nvmf_get_stats",
        "trace_dump",
    ] {
        assert!(methods.contains(&method), "{method} is not among {methods:?}");
    }
    let version = daemon.rpc("spdk_get_version", Value::Null);
    assert!(version["version"].as_str().unwrap().contains("kvplane"), "{version}");
    assert!(version["fields"]["major"].is_u64(), "{version}");
    let reactors = daemon.rpc("framework_get_reactors", Value::Null);
    assert_eq!(reactors["pid"], daemon.pid());
    assert!(reactors["tick_rate"].as_u64().unwrap() > 1_000_000, "{reactors}");
    assert_eq!(reactors["reactors"].as_array().unwrap().len(), 1);
    assert_eq!(reactors["reactors"][0]["lcore"], 0);
    let threads = daemon.rpc("thread_get_stats", Value::Null);
    assert!(threads["threads"][0]["busy"].is_u64() && threads["threads"][0]["idle"].is_u64(), "{threads}");
    daemon.rpc("log_set_level", json!({ "level": "DEBUG" }));
    assert_eq!(daemon.rpc("log_get_level", Value::Null), "DEBUG");
    let subsystems = daemon.rpc("nvmf_get_subsystems", Value::Null);
    assert!(subsystems.as_array().unwrap().iter().any(|it| it["nqn"] == DEFAULT_NQN), "{subsystems}");
    let spaces = daemon.rpc("namespace_list", Value::Null);
    assert!(spaces.to_string().contains("\"tests\""), "{spaces}");
}

#[test]
fn errors_have_spdks_codes() {
    let daemon = Daemon::start(Setup::default());
    assert_eq!(daemon.try_rpc("no_such_method", Value::Null).unwrap_err().code, -32601);
    assert_eq!(daemon.try_rpc("log_set_level", json!({ "level": "LOUD" })).unwrap_err().code, -32602);
    assert_eq!(daemon.try_rpc("log_set_level", json!({})).unwrap_err().code, -32602);
    let unknown = daemon.try_rpc("log_set_level", json!({ "level": "INFO", "colour": 1 })).unwrap_err();
    assert!(unknown.code == -32602 && unknown.message.contains("colour"), "{unknown:?}");
    assert_eq!(daemon.try_rpc("spdk_get_version", json!({ "any": 1 })).unwrap_err().code, -32602);
    assert_eq!(daemon.try_rpc("framework_start_init", Value::Null).unwrap_err().code, -1);
    let missing = daemon.try_rpc("namespace_delete", json!({ "name": "not there" })).unwrap_err();
    assert!(missing.code < 0 && missing.code > -200, "an errno: {missing:?}");
}

#[test]
fn requests_may_come_split_joined_batched_or_without_an_id() {
    let daemon = Daemon::start(Setup::default());
    let mut rpc = daemon.connect_rpc();
    for piece in [&br#"{"jsonrpc":"2.0","i"#[..], br#"d":"a","method":"spdk_get"#, br#"_version"}{"jsonrpc":"2.0","#] {
        rpc.send(piece).unwrap();
    }
    assert_eq!(rpc.receive().unwrap()["id"], "a");
    rpc.send(br#""id":2,"method":"log_get_level"}{"jsonrpc":"2.0","method":"log_get_level"}"#).unwrap();
    assert_eq!(rpc.receive().unwrap()["id"], 2);
    rpc.send(br#"[{"jsonrpc":"2.0","id":3,"method":"log_get_level"},{"jsonrpc":"2.0","id":4,"method":"no"}]"#).unwrap();
    let batch = rpc.receive().unwrap();
    assert_eq!(batch.as_array().unwrap().len(), 2, "{batch}");
    rpc.send(b"[]").unwrap();
    let refused = rpc.receive().unwrap();
    assert_eq!((&refused["error"]["code"], &refused["id"]), (&json!(-32600), &Value::Null));
    rpc.send(b"this is no JSON").unwrap();
    e2e::await_that("the connection is closed", || {
        rpc.receive().is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
    });
    assert!(daemon.rpc("spdk_get_version", Value::Null).is_object());
}

#[test]
fn what_save_config_says_gives_the_same_daemon() {
    let setup =
        Setup { namespaces: vec!["one,quota=64M".to_owned(), "two,class=durable".to_owned()], ..Setup::default() };
    let mut daemon = Daemon::start(setup);
    let other = json!({ "nqn": "nqn.2026-01.io.kvplane:other", "allow_any_host": false });
    daemon.rpc("nvmf_create_subsystem", other);
    daemon.rpc(
        "nvmf_subsystem_add_host",
        json!({ "nqn": "nqn.2026-01.io.kvplane:other", "host": "nqn.2026-01.io.kvplane:host" }),
    );
    daemon.client().put(key(1), b"kept").unwrap();
    let saved = daemon.rpc("save_config", Value::Null);
    assert!(saved["subsystems"].is_array(), "{saved}");
    let file = daemon.home.file("config.json");
    std::fs::write(&file, saved.to_string()).unwrap();
    daemon.stop();
    daemon.start_again_with(Setup { namespaces: Vec::new(), ..Setup::default() }.argument("-c").argument(file));
    assert_eq!(daemon.rpc("save_config", Value::Null), saved);
    assert_eq!(daemon.client().get(key(1)).unwrap().as_deref(), Some(&b"kept"[..]));
}

#[test]
fn a_configuration_that_is_wrong_stops_the_start_with_one_clear_line() {
    for (text, hint) in [
        ("{", "JSON"),
        (r#"{"subsystems":[{"subsystem":"nvmf","config":[{"method":"no_such","params":{}}]}]}"#, "no_such"),
        (r#"{"subsystems":[{"subsystem":"nvmf","config":[{"method":"namespace_create","params":{"nam":1}}]}]}"#, "nam"),
    ] {
        let home = Home::new();
        let file = home.file("config.json");
        std::fs::write(&file, text).unwrap();
        let setup = Setup { namespaces: Vec::new(), ..Setup::default() }.argument("-c").argument(file);
        let ended = home.run_to_end(&setup);
        assert_eq!(ended.code, Some(8), "{text}: {}", ended.stderr);
        assert!(ended.stderr.contains(hint), "{text}: {}", ended.stderr);
    }
}

#[test]
fn start_up_waits_until_it_is_told() {
    let mut daemon = Daemon::spawn(Home::new(), Setup::default().argument("--wait-for-rpc"));
    let mut rpc = daemon.connect_rpc();
    assert_eq!(rpc.call("framework_get_reactors", &Value::Null).unwrap_err().code, -1);
    assert!(!daemon.home.controller_socket().exists(), "it listens before it was told to start");
    let current = rpc.call("rpc_get_methods", &json!({ "current": true })).unwrap();
    let current: Vec<&str> = current.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(current.contains(&"framework_start_init") && !current.contains(&"framework_get_reactors"), "{current:?}");
    // One connection waits while another gives the word.
    let mut waiting = daemon.connect_rpc();
    waiting.send(br#"{"jsonrpc":"2.0","id":1,"method":"framework_wait_init"}"#).unwrap();
    assert_eq!(rpc.call("framework_start_init", &Value::Null).unwrap(), true);
    assert_eq!(waiting.receive().unwrap()["result"], true);
    assert_eq!(rpc.call("framework_start_init", &Value::Null).unwrap_err().code, -1);
    daemon.client().put(key(1), b"serves").unwrap();
    daemon.stop();
}

/// Connections that send half a request, or never read their answers, hold up nobody.
#[test]
fn slow_clients_of_the_socket_stall_neither_others_nor_the_data_path() {
    let daemon = Daemon::start(Setup::default());
    let mut halves: Vec<_> = (0..16).map(|_| daemon.connect_rpc()).collect();
    for half in &mut halves {
        half.send(br#"{"jsonrpc":"2.0","id":1,"#).unwrap();
    }
    // Asks and asks and never reads, from a thread of its own that may block for good.
    let mut deaf = daemon.connect_rpc();
    let asking = std::thread::spawn(move || {
        let request = br#"{"jsonrpc":"2.0","id":1,"method":"pipeline_get_stats"}"#;
        while deaf.send(request).is_ok() {}
    });
    let mut client = daemon.client();
    for number in 0..200 {
        client.put(key(number), &e2e::value(&key(number), 1, 20_000)).unwrap();
        assert!(client.get(key(number)).unwrap() == Some(e2e::value(&key(number), 1, 20_000)));
        assert!(daemon.rpc("spdk_get_version", Value::Null).is_object());
    }
    drop(client);
    drop(daemon);
    asking.join().unwrap();
}

#[test]
fn signals_and_kill_by_socket_end_it_in_order() {
    let mut daemon = Daemon::start(Setup::default());
    daemon.client().put(key(1), b"kept").unwrap();
    assert_eq!(daemon.rpc("spdk_kill_instance", json!({ "sig_name": "SIGTERM" })), true);
    daemon.await_end();
    assert!(!daemon.home.rpc_socket().exists(), "the socket stayed");
    assert!(!daemon.home.controller_socket().exists(), "the controller's socket stayed");
    daemon.start_again();
    assert_eq!(daemon.client().get(key(1)).unwrap().as_deref(), Some(&b"kept"[..]));
}
