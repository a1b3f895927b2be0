#!/usr/bin/env bash
# Runs a command as root in a throw-away virtual machine that has emulated SSDs behind an IOMMU; prints what the command
# prints, and ends with its status. The guest sees this machine's files as they are, so programs built here run there
# unchanged; what it writes is gone afterwards, but for the folder of --share. Needs tests/testbed/setup.sh once.
#
#   tests/testbed/run.sh [OPTIONS] -- COMMAND [ARGUMENT...]
#
#   --nvme LAYOUT        an NVMe controller; may be given several times [default: one with one namespace of 256 MiB].
#                        'none', or settings with commas between them:
#           size=256M      of each namespace; a list such as 64M/1G makes several namespaces
#           block=512      logical block size, 512 or 4096; a list such as 512/4096 makes several namespaces
#           cmb=64         with a controller memory buffer of so many MiB
#           fail-read=LBA  reads of this block of namespace 1 end with a media error
#           fail-write=LBA writes likewise
#           rate=64        of each namespace, in MiB per second at the most
#           image=FILE     keep namespace N in FILE.N, which is made if it is missing, for a later run
#           KEY=VALUE      anything else is a property of QEMU's device nvme, such as mdts=3 or max_ioqpairs=1
#   --iommu MODE         on: translated, with lazy flushes [default]; strict; pt: the kernel's own drivers pass through;
#                        off: the machine has none
#   --memory MIB         of the guest [default: 1536]
#   --hugepages MIB      of that, reserved as 2 MiB hugepages [default: 256]
#   --cpus N             [default: 2]
#   --time-limit S       seconds for the command, the boot not counted [default: 120]
#   --share DIR          a folder of this machine (made if missing) that the guest may write to, under the same name
#   --env NAME[=VALUE]   set in the guest; KVPLANE_*, RUST_LOG and RUST_BACKTRACE are handed on anyway
#   --allow-dma-faults   report IOMMU faults, but do not fail for them
#   --kernel-option OPT  append to the guest kernel's command line
#   --qemu ARGUMENT      one more argument for QEMU; may be given several times
#   --keep               keep the run's folder (logs, images) and name it
#   -v, --verbose        name the timings on stderr
#   -h, --help           this text
#
# The first controller is 0000:00:10.0, the second 0000:00:11.0, and so on. The command runs in the current folder, with
# KVPLANE_GUEST=1 set. A guest that never came to its command is started once more.
#
# Exit codes: the command's own, or 2 wrong options; 122 the test bed is not set up; 123 the IOMMU refused a device's
# access to memory (an access that QEMU may have completed without an error); 124 the time limit; 125 the guest died
# without a status.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/../../scripts/lib.sh"
. "$HERE/bed.sh"
. "$HERE/nvme.sh"

NOT_SET_UP=122 DMA_FAULT=123 TIME_LIMIT=124 NO_STATUS=125
# A boot takes 4 to 8 s on an idle machine; an unexplained hang was seen once in fifty boots.
BOOT_LIMIT=120
# Milliseconds that a guest has beyond the time limit to tell what its processes wait for.
LAST_WORDS=4000

memory=1536 hugepages=256 cpus=2 limit=120 iommu=on shared='' allow_faults=no keep=no verbose=no kernel_options=''
controllers=() variables=() qemu_options=()
while [ $# -gt 0 ]; do
    case $1 in
        --nvme) argument "$@"; controllers+=("$2"); shift ;;
        --iommu) argument "$@"; iommu=$2; shift ;;
        --memory) argument "$@"; whole_number "$@"; memory=$2; shift ;;
        --hugepages) argument "$@"; whole_number "$@"; hugepages=$2; shift ;;
        --cpus) argument "$@"; whole_number "$@"; cpus=$2; shift ;;
        --time-limit) argument "$@"; whole_number "$@"; limit=$2; shift ;;
        --share) argument "$@"; mkdir -p "$2"; shared=$(realpath "$2"); shift ;;
        --env) argument "$@"; variables+=("$2"); shift ;;
        --allow-dma-faults) allow_faults=yes ;;
        --kernel-option) argument "$@"; kernel_options+=" $2"; shift ;;
        --qemu) argument "$@"; qemu_options+=("$2"); shift ;;
        --keep) keep=yes ;;
        -v | --verbose) verbose=yes ;;
        -h | --help) usage; exit 0 ;;
        --) shift; break ;;
        *) usage >&2; die 2 "unknown option $1 (the command comes after --)" ;;
    esac
    shift
done
[ $# -gt 0 ] || { usage >&2; die 2 "there is no command"; }
[ "${#controllers[@]}" -gt 0 ] || controllers=(size=256M)
case $iommu in
    on) kernel_options+=" intel_iommu=on" ;;
    strict) kernel_options+=" intel_iommu=on iommu.strict=1" ;;
    pt) kernel_options+=" intel_iommu=on iommu=pt" ;;
    off) kernel_options+=" intel_iommu=off" ;;
    *) die 2 "--iommu takes on, strict, pt or off, not '$iommu'" ;;
esac
bed_is_ready || die "$NOT_SET_UP" "the test bed is not set up, or is an old one: run tests/testbed/setup.sh"

# ---------------------------------------------------------------- this run's folder

folder=$(mktemp -d "$BED/run.XXXXXX")
qemu_pid=''
# shellcheck disable=SC2329,SC2317  # called by the trap
cleanup() {
    if [ -n "$qemu_pid" ]; then kill -KILL "$qemu_pid" 2>/dev/null || true; fi
    if [ "$keep" = yes ]; then say "kept: $folder" >&2; else rm -rf "$folder"; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
control=$folder/control
mkdir "$control"
mkfifo "$folder/stdout" "$folder/stderr"

# The command, as a shell script for the guest.
command_file() {
    local name
    for name in $(compgen -e | grep -E '^(KVPLANE_.*|RUST_LOG|RUST_BACKTRACE)$' || true); do
        printf 'export %s=%q\n' "$name" "${!name}"
    done
    for name in "${variables[@]}"; do
        if [[ $name != *=* ]]; then name=$name=${!name-}; fi
        printf 'export %s=%q\n' "${name%%=*}" "${name#*=}"
    done
    say "export KVPLANE_GUEST=1"
    printf 'cd %q || exit 125\nexec' "$PWD"
    printf ' %q' "$@"
    say
}

# ---------------------------------------------------------------- the machine

machine=(-accel "tcg,thread=multi" -machine q35 -cpu "max,-la57" -m "$memory" -smp "$cpus"
    -nodefaults -display none -no-reboot)
# QEMU wants the IOMMU before all other devices.
[ "$iommu" = off ] || machine+=(-device "intel-iommu,intremap=on,caching-mode=on,aw-bits=48")
number=0
for layout in "${controllers[@]}"; do
    [ "$layout" != none ] || continue
    nvme_controller "$number" "$layout" "$folder"
    machine+=("${nvme_options[@]}")
    number=$((number + 1))
done
# shellcheck disable=SC2054  # the commas are QEMU's
# A stdio chardev would block the guest when stdin is at its end, so all of these are files.
machine+=(
    -chardev "file,id=serial,path=$folder/serial.log" -serial chardev:serial
    -device virtio-serial-pci
    -chardev "file,id=stdout,path=$folder/stdout" -device virtserialport,chardev=stdout,name=stdout
    -chardev "file,id=stderr,path=$folder/stderr" -device virtserialport,chardev=stderr,name=stderr
    -device isa-debug-exit,iobase=0xf4,iosize=4
    -virtfs "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
    -virtfs "local,path=$BED/layer,mount_tag=layer,security_model=none,readonly=on,multidevs=remap"
    -virtfs "local,path=$control,mount_tag=control,security_model=none"
)
if [ -n "$shared" ]; then
    machine+=(-virtfs "local,path=$shared,mount_tag=shared,security_model=none,multidevs=remap")
fi
machine+=(-kernel "$BED/kernel" -initrd "$BED/ramdisk"
    -append "console=ttyS0 quiet panic=-1 oops=panic hugepages=$((hugepages / 2)) init_on_alloc=0 mitigations=off \
cryptomgr.notests no_timer_check random.trust_cpu=on audit=0 apparmor=0$kernel_options")

# now: milliseconds since the epoch.
now() { local t=${EPOCHREALTIME/[.,]/}; say $((t / 1000)); }

# attempt COMMAND...: boots, runs, and waits for the end. Sets `ended` (exit, boot-limit or time-limit).
attempt() {
    local readers=() began started=0
    rm -f "$control"/*
    cp "$HERE/guest/start" "$control/start"
    command_file "$@" >"$control/command"
    say "$limit" >"$control/limit"
    if [ -n "$shared" ]; then say "$shared" >"$control/shared"; fi
    # As two readers, because the guest may fill one port while nothing comes from the other.
    cat "$folder/stdout" & readers+=($!)
    cat "$folder/stderr" >&2 & readers+=($!)
    LD_LIBRARY_PATH=$(bed_libraries) tied qemu-system-x86_64 "${machine[@]}" "${qemu_options[@]}" \
        </dev/null >"$folder/qemu.log" 2>&1 &
    qemu_pid=$!
    began=$(now) ended=exit
    while alive "$qemu_pid"; do
        if [ "$started" = 0 ] && [ -e "$control/started" ]; then
            started=$(now)
            [ "$verbose" = no ] || say "testbed: booted in $((started - began)) ms" >&2
        fi
        if [ "$started" = 0 ] && [ $(($(now) - began)) -gt $((BOOT_LIMIT * 1000)) ]; then ended=boot-limit; break; fi
        if [ "$started" != 0 ] && [ $(($(now) - started)) -gt $((limit * 1000 + LAST_WORDS)) ]; then ended=time-limit; break; fi
        sleep 0.05
    done
    [ "$ended" = exit ] || kill -KILL "$qemu_pid" 2>/dev/null || true
    wait "$qemu_pid" 2>/dev/null || true
    qemu_pid=''
    # QEMU may have ended before it opened them.
    : 1<>"$folder/stdout" 2<>"$folder/stderr" || true
    wait "${readers[@]}" || true
    [ "$verbose" = no ] || say "testbed: $ended after $(($(now) - began)) ms" >&2
}

attempt "$@"
if [ ! -e "$control/started" ]; then
    warn "testbed: the guest never came to its command ($ended); once more"
    tail -n 5 "$folder/qemu.log" "$folder/serial.log" >&2 || true
    attempt "$@"
fi

# ---------------------------------------------------------------- the verdict

# Both ends of a refused access: QEMU's emulated IOMMU says so, and the guest's kernel reads its fault log.
faults() {
    grep -hE 'vtd_[a-z_]*: ' "$folder/qemu.log" || true
    if [ -e "$control/dmesg" ]; then grep -hE 'DMAR: (\[|.*handling fault)' "$control/dmesg" || true; fi
}
faulted=$(faults)
if [ -n "$faulted" ]; then
    warn "testbed: the IOMMU refused accesses, $(wc -l <<<"$faulted") lines such as:"
    sort -u <<<"$faulted" | head -n 8 >&2
fi
if [ "$ended" = time-limit ]; then
    warn "testbed: the command did not end within $limit s; the guest's last words:"
    tail -n 100 "$folder/serial.log" >&2
    exit "$TIME_LIMIT"
fi
if [ ! -s "$control/status" ]; then
    warn "testbed: the guest died without a status ($ended); the last words of QEMU and the guest:"
    tail -n 20 "$folder/qemu.log" "$folder/serial.log" >&2 || true
    exit "$NO_STATUS"
fi
status=$(cat "$control/status")
if [ -n "$faulted" ] && [ "$allow_faults" = no ]; then
    warn "testbed: the command itself ended with status $status"
    exit "$DMA_FAULT"
fi
exit "$status"
