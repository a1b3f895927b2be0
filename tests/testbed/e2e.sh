#!/usr/bin/env bash
# Runs end-to-end tests in the guest, with the daemon driving emulated drives behind an IOMMU instead of a file: contents,
# eviction, restart, kill -9, two cores, no copies, resets; then media errors, a store over two drives, and drives that share
# an IOMMU group; then, over NVMe/TCP and over RDMA (soft-RoCE), all of the suite that has a meaning there. Needs
# tests/testbed/setup.sh once; takes about seven minutes.
#
#   tests/testbed/e2e.sh [PART...]      [default: one_drive two_drives one_group tcp rdma]
#
# A refused DMA anywhere makes a part fail (see run.sh). Exit codes: 0 all passed; 1 some failed.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/../../scripts/lib.sh"
. "$HERE/../../scripts/programs.sh"
. "$HERE/../checks.sh"
. "$HERE/disks.sh"
. "$HERE/soft_roce.sh"
cd "$ROOT"

# As many rounds of kill -9 as the largest namespace has room for (tests/e2e/tests/crash.rs).
ROUNDS=6
SIZES=(512M 192M 128M $((96 * ROUNDS + 128))M)

# In the guest this same file is run with the name of a part. The tests share the drive, so they run one at a time.
A=0000:00:10.0 B=0000:00:11.0 SIBLING=0000:00:10.1
SKIPS=$CARGO_TARGET/test-skips.txt

# run_test NAME [FILTER...]: one of the test programs.
run_test() {
    say "-- $*"
    "$(test_program e2e "$1")" --test-threads=1 "${@:2}"
}

# Names the namespaces of the first drive by their sizes.
use_first_drive() {
    local number
    for number in "${!SIZES[@]}"; do
        KVPLANE_E2E_DEVICE+="vfio:$A/$((number + 1))=${SIZES[number]} "
    done
    export KVPLANE_E2E_DEVICE
}

guest_one_drive() {
    local code=0
    scripts/setup.sh bind $A >/dev/null
    use_first_drive
    # What is left out of `restart` is done with two drives.
    run_test contents || code=1
    run_test restart a_store_of_the_cache_class_is_warm a_second_restart_is_as_warm_as_the_first || code=1
    run_test two_cores || code=1
    run_test crash || code=1
    run_test nvme_resets --ignored || code=1
    exit "$code"
}

guest_two_drives() {
    scripts/setup.sh bind $A $B >/dev/null
    export KVPLANE_E2E_DEVICE="vfio:$A/1=64M vfio:$A/2+vfio:$B/1"
    run_test media_errors --ignored
    run_test restart a_store_of_the_durable_class_is_warm a_store_of_two_shards_opens_on_fewer_cores
    run_test zero_copy
}

# over_network CARRIER: what has a meaning over a network. The second drive has the bad blocks.
over_network() {
    local code=0
    scripts/setup.sh bind $A $B >/dev/null
    use_first_drive
    KVPLANE_E2E_DEVICE+=vfio:$B=64M
    export KVPLANE_E2E_CARRIER=$1
    [[ $1 != rdma:* ]] || run_test zero_copy || code=1
    run_test media_errors --ignored || code=1
    run_test nvme_resets --ignored || code=1
    run_test contents || code=1
    run_test restart || code=1
    run_test two_cores a_client_spreads lookups_and_leases || code=1
    run_test policy --skip cannot_be_seen_or_used || code=1
    run_test backends || code=1
    # What is inspected is a file.
    run_test cli --skip a_store_is_inspected || code=1
    run_test crash || code=1
    exit "$code"
}

guest_tcp() { over_network tcp; }
guest_rdma() {
    soft_roce_up
    over_network "rdma:$ROCE_B"
}

# Two controllers as functions of one device, which could write to each other behind the IOMMU's back: one group.
guest_one_group() {
    local group text code=0
    group=$(group_of $A)
    check "two functions of one device are one group" "$(group_of $SIBLING)" "$group"
    text=$(scripts/setup.sh bind $A 2>&1) || code=$?
    check "one of them can be bound" "$code" 0
    check_match "and the other is named" "$text" "warning: $SIBLING \(nvme\) is in the same IOMMU group $group"
    check_match "the daemon does not start" "$(kvplaned_on "vfio:$A")" \
        "other functions of the IOMMU group $group are in use by other drivers; bind all of .* to vfio-pci.* code 3$"
    check "the kernel goes on with its drive" "$(dd if="/dev/$(disk_of $SIBLING 1)" of=/dev/null bs=1M count=4 2>&1 | grep -c copied)" 1
    scripts/setup.sh bind $SIBLING >/dev/null 2>&1
    check_match "only one of them can be driven" "$(kvplaned_on "vfio:$A" "vfio:$SIBLING")" \
        "the IOMMU group $group of $SIBLING is in use: .*\($A\).* code 4$"
    code=0
    KVPLANE_E2E_DEVICE=vfio:$A run_test restart a_store_of_the_cache_class_is_warm || code=1
    KVPLANE_E2E_DEVICE=vfio:$SIBLING run_test restart a_store_of_the_durable_class_is_warm || code=1
    check "each by itself is" "$code" 0
    checks_end
}
group_of() { basename "$(readlink "/sys/bus/pci/devices/$1/iommu_group")"; }

# kvplaned_on DEVICE...: the last words of a daemon that cannot start, and its exit code, in one line.
kvplaned_on() {
    local devices=() device code=0 out
    for device in "$@"; do devices+=(--device "$device,format=force"); done
    out=$("$KVPLANE_BIN_DIR/kvplaned" --no-huge -r /tmp/kvplaned.sock "${devices[@]}" 2>&1) || code=$?
    say "$(tail -n 1 <<<"$out") code $code"
}

if [ "${KVPLANE_GUEST:-}" = 1 ]; then
    rm -f "$SKIPS"
    code=0
    ("guest_$1") || code=$?
    # The guest's file is gone with the guest.
    if [ -e "$SKIPS" ]; then sed 's/^/SKIPPED /' "$SKIPS"; fi
    exit "$code"
fi

# ---------------------------------------------------------------- from outside

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# in_guest NAME OPTIONS...: a part of this file. Its tests are counted by their own lines.
in_guest() {
    local name=$1 code=0 test why
    shift
    step "End-to-end tests in the guest: $name"
    tests/testbed/run.sh --env "CARGO_TARGET_DIR=$CARGO_TARGET" "$@" -- tests/testbed/e2e.sh "$name" 2>&1 |
        tee "$scratch/$name" || code=$?
    while IFS=: read -r test why; do skipped "${test#SKIPPED }" "${why# }"; done < <(grep '^SKIPPED ' "$scratch/$name" || true)
    check "end-to-end tests in the guest: $name" "$code" 0
}

build_programs
export KVPLANE_KILL_ROUNDS=$ROUNDS

sizes=${SIZES[*]}
# In the middle of segments, where values lie: 30 and 22 MiB, in blocks of 4 KiB.
bad=fail-read=$((30 * 256)),fail-write=$((22 * 256))
first="size=${sizes// //},block=512/4096/512/4096"
options_of() {
    case $1 in
        one_drive) say --iommu on --time-limit 600 --nvme "$first" ;;
        two_drives) say --iommu strict --time-limit 300 --nvme "size=64M/256M,block=4096,$bad" --nvme size=256M,block=4096,cmb=16 ;;
        one_group) say --iommu on --time-limit 200 --nvme size=512M,multifunction=on --nvme size=512M,addr=10.1 ;;
        tcp | rdma) say --iommu on --memory 2048 --time-limit 1500 --nvme "$first" --nvme "size=64M,block=4096,$bad" ;;
        *) die 2 "there is no part $1 (see --help)" ;;
    esac
}
[ $# -gt 0 ] || set -- one_drive two_drives one_group tcp rdma
for part; do
    text=$(options_of "$part")
    read -ra words <<<"$text"
    in_guest "$part" "${words[@]}"
done
checks_end
