#!/usr/bin/env bash
# Prepares this machine for kvplaned: hugepages, and how much memory may be locked. Nothing of it is needed to try
# kvplane out (--no-huge); a server that is measured or used wants both.
#
#   scripts/setup.sh [COMMAND] [OPTIONS]
#
#   status               show the current values (the default; needs no root)
#   hugepages MIB        reserve MIB of 2 MiB hugepages in all, until the next boot (root)
#       --size 2M|1G     page size [default: 2M]
#       --node N         on this NUMA node [default: spread by the kernel]
#       --keep           also reserve them at every boot, in /etc/sysctl.d (2M on no particular node only)
#   memlock [USER]       allow USER [default: you] to lock any amount of memory, in /etc/security/limits.d; holds for
#                        sessions that begin afterwards (root)
#   reset                give all hugepages back, whoever reserved them, and remove both files (root)
#
#   -n, --dry-run        show what would be changed, and change nothing
#   -h, --help           this text
#
# Every command may be repeated. Commands that need root use sudo where that asks for no password.
# Exit codes: 0 done; 1 refused, or fewer pages than asked for; 2 wrong options.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

SYSCTL_FILE=/etc/sysctl.d/60-kvplane-hugepages.conf
LIMITS_FILE=/etc/security/limits.d/60-kvplane-memlock.conf
command='' mib='' size=2M node='' keep=no dry=no user=${SUDO_USER:-$(id -un)}
while [ $# -gt 0 ]; do
    case $1 in
        memlock)
            command=$1
            if [[ ${2:-} =~ ^[a-z_][a-z0-9_-]*$ ]]; then user=$2; shift; fi
            ;;
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
    if [ -r "$1" ] && [ "$(cat "$1")" = "$2" ]; then say "$1 is already '$2'"; return; fi
    if [ "$dry" = yes ]; then say "would write '$2' into $1"; return; fi
    # shellcheck disable=SC2016  # expanded by the inner shell
    as_root sh -c 'printf "%s\n" "$1" >"$2"' sh "$2" "$1" || die 1 "cannot write $1: run this as root"
    say "wrote '$2' into $1"
}

remove() {
    [ -e "$1" ] || return 0
    if [ "$dry" = yes ]; then say "would remove $1"; return; fi
    as_root rm -f "$1" || die 1 "cannot remove $1: run this as root"
    say "removed $1"
}

status() {
    local folder pages
    say "hugepages:"
    for folder in /sys/devices/system/node/node*/hugepages/hugepages-*; do
        [ -d "$folder" ] || continue
        pages=$(cat "$folder/nr_hugepages")
        say "  ${folder#/sys/devices/system/node/}: $pages reserved, $(cat "$folder/free_hugepages") free"
    done
    [ -e /sys/kernel/mm/hugepages ] || say "  none: this kernel has no hugepages; start kvplaned with --no-huge"
    say "at boot: $(if [ -e "$SYSCTL_FILE" ]; then cat "$SYSCTL_FILE"; else say "nothing by kvplane"; fi)"
    say "lockable memory of this session: $(ulimit -S -l) KiB, can be raised to $(ulimit -H -l) KiB"
    say "limit for new sessions: $(if [ -e "$LIMITS_FILE" ]; then tr '\n' ';' <"$LIMITS_FILE"; else say "not set by kvplane"; fi)"
    say "io_uring: $(io_uring_state)"
    say "cores that may be used: $(allowed_cores | tr '\n' ' ')"
}

io_uring_state() {
    case $(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || say none) in
        0 | none) say "allowed for everybody" ;;
        1) say "only for root and the group in kernel.io_uring_group (sysctl kernel.io_uring_disabled=0 allows all)" ;;
        *) say "switched off; file stores need it (sysctl kernel.io_uring_disabled=0)" ;;
    esac
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
    local folder
    for folder in /sys/kernel/mm/hugepages/hugepages-*; do
        [ ! -d "$folder" ] || write "$folder/nr_hugepages" 0
    done
    remove "$SYSCTL_FILE"
    remove "$LIMITS_FILE"
}

case ${command:-status} in
    status) status ;;
    hugepages) hugepages ;;
    memlock) write "$LIMITS_FILE" "$user - memlock unlimited" ;;
    reset) reset ;;
esac
