//! SPDK's own Python client drives the control socket.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use e2e::skip::skipped;
use e2e::{Daemon, Setup};
use serde_json::{Value, json};

const NQN: &str = "nqn.2016-06.io.spdk:cnode1";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6";

const SCRIPT: &str = r#"
import json, sys
from spdk.rpc.client import JSONRPCClient, JSONRPCException
client = JSONRPCClient(sys.argv[1], timeout=20.0)
answers = {}
for method in ["rpc_get_methods", "spdk_get_version", "framework_get_reactors", "thread_get_stats",
               "log_get_level", "nvmf_get_subsystems", "framework_get_subsystems", "save_config"]:
    answers[method] = client.call(method)
answers["log_set_level"] = client.call("log_set_level", {"level": "WARNING"})
answers["level after"] = client.call("log_get_level")
answers["nvmf config"] = client.call("framework_get_config", {"name": "nvmf"})
try:
    client.call("no_such_method")
    answers["refused"] = False
except JSONRPCException as error:
    answers["refused"] = "Method not found" in error.message
print(json.dumps(answers))
"#;

/// A virtual environment with the package `spdk`, made once; why not, if that fails.
fn python() -> Result<PathBuf, String> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    MADE.get_or_init(make_python).clone()
}

fn make_python() -> Result<PathBuf, String> {
    let folder = e2e::binaries::target().join("e2e-python");
    // Another run of these tests may be making the same one.
    let lock = File::create(folder.with_extension("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let python = folder.join("bin/python");
    let has_spdk = |python: &PathBuf| {
        Command::new(python).args(["-c", "import spdk.rpc.client"]).output().is_ok_and(|ended| ended.status.success())
    };
    if has_spdk(&python) {
        return Ok(python);
    }
    let run = |command: &mut Command| match command.output() {
        Ok(ended) if ended.status.success() => Ok(()),
        Ok(ended) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&ended.stderr).trim())),
        Err(error) => Err(format!("{command:?}: {error}")),
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--timeout", "20", "spdk"]))?;
    has_spdk(&python).then_some(python).ok_or_else(|| "the package spdk cannot be imported".to_owned())
}

#[test]
fn spdks_python_client_drives_the_socket() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skipped("spdks_python_client_drives_the_socket", &why),
    };
    let daemon = Daemon::start(Setup::default());
    let ended = Command::new(python).arg("-c").arg(SCRIPT).arg(daemon.home.rpc_socket()).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let answers: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert!(answers["rpc_get_methods"].as_array().unwrap().len() > 15);
    assert!(answers["spdk_get_version"]["version"].as_str().unwrap().contains("kvplane"));
    assert_eq!(answers["framework_get_reactors"]["pid"], daemon.pid());
    assert!(answers["thread_get_stats"]["threads"].is_array());
    assert!(answers["nvmf_get_subsystems"].to_string().contains(e2e::daemon::DEFAULT_NQN));
    assert_eq!(answers["log_set_level"], true);
    assert_eq!(answers["level after"], "WARNING");
    assert_eq!(answers["refused"], true);
    let nvmf = answers["save_config"]["subsystems"].as_array().unwrap().iter().find(|it| it["subsystem"] == "nvmf");
    assert_eq!(answers["nvmf config"], nvmf.unwrap()["config"]);
}

/// SPDK's command line for its RPCs, on a daemon.
struct SpdkRpc<'a> {
    program: PathBuf,
    daemon: &'a Daemon,
}

impl<'a> SpdkRpc<'a> {
    fn new(python: &Path, daemon: &'a Daemon) -> Self {
        Self { program: python.with_file_name("spdk-rpc"), daemon }
    }

    /// Runs a line; what it prints, or what it complains of.
    fn run(&self, line: &str) -> Result<Value, String> {
        let mut command = Command::new(&self.program);
        command.arg("-s").arg(self.daemon.home.rpc_socket()).args(line.split_whitespace());
        let ended = command.output().unwrap();
        if !ended.status.success() {
            return Err(String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned());
        }
        Ok(serde_json::from_slice(&ended.stdout).unwrap_or(Value::Null))
    }

    fn call(&self, line: &str) -> Value {
        self.run(line).unwrap_or_else(|error| panic!("{line}: {error}\n{}", self.daemon.log()))
    }
}

/// A subsystem is set up, shown, saved and taken down by the lines that SPDK's documentation has for it. `listener` is
/// where it listens, in the words of that command line.
fn set_up_by_spdks_lines(rpc: &SpdkRpc<'_>, transport: &str, listener: &str) {
    rpc.call(&format!("nvmf_create_transport -t {transport} -m 8 -c 8192 -i 1048576"));
    rpc.call(&format!("nvmf_create_subsystem {NQN} -s SPDK00000000000001 -d SPDK_Controller1 -m 8"));
    rpc.call(&format!("nvmf_subsystem_add_ns {NQN} llama"));
    rpc.call(&format!("nvmf_subsystem_add_host {NQN} {HOST}"));
    rpc.call(&format!("nvmf_subsystem_add_listener {NQN} {listener}"));
    let transports = rpc.call("nvmf_get_transports");
    assert_eq!((&transports[0]["trtype"], &transports[0]["max_io_size"]), (&json!(transport), &json!(1 << 20)));
    let subsystems = rpc.call("nvmf_get_subsystems");
    assert_eq!(subsystems[0]["subtype"], "Discovery");
    let own = &subsystems[1];
    assert_eq!((&own["nqn"], &own["serial_number"]), (&json!(NQN), &json!("SPDK00000000000001")));
    assert_eq!((&own["namespaces"][0]["bdev_name"], &own["hosts"][0]["nqn"]), (&json!("llama"), &json!(HOST)));
    let listeners = rpc.call(&format!("nvmf_subsystem_get_listeners {NQN}"));
    assert_eq!(
        (&listeners[0]["address"]["trtype"], &own["listen_addresses"][0]),
        (&json!(transport), &listeners[0]["address"])
    );
    for shown in ["nvmf_subsystem_get_controllers", "nvmf_subsystem_get_qpairs"] {
        assert_eq!(rpc.call(&format!("{shown} {NQN}")), json!([]));
    }
    let stats = rpc.call("nvmf_get_stats");
    assert_eq!(
        (&stats["poll_groups"][0]["name"], &stats["poll_groups"][0]["io_qpairs"]),
        (&json!("core_0"), &json!(0))
    );
    let saved = rpc.call("save_config").to_string();
    assert!(saved.contains("nvmf_create_transport") && saved.contains(NQN), "{saved}");
    rpc.call(&format!("nvmf_subsystem_remove_listener {NQN} {listener}"));
    rpc.call(&format!("nvmf_subsystem_remove_ns {NQN} 1"));
    rpc.call(&format!("nvmf_subsystem_remove_host {NQN} {HOST}"));
    rpc.call(&format!("nvmf_delete_subsystem {NQN}"));
    assert!(rpc.run(&format!("nvmf_get_subsystems {NQN}")).is_err());
}

#[test]
fn spdks_command_line_sets_up_a_subsystem_on_this_machine() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skipped("spdks_command_line_sets_up_a_subsystem_on_this_machine", &why),
    };
    let daemon = Daemon::start(Setup { namespaces: Vec::new(), ..Setup::default() });
    let listener = format!("-t VFIOUSER -a {} -s 0", daemon.home.listen().display());
    set_up_by_spdks_lines(&SpdkRpc::new(&python, &daemon), "VFIOUSER", &listener);
}

#[test]
fn spdks_command_line_sets_up_a_subsystem_on_a_network() {
    const NAME: &str = "spdks_command_line_sets_up_a_subsystem_on_a_network";
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skipped(NAME, &why),
    };
    let daemon = Daemon::start(Setup { namespaces: Vec::new(), ..Setup::default() });
    let rpc = SpdkRpc::new(&python, &daemon);
    // A limit that cannot be makes nothing, and says first if there is no such carrier.
    let probed = daemon.try_rpc("nvmf_create_transport", json!({ "trtype": "TCP", "max_io_size": 1 })).unwrap_err();
    if probed.code == i64::from(-libc::EPROTONOSUPPORT) {
        return skipped(NAME, &probed.message);
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listener = format!("-t tcp -f ipv4 -a 127.0.0.1 -s {port}");
    set_up_by_spdks_lines(&rpc, "TCP", &listener);
    // SPDK's lines give the discovery subsystem a listener, too.
    rpc.call(&format!("nvmf_subsystem_add_listener discovery {listener}"));
    assert_eq!(rpc.call("nvmf_get_subsystems")[0]["listen_addresses"][0]["trsvcid"], port.to_string());
}
