#!/usr/bin/env bash
# Runs the tests of the NVMe driver that want a controller on the bus, on emulated drives behind an IOMMU: block sizes,
# namespaces, two controllers, a controller memory buffer, media errors, resets under load, a process killed in mid-DMA.
# Needs tests/testbed/setup.sh once; takes about two minutes.
#
#   tests/testbed/driver.sh
#
# A refused DMA anywhere makes a part fail (see run.sh). Exit codes: 0 all passed; 1 some failed.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/../../scripts/lib.sh"
. "$HERE/../../scripts/programs.sh"
. "$HERE/../checks.sh"
. "$HERE/disks.sh"
cd "$ROOT"

# In the guest this same file is run with the name of a part.
A=0000:00:10.0 B=0000:00:11.0
BAD_READ=5000 BAD_WRITE=5100

# drive ADDRESS[,ADDRESS] TEST...: the tests of this name, which must all be there.
drive() {
    local code=0 out
    say "-- $1: ${*:2}"
    out=$(KVPLANE_TEST_NVME=$1 KVPLANE_TEST_NVME_BAD_READ=$BAD_READ KVPLANE_TEST_NVME_BAD_WRITE=$BAD_WRITE \
        "$(test_program dataplane dataplane)" --ignored --nocapture --test-threads=1 --exact "${@:2}" 2>&1) || code=$?
    say "$out"
    check "as many tests as were asked for" "$(sed -n 's/^running \([0-9]*\) tests\?$/\1/p' <<<"$out")" $(($# - 1))
    [ "$code" -eq 0 ]
}
IN=nvme::vfio::tests::device
ON_THE_BUS=("$IN::a_controller_on_the_bus_is_driven" "$IN::a_controller_can_be_opened_again_and_by_one_only")
MEDIA=$IN::media::a_block_that_fails_harms_no_neighbour
PAIR=$IN::pair::two_controllers_share_memory
UNDER_LOAD=$IN::under_load::resets_under_load_lose_nothing_acknowledged
KILLED=$IN::killed::a_process_that_is_killed_in_mid_dma_leaves_memory_alone

# On the first controller 512-byte and 4 KiB namespaces, on the second 4 KiB, a CMB and bad blocks.
guest_layouts() {
    scripts/setup.sh bind $A $B >/dev/null
    drive $A "${ON_THE_BUS[@]}" $UNDER_LOAD
    drive $B "${ON_THE_BUS[@]}" $MEDIA
    drive $A,$B $PAIR
    checks_end
}

# Every unmapping is flushed at once. The first controller is slow, so that it is at work when its process is killed.
guest_strict() {
    scripts/setup.sh bind $A $B >/dev/null
    drive $A $KILLED
    drive $B $UNDER_LOAD $MEDIA
    drive $B,$A $PAIR
    drive $A $KILLED
    scripts/setup.sh unbind $A >/dev/null
    check "the kernel reads what was written" "$(await_disk $A && marked $A)" $((1 << 20))
    checks_end
}

# marked ADDRESS: how many bytes of the first MiB hold the mark that the last test leaves there.
marked() { dd if="/dev/$(disk_of "$1" 1)" bs=64k count=16 iflag=direct 2>/dev/null | tr -cd '\245' | wc -c; }

# Newer kernels have a second interface to map memory by.
guest_iommufd() {
    modprobe iommufd
    scripts/setup.sh bind $A >/dev/null
    export KVPLANE_TEST_NVME_INTERFACE=iommufd
    drive $A "${ON_THE_BUS[@]}" $UNDER_LOAD $KILLED
    checks_end
}

if [ $# -gt 0 ]; then
    [ "${KVPLANE_GUEST:-}" = 1 ] || die 2 "the parts run in the guest only"
    "guest_$1"
    exit
fi

# ---------------------------------------------------------------- from outside

. "$HERE/bed.sh"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# in_guest NAME OPTIONS...: a part of this file. Its tests and checks are counted by their own lines.
in_guest() {
    local name=$1 code=0
    shift
    step "Driver tests in the guest: $name"
    tests/testbed/run.sh --time-limit 180 "$@" -- tests/testbed/driver.sh "$name" 2>&1 | tee "$scratch/$name" || code=$?
    check "the driver in the guest: $name" "$code" 0
}

build_programs

bad=fail-read=$BAD_READ,fail-write=$BAD_WRITE
in_guest layouts --iommu on --nvme size=64M,block=512/4096 --nvme size=64M,block=4096,cmb=16,$bad
in_guest strict --iommu strict --nvme size=64M,block=4096,rate=128 --nvme size=64M,block=512,mdts=3,$bad
# Debian's kernels are built without it, 6.12 too.
if [ -n "$(find "$BED/layer" -name 'iommufd.ko*' -print -quit)" ]; then
    in_guest iommufd --nvme size=64M,rate=128
else
    skipped "driver.sh iommufd" "the guest's kernel has no iommufd"
fi
checks_end
