#!/usr/bin/env bash
# Runs the tests of RDMA that want devices: two of software's (soft-RoCE) in the guest, whose packets cross a pair of
# virtual Ethernet devices. The verbs; our initiator and Linux's target; the daemon with our client and with Linux's host;
# lost packets, peers that vanish, a path that breaks. Needs tests/testbed/setup.sh once; takes about three minutes.
#
#   tests/testbed/rdma.sh [PART...]     [default: verbs linux_target daemon linux_host loss faults path]
#
# There is renewal as well, which takes five minutes.
#
# All parts run in one guest, one after the other. Exit codes: 0 all passed; 1 some failed.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/../../scripts/lib.sh"
. "$HERE/../../scripts/programs.sh"
. "$HERE/../checks.sh"
. "$HERE/soft_roce.sh"
cd "$ROOT"

# In the guest this same file is run with the names of the parts.

# rdma_tests TEST...: the tests of this name, which must all be there.
rdma_tests() {
    local code=0 out
    out=$(KVPLANE_TEST_RDMA=$ROCE_A,$ROCE_B timeout 150 "$(test_program dataplane dataplane)" --include-ignored --nocapture --test-threads=1 \
        --exact "$@" 2>&1) || code=$?
    say "$out"
    check "as many tests as were asked for" "$(sed -n 's/^running \([0-9]*\) tests\?$/\1/p' <<<"$out")" $#
    [ "$code" -eq 0 ]
}
VERBS=fabric::rdma::verbs::tests

part_verbs() {
    rdma_tests $VERBS::messages_and_memory_move $VERBS::a_wrong_key_breaks_its_own_queue_pair_and_no_other \
        $VERBS::a_request_can_be_rejected_with_a_reason $VERBS::what_the_device_cannot_do_is_told \
        $VERBS::a_machine_without_rdma_says_what_it_lacks
}

INITIATOR=fabric::rdma::initiator::tests

# Linux's own target, with a file of blocks 0 to 255 full of their numbers, and some more of zeros.
linux_target() {
    local root=/sys/kernel/config/nvmet nqn=nqn.2026-01.io.kvplane:linux
    python3 -c 'import sys
for block in range(256): sys.stdout.buffer.write(bytes([block]) * 4096)' >/dev/shm/blocks
    truncate -s 4M /dev/shm/blocks
    modprobe loop
    modprobe nvmet-rdma
    losetup -b 4096 /dev/loop0 /dev/shm/blocks
    mount -t configfs none /sys/kernel/config 2>/dev/null || true
    mkdir "$root/subsystems/$nqn" "$root/subsystems/$nqn/namespaces/1" "$root/ports/1"
    echo 1 >"$root/subsystems/$nqn/attr_allow_any_host"
    echo /dev/loop0 >"$root/subsystems/$nqn/namespaces/1/device_path"
    echo 1 >"$root/subsystems/$nqn/namespaces/1/enable"
    echo rdma >"$root/ports/1/addr_trtype"
    echo ipv4 >"$root/ports/1/addr_adrfam"
    echo $ROCE_B >"$root/ports/1/addr_traddr"
    echo 4420 >"$root/ports/1/addr_trsvcid"
    ln -s "$root/subsystems/$nqn" "$root/ports/1/subsystems/$nqn"
}

part_linux_target() {
    linux_target
    rdma_tests $INITIATOR::linux_is_read_from_and_written_to $INITIATOR::linux_refuses_what_it_does_not_have
    # The daemon wants its port.
    rm /sys/kernel/config/nvmet/ports/1/subsystems/*
    rmdir /sys/kernel/config/nvmet/ports/1
}

# ---- the daemon and its client, and Linux's host

NQN=nqn.2026-01.io.kvplane:tier HOST=nqn.2026-01.io.kvplane:host
SOCKET=/run/kvplane.sock

# daemon OPTIONS...: starts kvplaned in the background, and waits until it serves.
daemon() {
    "$KVPLANE_BIN_DIR/kvplaned" --no-huge -m 0x3 --store ram:512M -r $SOCKET --listen "rdma://$ROCE_B:4420" \
        --namespace tier "$@" >/run/kvplaned.log 2>&1 &
    daemon=$!
    local tries=0
    until "$KVPLANE_BIN_DIR/kvplane" rpc -s $SOCKET framework_wait_init >/dev/null 2>&1; do
        tries=$((tries + 1))
        if ! kill -0 $daemon 2>/dev/null || [ $tries -ge 100 ]; then
            cat /run/kvplaned.log
            die 1 "kvplaned does not serve"
        fi
        sleep 0.1
    done
}
# end_daemon NAME: asks it to end, and sees it do so.
end_daemon() {
    local code=0
    kill "$daemon"
    wait "$daemon" || code=$?
    check "$1" "$code" 0
    [ "$checks_failed" = 0 ] || tail -n 30 /run/kvplaned.log
}
kv() { "$KVPLANE_BIN_DIR/kvplane" "$@" --connect "rdma://$ROCE_B:4420" --host-nqn $HOST; }
rpc() { "$KVPLANE_BIN_DIR/kvplane" rpc -s $SOCKET "$@"; }
status_of() { local code=0; "$@" >/run/out 2>/run/err || code=$?; say "$code"; }
# values SIZES...: stores a value of each size and fetches it again; how many came back as they went.
values() {
    local size same=0
    for size in "$@"; do
        head -c "$size" /dev/urandom >/run/value
        kv put --checksum "text:v$size" /run/value && kv get --checksum "text:v$size" -o /run/copy &&
            cmp -s /run/value /run/copy && same=$((same + 1))
    done
    say "$same"
}

part_daemon() {
    daemon --host $HOST
    check "values of every kind of size come back" "$(values 1 100 4096 8192 8193 65536 1048576 8388608)" 8
    check "a value beyond what RDMA can name in one command is refused" \
        "$(head -c 9000000 /dev/zero >/run/big && status_of kv put text:big /run/big)" 3
    check "a key that is not there" "$(status_of kv get text:nothing)" 1
    check_match "what is there is looked up" "$(kv lookup text:v4096 text:nothing)" v4096
    kv rm text:v4096 >/dev/null
    check "what was deleted is gone" "$(status_of kv get text:v4096)" 1
    check "a stranger is refused" \
        "$(HOST=nqn.2026-01.io.kvplane:stranger status_of kv get text:v100)" 3
    check_match "and told why" "$(cat /run/err)" "invalid host"
    check_match "nobody is left connected" "$(rpc nvmf_get_stats)" '"current_io_qpairs": 0'

    # Every value is checked.
    local code=0
    timeout 100 "$KVPLANE_BIN_DIR/kvperf" run --connect "rdma://$ROCE_B:4420" --host-nqn $HOST --op retrieve=60,store=40 --keys 256 \
        --value-bytes 4K=8,64K=4,1M=1 --depth 32 --ops 1500 --warm-up 0s --verify full >/run/load 2>&1 || code=$?
    check "many values at a time come back as they went" "$code" 0
    [ "$code" = 0 ] || cat /run/load
    end_daemon "the daemon ends well"
}

# One packet in a hundred is lost, each way: the devices send it again, and nobody notices.
part_loss() {
    daemon --host $HOST
    local end code=0
    for end in v1 v2; do tc qdisc add dev $end root netem loss 1%; done
    timeout 200 "$KVPLANE_BIN_DIR/kvperf" run --connect "rdma://$ROCE_B:4420" --host-nqn $HOST --op retrieve=50,store=50 --keys 64 \
        --value-bytes 4K=8,64K=4,1M=1 --depth 16 --ops 400 --warm-up 0s --verify full >/run/load 2>&1 || code=$?
    check "values come back as they went although packets are lost" "$code" 0
    [ "$code" = 0 ] || cat /run/load
    check_match "packets were lost" "$(tc -s qdisc show dev v1)" 'dropped [1-9]'
    check_match "both ways" "$(tc -s qdisc show dev v2)" 'dropped [1-9]'
    for end in v1 v2; do tc qdisc del dev $end root; done
    end_daemon "the daemon ends well after losses"
}

# load OPTIONS...: a client at work for as long as it is let; for use with &.
load() {
    tied "$KVPLANE_BIN_DIR/kvperf" run --connect "rdma://$ROCE_B:4420" --host-nqn $HOST --op retrieve=50,store=50 --keys 64 \
        --value-bytes 64K --depth 16 --warm-up 0s "$@"
}
# await REGEX COMMAND...: waits until the command says so, a few minutes at most; what it said last.
await() {
    local tries=0 text=''
    until text=$("${@:2}" 2>&1) && grep -qE -- "$1" <<<"$text" || [ $tries -ge 300 ]; do
        tries=$((tries + 1))
        sleep 0.2
    done
    say "$text"
}
# I/O queues that hosts have.
queues() { rpc nvmf_subsystem_get_qpairs --nqn $NQN | python3 -c 'import json, sys; print(sum(pair["qid"] > 0 for pair in json.load(sys.stdin)))'; }

# Peers that vanish, and a daemon that ends under its hosts.
part_faults() {
    daemon --host $HOST
    load --duration 60s >/run/load 2>&1 &
    local client=$!
    check "a client is at work" "$(await '^[2-9]' queues)" 2
    kill -9 $client || { cat /run/load /run/kvplaned.log; false; }
    check "one that is killed leaves nothing behind" "$(await '^0$' queues)" 0
    check "and the next is served" "$(values 65536 1048576)" 2

    load --duration 60s >/run/load 2>&1 &
    client=$!
    check "a client is at work again" "$(await '^[2-9]' queues)" 2
    end_daemon "the daemon ends well under a client"
    wait $client || true
}

# A path that breaks: nothing arrives any more, either way, though both ends' links are up. (With a link down, soft-RoCE of
# kernel 6.1 cannot send what ends the connections, and hears no connection manager from then on: packets for it reach the
# interface and the device counts none, neither for the daemon nor for perftest, until the device is made anew.)
part_path() {
    daemon --host $HOST
    load --duration 60s >/run/load 2>&1 &
    local client=$! end
    check "a client is at work" "$(await '^[2-9]' queues)" 2
    for end in v1 v2; do tc qdisc add dev $end root netem loss 100%; done
    check "a path that breaks ends the queues" "$(await '^0$' queues)" 0
    wait $client || true
    check_match "and the client learns it from its device, long before its deadline" "$(cat /run/load)" "the target has gone"
    for end in v1 v2; do tc qdisc del dev $end root; done
    check "and when it is there again, so is the daemon" "$(values 65536 1048576)" 2
    end_daemon "and ends well"
}

# Queue pairs that ended may have taken receives along. After 256 on a core, those who come next get a port made anew, and
# what there was goes when its last queue does.
part_renewal() {
    daemon --host $HOST
    load --duration 600s >/run/load 2>&1 &
    local client=$! left=260 missed=0
    check "a client is at work" "$(await '^[2-9]' queues)" 2
    while [ $left -gt 0 ]; do
        left=$((left - 1))
        [ "$(status_of kv get text:nothing)" != 1 ] || missed=$((missed + 1))
    done
    check "every host is served, before and after" "$missed" 260
    check "values come back over what was made anew" "$(values 65536 1048576)" 2
    check "who was there before has stayed" "$(kill -0 $client && queues)" 2
    kill $client
    wait $client || true
    check_match "what there was goes with its last queue" "$(await 'made anew' cat /run/kvplaned.log)" "made anew"
    check "and nobody notices" "$(values 65536 1048576)" 2
    end_daemon "the daemon ends well"
}

# Linux's own host: its generic character device takes commands of any command set.
part_linux_host() {
    modprobe nvme-rdma
    daemon --host $HOST
    local who=(-t rdma -a "$ROCE_B" -s 4420 -q "$HOST" -w "$ROCE_A") device tries=0
    check_match "discovery names the subsystem" "$(nvme discover "${who[@]}" 2>&1)" "subnqn: +$NQN"
    nvme connect "${who[@]}" -n $NQN -i 2
    device=/dev/ng0n1
    until [ -e $device ] || [ $tries -ge 50 ]; do tries=$((tries + 1)); sleep 0.1; done
    head -c 4096 /dev/urandom >/run/value
    passthru() { nvme io-passthru $device -n 1 -2 0x11 -3 0x22 --cdw10=4096 --cdw11=16 --cdw14=0x33 --cdw15=0x44 -l 4096 "$@"; }
    check "a value is stored" "$(status_of passthru -o 1 -w -i /run/value)" 0
    passthru -o 2 -r -b >/run/copy 2>/dev/null
    check "and retrieved" "$(cmp /run/value /run/copy && say same)" same
    check "our client sees it" "$(kv get 11000000220000003300000044000000 -o /run/ours && cmp /run/value /run/ours && say same)" same
    check_match "the host disconnects" "$(timeout 30 nvme disconnect -n $NQN 2>&1)" "disconnected 1"
    check "and is gone" "$(await '^0$' queues)" 0
    check "nothing is wrong in the kernel's eyes" "$(dmesg | grep -cE 'BUG:|WARNING:|hung_task|blocked for' || true)" 0
    [ "$checks_failed" = 0 ] || dmesg | tail -n 30
    end_daemon "the daemon ends well after Linux"
}

if [ "${KVPLANE_GUEST:-}" = 1 ]; then
    soft_roce_up
    for part; do
        step "$part, after $SECONDS s"
        "part_$part"
    done
    checks_end
    exit
fi

# ---------------------------------------------------------------- from outside

. "$HERE/bed.sh"
[ $# -gt 0 ] || set -- verbs linux_target daemon linux_host loss faults path
for part; do
    declare -F "part_$part" >/dev/null || die 2 "there is no part $part"
done
build_programs
KVPLANE_RDMA_HEADERS=$BED/layer/usr/include "$(test_program dataplane dataplane)" --ignored --exact \
    fabric::rdma::verbs::abi::tests::declarations_agree_with_the_c_headers
step "RDMA tests in the guest: $*"
code=0
tests/testbed/run.sh --time-limit 900 --nvme none --iommu off -- tests/testbed/rdma.sh "$@" || code=$?
# The guest's checks are counted by their own line.
check "RDMA in the guest" "$code" 0
checks_end
