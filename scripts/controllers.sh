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

# link_name LINK: the last part of the folder that a link points at, or nothing.
link_name() { if [ -L "$1" ]; then (cd -P "$1" && say "${PWD##*/}"); fi; }

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
model_of() {
    local file model
    for file in "$PCI/devices/$1"/nvme/nvme*/model; do
        model=$(attribute "$file")
        say "${model%"${model##*[![:blank:]]}"}"
        return
    done
}

# namespaces_of ADDRESS: the names of its block devices, such as nvme0n1, one a line. A namespace that several controllers
# share is a hidden device nvme0c1n2 below each of them; what is used is the one that stands for all, nvme0n2.
namespaces_of() {
    local folder name
    for folder in "$PCI/devices/$1"/nvme/nvme*/nvme*n*; do
        [ -d "$folder" ] || continue
        name=${folder##*/}
        [[ $name =~ ^(nvme[0-9]+)c[0-9]+(n[0-9]+)$ ]] && name=${BASH_REMATCH[1]}${BASH_REMATCH[2]}
        [ ! -e "$SYS/class/block/$name" ] || say "$name"
    done
}

# ---------------------------------------------------------------- what uses it

# survey: reads once what is mounted, swapped to and open, for users_of. Call it in the shell that users_of runs in.
#
# Mounts are those of any mount namespace that can be seen from here. Files are those of one's own processes unless one is
# root.
survey() {
    [ -r "$PROC/self/mountinfo" ] || die 1 "$PROC/self/mountinfo cannot be read, so it is not known what is mounted"
    # Processes end while this goes on, and some are not ours to look at.
    mount_table=$({ cat "$PROC"/self/mountinfo "$PROC"/[0-9]*/mountinfo 2>/dev/null || true; } | awk '
        { for (i = 7; i < NF && $i != "-"; i++); line = $3 " " $(i + 2) " " $5 }
        !seen[line]++ { print line }')
    swap_table=$'\n'$(cat "$PROC/swaps" 2>/dev/null || true)
    open_table=$(find "$PROC"/[0-9]*/fd \( -lname '/dev/nvme*' -o -lname '/dev/ng*' -o -lname '/dev/vfio/*' \) \
        -printf '%p %l\n' 2>/dev/null || true)
}

# users_of ADDRESS: one line for each use at the time of the survey, in words; nothing if nobody uses the controller.
users_of() {
    local namespace
    while read -r namespace; do
        [ -z "$namespace" ] || users_of_block "$namespace"
    done < <(namespaces_of "$1")
    open_files_of "$1"
}

# users_of_block NAME: of a block device, its partitions, and what is built upon them.
users_of_block() {
    local name=$1 folder=$SYS/class/block/$1 number path mount_number source point holder part
    number=$(attribute "$folder/dev")
    # A `!` in sysfs stands for a slash.
    path=/dev/${name//!//}
    # Btrfs mounts have device numbers of their own, hence the look at the source, too. Blanks in mount points are shown
    # as the kernel shows them, \040.
    while read -r mount_number source point; do
        if [ "$mount_number" = "$number" ] || [ "$source" = "$path" ]; then say "$name mounted on $point"; fi
    done <<<"$mount_table"
    if [[ $swap_table == *$'\n'"$path"[[:blank:]]* ]]; then say "$name is swap space"; fi
    for holder in "$folder"/holders/*; do
        [ -e "$holder" ] || continue
        holder=${holder##*/}
        say "$name belongs to $(holder_title "$holder")"
        users_of_block "$holder"
    done
    # An imported ZFS pool shows itself in none of these.
    if [ -d "$SYS/module/zfs" ] && grep -qx 'E:ID_FS_TYPE=zfs_member' "$UDEV/b$number" 2>/dev/null; then
        say "$name belongs to a ZFS pool"
    fi
    for part in "$folder/$name"*; do
        [ ! -e "$part/partition" ] || users_of_block "${part##*/}"
    done
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
open_files_of() {
    local nodes pid file seen=''
    nodes=$(nodes_of "$1")
    while read -r pid file; do
        pid=${pid#"$PROC/"} pid=${pid%%/*}
        [[ $file =~ ^/dev/($nodes)$ && $seen != *" $pid:$file "* ]] || continue
        seen+=" $pid:$file "
        say "$file is open in $(attribute "$PROC/$pid/comm") (process $pid)"
    done <<<"$open_table"
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
