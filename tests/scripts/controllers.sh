#!/usr/bin/env bash
# Tests what scripts/setup.sh says of NVMe controllers, and what it refuses, on made-up sysfs and procfs trees. That the
# kernel does what it is told is tested in a virtual machine (tests/testbed/smoke.sh).
#
#   tests/scripts/controllers.sh
#
# Needs python3. Exit codes: 0 all passed; 1 some failed.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/../../scripts/lib.sh"
. "$HERE/../checks.sh"

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
export KVPLANE_SYS=$tree/sys KVPLANE_PROC=$tree/proc KVPLANE_UDEV=$tree/udev
pci=$KVPLANE_SYS/bus/pci block=$KVPLANE_SYS/class/block

put() { mkdir -p "$(dirname "$1")" && printf '%s\n' "$2" >"$1"; }
link() { mkdir -p "$(dirname "$2")" && ln -s "$1" "$2"; }

# controller ADDRESS CLASS DRIVER GROUP [NAMESPACE...]: a PCI device; namespaces are those of nvmeN, N being their number.
controller() {
    local folder=$pci/devices/$1 namespace number
    put "$folder/class" "$2"
    put "$folder/vendor" 0x1b36
    put "$folder/device" 0x0010
    put "$folder/numa_node" -1
    put "$folder/driver_override" '(null)'
    put "$pci/drivers_probe" ''
    if [ -n "$3" ]; then
        mkdir -p "$pci/drivers/$3"
        link "../../drivers/$3" "$folder/driver"
        put "$pci/drivers/$3/unbind" ''
    fi
    if [ -n "$4" ]; then
        mkdir -p "$KVPLANE_SYS/kernel/iommu_groups/$4/devices"
        link "../../../../kernel/iommu_groups/$4" "$folder/iommu_group"
        link "$folder" "$KVPLANE_SYS/kernel/iommu_groups/$4/devices/$1"
    fi
    for namespace in "${@:5}"; do
        number=${namespace#nvme} number=${number%%[cn]*}
        mkdir -p "$folder/nvme/nvme$number/$namespace"
        put "$folder/nvme/nvme$number/model" 'Model "7"   '
        [[ $namespace == *c* ]] || disk "$namespace"
    done
}

minor=0
disk() { put "$block/$1/dev" "259:$((minor++))"; mkdir -p "$block/$1/holders"; }
partition() { disk "$2"; put "$block/$2/partition" 1; ln -s "../$2" "$block/$1/$2"; }
holder() { link "../../$2" "$block/$1/holders/$2"; }

# process PID NAME FILE: which has the file open.
process() { put "$KVPLANE_PROC/$1/comm" "$2"; link "$3" "$KVPLANE_PROC/$1/fd/7"; put "$KVPLANE_PROC/$1/mountinfo" ''; }

put "$KVPLANE_PROC/swaps" 'Filename Type Size Used Priority'
mkdir -p "$KVPLANE_PROC/self"
: >"$KVPLANE_PROC/self/mountinfo"
controller 0000:00:02.0 0x020000 e1000e 1
controller 0000:01:00.0 0x010802 nvme 11 nvme0n1
controller 0000:02:00.0 0x010802 nvme 12 nvme1n1 nvme1n2
controller 0000:03:00.0 0x010802 vfio-pci 13
controller 0000:04:00.0 0x010802 '' ''
controller 0000:05:00.0 0x010802 nvme 15 nvme10n1
controller 0000:06:00.0 0x010802 nvme 16 nvme6c6n1
disk nvme6n1
put "$pci/devices/0000:02:00.0/numa_node" 1

setup() { "$ROOT/scripts/setup.sh" "$@"; }

# field ADDRESS EXPRESSION: of status --json; the controller is `c`.
field() {
    setup status --json | python3 -c '
import json, sys
c = next(c for c in json.load(sys.stdin)["controllers"] if c["address"] == sys.argv[1])
print(eval(sys.argv[2]))' "$1" "$2"
}

# ---------------------------------------------------------------- status

check "only NVMe controllers are listed" "$(setup status --json | python3 -c '
import json, sys
print(*(c["address"][5:7] for c in json.load(sys.stdin)["controllers"]))')" "01 02 03 04 05 06"
check "vendor and device" "$(field 0000:01:00.0 'c["vendor"] + c["device"]')" 1b360010
check "a model with quotes" "$(field 0000:01:00.0 'c["model"]')" 'Model "7"'
check "an unknown NUMA node is null" "$(field 0000:01:00.0 'c["numa_node"]')" None
check "a known NUMA node" "$(field 0000:02:00.0 'c["numa_node"]')" 1
check "no driver and no group are null" "$(field 0000:04:00.0 '(c["driver"], c["iommu_group"])')" "(None, None)"
check "driver and group" "$(field 0000:03:00.0 '(c["driver"], c["iommu_group"])')" "('vfio-pci', 13)"
check "block devices" "$(field 0000:02:00.0 'c["block_devices"]')" "['nvme1n1', 'nvme1n2']"
check "the device that stands for all paths" "$(field 0000:06:00.0 'c["block_devices"]')" "['nvme6n1']"
check "nobody uses it" "$(field 0000:02:00.0 'c["users"]')" "[]"
check_match "the table" "$(setup status)" "0000:02:00.0 +1b36:0010 +1 +nvme +12 +nvme1n1 nvme1n2 +-"

# ---------------------------------------------------------------- what counts as a use

# refused ADDRESS WORDS: bind is refused and says why, and nothing is written.
refused() {
    local before code=0 text
    before=$(cat "$pci/devices/$1/driver_override" "$pci/drivers_probe")
    text=$(setup bind "$1" 2>&1) || code=$?
    check "bind $1 is refused" "$code" 1
    check_match "bind $1 says why" "$text" "$2"
    check "bind $1 changes nothing" "$(cat "$pci/devices/$1/driver_override" "$pci/drivers_probe")" "$before"
}

partition nvme0n1 nvme0n1p1
number=$(cat "$block/nvme0n1p1/dev")
put "$KVPLANE_PROC/self/mountinfo" "30 1 $number / /data/a\\040b rw shared:1 - ext4 /dev/nvme0n1p1 rw"
check "a mounted partition" "$(field 0000:01:00.0 'c["users"]')" "['nvme0n1p1 mounted on /data/a\\\\040b']"
refused 0000:01:00.0 'nvme0n1p1 mounted on /data/a.040b'
put "$KVPLANE_PROC/self/mountinfo" "30 1 0:45 / /pool rw - btrfs /dev/nvme0n1p1 rw"
refused 0000:01:00.0 'nvme0n1p1 mounted on /pool'
: >"$KVPLANE_PROC/self/mountinfo"
put "$KVPLANE_PROC/77/mountinfo" "30 1 $number / /inside rw - ext4 /dev/nvme0n1p1 rw"
refused 0000:01:00.0 'nvme0n1p1 mounted on /inside'
rm -r "$KVPLANE_PROC/77"

printf '/dev/nvme1n2 partition 1 0 -2\n' >>"$KVPLANE_PROC/swaps"
refused 0000:02:00.0 'nvme1n2 is swap space'
put "$KVPLANE_PROC/swaps" 'Filename Type Size Used Priority'

disk dm-3
put "$block/dm-3/dm/name" vg-data
put "$block/dm-3/dm/uuid" LVM-abc
holder nvme1n1 dm-3
put "$KVPLANE_PROC/self/mountinfo" "31 1 $(cat "$block/dm-3/dev") / /srv rw - xfs /dev/mapper/vg-data rw"
refused 0000:02:00.0 'nvme1n1 belongs to the LVM volume vg-data \(dm-3\)'
refused 0000:02:00.0 'dm-3 mounted on /srv'
: >"$KVPLANE_PROC/self/mountinfo"
rm "$block/nvme1n1/holders/dm-3"
disk md127
holder nvme1n1 md127
refused 0000:02:00.0 'nvme1n1 belongs to the RAID array md127'
rm "$block/nvme1n1/holders/md127"
put "$KVPLANE_UDEV/b$(cat "$block/nvme1n1/dev")" 'E:ID_FS_TYPE=zfs_member'
check "a file system that nobody uses" "$(field 0000:02:00.0 'c["users"]')" "[]"
mkdir -p "$KVPLANE_SYS/module/zfs"
refused 0000:02:00.0 'nvme1n1 belongs to a ZFS pool'
rmdir "$KVPLANE_SYS/module/zfs"

process 42 database /dev/nvme10n1
refused 0000:05:00.0 '/dev/nvme10n1 is open in database \(process 42\)'
check "a longer number is another controller's" "$(field 0000:02:00.0 'c["users"]')" "[]"
process 43 kvplaned /dev/vfio/13
check "through VFIO" "$(field 0000:03:00.0 'c["users"]')" "['/dev/vfio/13 is open in kvplaned (process 43)']"
code=0
text=$(setup unbind 0000:03:00.0 2>&1) || code=$?
check "unbind of an open one is refused" "$code" 1
check_match "unbind says why" "$text" 'open in kvplaned \(process 43\)'

# ---------------------------------------------------------------- bind and unbind

code=0
text=$(setup bind 0000:04:00.0 2>&1) || code=$?
check "without an IOMMU it is refused" "$code" 1
check_match "and says how to get one" "$text" 'no IOMMU group.*'
for wrong in 02:00 0000:zz:00.0 ../../etc 0000:00:02.0 0000:77:00.0; do
    code=0
    setup bind "$wrong" >/dev/null 2>&1 || code=$?
    check_match "bind $wrong is refused" "$code" '^[12]$'
done
text=$(setup bind 02:00.0 --dry-run)
check_match "a dry run names the override" "$text" "would write 'vfio-pci' into .*0000:02:00.0/driver_override"
check_match "a dry run names the driver" "$text" "would write '0000:02:00.0' into .*0000:02:00.0/driver/unbind"
check "a dry run writes nothing" "$(cat "$pci/devices/0000:02:00.0/driver_override")" '(null)'
if [ "$(id -u)" -eq 0 ]; then
    code=0
    setup bind 02:00.0 >/dev/null 2>&1 || code=$?
    check "a controller that vfio-pci does not take is a failure" "$code" 1
    check "and is left for the kernel" "$(cat "$pci/devices/0000:02:00.0/driver_override")" ''
    check "which was asked to probe it" "$(cat "$pci/drivers_probe")" 0000:02:00.0
fi
check_match "what is bound stays" "$(setup bind 03:00.0)" "0000:03:00.0 is vfio-pci's already"
check_match "what is the kernel's stays" "$(setup unbind 02:00.0)" "0000:02:00.0 is the kernel's already"
rm -r "$KVPLANE_PROC/43"
text=$(setup reset --dry-run)
check_match "reset gives back what vfio-pci has" "$text" "would write '0000:03:00.0' into .*0000:03:00.0/driver/unbind"
check_match "reset gives back what nobody has" "$text" "would write '' into .*0000:04:00.0/driver_override"

checks_end
