//! What scripts see of the command line: exit codes, and one line that says why.

use std::process::{Command, Output};

fn kvplane(line: &str) -> Output {
    let words = line.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_kvplane"))
        .args(words)
        .env_remove("KVPLANE_CONNECT")
        .env_remove("KVPLANE_RPC_SOCKET")
        .output()
        .expect("the binary that was just built runs")
}

#[test]
fn a_key_that_is_none_is_a_usage_error() {
    let ended = kvplane("get nonsense --connect /nonexistent");
    assert_eq!(ended.status.code(), Some(2));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("32 hex digits") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_target_that_is_not_there_is_a_failure() {
    for line in ["exists text:a --connect /nonexistent", "rpc -s /nonexistent/rpc.sock spdk_get_version"] {
        let ended = kvplane(line);
        assert_eq!(ended.status.code(), Some(3), "{line}");
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(said.contains("/nonexistent") && said.lines().count() == 1, "{said}");
        assert!(said.matches("cannot").count() == 1, "{said}");
    }
}

#[test]
fn an_option_that_rpc_does_not_have_is_not_taken_for_a_method() {
    let ended = kvplane("rpc --sock /nonexistent spdk_get_version");
    assert_eq!(ended.status.code(), Some(2));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("no option --sock"), "{said}");
}

#[test]
fn help_teaches_keys_and_exit_codes() {
    let ended = kvplane("--help");
    assert_eq!(ended.status.code(), Some(0));
    let said = String::from_utf8(ended.stdout).unwrap();
    assert!(said.contains("text:NAME") && said.contains("Exit codes"), "{said}");
    let rpc = String::from_utf8(kvplane("rpc --help").stdout).unwrap();
    assert!(rpc.contains("--name value"), "{rpc}");
}
