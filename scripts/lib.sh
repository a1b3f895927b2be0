# shellcheck shell=bash
# Functions that the other scripts share. To be sourced, not run:
#     . "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Cargo's own folder; results of scripts always go to $ROOT/target, where the README says they are.
CARGO_TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
# shellcheck disable=SC2034  # used by the scripts that source this file
BIN=$CARGO_TARGET/release

# ---------------------------------------------------------------- words to people

say() { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# die CODE MESSAGE: one clear line, then the exit code.
die() {
    local code=$1
    shift
    printf 'error: %s\n' "$*" >&2
    exit "$code"
}

# usage: prints the comment at the top of the calling script (its lines 2 up to the first that is no comment).
usage() { awk 'NR == 1 { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "$0"; }

# argument OPTION VALUE: complains if an option was given without its value.
argument() { if [ "$#" -lt 2 ] || [ -z "$2" ]; then die 2 "$1 needs a value (see --help)"; fi; }

# whole_number OPTION VALUE
whole_number() { [[ $2 =~ ^[0-9]+$ ]] || die 2 "$1 takes a whole number, not '$2'"; }

# ---------------------------------------------------------------- this machine

have() { command -v "$1" >/dev/null 2>&1; }

# allowed_cores: the processors that this process may run on, one a line.
allowed_cores() {
    local list part
    list=$(awk '/^Cpus_allowed_list:/ { print $2 }' /proc/self/status)
    for part in ${list//,/ }; do
        if [[ $part == *-* ]]; then seq "${part%-*}" "${part#*-}"; else say "$part"; fi
    done
}

# free_mib PATH: free space of the file system that holds PATH.
free_mib() { df --output=avail -B1M "$1" | awk 'NR == 2 { print $1 }'; }

# require_space PATH MIB
require_space() {
    local free
    free=$(free_mib "$1")
    [ "$free" -ge "$2" ] || die 1 "$1 has $free MiB free, $2 MiB are needed"
}

# free_hugepages_mib: memory in free 2 MiB hugepages.
free_hugepages_mib() {
    local pages
    pages=$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages 2>/dev/null || say 0)
    say $((pages * 2))
}

# raise_memlock: lifts the soft limit of locked memory to the hard one; prints nothing.
raise_memlock() { ulimit -S -l "$(ulimit -H -l)" 2>/dev/null || true; }

# as_root COMMAND...: runs it as root, by sudo if need be and if that asks for no password.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 126
    fi
}

require_cargo() {
    have cargo || die 1 "cargo is missing: install stable Rust from https://rustup.rs and open a new shell"
    have cc || have gcc || die 1 "a C linker is missing: apt-get install gcc"
}

# ---------------------------------------------------------------- processes

alive() { kill -0 "$1" 2>/dev/null; }

# stop_pid PID [SECONDS]: SIGTERM, then SIGKILL when SECONDS (15) are over. Fails if it had to be killed.
stop_pid() {
    local pid=$1 deadline=$((SECONDS + ${2:-15}))
    alive "$pid" || return 0
    kill -TERM "$pid" 2>/dev/null || true
    while alive "$pid"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            kill -KILL "$pid" 2>/dev/null || true
            wait "$pid" 2>/dev/null || true
            return 1
        fi
        sleep 0.05
    done
    wait "$pid" 2>/dev/null || true
}

# tied COMMAND...: becomes COMMAND, which is sent SIGTERM should this script be killed; for use with &.
tied() {
    if have setpriv; then exec setpriv --pdeathsig TERM "$@"; else exec "$@"; fi
}

# What kvplaned's exit codes mean, with what to do.
explain_exit() {
    case $1 in
        2) say "kvplaned refused its options" ;;
        3) say "the store file is not kvplane's, damaged, of another version or too small; nothing was written to it" ;;
        4) say "another kvplaned holds the store file; stop that one first" ;;
        5) say "another kvplaned holds the core; stop that one first, or use other cores" ;;
        6) say "memory could not be locked; see 'scripts/setup.sh status' and 'scripts/setup.sh memlock'" ;;
        7) say "a socket is taken by another process; stop that one first, or use another path" ;;
        8) say "the configuration file is not valid, or one of its calls failed" ;;
        *) say "kvplaned ended with code $1" ;;
    esac
}

# wait_ready PID RPC_SOCKET LOG [SECONDS]: until the daemon serves. Dies with its last words if it ends before.
wait_ready() {
    local pid=$1 socket=$2 log=$3 deadline=$((SECONDS + ${4:-30})) code
    until [ -S "$socket" ] && timeout 5 "$BIN/kvplane" rpc -s "$socket" framework_wait_init >/dev/null 2>&1; do
        if ! alive "$pid"; then
            code=0
            wait "$pid" || code=$?
            tail -n 5 "$log" >&2
            die 1 "kvplaned did not start: $(explain_exit "$code") (log: $log)"
        fi
        [ "$SECONDS" -lt "$deadline" ] || die 1 "kvplaned was not ready after ${4:-30} s (log: $log)"
        sleep 0.1
    done
}

# claim FOLDER NAME: makes the folder and keeps other runs of the script NAME out of it for as long as this one lives.
# Children that outlive it are to be started with 9>&-.
claim() {
    mkdir -p "$1"
    exec 9>"$1/lock"
    flock -n 9 || die 1 "another $2 is at work in ${1#"$ROOT"/} ('fuser ${1#"$ROOT"/}/lock' names its processes)"
}

# memory_option: the option that lets kvplaned start on a machine with too few hugepages; nothing if there are enough.
memory_option() { [ "$(free_hugepages_mib)" -ge 512 ] || say --no-huge; }

# launch_kvplaned CORE SOCKETS LOG STORE [OPTION...]: starts it in the background on one core, with both sockets in the
# folder SOCKETS, and leaves its process id in $daemon. Its output goes to the end of LOG.
launch_kvplaned() {
    local core=$1 sockets=$2 log=$3 store=$4 arena=()
    shift 4
    mapfile -t arena < <(memory_option)
    tied "$BIN/kvplaned" -m "[$core]" -r "$sockets/rpc.sock" "${arena[@]}" --store "$store" \
        --listen "vfio-user:$sockets" "$@" >>"$log" 2>&1 9>&- &
    # shellcheck disable=SC2034  # for the caller
    daemon=$!
}

# socket_dir: makes a private folder for unix sockets and prints its name. Not under target/, because a socket's path
# may be only 107 bytes long and a clone may lie deep.
socket_dir() { mktemp -d "/tmp/kvplane.XXXXXX"; }

# ---------------------------------------------------------------- JSON

# json FILE EXPRESSION: evaluates a Python expression in which `j` is the file's content, and prints its value.
# Numbers are printed so that they can be read back.
json() {
    python3 - "$1" "$2" <<'PYTHON'
import json, sys
j = json.load(open(sys.argv[1]))
value = eval(sys.argv[2], {"j": j})
print(value if isinstance(value, str) else json.dumps(value))
PYTHON
}
