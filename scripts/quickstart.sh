#!/usr/bin/env bash
# Builds kvplane, replays a request trace of an LLM service against it, and shows what came out.
#
#   scripts/quickstart.sh [OPTIONS]
#
#   --trace FILE         trace to replay, in Mooncake's JSONL format [default: one is generated]
#   --requests N         replay the first N requests [default: 2000]
#   --block-bytes BYTES  value size of one 512-token block, such as 64K [default: 64K]
#   --store-size SIZE    size of the store file, such as 4G [default: 4G]
#   --seconds S          give up when the replay takes longer [default: 100]
#   --keep-store         leave the store file behind
#   -h, --help           this text
#
# It needs stable Rust, a C linker, two cores and 6 GiB of disk. No root, no hugepages, no download. kvplaned runs on
# one core and keeps the values in target/quickstart/store; kvperf runs on another core, looks up every request's
# prefix, loads the blocks that are there, stores the rest, and checks every byte that comes back.
#
# Results: target/quickstart/report.json, target/quickstart/*.svg, and the daemon's log in kvplaned.log.
# Exit codes: 0 all well; 1 something failed, or a byte was wrong; 2 wrong options.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

trace='' requests=2000 block_bytes=64K store_size=4G seconds=100 keep_store=no
while [ $# -gt 0 ]; do
    case $1 in
        --trace) argument "$@"; trace=$2; shift ;;
        --requests) argument "$@"; whole_number "$@"; requests=$2; shift ;;
        --block-bytes) argument "$@"; block_bytes=$2; shift ;;
        --store-size) argument "$@"; store_size=$2; shift ;;
        --seconds) argument "$@"; whole_number "$@"; seconds=$2; shift ;;
        --keep-store) keep_store=yes ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die 2 "unknown option $1" ;;
    esac
    shift
done
[ "$requests" -gt 0 ] || die 2 "--requests must be at least 1"
[ -z "$trace" ] || [ -r "$trace" ] || die 2 "--trace $trace: cannot be read"
[ -z "$trace" ] || trace=$(realpath "$trace")
require_cargo
cd "$ROOT"

step "Building (release)"
cargo build --release --locked -p pipelines -p kvplane-cli -p kvperf --bins

out=$ROOT/target/quickstart
store=$out/store
claim "$out" quickstart.sh
sockets=$(socket_dir)
daemon='' replay='' store_is_ours=no
finish() {
    local code=$?
    trap - EXIT
    [ -z "$replay" ] || stop_pid "$replay" 5 || true
    [ -z "$daemon" ] || stop_pid "$daemon" || { warn "kvplaned did not stop when asked and was killed"; code=1; }
    rm -rf "$sockets"
    [ "$keep_store" = yes ] || [ "$store_is_ours" = no ] || rm -f "$store"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

require_space "$out" $(($(numfmt --from=iec "$store_size") / 1048576 + 512))
rm -f "$out"/report.json "$out"/*.svg

mapfile -t cores < <(allowed_cores)
core=${cores[0]} client=() idle='spin'
if [ "${#cores[@]}" -ge 2 ]; then
    client=(--cpu "${cores[1]}")
else
    idle='sleep'
    warn "only one core may be used: daemon and client share it, and the figures are worth little"
fi
raise_memlock
memory=$(memory_option)

step "Starting kvplaned on core $core (${memory:-hugepages}, store of $store_size in target/quickstart/store)"
: >"$out/kvplaned.log"
launch_kvplaned "$core" "$sockets" "$out/kvplaned.log" "file:$store,size=$store_size,format=force" --idle "$idle" \
    --namespace quickstart
wait_ready "$daemon" "$sockets/rpc.sock" "$out/kvplaned.log"
store_is_ours=yes

if [ -z "$trace" ]; then
    trace=$out/trace.jsonl
    step "Generating a trace of $requests requests"
    "$BIN/kvperf" generate --requests "$requests" --out "$trace"
fi

in_trace=$(grep -c . "$trace") || die 1 "$trace is empty"
step "Replaying $((requests < in_trace ? requests : in_trace)) of the $in_trace requests in $trace, blocks of $block_bytes"
# In the background, so that a signal to this script is heeded at once.
tied timeout -k 5 "$seconds" "$BIN/kvperf" replay "$trace" --connect "vfio-user:$sockets" "${client[@]}" \
    --limit "$requests" --block-bytes "$block_bytes" --verify full --rpc-socket "$sockets/rpc.sock" \
    --json "$out/report.json" --plots "$out" &
replay=$!
code=0
wait "$replay" || code=$?
replay=''
case $code in
    0) ;;
    124 | 137) die 1 "the replay took longer than $seconds s: try fewer --requests or smaller --block-bytes" ;;
    *) die 1 "the replay failed with code $code (daemon's log: $out/kvplaned.log)" ;;
esac

step "Stopping kvplaned"
stop_pid "$daemon" || { daemon=''; die 1 "kvplaned did not stop when asked and was killed"; }
daemon=''
say "report: target/quickstart/report.json"
say "plots:  $(cd "$ROOT" && printf '%s ' target/quickstart/*.svg)"
