//! The socket as clients see it.

mod subsystems;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::control::Context;
use crate::control::fake::{ready, waiting};

/// A served socket. The server ends with it.
struct Served {
    folder: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn start(context: Arc<Context>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = RpcSocket::bind(&folder.path().join("s")).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::new(socket, context).unwrap();
                tokio::select! { () = server.run() => (), _ = stopped => () }
            });
        });
        Self { folder, stop: Some(stop), thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.path()).unwrap();
        // A guard against waiting for ever, not a measure.
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Client { stream }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.thread.take().unwrap().join().unwrap();
        assert!(!self.path().exists(), "the socket was left behind");
    }
}

struct Client {
    stream: UnixStream,
}

impl Client {
    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> Option<Value> {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.stream.read(&mut byte).unwrap() == 1 {
            if byte[0] == b'\n' {
                return Some(serde_json::from_slice(&line).unwrap());
            }
            line.push(byte[0]);
        }
        assert!(line.is_empty(), "half a line: {line:?}");
        None
    }

    fn ask(&mut self, text: &str) -> Value {
        self.send(text);
        self.line().unwrap()
    }

    fn call(&mut self, method: &str, params: Value) -> Result<Value, (i64, String)> {
        let mut answer =
            self.ask(&json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string());
        assert_eq!(answer["id"], 1);
        match answer.get("error") {
            Some(error) => Err((error["code"].as_i64().unwrap(), error["message"].as_str().unwrap().to_owned())),
            None => Ok(answer["result"].take()),
        }
    }
}

fn served() -> Served {
    Served::start(ready().0)
}

#[test]
fn requests_may_come_in_pieces_and_many_at_once() {
    let served = served();
    let mut client = served.connect();
    for piece in r#"{"jsonrpc":"2.0","id":"x","method":"log_get_level"}"#.as_bytes().chunks(7) {
        client.stream.write_all(piece).unwrap();
    }
    assert_eq!(client.line().unwrap(), json!({"jsonrpc": "2.0", "id": "x", "result": "NOTICE"}));
    let many: String = (0..100)
        .map(|id| format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"log_get_level\",\"params\":{{}}}}"))
        .collect();
    client.send(&many);
    for id in 0..100 {
        assert_eq!(client.line().unwrap()["id"], id);
    }
}

#[test]
fn batches_are_answered_together_and_notifications_not_at_all() {
    let served = served();
    let mut client = served.connect();
    let answer = client.ask(
        r#"[{"jsonrpc":"2.0","id":1,"method":"log_get_level"},
            {"jsonrpc":"2.0","method":"log_set_level","params":{"level":"debug"}},
            7,
            {"jsonrpc":"2.0","id":"b","method":"log_get_level"},
            {"jsonrpc":"2.0","id":3,"method":"nonsense"}]"#,
    );
    let told: Vec<_> = answer
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["id"].clone(), it["result"].clone(), it["error"]["code"].clone()))
        .collect();
    assert_eq!(
        told,
        [
            (json!(1), json!("NOTICE"), Value::Null),
            (Value::Null, Value::Null, json!(-32600)),
            (json!("b"), json!("DEBUG"), Value::Null),
            (json!(3), Value::Null, json!(-32601)),
        ]
    );
    client.send(r#"[{"jsonrpc":"2.0","method":"log_get_level"}] {"jsonrpc":"2.0","method":"no_such"}"#);
    assert_eq!(client.ask("[]")["error"]["code"], -32600, "a notification was answered");
}

#[test]
fn what_is_no_request_is_answered_with_its_id_if_it_has_one() {
    let served = served();
    let mut client = served.connect();
    for (text, id) in [
        (r#"{}"#, Value::Null),
        (r#"{"jsonrpc":"1.0","id":4,"method":"log_get_level"}"#, json!(4)),
        (r#"{"jsonrpc":"2.0","id":5}"#, json!(5)),
        (r#"{"jsonrpc":"2.0","id":6,"method":1}"#, json!(6)),
        (r#"{"jsonrpc":"2.0","id":[],"method":"log_get_level"}"#, Value::Null),
        (r#"{"jsonrpc":"2.0","id":7,"method":"log_get_level","extra":1}"#, json!(7)),
    ] {
        let answer = client.ask(text);
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(-32600)), "{text}");
    }
    assert_eq!(
        client.ask(r#"{"id":1,"method":"no_such"}"#)["error"],
        json!({"code": -32601, "message": "Method not found"})
    );
}

#[test]
fn garbage_and_too_much_end_the_connection_and_no_other() {
    let served = served();
    let mut other = served.connect();
    let too_long = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{}", "x".repeat(MAX_REQUEST_BYTES));
    for (bytes, code) in
        [("GET / HTTP/1.1\r\n", -32700), ("{\"a\":}", -32700), ("{\"a\" x", -32700), (&too_long, -32600)]
    {
        let mut client = served.connect();
        client.send(bytes);
        let answer = client.line().unwrap();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(code)));
        // The kernel says so in one way or the other: what was not read makes it a reset.
        let closed = client.stream.read(&mut [0]);
        assert!(matches!(closed, Ok(0)) || closed.is_err(), "{closed:?}");
    }
    assert_eq!(other.call("log_get_level", json!({})), Ok(json!("NOTICE")));
}

#[test]
fn a_client_that_does_not_read_holds_up_only_itself() {
    let served = served();
    let mut lazy = served.connect();
    lazy.stream.set_nonblocking(true).unwrap();
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"rpc_get_schema"}"#.repeat(64);
    // Until both directions are full: then the server has stopped reading from it.
    while lazy.stream.write(request.as_bytes()).is_ok() {}
    assert_eq!(served.connect().call("log_get_level", json!({})), Ok(json!("NOTICE")));
}

#[test]
fn the_65th_connection_is_refused_with_a_word() {
    let served = served();
    let mut all: Vec<_> = (0..MAX_CONNECTIONS).map(|_| served.connect()).collect();
    for client in &mut all {
        assert!(client.call("log_get_level", json!({})).is_ok());
    }
    let mut refused = served.connect();
    assert_eq!(refused.line().unwrap()["error"]["code"], -libc::EAGAIN);
    assert_eq!(refused.line(), None);
    let last = all.pop().unwrap();
    drop(last);
    // The server notices the end some time later.
    let place = std::iter::repeat_with(|| {
        let mut client = served.connect();
        client.send(r#"{"jsonrpc":"2.0","id":1,"method":"log_get_level"}"#);
        client.line().is_some_and(|answer| answer["id"] == 1)
    });
    assert!(place.take(100_000).any(|served| served));
}

#[test]
fn parameters_are_checked_against_the_declaration() {
    let served = served();
    let mut client = served.connect();
    let mut fault = |method: &str, params: Value| client.call(method, params).unwrap_err();
    let nqn = "nqn.2026-01.io.kvplane:tier";
    let listen = |trtype: &str, traddr: &str| json!({ "trtype": trtype, "traddr": traddr, "adrfam": "ipv4" });
    for (method, params, told) in [
        ("log_set_level", json!({}), "missing parameter \"level\""),
        ("log_set_level", json!({"level": "LOUD"}), "one of ERROR, WARNING"),
        ("log_set_level", json!({"level": 3}), "one of ERROR"),
        ("log_set_level", json!(["DEBUG"]), "must be an object"),
        (
            "log_set_level",
            json!({"level": "INFO", "colour": "red"}),
            "unknown parameter \"colour\" of log_set_level; it takes: level",
        ),
        ("log_get_level", json!({"x": 1}), "takes no parameters"),
        ("nvmf_create_subsystem", json!({"nqn": nqn, "max_namespaces": -1}), "0 to 256"),
        ("nvmf_create_subsystem", json!({"nqn": nqn, "max_namespaces": 257}), "0 to 256"),
        ("nvmf_create_subsystem", json!({"nqn": nqn, "ana_reporting": true}), "must be false"),
        ("nvmf_create_subsystem", json!({"nqn": "tier"}), "invalid NQN"),
        ("nvmf_subsystem_add_listener", json!({"nqn": nqn, "listen_address": {"trtype": "VFIOUSER"}}), "\"traddr\""),
        ("nvmf_subsystem_add_listener", json!({"nqn": nqn, "listen_address": {"x": 1}}), "listen_address of nvmf_sub"),
        (
            "nvmf_subsystem_add_listener",
            json!({"nqn": nqn, "listen_address": listen("FC", "x")}),
            "VFIOUSER, TCP and RDMA",
        ),
        (
            "nvmf_subsystem_add_listener",
            json!({"nqn": nqn, "listen_address": listen("TCP", "kv.example")}),
            "not looked up",
        ),
        ("nvmf_subsystem_add_listener", json!({"nqn": nqn, "listen_address": listen("RDMA", "::1")}), "fit ::1"),
        ("nvmf_create_transport", json!({"trtype": "TCP", "max_io_size": 5000}), "power of two"),
        ("nvmf_create_transport", json!({"trtype": "TCP", "dif_insert_or_strip": true}), "must be false"),
        ("nvmf_create_transport", json!({"trtype": "IB"}), "unknown trtype"),
        ("nvmf_subsystem_add_ns", json!({"nqn": nqn, "namespace": {"nsid": 1}}), "\"bdev_name\""),
        ("nvmf_subsystem_add_host", json!({"nqn": nqn, "host": nqn, "uid": 1u64 << 32}), "from 0 to"),
        ("namespace_create", json!({"nqn": nqn, "name": "n", "quota_bytes": "2 parsecs"}), "not a size"),
        ("namespace_create", json!({"nqn": nqn, "name": "n", "hosts": [1]}), "list"),
    ] {
        let (code, message) = fault(method, params.clone());
        assert_eq!(code, -32602, "{method} {params}: {message}");
        assert!(message.contains(told), "{method} {params}: {message}");
    }
    assert_eq!(fault("nvmf_get_subsystems", json!({"nqn": nqn})).0, -19);
}

#[test]
fn methods_wait_for_their_phase() {
    let (context, _) = waiting();
    let served = Served::start(context);
    let mut client = served.connect();
    let wrong = client.call("framework_get_reactors", json!({})).unwrap_err();
    assert_eq!(wrong.0, -1);
    assert!(wrong.1.starts_with("Method may only be called after framework is initialized"), "{}", wrong.1);
    let current = client.call("rpc_get_methods", json!({"current": true})).unwrap();
    let has = |list: &Value, name: &str| list.as_array().unwrap().contains(&json!(name));
    assert!(has(&current, "framework_start_init") && !has(&current, "framework_get_reactors"));

    // The same connection may wait and start.
    client.send(r#"{"jsonrpc":"2.0","id":"wait","method":"framework_wait_init"}"#);
    let mut ids = vec![client.ask(r#"{"jsonrpc":"2.0","id":"start","method":"framework_start_init"}"#)];
    ids.push(client.line().unwrap());
    ids.sort_by_key(|answer| answer["id"].to_string());
    assert_eq!(ids, ["start", "wait"].map(|id| json!({"jsonrpc": "2.0", "id": id, "result": true})));

    let wrong = client.call("framework_start_init", json!({})).unwrap_err();
    assert!(wrong.0 == -1 && wrong.1.starts_with("Method may only be called before"), "{}", wrong.1);
    assert_eq!(client.call("framework_wait_init", json!({})), Ok(json!(true)));
    let current = client.call("rpc_get_methods", json!({"current": true})).unwrap();
    assert!(!has(&current, "framework_start_init") && has(&current, "framework_get_reactors"));
    assert!(!has(&current, "get_rpc_methods"));
    assert!(has(&client.call("rpc_get_methods", json!({"include_aliases": true})).unwrap(), "get_rpc_methods"));
}

#[test]
fn answers_have_the_forms_of_spdk() {
    let served = served();
    let mut client = served.connect();
    let reactors = client.call("framework_get_reactors", json!({})).unwrap();
    assert_eq!(reactors["pid"], std::process::id());
    assert_eq!(
        reactors["reactors"][1],
        json!({
            "lcore": 1, "tid": 1001, "busy": 70, "idle": 30, "in_interrupt": false,
            "lw_threads": [{"name": "core_1", "id": 2, "cpumask": "2", "elapsed": 100}],
        })
    );
    let threads = client.call("thread_get_stats", json!({})).unwrap();
    assert_eq!(threads["threads"][0]["active_pollers_count"], 1);
    let pollers = client.call("thread_get_pollers", json!({})).unwrap();
    assert_eq!(pollers["threads"][0]["active_pollers"][0]["busy_count"], 7);
    let version = client.call("spdk_get_version", json!({})).unwrap();
    assert!(version["version"].as_str().unwrap().starts_with("kvplane v") && version["fields"]["major"].is_u64());
    assert_eq!(
        client.call("framework_get_subsystems", json!({})),
        Ok(json!([{"subsystem": "nvmf", "depends_on": []}]))
    );
    assert_eq!(client.call("framework_get_config", json!({"name": "bdev"})).unwrap_err().0, -19);
    assert_eq!(client.call("trace_dump", json!({"core": 1})).unwrap()["events"].as_array().unwrap().len(), 1);
    assert_eq!(client.call("trace_dump", json!({"core": 9})).unwrap_err().0, -19);
    assert_eq!(client.call("pipeline_get_stats", json!({})).unwrap()["cores"][0]["stages"][0]["items"], 40);
    assert_eq!(client.call("store_get_stats", json!({})).unwrap()["cores"][0]["counters"]["evictions"], 1);
}

#[test]
fn devices_are_shown_as_spdk_shows_them() {
    let (context, engine) = ready();
    let call = |method: &str, params: Value| run(&context, method, &params);
    let bdevs = call("bdev_get_bdevs", json!({ "timeout": 0 })).unwrap();
    assert_eq!(
        (&bdevs[0]["name"], &bdevs[0]["num_blocks"], &bdevs[0]["driver_specific"]),
        (&json!("Uring0"), &json!(256), &json!({}))
    );
    assert_eq!((&bdevs[1]["uuid"], &bdevs[1]["supported_io_types"]["unmap"]), (&json!("00112233"), &json!(true)));
    assert_eq!(bdevs[1]["driver_specific"]["nvme"][0]["pci_address"], "0000:01:00.0");
    let one = call("bdev_get_bdevs", json!({ "name": "Nvme0n1" })).unwrap();
    assert_eq!(one.as_array().map(Vec::len), Some(1));
    let figures = call("bdev_get_iostat", json!({})).unwrap();
    assert_eq!((&figures["ticks"], &figures["bdevs"][0]["bytes_read"]), (&json!(77), &json!(12_288)));
    assert_eq!(
        (&figures["bdevs"][0]["io_error"], &figures["bdevs"][1]["io_error"]),
        (&json!({}), &json!({ "total": 1 }))
    );
    let controllers = call("bdev_nvme_get_controllers", json!({ "name": "Nvme0" })).unwrap();
    assert_eq!(controllers[0]["ctrlrs"][0]["trid"], json!({ "trtype": "PCIe", "traddr": "0000:01:00.0" }));
    let health = call("bdev_nvme_get_controller_health_info", json!({ "name": "Nvme0" })).unwrap();
    assert_eq!((&health["model_number"], &health["temperature_celsius"]), (&json!("fake"), &json!(40)));
    let log = call("bdev_nvme_get_error_log", json!({ "name": "Nvme0" })).unwrap();
    assert_eq!((&log["entries"][0]["count"], &log["events"][0]["kind"]), (&json!(1), &json!(0)));
    assert_eq!(call("bdev_nvme_reset_controller", json!({ "name": "Nvme0", "cntlid": 0 })), Ok(json!(true)));
    assert_eq!(engine.resets.load(std::sync::atomic::Ordering::SeqCst), 1);
    for (method, params) in [
        ("bdev_get_bdevs", json!({ "name": "Nvme1n1" })),
        ("bdev_get_iostat", json!({ "name": "Nvme1n1" })),
        ("bdev_nvme_get_controllers", json!({ "name": "Nvme1" })),
        ("bdev_nvme_get_controller_health_info", json!({ "name": "Nvme1" })),
        ("bdev_nvme_get_error_log", json!({ "name": "Nvme1" })),
        ("bdev_nvme_reset_controller", json!({ "name": "Nvme1" })),
        ("bdev_nvme_reset_controller", json!({ "name": "Nvme0", "cntlid": 7 })),
    ] {
        assert_eq!(call(method, params).unwrap_err().code, -libc::ENODEV, "{method}");
    }
}

#[test]
fn declarations_are_sound() {
    let mut names = std::collections::BTreeSet::new();
    for method in all_methods() {
        for name in std::iter::once(&method.name).chain(method.aliases) {
            assert!(names.insert(*name), "{name} is declared twice");
        }
        for param in method.params {
            let Some(default) = param.default else { continue };
            let value: Value = serde_json::from_str(default).unwrap();
            let params = Box::leak(Box::new([*param]));
            let arguments = Arguments::check(method.name, params, Some(&json!({ param.name: value })));
            assert!(arguments.is_ok() && !param.required, "{} of {}: {arguments:?}", param.name, method.name);
        }
    }
    let page = markdown();
    assert!(all_methods().all(|method| page.contains(&format!("\n## {}\n", method.name))));
    assert_eq!(schema()["methods"].as_array().unwrap().len(), all_methods().count());
}

/// What a random operator does.
fn operation() -> impl Strategy<Value = (&'static str, Value)> {
    let nqn = (0..3u32).prop_map(|n| format!("nqn.2026-01.io.kvplane:s{n}"));
    let host = (0..3u32).prop_map(|n| format!("nqn.2026-01.io.kvplane:h{n}"));
    (nqn, host, 0..4u32, 0..15u32, any::<bool>()).prop_map(|(nqn, host, n, which, flag)| match which {
        0 | 1 => {
            ("nvmf_create_subsystem", json!({"nqn": nqn, "allow_any_host": flag, "serial_number": format!("S{n}")}))
        }
        2 | 3 if flag => ("nvmf_subsystem_add_host", json!({"nqn": nqn, "host": host, "uid": 1000 + n})),
        2 | 3 => ("nvmf_subsystem_add_host", json!({"nqn": nqn, "host": host})),
        4 => ("nvmf_subsystem_remove_host", json!({"nqn": nqn, "host": host})),
        5 | 6 => {
            let class = if flag { "durable" } else { "cache" };
            let hosts = if flag { json!([host]) } else { json!([]) };
            (
                "namespace_create",
                json!({"nqn": nqn, "name": format!("n{n}"), "class": class, "hosts": hosts,
                "auto_visible": !flag, "quota_bytes": "64M"}),
            )
        }
        7 => ("namespace_delete", json!({"name": format!("n{n}")})),
        8 => ("nvmf_ns_add_host", json!({"nqn": nqn, "host": host, "nsid": n + 1})),
        9 => ("nvmf_subsystem_allow_any_host", json!({"nqn": nqn, "allow_any_host": flag})),
        10 => ("nvmf_delete_subsystem", json!({"nqn": nqn})),
        11 => {
            let trtype = ["TCP", "RDMA"][usize::from(flag)];
            ("nvmf_create_transport", json!({"trtype": trtype, "max_io_size": 4096u32 << n}))
        }
        12 | 13 => {
            let method = if flag { "nvmf_subsystem_add_listener" } else { "nvmf_subsystem_remove_listener" };
            let nqn = if n == 0 { "discovery".to_owned() } else { nqn };
            let trtype = ["TCP", "RDMA"][n as usize / 3];
            let traddr = ["0.0.0.0", "10.0.0.1", "::1", "10.0.0.1"][n as usize];
            (method, json!({"nqn": nqn, "listen_address": {"trtype": trtype, "traddr": traddr}}))
        }
        14 => ("nvmf_subsystem_add_ns", json!({"nqn": nqn, "namespace": {"bdev_name": format!("n{n}")}})),
        _ => (
            "nvmf_subsystem_add_listener",
            json!({"nqn": nqn,
            "listen_address": {"trtype": "VFIOUSER", "traddr": format!("/run/{n}")}}),
        ),
    })
}

fn run(context: &Context, method: &str, params: &Value) -> Result<Value, Fault> {
    let (method, arguments) = check(method, Some(params))?;
    call(context, method, &arguments)
}

proptest! {
    /// Replaying what save_config answers makes an equal state, whatever led to it.
    #[test]
    fn a_saved_configuration_can_be_replayed(operations in prop::collection::vec(operation(), 0..60)) {
        let (context, engine) = ready();
        for (method, params) in &operations {
            // Many are refused, which is fine.
            let _ = run(&context, method, params);
        }
        let saved = run(&context, "save_config", &json!({})).unwrap();
        let (again, other_engine) = ready();
        for part in saved["subsystems"].as_array().unwrap() {
            for entry in part["config"].as_array().unwrap() {
                run(&again, entry["method"].as_str().unwrap(), &entry["params"]).unwrap();
            }
        }
        let without_index = |context: &Context| {
            let mut all = context.control.subsystems();
            // The index of statistics is not configured: it follows the order of creation.
            all.iter_mut().flat_map(|it| it.namespaces.values_mut()).for_each(|namespace| namespace.index = 0);
            all
        };
        prop_assert_eq!(without_index(&again), without_index(&context));
        prop_assert_eq!(run(&again, "save_config", &json!({})).unwrap(), saved);
        prop_assert_eq!(&*engine.listeners.lock().unwrap(), &*other_engine.listeners.lock().unwrap());
    }

    /// No value makes the checking or the methods panic.
    #[test]
    fn any_parameters_are_answered(which in 0..100usize, name in "[a-z_]{0,8}", number in any::<i64>(), text in ".{0,40}") {
        let (context, _) = ready();
        let method = all_methods().nth(which % all_methods().count()).unwrap();
        for value in [json!(number), json!(text), json!([text]), json!({ "trtype": text }), json!(true), Value::Null] {
            let mut params = serde_json::Map::from_iter([(name.clone(), value.clone())]);
            let _ = run(&context, method.name, &Value::Object(params.clone()));
            params = method.params.iter().map(|param| (param.name.to_owned(), value.clone())).collect();
            let _ = run(&context, method.name, &Value::Object(params));
        }
    }
}
