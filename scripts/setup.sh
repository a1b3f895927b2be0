#!/usr/bin/env bash
# Prepares this machine for kvplaned: NVMe controllers that it drives itself, hugepages, and how much memory may be locked.
# Nothing of it is needed to try kvplane out (--no-huge and a store in a file); a server that is measured or used wants it.
#
#   scripts/setup.sh [COMMAND] [OPTIONS]
#
#   status               show controllers, what uses them, hugepages and limits (the default; root sees everybody's uses)
#       --json           as one JSON object
#   bind ADDRESS...      take NVMe controllers from the kernel and give them to vfio-pci (root). Their block devices go
#                        away. A controller in use is refused: mounted, swap, part of LVM, RAID or ZFS, or open in a process
#       --no-iommu       also where there is no IOMMU. The device can then write to any memory: for tests of other
#                        programs only, for kvplaned does not drive it so
#   unbind ADDRESS...    give controllers back to the kernel's driver (root); refused while a program has them open
#   hugepages MIB        reserve MIB of 2 MiB hugepages in all, until the next boot (root)
#       --size 2M|1G     page size [default: 2M]
#       --node N         on this NUMA node [default: spread by the kernel]
#       --keep           also reserve them at every boot, in /etc/sysctl.d (2M on no particular node only)
#   memlock [USER]       allow USER [default: you] to lock any amount of memory, in /etc/security/limits.d; holds for
#                        sessions that begin afterwards (root)
#   reset                give all controllers back to the kernel and all hugepages, whoever reserved them, and remove both
#                        files (root)
#
#   -n, --dry-run        show what would be changed, and change nothing
#   -h, --help           this text
#
# An ADDRESS is a PCI address as status shows it, such as 0000:01:00.0 or, for short, 01:00.0. What is bound stays so until
# unbind, reset or the next boot; nothing is written down anywhere but in sysfs. A drive and the memory for it:
#
#   scripts/setup.sh status
#   sudo scripts/setup.sh bind 0000:01:00.0
#   sudo scripts/setup.sh hugepages 1024
#
# Every command may be repeated. Commands that need root use sudo where that asks for no password.
# Exit codes: 0 done; 1 refused, failed, or fewer pages than asked for; 2 wrong options.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/controllers.sh"
. "$(dirname "${BASH_SOURCE[0]}")/binding.sh"
. "$(dirname "${BASH_SOURCE[0]}")/status.sh"

SYSCTL_FILE=/etc/sysctl.d/60-kvplane-hugepages.conf
LIMITS_FILE=/etc/security/limits.d/60-kvplane-memlock.conf
command='' mib='' size=2M node='' keep=no dry=no json=no no_iommu=no addresses=() user=${SUDO_USER:-$(id -un)}
while [ $# -gt 0 ]; do
    case $1 in
        memlock)
            command=$1
            if [[ ${2:-} =~ ^[a-z_][a-z0-9_-]*$ ]]; then user=$2; shift; fi
            ;;
        bind | unbind)
            [ -z "$command" ] || die 2 "only one command at a time"
            command=$1
            argument "$@"
            while [[ ${2:--} != -* ]]; do addresses+=("$(address_of "$2")"); shift; done
            [ "${#addresses[@]}" -gt 0 ] || die 2 "$command needs the address of a controller (see status)"
            ;;
        --no-iommu) no_iommu=yes ;;
        --json) json=yes ;;
        status | reset) [ -z "$command" ] || die 2 "only one command at a time"; command=$1 ;;
        hugepages) argument "$@"; whole_number "$@"; command=$1 mib=$2; shift ;;
        --size) argument "$@"; size=$2; shift ;;
        --node) argument "$@"; whole_number "$@"; node=$2; shift ;;
        --keep) keep=yes ;;
        -n | --dry-run) dry=yes ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die 2 "unknown option $1" ;;
    esac
    shift
done
case $size in
    2M) page_kb=2048 ;;
    1G) page_kb=1048576 ;;
    *) die 2 "--size takes 2M or 1G, not '$size'" ;;
esac

if [ "$keep" = yes ] && [ "$size$node" != 2M ]; then
    die 2 "--keep works for 2M pages without --node; put others on the kernel's command line"
fi

# write FILE TEXT: as root, unless this is a dry run or the file says so already.
write() {
    if [ -r "$1" ] && [ "$(cat "$1" 2>/dev/null)" = "$2" ]; then say "$1 is already '$2'"; return; fi
    if [ "$dry" = yes ]; then say "would write '$2' into $1"; return; fi
    # shellcheck disable=SC2016  # expanded by the inner shell
    as_root sh -c 'printf "%s\n" "$1" >"$2"' sh "$2" "$1" ||
        die 1 "cannot write '$2' into $1: $(if [ "$(id -u)" -eq 0 ]; then say "the kernel refuses"; else say "run this as root"; fi)"
    say "wrote '$2' into $1"
}

remove() {
    [ -e "$1" ] || return 0
    if [ "$dry" = yes ]; then say "would remove $1"; return; fi
    as_root rm -f "$1" || die 1 "cannot remove $1: run this as root"
    say "removed $1"
}

hugepages() {
    local folder pages got base=/sys/kernel/mm
    [ -z "$node" ] || base=/sys/devices/system/node/node$node
    folder=$base/hugepages/hugepages-${page_kb}kB
    [ -d "$folder" ] || die 1 "$folder does not exist: this machine has no such node or page size"
    pages=$(((mib * 1024 + page_kb - 1) / page_kb))
    write "$folder/nr_hugepages" "$pages"
    if [ "$keep" = yes ]; then
        write "$SYSCTL_FILE" "vm.nr_hugepages = $pages"
    fi
    [ "$dry" = no ] || return 0
    got=$(cat "$folder/nr_hugepages")
    [ "$got" -ge "$pages" ] ||
        die 1 "got $got of $pages pages: memory is scattered or full; try again early after a boot, or fewer"
}

reset() {
    local folder address failed=0
    for address in $(controllers); do
        (return_controller "$address") || failed=1
    done
    for folder in /sys/kernel/mm/hugepages/hugepages-*; do
        [ ! -d "$folder" ] || write "$folder/nr_hugepages" 0
    done
    remove "$SYSCTL_FILE"
    remove "$LIMITS_FILE"
    return "$failed"
}

case ${command:-status} in
    status) if [ "$json" = yes ]; then status_json; else status; fi ;;
    bind) for address in "${addresses[@]}"; do take_controller "$address" "$no_iommu"; done ;;
    unbind) for address in "${addresses[@]}"; do return_controller "$address"; done ;;
    hugepages) hugepages ;;
    memlock) write "$LIMITS_FILE" "$user - memlock unlimited" ;;
    reset) reset ;;
esac
