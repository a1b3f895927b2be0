#!/usr/bin/env bash
# Everything that CI runs. Ends with a table of all steps and a line "N passed, N failed, N skipped".
#
#   scripts/test.sh [OPTIONS]
#
#   --quick          only format, lints, tests and a short simulation (a few minutes)
#   --soak           ten times the simulation, the kills and the fuzzing; RDMA's ports worn out in the guest
#   --seeds N        simulate N seeds
#   --only NAME      run this step only; may be given several times
#   --list           list the steps
#   --no-install     install nothing
#   -h, --help       this text
#
# It installs what it needs on a bare Debian 12 (root, or sudo without a password): gcc, valgrind, shellcheck,
# python3-venv, g++, for aarch64 a cross compiler and qemu-user-static. The virtual machine's packages are unpacked into
# target/testbed and not installed. A step or test whose tools are missing is SKIPPED and counted apart; it never counts
# as passed. Stable Rust is expected to be there (https://rustup.rs); fuzzing needs a nightly toolchain beside it.
#
# Each step's output is in target/test/STEP.log; the end of it is shown when the step fails.
# Exit codes: 0 nothing failed; 1 a step failed; 2 wrong options.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/programs.sh"
cd "$ROOT"

# Step and what it proves, in the order in which they run: quick ones first.
STEPS='
scripts    shell scripts are clean (shellcheck), and setup.sh knows a drive in use
format     the code is formatted
lints      clippy finds nothing, warnings denied
unit       unit, property and documentation tests of every crate
docs       rustdoc builds, warnings denied
canary     the simulator finds bugs that were built in
e2e        the real daemon, from outside, by its clients, on this machine and over loopback TCP
kill9      kill -9 under load loses no acknowledged durable value
vm         in a guest with emulated SSDs behind an IOMMU: the test bed itself, setup.sh, the NVMe driver, the daemon on it, Linux as its host
simulate   seeds of workload, schedule and faults keep every invariant
callgrind  instructions per command stay within their budget
aarch64    the workspace compiles for aarch64; unit tests and a short simulation run under qemu-user
fuzz       hostile bytes break nothing, a few seconds for each target
'
QUICK='scripts format lints unit simulate'
# Runs beside the steps behind it: a guest keeps one core busy for most of its time.
BESIDE=vm beside=''

declare -a only=()
quick=no soak=1 seeds='' install=yes
while [ $# -gt 0 ]; do
    case $1 in
        --quick) quick=yes ;;
        --soak) soak=10 ;;
        --seeds) argument "$@"; whole_number "$@"; seeds=$2; shift ;;
        --only) argument "$@"; only+=("$2"); shift ;;
        --list) say "${STEPS:1:-1}"; exit 0 ;;
        --no-install) install=no ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die 2 "unknown option $1" ;;
    esac
    shift
done
seeds=${seeds:-$((300 * soak))}
# What incremental compilation keeps for the next edit costs a run of everything minutes.
if [ "$quick" = no ] && [ "${#only[@]}" -eq 0 ]; then export CARGO_INCREMENTAL=0; fi
for name in "${only[@]}"; do
    grep -q "^$name " <<<"$STEPS" || die 2 "--only $name: no such step (see --list)"
done

# A step that cannot run here prints "SKIPPED: reason" last and returns this.
SKIP=77
skip() {
    say "SKIPPED: $*"
    return "$SKIP"
}

# ---------------------------------------------------------------- what is needed

install_packages() {
    local missing=() package
    have cc || missing+=(gcc libc6-dev)
    have valgrind || missing+=(valgrind)
    have shellcheck || missing+=(shellcheck)
    have c++ || missing+=(g++)
    have python3 || missing+=(python3)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    if wanted aarch64 && [ "$(uname -m)" = x86_64 ]; then
        have aarch64-linux-gnu-gcc || missing+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
        have qemu-aarch64-static || missing+=(qemu-user-static)
    fi
    [ "${#missing[@]}" -gt 0 ] || return 0
    if [ "$install" = no ] || ! have apt-get; then
        warn "not installed: ${missing[*]}"
        return 0
    fi
    step "Installing ${missing[*]}"
    as_root timeout 300 apt-get -qq update || warn "apt-get update failed"
    for package in "${missing[@]}"; do
        as_root timeout 300 env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$package" \
            >/dev/null || warn "$package could not be installed"
    done
}

install_components() {
    local component
    have rustup || return 0
    for component in rustfmt clippy; do
        cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
    done
}

# ---------------------------------------------------------------- the steps

step_scripts() {
    have shellcheck || skip "shellcheck is not installed" || return
    shellcheck -x -P SCRIPTDIR scripts/*.sh tests/*.sh tests/*/*.sh tests/testbed/guest/* .ci/run
    python3 -c 'import ast, sys; [ast.parse(open(name).read(), name) for name in sys.argv[1:]]' scripts/*.py
    tests/scripts/controllers.sh
}

step_format() { cargo fmt --all -- --check; }
step_lints() { cargo clippy --workspace --all-targets --locked -- -D warnings; }
step_unit() { cargo test --workspace --exclude e2e --locked --no-fail-fast; }
step_docs() { RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --document-private-items; }

# In one command with what scripts/bench.sh runs, so that neither builds the crates below anew.
step_simulate() {
    cargo build --release --workspace --bins --locked
    "$BIN/simulator" --seeds "$seeds"
}
# Not optimized, and of the whole workspace: that is there already but for the crates with the bug, and it is found at once.
step_canary() {
    local bug
    for bug in canary canary-tcp; do
        cargo build --workspace --bin simulator --locked --features "simulator/$bug"
        "$CARGO_TARGET/debug/simulator" --expect-failure
    done
}

# Of the end-to-end tests, those that have a meaning over a network.
NETWORK='contents backends restart two_cores policy limit cli bad_store nvme_device zero_copy crash'

# e2e_tests NAME [OPTION...]: one of the end-to-end test programs.
e2e_tests() {
    say "-- $1${KVPLANE_E2E_CARRIER:+ over $KVPLANE_E2E_CARRIER}"
    (cd tests/e2e && "$(test_program e2e "$1")" "${@:2}")
}

step_e2e() {
    local file name code=0
    build_programs
    e2e_tests e2e || code=1
    for file in tests/e2e/tests/*.rs; do
        e2e_tests "$(basename "$file" .rs)" --skip kill_9 || code=1
    done
    export KVPLANE_E2E_CARRIER=tcp KVPLANE_KILL_ROUNDS=$((4 * soak))
    for name in $NETWORK; do e2e_tests "$name" || code=1; done
    return "$code"
}

step_kill9() {
    build_programs
    KVPLANE_KILL_ROUNDS=$((20 * soak)) e2e_tests crash
}

step_callgrind() {
    have valgrind || skip "valgrind is not installed" || return
    scripts/bench.sh --only callgrind
    # The goals are in bench.sh; these are ceilings, so that what was reached is not lost unnoticed. Lower them with
    # every improvement.
    python3 scripts/bench_table.py ceiling target/bench/bench.json callgrind_exist=640 callgrind_retrieve=1275 callgrind_nvme_read=252
}

step_vm() {
    local code=0 part
    tests/testbed/setup.sh || code=$?
    [ "$code" -ne "$SKIP" ] || skip "this machine cannot have the VM test bed (tests/testbed/setup.sh tells why)" || return
    [ "$code" -eq 0 ] || return "$code"
    for part in smoke driver e2e fabrics rdma; do
        "tests/testbed/$part.sh" || code=1
    done
    [ "$soak" -eq 1 ] || tests/testbed/rdma.sh renewal || code=1
    return "$code"
}

step_aarch64() { scripts/aarch64.sh; }

# The flags that cargo-fuzz gives to rustc, so that cargo-fuzz itself need not be installed; but for the number of codegen
# units, which decides how long they compile.
FUZZ_FLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Cdebug-assertions -Ccodegen-units=4"

step_fuzz() {
    local host target folder corpus
    [ -d tests/fuzz ] || skip "there is no tests/fuzz" || return
    cargo +nightly --version >/dev/null 2>&1 || skip "no nightly toolchain (rustup toolchain install nightly)" || return
    have c++ || skip "no C++ compiler, which libFuzzer needs" || return
    host=$(rustc -vV | awk '/^host:/ { print $2 }')
    folder=$ROOT/target/fuzz
    build_programs
    "$KVPLANE_BIN_DIR/examples/fuzz_seeds" "$folder/corpus"
    export CARGO_TARGET_DIR=$folder RUSTFLAGS=$FUZZ_FLAGS ASAN_OPTIONS=detect_odr_violation=0
    (cd tests/fuzz && cargo +nightly build --release --target "$host" --bins)
    for target in $(fuzz_targets); do
        corpus=$folder/corpus/$target
        mkdir -p "$corpus" "$folder/artifacts"
        say "fuzzing $target for $((8 * soak)) s"
        "$folder/$host/release/$target" -max_total_time=$((8 * soak)) -error_exitcode=1 -timeout=10 -rss_limit_mb=2048 \
            -artifact_prefix="$folder/artifacts/$target-" "$corpus"
    done
}

fuzz_targets() {
    cargo metadata --no-deps --format-version 1 --manifest-path tests/fuzz/Cargo.toml | python3 -c '
import json, sys
for package in json.load(sys.stdin)["packages"]:
    for target in package["targets"]:
        if "bin" in target["kind"]: print(target["name"])'
}

# ---------------------------------------------------------------- running and counting

wanted() {
    if [ "${#only[@]}" -gt 0 ]; then [[ " ${only[*]} " == *" $1 "* ]]; return; fi
    [ "$quick" = no ] || [[ " $QUICK " == *" $1 "* ]]
}

# Tests that found that they cannot run on this machine leave a line here; those are counted as skipped, too.
TEST_SKIPS=$CARGO_TARGET/test-skips.txt
skipped_tests() { if [ -e "$TEST_SKIPS" ]; then wc -l <"$TEST_SKIPS"; else say 0; fi; }

# remark LOG: how many tests a log tells of.
remark() {
    awk '/^test result:/ { passed += $4; failed += $6; ignored += $8; any = 1 }
         /^SKIPPED: / { reason = substr($0, 10) }
         END { if (reason) print reason
               else if (any) printf "%d tests passed, %d failed, %d ignored\n", passed, failed, ignored }' "$1"
}

# carry_out NAME: runs a step, and leaves its exit code and how long it took in target/test/NAME.end.
carry_out() {
    local name=$1 log=$ROOT/target/test/$1 began=$SECONDS code
    # Its own shell, so that `set -e` holds inside, and no step can change the next one's environment.
    set +e
    (set -e; "step_$name") >"$log.log" 2>&1 </dev/null
    code=$?
    set -e
    say "$code $((SECONDS - began))" >"$log.end"
}

passed=0 failed=0 skipped=0 table=''
report() {
    local name=$1 log=$ROOT/target/test/$1.log code took result
    read -r code took <"$ROOT/target/test/$name.end"
    case $code in
        0) result=passed passed=$((passed + 1)) ;;
        "$SKIP") result=SKIPPED skipped=$((skipped + 1)) ;;
        *) result=FAILED failed=$((failed + 1)) ;;
    esac
    printf '%-10s ... %s (%d s)\n' "$name" "$result" "$took"
    table+=$(printf '%-10s  %-7s  %5d s  %s' "$name" "$result" "$took" "$(remark "$log")")$'\n'
    if [ "$result" = FAILED ]; then
        say "---- the end of $log"
        tail -n 60 "$log"
        # A test that failed early is long gone from the end of a log. What it said follows the line that names it.
        grep -E '^test .* FAILED$' "$log" | head -n 20 || true
        grep -E -A 12 '^thread .* panicked at' "$log" | cut -c 1-400 | head -n 100 || true
        say "----"
    fi
}

began=$SECONDS
install_packages
require_cargo
install_components
mkdir -p target/test
rm -f "$TEST_SKIPS"
step "Running (logs in target/test)"
while read -r name _; do
    if [ -z "$name" ] || ! wanted "$name"; then continue; fi
    rm -f "target/test/$name.end"
    if [ "$name" = "$BESIDE" ]; then
        # A process group of its own, so that it can be ended with all that it has started.
        set -m
        carry_out "$name" &
        beside=$!
        set +m
        trap 'kill -TERM -- "-$beside" 2>/dev/null || true' EXIT
    else
        carry_out "$name"
        report "$name"
    fi
done <<<"$STEPS"
if [ -n "$beside" ]; then
    wait "$beside"
    trap - EXIT
    report "$BESIDE"
fi

step "Summary after $((SECONDS - began)) s"
printf '%s' "$table"
if [ "$(skipped_tests)" -gt 0 ]; then
    say "Tests that were SKIPPED inside these steps:"
    sed 's/^/  /' "$TEST_SKIPS"
    skipped=$((skipped + $(skipped_tests)))
fi
say "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
