#!/usr/bin/env bash
# Measures every figure that the project has a goal for, and prints the goal beside it.
#
#   scripts/bench.sh [OPTIONS]
#
#   --only NAME     measure rows whose name or family contains NAME; may be given several times
#   --repeat N      rounds [default: 3]. A round measures everything once, so that what is compared is interleaved
#   --seconds S     time for each measurement in a round [default: 4]
#   --check         exit with 1 if a goal is missed
#   --list          list the rows with their goals
#   --markdown      print target/bench/bench.json as the table of README.md, and measure nothing
#   -h, --help      this text
#
# kvplaned runs on the first core that this process may use, kvperf on the second; leave both alone meanwhile. The
# figure is the median of the rounds, the spread is half the distance between the least and the most, in percent of it
# (limit: half the 95 % confidence interval of the median of its own, shorter rounds).
#
# Results: target/bench/bench.json, a list of {name, unit, goal, figure, spread, met, relation}; "relation" says whether
# the figure is to be ">=" or "<=" the goal. Rows that could not be measured have figure null and met false, and say why
# in "note". Reports and logs are beside it.
# Exit codes: 0 measured; 1 something failed (or, with --check, a goal was missed); 2 wrong options.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# name, unit, goal, family. A family is measured by the function measure_FAMILY, which calls `sample NAME NUMBER` for
# each of its rows. To add a figure: a line here, and a function unless a family has it already.
ROWS='
limit_retrieve_1m_qd16_throughput   ratio           >= 0.97  limit
limit_retrieve_1m_qd16_p99          ratio           <= 1.15  limit
limit_store_1m_qd16_throughput      ratio           >= 0.97  limit
limit_store_1m_qd16_p99             ratio           <= 1.15  limit
limit_retrieve_64k_qd32_throughput  ratio           >= 0.97  limit
limit_retrieve_64k_qd32_p99         ratio           <= 1.15  limit
limit_store_64k_qd32_throughput     ratio           >= 0.97  limit
limit_store_64k_qd32_p99            ratio           <= 1.15  limit
vfio_exist_qd128                    M/s             >= 6.0   vfio
vfio_retrieve4k_null_qd128          M/s             >= 4.5   vfio
vfio_qd1_p50                        us              <= 0.8   vfio
callgrind_exist                     instructions    <= 400   callgrind
callgrind_retrieve                  instructions    <= 800   callgrind
callgrind_nvme_read                 instructions    <= 250   callgrind
nvme_over_kernel_reads              ratio           >= 3.0   guest
tcp_over_redis_retrieve_1m_qd16     ratio           >= 1.5   tcp
tcp_over_plain_sockets              ratio           >= 0.9   tcp
tcp_cpu_seconds_per_gib             s/GiB           <= inf   tcp
redis_cpu_seconds_per_gib           s/GiB           <= inf   tcp
plain_sockets_cpu_seconds_per_gib   s/GiB           <= inf   tcp
rdma_over_ib_write_bw_64k           ratio           >= 0.9   rdma
rdma_over_ib_write_bw_1m            ratio           >= 0.9   rdma
restart_read_fraction               %               <= 0.3   restart
restart_records_per_s               M/s             >= 3.0   restart
hot_path_allocations                allocations     <= 0     allocations
retrieve_p999_with_flood            ratio           <= 3.0   flood
'

declare -a only=()
repeat=3 seconds=4 check=no
while [ $# -gt 0 ]; do
    case $1 in
        --only) argument "$@"; only+=("$2"); shift ;;
        --repeat) argument "$@"; whole_number "$@"; repeat=$2; shift ;;
        --seconds) argument "$@"; whole_number "$@"; seconds=$2; shift ;;
        --check) check=yes ;;
        --list) say "${ROWS:1:-1}"; exit 0 ;;
        --markdown) exec python3 "$ROOT/scripts/bench_table.py" markdown "$ROOT/target/bench/bench.json" ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die 2 "unknown option $1" ;;
    esac
    shift
done
[ "$repeat" -gt 0 ] || die 2 "--repeat must be at least 1"

wanted() { # NAME FAMILY
    local word
    [ "${#only[@]}" -gt 0 ] || return 0
    for word in "${only[@]}"; do
        if [[ $1 == *"$word"* || $2 == *"$word"* ]]; then return 0; fi
    done
    return 1
}

families=() rows=''
while read -r name unit relation goal family; do
    if [ -z "$name" ] || ! wanted "$name" "$family"; then continue; fi
    rows+="$name $unit $relation $goal"$'\n'
    [[ " ${families[*]} " == *" $family "* ]] || families+=("$family")
done <<<"$ROWS"
[ -n "$rows" ] || die 2 "no row matches --only ${only[*]} (see --list)"

require_cargo
cd "$ROOT"
step "Building (release)"
cargo build --release --locked --workspace --bins

out=$ROOT/target/bench
store=$out/store
claim "$out" bench.sh
rm -f "$out"/samples "$out"/notes "$out"/*.json "$out"/*.log
touch "$out/samples" "$out/notes"
sockets=$(socket_dir)
trap 'rm -rf "$sockets" "$store" "$out"/restart.*' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mapfile -t cores < <(allowed_cores)
[ "${#cores[@]}" -ge 2 ] || [ "${families[*]}" = callgrind ] ||
    die 1 "two cores are needed: one for kvplaned, one for kvperf"
raise_memlock

# ---------------------------------------------------------------- what the families use

# sample NAME NUMBER; note NAME WHY
sample() { say "$1 $2" >>"$out/samples"; }
note() { say "$*" >>"$out/notes"; }

start_daemon() { # STORE [OPTION...]
    local store_option=$1 log=$out/kvplaned.log
    shift
    launch_kvplaned "${cores[0]}" "$sockets" "$log" "$store_option" --idle spin "$@"
    wait_ready "$daemon" "$sockets/rpc.sock" "$log" 120
}

daemon=''
stop_daemon() {
    [ -n "$daemon" ] || return 0
    stop_pid "$daemon" 30 || { daemon=''; die 1 "kvplaned did not stop when asked (log: $out/kvplaned.log)"; }
    daemon=''
}

rpc() { "$BIN/kvplane" rpc -s "$sockets/rpc.sock" "$@"; }

ratio() { awk -v a="$1" -v b="$2" 'BEGIN { print a / b }'; }

# load NAME OPTION...: kvperf run against the daemon, from the other core; the report goes to target/bench/NAME.json.
load() {
    local name=$1
    shift
    "$BIN/kvperf" run --connect "vfio-user:$sockets" --cpu "${cores[1]}" --quiet --json "$out/$name.json" "$@" \
        >"$out/$name.log" 2>&1 || { tail -n 5 "$out/$name.log" >&2; return 1; }
}

# ---------------------------------------------------------------- the families

measure_vfio() {
    local common=(--value-bytes 4K --keys 4096 --duration "${seconds}s" --no-verify)
    start_daemon null:1G
    load vfio_exist --op exist --depth 128 "${common[@]}"
    load vfio_retrieve --op retrieve --depth 128 "${common[@]}"
    load vfio_qd1 --op retrieve --depth 1 "${common[@]}"
    stop_daemon
    sample vfio_exist_qd128 "$(json "$out/vfio_exist.json" 'j["per_op"][0]["ops_per_s"] / 1e6')"
    sample vfio_retrieve4k_null_qd128 "$(json "$out/vfio_retrieve.json" 'j["per_op"][0]["ops_per_s"] / 1e6')"
    sample vfio_qd1_p50 "$(json "$out/vfio_qd1.json" 'j["per_op"][0]["latency"]["p50_us"]')"
}

# 1 MiB values over loopback: from memory of kvplaned by NVMe/TCP, of a Redis server by GET, and of a server that does nothing
# but send them (scripts/plain_values.py), which is what sockets give at the most. The same loop asks all of them, from the other
# core; who goes first changes from round to round. The processor's time is that of the server.
measure_tcp() {
    local side sides=(kvplane redis plain) moved='j["per_op"][0]["gb_per_s"]'
    have redis-server || sides=(kvplane plain)
    [ $((round % 2)) -eq 1 ] || mapfile -t sides < <(printf '%s\n' "${sides[@]}" | tac)
    for side in "${sides[@]}"; do "tcp_of_$side"; done
    sample tcp_over_plain_sockets "$(ratio "$(json "$out/tcp_kvplane.json" "$moved")" "$(json "$out/tcp_plain.json" "$moved")")"
    if [[ " ${sides[*]} " == *" redis "* ]]; then
        sample tcp_over_redis_retrieve_1m_qd16 "$(ratio "$(json "$out/tcp_kvplane.json" "$moved")" "$(json "$out/tcp_redis.json" "$moved")")"
    else
        for side in tcp_over_redis_retrieve_1m_qd16 redis_cpu_seconds_per_gib; do note "$side" "redis-server is not installed"; done
    fi
}

tcp_of_kvplane() {
    local port=14420
    launch_kvplaned "${cores[0]}" "$sockets" "$out/kvplaned.log" ram:1G --listen "tcp://127.0.0.1:$port" --allow-any-host
    wait_ready "$daemon" "$sockets/rpc.sock" "$out/kvplaned.log" 120
    tcp_load kvplane "tcp://127.0.0.1:$port" "$daemon" tcp_cpu_seconds_per_gib
    stop_daemon
}

tcp_of_redis() {
    tcp_of_server redis 16379 redis_cpu_seconds_per_gib \
        redis-server --port 16379 --bind 127.0.0.1 --save '' --appendonly no --daemonize no
}

tcp_of_plain() { tcp_of_server plain 16380 plain_sockets_cpu_seconds_per_gib scripts/plain_values.py 16380; }

tcp_of_server() { # NAME PORT ROW COMMAND...
    local name=$1 port=$2 row=$3 server
    shift 3
    tied taskset -c "${cores[0]}" "$@" >"$out/$name.log" 2>&1 9>&- &
    server=$!
    for _ in $(seq 100); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
        sleep 0.1
    done
    tcp_load "$name" "redis://127.0.0.1:$port" "$server" "$row" || { stop_pid "$server"; return 1; }
    stop_pid "$server"
}

tcp_load() { # NAME ADDRESS PID ROW
    local before after
    local options=(--op retrieve --value-bytes 1M --keys 256 --depth 16 --no-verify)
    "$BIN/kvperf" run --connect "$2" --cpu "${cores[1]}" --quiet "${options[@]}" --duration 1s >"$out/tcp_$1.log" 2>&1 ||
        { tail -n 5 "$out/tcp_$1.log" >&2; return 1; }
    before=$(cpu_ticks "$3")
    "$BIN/kvperf" run --connect "$2" --cpu "${cores[1]}" --quiet "${options[@]}" --no-populate --warm-up 0s \
        --duration "${seconds}s" --json "$out/tcp_$1.json" >"$out/tcp_$1.log" 2>&1 ||
        { tail -n 5 "$out/tcp_$1.log" >&2; return 1; }
    after=$(cpu_ticks "$3")
    sample "$4" "$(json "$out/tcp_$1.json" "($after - $before) / $(getconf CLK_TCK) / (j['per_op'][0]['ops'] / 1024)")"
}

# Time that a process has used of processors, in ticks (proc(5): utime and stime).
cpu_ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }

# Reads beside a flood of stores: open loop at half of what the daemon can serve, without and with the flood.
measure_flood() {
    local rate common=(--op retrieve --value-bytes 64K --keys 8192 --depth 32 --duration "${seconds}s")
    rm -f "$store"
    start_daemon "file:$store,size=4G,format=force"
    load flood_most "${common[@]}"
    rate=$(json "$out/flood_most.json" 'j["per_op"][0]["ops_per_s"] / 2')
    load flood_without "${common[@]}" --no-populate --rate "$rate"
    tied "$BIN/kvperf" run --connect "vfio-user:$sockets" --quiet --op store --value-bytes 1M --depth 8 --keys 2048 --seed 7 \
        --no-populate --duration $((seconds + 4))s >"$out/flood_flood.log" 2>&1 9>&- &
    local flood=$!
    load flood_with "${common[@]}" --no-populate --rate "$rate" || { stop_pid "$flood"; return 1; }
    wait "$flood"
    stop_daemon
    local p999='j["per_op"][0]["latency"]["p999_us"]'
    sample retrieve_p999_with_flood "$(ratio "$(json "$out/flood_with.json" "$p999")" "$(json "$out/flood_without.json" "$p999")")"
}

# kvperf limit compares by itself: plain io_uring and kvplaned in turns, in many short rounds, on the store's own file.
# Handed on are the median over its rounds and the ends of the median's confidence interval, which make the spread. The
# file is written as a whole before it is formatted, so that no write takes new blocks of the file system.
measure_limit() {
    [ "$round" -eq 1 ] || return 0
    local size row figure huge=()
    [ "$(free_hugepages_mib)" -lt 1024 ] || huge=(--hugepages)
    rm -f "$store"
    dd if=/dev/urandom of="$store" bs=4M count=2048 iflag=fullblock oflag=direct status=none
    start_daemon "file:$store,format=force"
    for size in 1m:16 64k:32; do
        row=qd${size#*:} size=${size%:*}
        [[ $rows == *"_${size}_$row"* ]] || continue
        "$BIN/kvperf" limit --connect "vfio-user:$sockets" --cpu "${cores[1]}" --value-bytes "${size^^}" \
            --depth "${row#qd}" --duration 500ms --rounds $((2 * repeat * seconds)) --file "$store" \
            "${huge[@]}" --quiet --json "$out/limit_$size.json" >"$out/limit_$size.log" 2>&1 ||
            { tail -n 5 "$out/limit_$size.log" >&2; return 1; }
        for figure in throughput p99; do
            limit_samples "$size" "limit_retrieve_${size}_${row}_$figure" 0 "${figure}_ratio"
            limit_samples "$size" "limit_store_${size}_${row}_$figure" 1 "${figure}_ratio"
        done
    done
    stop_daemon
    rm -f "$store"
}

limit_samples() { # SIZE ROW CASE FIELD
    local value
    for value in low median high; do
        sample "$2" "$(json "$out/limit_$1.json" "j['cases'][$3]['$4']['$value']")"
    done
}

# Counted, not timed: one round says all.
measure_callgrind() {
    [ "$round" -eq 1 ] || return 0
    if ! have valgrind; then
        note callgrind_exist valgrind is not installed
        note callgrind_retrieve valgrind is not installed
        note callgrind_nvme_read valgrind is not installed
        return 0
    fi
    "$BIN/kvperf" stages --callgrind --op exist --op retrieve --op nvme-read --quiet --json "$out/stages.json" >"$out/stages.log" 2>&1 ||
        { tail -n 5 "$out/stages.log" >&2; return 1; }
    sample callgrind_exist "$(json "$out/stages.json" '[c["instructions"] for c in j["costs"] if c["op"] == "exist"][0]')"
    sample callgrind_retrieve "$(json "$out/stages.json" '[c["instructions"] for c in j["costs"] if c["op"] == "retrieve"][0]')"
    sample callgrind_nvme_read "$(json "$out/stages.json" '[c["instructions"] for c in j["costs"] if c["op"] == "nvme-read"][0]')"
}

# Inside the virtual machine with an emulated SSD, which takes turns by itself: one guest has as many rounds as asked for,
# at least four, so that either order comes up twice.
measure_guest() {
    [ "$round" -eq 1 ] || return 0
    local rounds=$((repeat < 4 ? 4 : repeat)) driver kernel
    if ! tests/testbed/setup.sh --check >/dev/null 2>&1; then
        note nvme_over_kernel_reads "the VM test bed is not set up (tests/testbed/setup.sh)"
        return 0
    fi
    tests/testbed/run.sh --iommu on --nvme size=256M,block=4096 --time-limit $((120 + rounds * (2 * seconds + 40))) -- \
        tests/testbed/fio.sh "$BIN/kvperf" "$rounds" "$seconds" >"$out/guest.txt" 2>"$out/guest.log" ||
        { tail -n 5 "$out/guest.log" >&2; return 1; }
    while read -r driver kernel; do
        sample nvme_over_kernel_reads "$(ratio "$driver" "$kernel")"
    done <"$out/guest.txt"
}

# Likewise, over two soft-RoCE devices in a guest.
measure_rdma() {
    [ "$round" -eq 1 ] || return 0
    local rounds=$((repeat < 3 ? 3 : repeat)) bytes ours theirs row
    if ! tests/testbed/setup.sh --check >/dev/null 2>&1; then
        for row in 64k 1m; do note "rdma_over_ib_write_bw_$row" "the VM test bed is not set up (tests/testbed/setup.sh)"; done
        return 0
    fi
    KVPLANE_BIN_DIR=$BIN tests/testbed/rdma_bench.sh "$rounds" "$((seconds + 6))" >"$out/rdma.txt" 2>"$out/rdma.log" ||
        { tail -n 5 "$out/rdma.log" >&2; return 1; }
    while read -r bytes ours theirs _; do
        case $bytes in
            65536) sample rdma_over_ib_write_bw_64k "$(ratio "$ours" "$theirs")" ;;
            1048576) sample rdma_over_ib_write_bw_1m "$(ratio "$ours" "$theirs")" ;;
        esac
    done <"$out/rdma.txt"
}

# What a restart reads of a store full of 64 KiB blocks, and how fast it takes in one full of small ones. The second file
# is larger than its values: a segment has room for a limited number of records.
measure_restart() {
    local stats='j["stores"][0]["counters"]'
    restart_of blocks 2G 64K 31000
    restart_of records 16G 4K 600000
    sample restart_read_fraction "$(json "$out/restart_blocks.stats.json" \
        "100 * ${stats}['recovery_bytes_read'] / ${stats}['capacity_bytes']")"
    sample restart_records_per_s "$(json "$out/restart_records.log.json" 'j["records"] / max(j["millis"], 1) / 1000')"
    [ "$round" -lt "$repeat" ] || rm -f "$out"/restart.*
}

restart_of() { # NAME STORE_SIZE VALUE_BYTES KEYS: fills the store in the first round, restarts on it in each
    if [ "$round" -eq 1 ]; then
        rm -f "$out/restart.$1"
        start_daemon "file:$out/restart.$1,size=$2,format=force"
        load "restart_$1" --op exist --value-bytes "$3" --keys "$4" --depth 128 --duration 1s --no-verify
        stop_daemon
    fi
    start_daemon "file:$out/restart.$1,format=never" --log-format json --log-level INFO
    rpc store_get_stats >"$out/restart_$1.stats.json"
    stop_daemon
    grep '"message":"store recovered"' "$out/kvplaned.log" | tail -n 1 |
        python3 -c 'import json, sys; print(json.dumps(json.loads(sys.stdin.readline())["fields"]))' >"$out/restart_$1.log.json"
}

# The counting allocator is part of a test, because the daemon does not carry it. The test fails from one allocation on.
measure_allocations() {
    [ "$round" -eq 1 ] || return 0
    cargo test --locked -p e2e --test no_allocation >"$out/allocations.log" 2>&1 ||
        { tail -n 20 "$out/allocations.log" >&2; return 1; }
    sample hot_path_allocations 0
}

# ---------------------------------------------------------------- measuring

: >"$out/kvplaned.log"
failures=0
for ((round = 1; round <= repeat; round++)); do
    for family in "${families[@]}"; do
        step "Round $round of $repeat: $family"
        # Its own shell: when a family fails, its daemon is stopped and the others are still measured.
        set +e
        (
            set -e
            trap 'stop_daemon' EXIT
            trap 'exit 130' INT
            trap 'exit 143' TERM
            "measure_$family"
        )
        code=$?
        set -e
        case $code in
            0) ;;
            130 | 143) exit "$code" ;;
            *)
                warn "$family failed in round $round (logs in target/bench)"
                failures=$((failures + 1))
                while read -r name _ _ _ of; do
                    [ "$of" != "$family" ] || note "$name" "failed in round $round"
                done <<<"$ROWS"
                ;;
        esac
    done
done

step "Figures (median of $repeat rounds)"
printf '%s' "$rows" >"$out/rows"
code=0
python3 scripts/bench_table.py summary "$out/rows" "$out/samples" "$out/notes" "$out/bench.json" || code=$?
say "written: target/bench/bench.json"
case $code in
    0) ;;
    3) [ "$check" = no ] || die 1 "a goal was missed" ;;
    *) die 1 "the figures could not be put together" ;;
esac
[ "$failures" -eq 0 ] || die 1 "$failures measurements failed"
