//! Where the programs under test are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Path of `kvplaned`.
#[must_use]
pub fn kvplaned() -> PathBuf {
    folder().join("kvplaned")
}

/// Path of `kvplane`.
#[must_use]
pub fn kvplane() -> PathBuf {
    folder().join("kvplane")
}

/// The folder `target` that the tests were built into.
#[must_use]
pub fn target() -> PathBuf {
    profile().parent().expect("a profile's folder lies in target").to_path_buf()
}

/// The folder of the profile that the tests were built with.
fn profile() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps").to_path_buf()
}

/// The folder in which both programs lie: the one that `KVPLANE_BIN_DIR` names, or that of the tests' own profile. In
/// the latter they are built first, because a crate's tests do not bring other crates' programs with them, and those
/// of yesterday prove nothing.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match std::env::var_os("KVPLANE_BIN_DIR") {
        Some(folder) => folder.into(),
        None => {
            let folder = profile();
            build(&folder);
            folder
        }
    })
}

fn build(folder: &Path) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "-p", "pipelines", "-p", "kvplane-cli", "--bins"]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_TARGET_DIR", target());
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "the programs under test do not build");
}
