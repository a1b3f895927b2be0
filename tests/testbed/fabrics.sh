#!/usr/bin/env bash
# Proves that an initiator that others wrote can use kvplaned over a network: Linux's NVMe host, driven by nvme-cli, in a
# guest whose daemon keeps values on an emulated drive behind an IOMMU. Discovery, contents in every way that data can
# travel, digests, who sees what, resets and disconnects and kill -9 under load, silence, lost packets; and tshark finds
# nothing malformed in what went over the wire. Over NVMe/TCP, then over RDMA. Needs tests/testbed/setup.sh once; takes
# about three minutes.
#
#   tests/testbed/fabrics.sh [PART...]      [default: tcp rdma; and there is rdma_loss]
#
# KVPLANE_BIN_DIR=DIR takes kvplaned and kvplane from there instead of building them. A refused DMA anywhere makes a part
# fail (see run.sh), and so does whatever else the guest's kernel complains of.
# Exit codes: 0 all passed; 1 some failed.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/../../scripts/lib.sh"
. "$HERE/../../scripts/programs.sh"
. "$HERE/../checks.sh"
cd "$ROOT"

# In the guest this same file is run with the name of a part.
DRIVE=0000:00:10.0
SUBSYSTEM=nqn.2026-01.io.kvplane:tier
# Two hosts: one is attached to the subsystem, one is not.
ATTACHED=(--hostnqn=nqn.2014-08.org.nvmexpress:uuid:6a3c1d52-0f6e-4b5e-9d0e-8f1f4f0c2a01 --hostid=6a3c1d52-0f6e-4b5e-9d0e-8f1f4f0c2a01)
STRANGER=(--hostnqn=nqn.2014-08.org.nvmexpress:uuid:6a3c1d52-0f6e-4b5e-9d0e-8f1f4f0c2a02 --hostid=6a3c1d52-0f6e-4b5e-9d0e-8f1f4f0c2a02)

# Set by the parts: the transport, the target's address, what runs a command at the target's end of the wire, the two ends
# of the wire, and the option that makes the host take this way.
transport='' target='' at_target=() near='' far='' source_address=()

# ---------------------------------------------------------------- the daemon, and a wire to it

# For TCP the daemon is in a network namespace of its own, at the other end of a pair of virtual Ethernet devices. The
# kernel's NVMe host connects anew from the first namespace, whatever namespace it was told to connect from.
tcp_wire() {
    transport=tcp target=10.10.0.2 near=near far=far at_target=(ip netns exec target)
    ip netns add target
    ip link add near type veth peer name far netns target
    ip addr add 10.10.0.1/24 dev near
    ip -n target addr add $target/24 dev far
    ip -n target link set lo up
    ip -n target link set far up
    ip link set near up
}

rpc() { "$KVPLANE_BIN_DIR/kvplane" rpc -s /run/kvplane.sock "$@"; }

daemon=''
start_daemon() {
    tied "${at_target[@]}" "$KVPLANE_BIN_DIR/kvplaned" -m '[0-1]' --no-huge -r /run/kvplane.sock --device "vfio:$DRIVE" \
        --listen "$transport://$target:4420" --host "${ATTACHED[0]#*=}" >>/run/kvplaned.log 2>&1 &
    daemon=$!
    BIN=$KVPLANE_BIN_DIR wait_ready $daemon /run/kvplane.sock /run/kvplaned.log 60
}
kill_daemon() { kill -KILL "$daemon"; wait "$daemon" 2>/dev/null || true; }

# ---------------------------------------------------------------- the kernel's host

# to_target COMMAND OPTION...: a command of nvme-cli that names the target.
to_target() { nvme "$1" -t "$transport" -a "$target" -s 4420 "${source_address[@]}" "${@:2}"; }
connect() { to_target connect -n $SUBSYSTEM "${ATTACHED[@]}" --reconnect-delay=1 --keep-alive-tmo=30 "$@" && await 20 is_there '/dev/ng*n1'; }
disconnect() { nvme disconnect -n $SUBSYSTEM >/dev/null; }

# The name of our controller.
controller() {
    local file
    for file in /sys/class/nvme/*/subsysnqn; do
        if [ "$(cat "$file" 2>/dev/null)" = $SUBSYSTEM ]; then basename "${file%/*}"; fi
    done
}
controller_state() { cat "/sys/class/nvme/$(controller)/state" 2>/dev/null || true; }
devices() { find /dev -name 'ng*n*' -o -name 'nvme*n*' | sort | tr '\n' ' '; }

# await SECONDS COMMAND...: until it succeeds.
await() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.05
    done
}
is_there() { compgen -G "$1" >/dev/null; }
is_gone() { ! compgen -G "$1" >/dev/null; }
is_live() { [ "$(controller_state)" = live ]; }

# passthru NAMESPACE OPTION...: a command; leaves its status (hex, without the bits More and Do Not Retry) in $status and
# its result in $result.
passthru() {
    local namespace=$1 words
    shift
    words=$(nvme io-passthru /dev/ng*n1 --namespace-id="$namespace" "$@" 2>&1 >/run/data) || true
    case $words in
        *"is Success and result: "*) status=0 result=$((${words##*result: })) ;;
        *"(0x"*) status=$(printf '%x' $((0x$(sed -n 's/.*(0x\([0-9a-f]*\)).*/\1/p' <<<"$words") & 0x7ff))) result='' ;;
        *) status=$words result='' ;;
    esac
}
# The key number N: bytes 0 to 7 in words 2 and 3, 8 to 15 in words 14 and 15; its length in word 11.
key() { printf -- '--cdw2=%s --cdw3=0x706b --cdw11=16 --cdw14=0x6c61 --cdw15=%s' "$1" "$1"; }
# shellcheck disable=SC2046  # several words
{
    store() { passthru 1 --opcode=0x01 $(key "$1") --cdw10="$2" --data-len="$2" --write --input-file="$3"; }
    retrieve() { passthru 1 --opcode=0x02 $(key "$1") --cdw10="$2" --data-len="$2" --read --raw-binary; }
    exist() { passthru "${2:-1}" --opcode=0x14 $(key "$1"); }
    delete() { passthru 1 --opcode=0x10 $(key "$1"); }
}

SIZES=(1 4096 8192 8193 102400 1048576)
# contents NAME SIZE...: values that come in the capsule (up to 8 KiB) and values that are asked for, there and back.
contents() {
    local size number=0
    exist 1
    check "$1: there is no value yet" "$status" 87
    for size in "${@:2}"; do
        number=$((number + 1))
        head -c "$size" /dev/urandom >/run/value
        store "$number" "$size" /run/value
        check "$1: $size bytes are stored" "$status" 0
        retrieve "$number" "$size"
        check "$1: $size bytes come back" "$status $result $(cmp /run/value /run/data 2>&1)" "0 $size "
    done
    exist 1
    check "$1: the first is there" "$status" 0
    delete 1
    check "$1: and is deleted" "$status" 0
    retrieve 1 4096
    check "$1: then it is gone" "$status" 87
}

# the_rest: what does not depend on how data travels.
the_rest() {
    retrieve 6 4096
    check "a short buffer gets the beginning" "$status $result $(cmp <(head -c 4096 /run/value) /run/data 2>&1)" "0 1048576 "
    passthru 1 --opcode=0x06 --cdw10=4096 --data-len=4096 --read --raw-binary
    check "the keys are listed" "$status $(keys /run/data)" "0 2 3 4 5 6"
    store 2 5000 /run/value
    retrieve 2 1048576
    check "a value is replaced" "$status $result" "0 5000"
    passthru 1 --opcode=0x07
    check "an opcode that is none" "$status" 1
}

# keys FILE: the numbers of the keys of a list, in order. KV, "List command": how many, then each with its length.
keys() {
    python3 - "$1" <<'PYTHON'
import struct, sys
data = open(sys.argv[1], "rb").read()
count, at, found = struct.unpack_from("<I", data)[0], 4, []
for _ in range(count):
    length = struct.unpack_from("<H", data, at)[0]
    assert length == 16, length
    words = struct.unpack_from("<4I", data, at + 2)
    assert words[1:3] == (0x706b, 0x6c61) and words[0] == words[3], words
    found.append(words[0])
    at += (2 + length + 3) // 4 * 4
print(*sorted(found))
PYTHON
}

# ---------------------------------------------------------------- what the kernel says

kernel_seen=0
# no_complaints NAME: since the last time the NVMe host found nothing odd.
no_complaints() {
    local all
    all=$(dmesg)
    check "$1: the kernel has no complaint" "$(tail -n +$((kernel_seen + 1)) <<<"$all" | grep -E 'nvme' |
        grep -vE 'creating [0-9]+ I/O queues|mapped [0-9/]+ default/read/poll|new ctrl: NQN|Removing ctrl: NQN|resetting controller' |
        grep -vE 'block device for nsid [0-9]+ not supported \(csi 1\)|rescanning namespaces|pci function')" ''
    kernel_seen=$(wc -l <<<"$all")
}
# What it must never say, whatever was done to the connection.
no_oddity() {
    # While no daemon runs, nobody listens.
    check "$1: the kernel found no oddity" "$(dmesg | tail -n +$((kernel_seen + 1)) |
        grep -v 'Connect rejected: status 8 (invalid service ID)' | grep -E \
'WARNING|BUG|Oops|Call Trace|blocked for more than|digest|unexpected|unsupported pdu|pdu type|bad |invalid|got wrong|protocol|data_len|r2t')" ''
    kernel_seen=$(dmesg | wc -l)
}

# ---------------------------------------------------------------- load

load='' loads=0
start_load() {
    rm -f /run/progress
    loads=$((loads + 1))
    tied "$HERE/passthru_load.py" --run $loads "$@" /run/progress >/run/load.log 2>&1 &
    load=$!
}
progress() { cat /run/progress 2>/dev/null || say 0; }
beyond() { [ "$(progress)" -ge "$1" ] || ! alive "$load"; }
# goes_on NAME: commands succeed again, or still.
goes_on() {
    local from
    from=$(progress)
    await 60 beyond $((from + 40)) || true
    verdict $(($(progress) < from + 40)) "$1" "$(progress) commands, $from before" "state $(controller_state)" "$(cat /run/load.log)"
}
# end_load NAME: all bytes were right.
end_load() {
    local code=0
    kill -TERM "$load" 2>/dev/null || true
    wait "$load" || code=$?
    say "        $(tail -n 1 /run/load.log)"
    check "$1: every byte was right" "$code $(head -n -1 /run/load.log)" "0 "
}

# ---------------------------------------------------------------- the parts

guest_tcp() {
    local capture
    modprobe nvme-tcp
    scripts/setup.sh bind $DRIVE >/dev/null
    tcp_wire
    start_daemon
    tcpdump -Z root -i $near -s 0 -B 65536 -w "$KVPLANE_FABRICS/plain.pcap" tcp port 4420 2>/run/tcpdump.log &
    capture=$!
    await 20 grep -q listening /run/tcpdump.log
    kernel_seen=$(dmesg | wc -l)

    discovery
    connect
    check_match "the namespace is a generic device, and no block device" "$(devices)" '^/dev/ng[0-9]+n1 $'
    check "an I/O queue for each processor" "$(cat "/sys/class/nvme/$(controller)/queue_count")" 3
    contents plain "${SIZES[@]}"
    the_rest
    visibility
    disconnect
    check "after disconnect nothing is left" "$(controller)$(devices)" ''
    connect --hdr-digest --data-digest
    contents "with digests" 4096 8193 102400
    disconnect
    kill -INT $capture
    wait $capture || true
    check_match "the capture is whole" "$(cat /run/tcpdump.log)" '^0 packets dropped by kernel'
    no_complaints contents

    under_load --hdr-digest --data-digest
    silence
    lost_packets
    the_end
}

# Soft-RoCE, whose devices kernel 6.1 cannot put into network namespaces, and a daemon that is reached by it.
rdma_wire() {
    . "$HERE/soft_roce.sh"
    soft_roce_up
    transport=rdma target=$ROCE_B near=v1 far=v2 source_address=(--host-traddr="$ROCE_A")
    modprobe nvme-rdma
    scripts/setup.sh bind $DRIVE >/dev/null
    start_daemon
    kernel_seen=$(dmesg | wc -l)
}

guest_rdma() {
    rdma_wire
    discovery
    connect
    check_match "the namespace is a generic device, and no block device" "$(devices)" '^/dev/ng[0-9]+n1 $'
    check "an I/O queue for each processor" "$(cat "/sys/class/nvme/$(controller)/queue_count")" 3
    contents rdma "${SIZES[@]}"
    the_rest
    disconnect
    check "after disconnect nothing is left" "$(controller)$(devices)" ''
    no_complaints contents
    under_load
    the_end
}

# Apart from the rest, because commands of Linux's host were seen to stand still until its timeout of 30 s.
guest_rdma_loss() {
    rdma_wire
    lost_packets
    the_end
}

the_end() {
    say "-- the end, after $SECONDS s"
    check "no session is left" "$(sessions)" '[]'
    stop_pid $daemon 60 || verdict 1 "the daemon ends when it is asked to"
    checks_end
}

# What there is, and for whom.
discovery() {
    local text code=0
    text=$(to_target discover "${ATTACHED[@]}")
    check_match "discovery lists the subsystem" "$text" "subnqn: +$SUBSYSTEM"
    check_match "and where it is" "$(tr '\n' ' ' <<<"$text")" "trtype: +$transport adrfam: +ipv4 .*trsvcid: +4420 .*traddr: +$target"
    check_match "but not to a host that is not attached" "$(to_target discover "${STRANGER[@]}" 2>&1)" 'Records 0|[Nn]o discovery'
    no_complaints discovery
    text=$(to_target connect -n $SUBSYSTEM "${STRANGER[@]}" 2>&1) || code=$?
    check "a host that is not attached is refused" "$((code != 0))$(controller)" 1
    check_match "and told why" "$(dmesg | tail -n 5)" "$SUBSYSTEM is not allowed, hostnqn: ${STRANGER[0]#*=}"
    kernel_seen=$(dmesg | wc -l)
}

# A namespace is there for hosts that were let see it, and the others are told nothing.
visibility() {
    rpc namespace_create --name private --nqn $SUBSYSTEM --auto-visible=false >/dev/null
    nvme ns-rescan "/dev/$(controller)"
    check_match "a namespace that the host may not see is not shown" "$(devices)" '^/dev/ng[0-9]+n1 $'
    check "and does not answer" "$(nvme admin-passthru "/dev/$(controller)" --opcode=0x06 --namespace-id=2 --cdw10=3 \
        --data-len=4096 --read 2>&1 >/dev/null | sed -n 's/.*(0x\([0-9a-f]*\)).*/\1/p')" 400b
    rpc nvmf_ns_add_host --nqn $SUBSYSTEM --nsid 2 --host "${ATTACHED[0]#*=}" >/dev/null
    await 20 is_there '/dev/ng*n2' || true
    check_match "once it may, the kernel finds it by itself" "$(devices)" '^/dev/ng[0-9]+n1 /dev/ng[0-9]+n2 $'
    rpc nvmf_ns_remove_host --nqn $SUBSYSTEM --nsid 2 --host "${ATTACHED[0]#*=}" >/dev/null
    await 20 is_gone '/dev/ng*n2' || true
    check_match "and when it may no more, it goes" "$(devices)" '^/dev/ng[0-9]+n1 $'
}

# under_load OPTION...: of the second connection.
under_load() {
    local round
    connect
    start_load --forgets
    say "-- under load, after $SECONDS s"
    goes_on "commands are carried out"
    check "each of them by the queue of its processor" "$(busy_queues)" 2
    for round in 1 2; do
        nvme reset "/dev/$(controller)"
        goes_on "reset $round under load"
    done
    disconnect
    connect "$@"
    goes_on "disconnect and connect under load"
    no_oddity "resets and disconnects"
    kill_daemon
    start_daemon
    await 60 is_live || true
    goes_on "kill -9 of the daemon under load"
    end_load "resets, disconnects, kill -9"
    disconnect
    no_oddity "kill -9"
}
busy_queues() { rpc nvmf_subsystem_get_qpairs --nqn $SUBSYSTEM | python3 -c 'import json, sys; print(sum(q["commands"] > 1 for q in json.load(sys.stdin)))'; }

sessions() { rpc nvmf_subsystem_get_controllers --nqn $SUBSYSTEM | tr -d ' \n'; }
no_sessions() { [ "$(sessions)" = '[]' ]; }

# The host falls silent because its wire is cut: its keep alive timer expires, and its session goes. It comes back by itself.
silence() {
    say "-- silence, after $SECONDS s"
    connect --keep-alive-tmo=5
    start_load
    goes_on "before the wire is cut"
    ip link set $near down
    await 40 no_sessions || true
    check "a host that fell silent is forgotten" "$(sessions)" '[]'
    check_match "and that is told" "$(tail -n 20 /run/kvplaned.log)" 'keep alive timer has expired'
    ip link set $near up
    await 60 is_live || true
    goes_on "the wire is back"
    end_load "silence"
    disconnect
    no_oddity "silence"
}

# Both ways, with no other fault: nothing may fail.
lost_packets() {
    local netem=(loss 1%)
    # RDMA takes a packet that overtook another for a lost one.
    [ $transport = rdma ] || netem+=(delay 200us reorder 2%)
    say "-- lost packets, after $SECONDS s"
    connect
    tc qdisc add dev $near root netem "${netem[@]}"
    "${at_target[@]}" tc qdisc add dev $far root netem "${netem[@]}"
    start_load --calm --threads 8
    goes_on "packets are lost"
    goes_on "and still"
    end_load "lost packets"
    check_match "packets were lost" "$(tc -s qdisc show dev $near)$("${at_target[@]}" tc -s qdisc show dev $far)" 'dropped [1-9]'
    tc qdisc del dev $near root
    "${at_target[@]}" tc qdisc del dev $far root
    disconnect
    no_complaints "lost packets"
}

if [ "${KVPLANE_GUEST:-}" = 1 ]; then
    "guest_$1"
    exit
fi

# ---------------------------------------------------------------- from outside

. "$HERE/bed.sh"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# in_guest NAME OPTIONS...: a part of this file. Its checks are counted by their own lines.
in_guest() {
    local name=$1 code=0
    shift
    step "Third-party initiators in the guest: $name"
    tests/testbed/run.sh --time-limit 900 --share "$KVPLANE_FABRICS" "$@" -- tests/testbed/fabrics.sh "$name" 2>&1 |
        tee "$scratch/$name" || code=$?
    check "third-party initiators in the guest: $name" "$code" 0
}

# read_capture FILE DISPLAY_FILTER [OPTION...]: what tshark finds.
read_capture() { LD_LIBRARY_PATH=$(bed_libraries) tshark -o nvme-tcp.check_hdgst:TRUE -o nvme-tcp.check_ddgst:TRUE \
    -r "$1" -Y "$2" "${@:3}" 2>"$scratch/tshark.log"; }

# The NVMe/TCP dissector sees every PDU from its header, so a wrong length or type anywhere derails it for good.
wire() {
    local file=$KVPLANE_FABRICS/plain.pcap text
    step "What tshark reads in the capture"
    if ! LD_LIBRARY_PATH=$(bed_libraries) tshark -G protocols 2>/dev/null | grep -q nvme-tcp; then
        skipped "fabrics.sh wire" "this tshark knows no NVMe/TCP"
        return
    fi
    text=$(read_capture "$file" nvme-tcp -T fields -e nvme-tcp.type | tr ',' '\n' | sort | uniq -c | tr '\n' ' ')
    say "PDUs by type: $text"
    # 0: bad (Wireshark's epan/proto.h).
    check "no wrong digest" "$(read_capture "$file" 'nvme-tcp.hdgst.status == 0 || nvme-tcp.ddgst.status == 0' | head)" ''
    check_match "digests were there" "$(read_capture "$file" 'nvme-tcp.hdgst.status == 1 && nvme-tcp.ddgst.status == 1' | head -n 1)" NVMe
    check "no malformed PDU" "$(read_capture "$file" '_ws.malformed || _ws.expert.severity == error' | head)" ''
}

[ -n "${KVPLANE_BIN_DIR:-}" ] || build_programs
export KVPLANE_BIN_DIR KVPLANE_FABRICS=$scratch/shared
# Linux 6.1 sends pages of passthrough as they are, and merges neighbours that are not one allocation. Over veth the very
# same pages reach the receiver on this machine, whose kernel copies them in one go, and takes that for an overrun
# (usercopy_abort, a panic). Between two machines it cannot happen.
[ $# -gt 0 ] || set -- tcp rdma
for part; do
    in_guest "$part" --iommu on --nvme size=256M,block=4096 --kernel-option hardened_usercopy=off
done
[ ! -e "$KVPLANE_FABRICS/plain.pcap" ] || wire
checks_end
