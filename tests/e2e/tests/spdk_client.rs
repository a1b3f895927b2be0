//! SPDK's own Python client drives the control socket.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use std::path::PathBuf;
use std::process::Command;

use e2e::skip::skipped;
use e2e::{Daemon, Setup};
use serde_json::Value;

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
    let folder = e2e::binaries::target().join("e2e-python");
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
