#!/usr/bin/env bash
# Compares values over NVMe/RDMA with perftest's ib_write_bw on the same two soft-RoCE devices in the guest, in turns, at 64 KiB and
# 1 MiB. Emulated processors rank no devices: what counts is the ratio, and that only on an otherwise idle machine. Builds with
# --release first, or takes the programs in KVPLANE_BIN_DIR. Needs tests/testbed/setup.sh once.
#
# Soft-RoCE is the kernel's work on the processors that poll, which a real NIC is not. So each end has a processor, as if it were a
# machine of its own: it polls there, sends there, and its packets arrive there. Who polls is nice 19, and the daemon stands still
# while ib_write_bw runs. Both sides have the same processors, depth and number of messages.
#
#   tests/testbed/rdma_bench.sh [ROUNDS [SECONDS]]      [default: 3 rounds, 10 s for each figure]
#
# Prints a line a round and size: bytes, MB/s of Retrieves, MB/s of ib_write_bw, and their ratio.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/../../scripts/lib.sh"
. "$HERE/soft_roce.sh"
cd "$ROOT"
[[ ${1:-} != -* ]] || { usage; exit 0; }
rounds=${1:-3} seconds=${2:-10}
whole_number ROUNDS "$rounds"
whole_number SECONDS "$seconds"

if [ "${KVPLANE_GUEST:-}" != 1 ]; then
    if [ -z "${KVPLANE_BIN_DIR:-}" ]; then
        require_cargo
        cargo build -q --release --locked --workspace --bins
    fi
    KVPLANE_BIN_DIR=${KVPLANE_BIN_DIR:-$BIN} exec tests/testbed/run.sh --time-limit $((rounds * (4 * seconds + 120) + 120)) --memory 3072 \
        --nvme none --iommu off -- tests/testbed/rdma_bench.sh "$rounds" "$seconds"
fi

soft_roce_up
# The host is on v1 and processor 1, the daemon on v2 and processor 0. The value is a mask.
echo 2 >/sys/class/net/v1/queues/rx-0/rps_cpus
echo 1 >/sys/class/net/v2/queues/rx-0/rps_cpus
renice -n 19 -p $$ >/dev/null
"$KVPLANE_BIN_DIR/kvplaned" --no-huge -m 0x1 --idle spin --store null:1G -r /run/kvplane.sock --listen "rdma://$ROCE_B:4420" --namespace tier \
    --allow-any-host >/run/kvplaned.log 2>&1 &
daemon=$!
BIN=$KVPLANE_BIN_DIR wait_ready $daemon /run/kvplane.sock /run/kvplaned.log 60

# MB/s of Retrieves of so many bytes.
retrieves() {
    taskset -c 1 "$KVPLANE_BIN_DIR/kvperf" run --connect "rdma://$ROCE_B:4420" --op retrieve --value-bytes "$1" --keys 64 --depth 16 \
        --duration "${seconds}s" --warm-up 1s --no-verify --json /run/result.json >/dev/null
    python3 -c 'import json
def find(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "gb_per_s":
                yield value["median"] if isinstance(value, dict) else value
            yield from find(value)
    elif isinstance(node, list):
        for value in node: yield from find(value)
print(round(1000 * max(find(json.load(open("/run/result.json")))), 1))'
}
# MB/s of WRITEs of so many bytes, so many of them, from the daemon's device to the host's, as a Retrieve moves them.
writes() {
    # A completion for each (-Q 1): with its usual 16 in one, few messages would be counted by sixteens.
    local common=(-F -x 1 -s "$1" -n "$2" -t 16 -Q 1 -m 4096)
    taskset -c 1 ib_write_bw -d roce1 "${common[@]}" >/dev/null 2>&1 &
    local server=$!
    until ss -Hltn 'sport = :18515' | grep -q .; do
        alive "$server" || die 1 "ib_write_bw does not serve"
        sleep 0.05
    done
    # It counts in MiB.
    taskset -c 0 ib_write_bw -d roce2 "${common[@]}" $ROCE_A 2>/dev/null |
        awk -v size="$1" '$1 == size && $4 > 0 { print $4 * 1.048576; found = 1 } END { exit !found }' &&
        wait $server
}

for ((round = 0; round < rounds; round++)); do
    for size in 65536 1048576; do
        ours=$(retrieves $size)
        kill -STOP $daemon
        # Under emulation its connection breaks now and then.
        theirs=$(writes $size "$(python3 -c "print(int($ours * 1e6 * $seconds / $size) + 16)")") || theirs=''
        kill -CONT $daemon
        if [ -z "$theirs" ]; then
            echo "round $((round + 1)): ib_write_bw failed with $size bytes; the round is not counted" >&2
            continue
        fi
        say "$size $ours $theirs $(python3 -c "print(round($ours / $theirs, 2))")"
    done
done
