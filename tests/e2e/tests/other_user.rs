//! Processes of other users: who is attached by user id gets in, nobody else does.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use e2e::skip::skipped;
use e2e::{Daemon, Setup};
use serde_json::json;
use tempfile::TempDir;

const OTHER: &str = "nqn.2026-01.io.kvplane:other";
const HOST: &str = "nqn.2026-01.io.kvplane:somebody";

/// User ids that own nothing here.
const ALICE: u32 = 64_123;
const BOB: u32 = 64_124;

/// A folder that every user may enter, with a copy of `kvplane` that every user may run.
struct Public {
    folder: TempDir,
}

impl Public {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("kvu").tempdir().unwrap();
        let kvplane = folder.path().join("kvplane");
        fs::copy(e2e::binaries::kvplane(), &kvplane).unwrap();
        for path in [folder.path(), &kvplane] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        Self { folder }
    }

    fn listen(&self) -> PathBuf {
        self.folder.path().join("v")
    }

    /// Runs `kvplane` as another user and in no group of ours.
    fn run(&self, uid: u32, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.folder.path().join("kvplane"));
        command.args(arguments).arg("--connect").arg(format!("vfio-user:{}", self.listen().display()));
        command.current_dir("/").stdin(Stdio::null()).gid(uid).uid(uid);
        command.output().unwrap()
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Whether another user can get at a folder: on some machines all of the temporary files are this user's alone.
fn is_public(path: &Path) -> bool {
    let mut ancestors = path.ancestors();
    ancestors.all(|folder| fs::metadata(folder).unwrap().permissions().mode() & 0o001 != 0)
}

#[test]
fn a_process_of_another_user_gets_in_if_its_uid_is_attached_and_only_then() {
    const NAME: &str = "a_process_of_another_user_gets_in_if_its_uid_is_attached_and_only_then";
    if !is_root() {
        return skipped(NAME, "only root can start processes of other users; run it with sudo");
    }
    let public = Public::new();
    if !is_public(public.folder.path()) {
        return skipped(NAME, "other users cannot enter the folder for temporary files; set TMPDIR to another");
    }
    let daemon = Daemon::start(Setup::default());
    daemon.rpc("nvmf_create_subsystem", json!({ "nqn": OTHER }));
    daemon.rpc("namespace_create", json!({ "name": "others", "nqn": OTHER, "auto_visible": true }));
    let address = json!({ "trtype": "VFIOUSER", "traddr": public.listen().to_str().unwrap() });
    daemon.rpc("nvmf_subsystem_add_listener", json!({ "nqn": OTHER, "listen_address": address }));

    let refused = |uid: u32| {
        let ended = public.run(uid, &["exists", "text:key"]);
        // 1 would be a miss: an answer from inside.
        assert!(!ended.status.success() && ended.status.code() != Some(1), "user {uid} got in: {ended:?}");
        let turned_away = format!("uid {uid}");
        e2e::await_that("the log tells who was turned away", || daemon.log().contains(&turned_away));
    };
    let put = |uid: u32| public.run(uid, &["put", "text:key", "/proc/sys/kernel/ostype"]);

    refused(ALICE);
    daemon.rpc("nvmf_subsystem_add_host", json!({ "nqn": OTHER, "host": HOST, "uid": ALICE }));
    let stored = put(ALICE);
    assert!(stored.status.success(), "{stored:?}\n{}", daemon.log());
    let got = public.run(ALICE, &["get", "text:key"]);
    assert_eq!((got.status.code(), &got.stdout[..]), (Some(0), &b"Linux\n"[..]), "{got:?}");
    // Neither a third user nor the one that the daemon runs as is let in through that door.
    refused(BOB);
    refused(0);
    daemon.rpc("nvmf_subsystem_remove_host", json!({ "nqn": OTHER, "host": HOST }));
    let ended = put(ALICE);
    assert!(!ended.status.success(), "it is attached no more: {ended:?}");
    daemon.rpc("nvmf_subsystem_add_host", json!({ "nqn": OTHER, "host": HOST, "uid": BOB }));
    let got = public.run(BOB, &["get", "text:key"]);
    assert_eq!(got.stdout, b"Linux\n", "{got:?}");
}
