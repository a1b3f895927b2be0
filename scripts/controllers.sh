# shellcheck shell=bash
# NVMe controllers of this machine: what there is, what uses it, and which driver has it. To be sourced after lib.sh.
#
# All of it is read from sysfs, procfs and udev's run-time database each time; nothing is remembered elsewhere. Tests
# point these at a tree of their own.
SYS=${KVPLANE_SYS:-/sys}
PROC=${KVPLANE_PROC:-/proc}
UDEV=${KVPLANE_UDEV:-/run/udev/data}
PCI=$SYS/bus/pci

# ---------------------------------------------------------------- what there is

# controllers: the address (domain:bus:device.function) of each NVMe controller, one a line.
controllers() {
    local folder class
    for folder in "$PCI"/devices/*; do
        [ -r "$folder/class" ] || continue
        class=$(<"$folder/class")
        # Class 01h mass storage, 08h non-volatile memory, 02h NVM Express I/O controller.
        [ "$class" != 0x010802 ] || say "${folder##*/}"
    done
}

# attribute FILE: its one line, or nothing.
attribute() {
    local line=''
    if [ -r "$1" ]; then read -r line <"$1" 2>/dev/null || true; fi
    printf '%s' "$line"
}

# link_name LINK: the last part of what a link points at, or nothing.
link_name() { if [ -L "$1" ]; then basename "$(readlink "$1")"; fi; }

driver_of() { link_name "$PCI/devices/$1/driver"; }
iommu_group_of() { link_name "$PCI/devices/$1/iommu_group"; }
vendor_device_of() {
    local vendor device
    vendor=$(attribute "$PCI/devices/$1/vendor") device=$(attribute "$PCI/devices/$1/device")
    say "${vendor#0x}:${device#0x}"
}
numa_node_of() {
    local node
    node=$(attribute "$PCI/devices/$1/numa_node")
    # Firmware that does not tell leaves -1.
    if [ "${node:--1}" -ge 0 ]; then say "$node"; fi
}
model_of() { (cd "$PCI/devices/$1/nvme" 2>/dev/null && cat nvme*/model 2>/dev/null) | head -n 1 | sed 's/ *$//'; }

# namespaces_of ADDRESS: the names of its block devices, such as nvme0n1, one a line. A namespace that several controllers
# share is a hidden device nvme0c1n2 below each of them; what is used is the one that stands for all, nvme0n2.
namespaces_of() {
    local folder name
    for folder in "$PCI/devices/$1"/nvme/nvme*/nvme*n*; do
        [ -d "$folder" ] || continue
        name=${folder##*/}
        [[ $name =~ ^(nvme[0-9]+)c[0-9]+(n[0-9]+)$ ]] && name=${BASH_REMATCH[1]}${BASH_REMATCH[2]}
        [ ! -e "$SYS/class/block/$name" ] || say "$name"
    done | sort -uV
}

# ---------------------------------------------------------------- what uses it

# users_of ADDRESS: one line for each use, in words; nothing if nobody uses the controller.
users_of() {
    local namespace
    while read -r namespace; do
        [ -z "$namespace" ] || users_of_block "$namespace"
    done < <(namespaces_of "$1")
    open_files_of "$1"
}

# users_of_block NAME: of a block device, its partitions, and what is built upon them.
users_of_block() {
    local name=$1 folder=$SYS/class/block/$1 number mount holder part kind
    number=$(attribute "$folder/dev")
    while read -r mount; do
        [ -z "$mount" ] || say "$name mounted on $mount"
    done < <(mounts_of "$name" "$number")
    ! awk -v device="$(device_path "$name")" 'NR > 1 && $1 == device { found = 1 } END { exit !found }' "$PROC/swaps" 2>/dev/null ||
        say "$name is swap space"
    for holder in "$folder"/holders/*; do
        [ -e "$holder" ] || continue
        holder=${holder##*/}
        say "$name belongs to $(holder_title "$holder")"
        users_of_block "$holder"
    done
    # An imported ZFS pool shows itself in none of these.
    kind=$(awk -F= '/^E:ID_FS_TYPE=/ { print $2 }' "$UDEV/b$number" 2>/dev/null || true)
    if [ "$kind" = zfs_member ] && [ -d "$SYS/module/zfs" ]; then say "$name belongs to a ZFS pool"; fi
    for part in "$folder/$name"*; do
        [ ! -e "$part/partition" ] || users_of_block "${part##*/}"
    done
}

# device_path NAME: how the kernel names it in its tables; a `!` in sysfs stands for a slash.
device_path() { printf '/dev/%s' "${1//!//}"; }

# mounts_of NAME MAJOR:MINOR: mount points in any mount namespace that can be seen from here. Btrfs mounts have device
# numbers of their own, hence the look at the source, too. Blanks in mount points are shown as the kernel shows them, \040.
mounts_of() {
    cat "$PROC"/self/mountinfo "$PROC"/[0-9]*/mountinfo 2>/dev/null | awk -v number="$2" -v source="$(device_path "$1")" '
        { from = ""; for (i = 7; i < NF; i++) if ($i == "-") { from = $(i + 2); break } }
        ($3 == number || from == source) && !seen[$5]++ { print $5 }'
}

holder_title() {
    local title
    case $1 in
        dm-*)
            title=$(attribute "$SYS/class/block/$1/dm/name")
            case $(attribute "$SYS/class/block/$1/dm/uuid") in
                LVM-*) say "the LVM volume $title ($1)" ;;
                CRYPT-*) say "the encrypted device $title ($1)" ;;
                *) say "the device mapper's $title ($1)" ;;
            esac
            ;;
        md*) say "the RAID array $1" ;;
        *) say "$1" ;;
    esac
}

# open_files_of ADDRESS: processes that have its device nodes open, be it through the kernel's driver or through VFIO.
# Without root only one's own processes are seen.
open_files_of() {
    local nodes file pid
    nodes=$(nodes_of "$1")
    while read -r pid file; do
        pid=${pid%%/*}
        say "$file is open in $(attribute "$PROC/$pid/comm") (process $pid)"
    done < <(
        find "$PROC"/[0-9]*/fd \( -lname '/dev/nvme*' -o -lname '/dev/ng*' -o -lname '/dev/vfio/*' \) -printf '%p %l\n' \
            2>/dev/null | sed "s|^$PROC/||" | grep -E " /dev/($nodes)\$"
    ) | sort -u
}

# nodes_of ADDRESS: an extended regular expression for the names of its device nodes below /dev.
nodes_of() {
    local folder name group nodes=none
    for folder in "$PCI/devices/$1"/nvme/nvme*; do
        [ ! -d "$folder" ] || nodes+="|${folder##*/}"
    done
    while read -r name; do
        [ -z "$name" ] || nodes+="|${name}(p[0-9]+)?|ng${name#nvme}"
    done < <(namespaces_of "$1")
    group=$(iommu_group_of "$1")
    [ -z "$group" ] || nodes+="|vfio/$group|vfio/noiommu-$group"
    for folder in "$PCI/devices/$1"/vfio-dev/vfio*; do
        [ ! -d "$folder" ] || nodes+="|vfio/devices/${folder##*/}"
    done
    say "$nodes"
}
