#!/usr/bin/env bash
# Proves that the VM test bed tells the truth, and that scripts/setup.sh moves real (emulated) drives between the kernel
# and vfio-pci. Needs tests/testbed/setup.sh once; takes a minute or two.
#
#   tests/testbed/smoke.sh
#
# Exit codes: 0 all passed; 1 some failed.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/../../scripts/lib.sh"
. "$HERE/../checks.sh"
. "$HERE/disks.sh"
cd "$ROOT"

# In the guest this same file is run with the name of a part.
guest_bind() {
    local a=0000:00:10.0 b=0000:00:11.0 code=0 text
    users() { scripts/setup.sh status --json | python3 -c '
import json, sys
print(*next(c["users"] for c in json.load(sys.stdin)["controllers"] if c["address"] == sys.argv[1]), sep="; ")' "$1"; }
    driver() { basename "$(readlink "/sys/bus/pci/devices/$1/driver")"; }

    check "nobody uses the drives of a fresh machine" "$(users $a)$(users $b)" ''
    check_match "status shows the drive" "$(scripts/setup.sh status)" "$a +1b36:0010 +- +nvme +[0-9]+ +$(disk_of $a 1)"

    # In use in every way: mounted, swap, device mapper, open.
    mkfs.ext4 -q "/dev/$(disk_of $a 1)"
    mkdir -p "/mnt/a place"
    mount "/dev/$(disk_of $a 1)" "/mnt/a place"
    mkswap "/dev/$(disk_of $b 1)" >/dev/null
    swapon "/dev/$(disk_of $b 1)"
    modprobe dm-mod
    dmsetup create joined --table "0 2048 linear /dev/$(disk_of $b 2) 0"
    check_match "a mounted drive" "$(users $a)" "$(disk_of $a 1) mounted on /mnt/a"
    check_match "a drive with swap" "$(users $b)" "$(disk_of $b 1) is swap space"
    check_match "a drive in the device mapper" "$(users $b)" "$(disk_of $b 2) belongs to the device mapper's joined \(dm-0\)"
    text=$(scripts/setup.sh bind $a 2>&1) || code=$?
    check "a mounted drive is not taken" "$code $(driver $a)" "1 nvme"
    check_match "and who uses it is said" "$text" 'mounted on /mnt/a'
    umount "/mnt/a place"
    swapoff "/dev/$(disk_of $b 1)"
    dmsetup remove joined
    exec 8<"/dev/$(disk_of $b 2)"
    check_match "an open drive" "$(users $b)" "/dev/$(disk_of $b 2) is open in bash \(process $$\)"
    exec 8<&-
    check "all is free again" "$(users $a)$(users $b)" ''

    check_match "bind" "$(scripts/setup.sh bind $a ${b#0000:})" "$b is vfio-pci's now: /dev/vfio/[0-9]+"
    check "both have moved" "$(driver $a) $(driver $b)" "vfio-pci vfio-pci"
    check "their block devices are gone" "$(find /dev -name 'nvme*n*')" ''
    check_match "status shows it" "$(scripts/setup.sh status)" "$a +1b36:0010 +- +vfio-pci +[0-9]+ +- +-"
    check_match "a second bind changes nothing" "$(scripts/setup.sh bind $a)" "already"
    exec 8<>"/dev/vfio/$(basename "$(readlink /sys/bus/pci/devices/$a/iommu_group)")"
    code=0
    text=$(scripts/setup.sh unbind $a 2>&1) || code=$?
    check "an open group is not given back" "$code $(driver $a)" "1 vfio-pci"
    check_match "and who has it open is said" "$text" "open in bash \(process $$\)"
    code=0
    scripts/setup.sh reset >/dev/null 2>&1 || code=$?
    check "reset gives back what it can and says that it failed" "$code $(driver $a) $(driver $b)" "1 vfio-pci nvme"
    exec 8<&-
    check_match "unbind" "$(scripts/setup.sh unbind $a)" "$a is the kernel's now"
    for address in $a $b; do
        check "no override is left on $address" "$(cat "/sys/bus/pci/devices/$address/driver_override")" '(null)'
    done
    check "the file system is as it was" "$(await_disk $a && blkid -p -o value -s TYPE "/dev/$(disk_of $a 1)")" ext4
    scripts/setup.sh bind $a $b >/dev/null
    scripts/setup.sh reset >/dev/null
    check "reset gives back all" "$(driver $a) $(driver $b)" "nvme nvme"
    checks_end
}

guest_no_iommu() {
    local a=0000:00:10.0 code=0 text
    text=$(scripts/setup.sh bind $a 2>&1) || code=$?
    check "without an IOMMU bind is refused" "$code" 1
    check_match "and says what to switch on" "$text" "intel_iommu=on"
    # Debian's kernel lacks the option. A kernel that has it must warn.
    text=$(scripts/setup.sh bind $a --no-iommu 2>&1) || true
    check_match "--no-iommu tells why not, or warns" "$text" "CONFIG_VFIO_NOIOMMU|warning: .*all of this machine's memory"
    check "and leaves the drive where the kernel serves it, or binds it" \
        "$(basename "$(readlink /sys/bus/pci/devices/$a/driver)")" "$(if grep -q ^warning <<<"$text"; then say vfio-pci; else say nvme; fi)"
    checks_end
}

# Tells the controller that its admin queue lies where nothing is mapped, and rings the doorbell: the read of the queue
# is refused by the IOMMU.
guest_stray_dma() {
    local a=0000:00:10.0 base
    echo $a >/sys/bus/pci/devices/$a/driver/unbind
    echo 1 >/sys/bus/pci/devices/$a/enable
    setpci -s $a COMMAND=6
    base=$(awk 'NR == 1 { print $1 }' /sys/bus/pci/devices/$a/resource)
    register() { /run/busybox devmem $((base + $1)) 32 "$2"; }
    register 0x14 0             # CC: off, which it still is not after a shutdown
    register 0x24 0x000f000f   # AQA: 16 entries each
    register 0x28 0x10000000   # ASQ
    register 0x2c 0
    register 0x30 0x20000000   # ACQ
    register 0x34 0
    register 0x14 0x00460001   # CC: enable, 64- and 16-byte entries
    register 0x1000 1          # the admin queue's tail doorbell
    sleep 0.2
    exit 0
}

guest_layouts() {
    check "512-byte and 4 KiB namespaces" "$(lbads 0000:00:10.0 1) $(lbads 0000:00:10.0 2)" "512 4096"
    check "their sizes" "$(size 0000:00:10.0 1) $(size 0000:00:10.0 2)" "67108864 134217728"
    check "the second controller" "$(lbads 0000:00:11.0 1)" 512
    check "a block that cannot be read" "$(read_block 0000:00:11.0 1000)" 1
    check "its neighbours" "$(read_block 0000:00:11.0 999) $(read_block 0000:00:11.0 1001)" "0 0"
    check "a block that cannot be written" "$(write_block 0000:00:11.0 2000)" 1
    check "its neighbour" "$(write_block 0000:00:11.0 2001)" 0
    modprobe -r nvme
    setpci -s 0000:00:11.0 COMMAND=6
    base=$(awk 'NR == 1 { print $1 }' /sys/bus/pci/devices/0000:00:11.0/resource)
    check "the CMB is announced" "$(($(/run/busybox devmem "$base" 64) >> 57 & 1))" 1
    echo "kept" >"$KVPLANE_SMOKE/from-guest"
    checks_end
}
lbads() { blockdev --getss "/dev/$(disk_of "$1" "$2")"; }
size() { blockdev --getsize64 "/dev/$(disk_of "$1" "$2")"; }
read_block() { dd if="/dev/$(disk_of "$1" 1)" of=/dev/null bs=512 count=1 skip="$2" iflag=direct 2>/dev/null && echo 0 || echo 1; }
write_block() { dd if=/dev/zero of="/dev/$(disk_of "$1" 1)" bs=512 count=1 seek="$2" oflag=direct 2>/dev/null && echo 0 || echo 1; }

if [ $# -gt 0 ]; then
    [ "${KVPLANE_GUEST:-}" = 1 ] || die 2 "the parts run in the guest only"
    "guest_$1"
    exit
fi

# ---------------------------------------------------------------- from outside

run() { tests/testbed/run.sh "$@"; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# in_guest NAME OPTIONS...: a part of this file, whose checks count here.
in_guest() {
    local name=$1 code=0
    shift
    run "$@" -- tests/testbed/smoke.sh "$name" >"$scratch/$name" 2>"$scratch/$name.err" || code=$?
    # Counted below, and not once more by whoever sums up.
    grep -hv "^test result:" "$scratch/$name" "$scratch/$name.err" || true
    checks_passed=$((checks_passed + $(grep -c '^ok ' "$scratch/$name" || true)))
    checks_failed=$((checks_failed + $(grep -c '^FAILED ' "$scratch/$name" || true)))
    check "$name in the guest" "$code" 0
}

status_of() { local code=0; "$@" >"$scratch/out" 2>"$scratch/err" || code=$?; say "$code"; }

check "a failing command's status" "$(status_of run --nvme none -- bash -c 'echo "to out"; echo "to err" >&2; exit 7')" 7
check "its output" "$(cat "$scratch/out")" "to out"
check_match "its errors" "$(cat "$scratch/err")" "^to err$"
check "a command that does not end" "$(status_of run --nvme none --time-limit 2 -- sleep 1000)" 124
check "a guest that dies" "$(status_of run --nvme none -- sh -c 'echo c >/proc/sysrq-trigger')" 125
check "a command that is not there" "$(status_of run --nvme none --env X="a b" -- /no/such/program)" 127
check "a wrong layout" "$(status_of run --nvme block=513 -- true)" 2
check "a DMA to memory that is not mapped, whatever the command says" \
    "$(status_of run --time-limit 20 -- tests/testbed/smoke.sh stray_dma)" 123
check_match "is named" "$(cat "$scratch/err")" 'vtd_.*translation failure'
check_match "by the guest's kernel, too" "$(cat "$scratch/err")" 'DMAR: \[DMA Read'
check "without an IOMMU it passes" "$(status_of run --iommu off --time-limit 20 -- tests/testbed/smoke.sh stray_dma)" 0
export KVPLANE_SMOKE=$scratch/shared
in_guest layouts --nvme size=64M/128M,block=512/4096 --nvme cmb=16,fail-read=1000,fail-write=2000 --share "$KVPLANE_SMOKE"
check "what the guest wrote into the shared folder" "$(cat "$KVPLANE_SMOKE/from-guest" 2>/dev/null)" kept
in_guest bind --time-limit 300 --nvme size=64M --nvme size=64M/64M
in_guest no_iommu --iommu off
checks_end
