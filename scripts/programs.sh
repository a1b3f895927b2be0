# shellcheck shell=bash
# Every program and every test of the workspace, built once for all steps. To be sourced after scripts/lib.sh.
#
# Cargo compiles a crate anew for each set of features of the crates below it, and that set depends on the packages that a
# command names. So all scripts name all packages: the first one builds, the others find everything there.

PROGRAMS=${KVPLANE_PROGRAMS:-$CARGO_TARGET/programs.txt}

# build_programs: kvplaned, kvplane and kvperf lie in $KVPLANE_BIN_DIR afterwards, examples in its folder examples, and
# test_program knows the tests. A folder that the caller has chosen stays chosen.
build_programs() {
    require_cargo
    export KVPLANE_PROGRAMS=$PROGRAMS KVPLANE_BIN_DIR=${KVPLANE_BIN_DIR:-$CARGO_TARGET/debug}
    mkdir -p "$CARGO_TARGET"
    cargo build -q --locked --workspace --bins --tests --examples --message-format json-render-diagnostics | python3 -c '
import json, os, sys
for line in map(json.loads, sys.stdin):
    if line["reason"] == "compiler-artifact" and line["profile"]["test"] and line["executable"]:
        package = os.path.basename(os.path.dirname(line["manifest_path"]))
        print(package + "/" + line["target"]["name"] + "=" + line["executable"])' >"$PROGRAMS.new"
    mv "$PROGRAMS.new" "$PROGRAMS"
}

# test_program FOLDER NAME: the test program of that name among those of the package in that folder.
test_program() { sed -n "s|^$1/$2=||p" "$PROGRAMS"; }
