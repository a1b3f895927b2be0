#!/usr/bin/env bash
# Sets up the VM test bed: QEMU, a Debian kernel with its modules, and tools for the guest, unpacked from Debian packages
# into target/testbed. Nothing is installed on the machine, so no root is needed. Run guests with tests/testbed/run.sh.
#
#   tests/testbed/setup.sh [OPTIONS]
#
#   --fresh              throw away what is there and set it up again
#   --check              only say whether it is set up (exit code 0) or not (1)
#   -h, --help           this text
#
# Needs: Debian 12 or one like it on x86-64, its apt-get, about 1 GB of disk; the network only where the packages come from.
# Packages that the machine has are used from there; the others come in the versions that apt-get would install.
# A second run finds everything in place and ends at once. KVPLANE_TESTBED=DIR puts it into another folder, which several
# clones may share.
#
# Exit codes: 0 done; 1 it failed; 2 wrong options; 77 this machine cannot have it (no apt-get, no
# network, not x86-64), with the reason.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/../../scripts/lib.sh"
. "$HERE/bed.sh"

# Those that the test bed itself runs, then those that tests want in the guest, and headers that declarations are compared with.
HOST_PACKAGES=(qemu-system-x86 busybox-static cpio xz-utils kmod)
GUEST_PACKAGES=(pciutils nvme-cli fio dmsetup e2fsprogs iproute2 ibverbs-providers libibverbs1 librdmacm1 ibverbs-utils
                perftest tcpdump tshark libibverbs-dev librdmacm-dev)

# What the guest needs before it has its root file system; everything else is loaded by modprobe later.
BOOT_MODULES=(virtio_pci 9pnet_virtio 9p overlay virtio_console)

fresh=no check=no
while [ $# -gt 0 ]; do
    case $1 in
        --fresh) fresh=yes ;;
        --check) check=yes ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die 2 "unknown option $1" ;;
    esac
    shift
done

if [ "$check" = yes ]; then
    if bed_is_ready; then say "the test bed is set up in $BED"; exit 0; fi
    die 1 "the test bed is not set up: run tests/testbed/setup.sh"
fi
if [ "$fresh" = no ] && bed_is_ready; then
    say "the test bed is set up in $BED"
    exit 0
fi
if ! have apt-get || ! have dpkg-deb; then
    warn "the test bed is made of Debian packages, and this machine has no apt-get"
    exit 77
fi
if [ "$(dpkg --print-architecture)" != amd64 ]; then
    warn "the guest shares this machine's programs, so the test bed needs an x86-64 machine"
    exit 77
fi

mkdir -p "$BED"
exec 9>"$BED/lock"
flock -w 600 9 || die 1 "another setup holds $BED/lock for more than ten minutes"
# Whoever held the lock may have done the work.
if [ "$fresh" = no ] && bed_is_ready; then exit 0; fi
rm -rf "$BED/ready" "$BED/layer" "$BED/work"
work=$BED/work
mkdir -p "$BED/layer" "$work/debs"
require_space "$BED" 1500

# ---------------------------------------------------------------- packages

# apt OPTIONS: with the machine's lists of packages, or with lists of our own.
own_lists=()
apt() { apt-get -qq -o APT::Sandbox::User=root -o Debug::NoLocking=true "${own_lists[@]}" "$@"; }

# The kernel package that the machine's Debian recommends at present.
kernel_package() {
    apt -s --no-install-recommends install linux-image-amd64 | awk '/^Inst linux-image-[0-9]/ { print $2 "=" substr($3, 2); exit }'
}

# name=version of each package that is missing here, with all that it depends on.
missing_packages() {
    apt -s --no-install-recommends --no-upgrade install "${HOST_PACKAGES[@]}" "${GUEST_PACKAGES[@]}" |
        awk '/^Inst / { version = $3 ~ /^\[/ ? $4 : $3; print $2 "=" substr(version, 2) }'
}

download() {
    local kernel packages
    kernel=$(kernel_package) && [ -n "$kernel" ] || return 1
    packages=$(missing_packages) || return 1
    # shellcheck disable=SC2086  # a list of words
    (cd "$work/debs" && apt download $packages "$kernel") || return 1
}

step "Fetching Debian packages"
if ! download 2>"$work/apt.log"; then
    # The machine's lists are missing or old. Lists of our own need no root.
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
    own_lists=(-o "Dir::State::Lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache")
    if ! { apt update && download; } 2>>"$work/apt.log"; then
        tail -n 20 "$work/apt.log" >&2
        warn "the packages could not be fetched: is there a network, or a mirror of Debian?"
        exit 77
    fi
fi

step "Unpacking $(find "$work/debs" -name '*.deb' | wc -l) packages"
for package in "$work"/debs/*.deb; do
    case ${package##*/} in
        linux-image-*) dpkg-deb -x "$package" "$work/kernel" ;;
        *) dpkg-deb -x "$package" "$work/unpacked" ;;
    esac
done

# The layer lies above the machine's root in an overlay, where a folder /bin would hide the link /bin -> usr/bin.
mkdir -p "$BED/layer/usr"
for folder in bin sbin lib lib64; do
    [ -d "$work/unpacked/$folder" ] || continue
    mkdir -p "$work/unpacked/usr/$folder"
    cp -a "$work/unpacked/$folder/." "$work/unpacked/usr/$folder/"
    rm -rf "${work:?}/unpacked/$folder"
done
[ ! -d "$work/unpacked" ] || cp -a "$work/unpacked/." "$BED/layer/"

# ---------------------------------------------------------------- the kernel

# as_kmod NAME ARGUMENTS: kmod under one of its names, because the links to it do not hold in an unpacked package.
as_kmod() { (name=$1; shift; exec -a "$name" kmod "$@"); }

export LD_LIBRARY_PATH
LD_LIBRARY_PATH=$(bed_libraries)
version=$(basename "$work"/kernel/lib/modules/*)
mkdir -p "$BED/layer/usr/lib/modules"
mv "$work/kernel/lib/modules/$version" "$BED/layer/usr/lib/modules/"
as_kmod depmod -b "$BED/layer/usr" "$version"

# A bzImage unpacks itself before it starts, which takes an emulated processor 6 to 9 s; the ELF image inside starts at
# once (PVH boot). Where it lies in the file is told by the boot protocol's header (linux: Documentation/x86/boot.rst):
# setup_sects at 0x1f1, payload_offset and payload_length at 0x248.
image=$work/kernel/boot/vmlinuz-$version
read -r sectors < <(od -An -tu1 -j$((0x1f1)) -N1 "$image")
read -r offset length < <(od -An -tu4 -j$((0x248)) -N8 "$image")
if dd if="$image" iflag=skip_bytes,count_bytes skip=$((((sectors ? sectors : 4) + 1) * 512 + offset)) count="$length" \
    bs=1M status=none | xz -dc --single-stream >"$BED/kernel" 2>"$work/xz.log" && [ "$(head -c 4 "$BED/kernel")" = $'\x7fELF' ]; then
    say "kernel $version"
else
    warn "kernel $version is not packed by xz; guests boot its bzImage and take some seconds longer"
    cp "$image" "$BED/kernel"
fi

# ---------------------------------------------------------------- the initial RAM disk

ramdisk=$work/ramdisk
mkdir -p "$ramdisk"/{bin,modules,proc,sys,dev,host,layer,write,root}
cp "$(command -v busybox)" "$ramdisk/bin/busybox"
cp "$HERE/guest/init" "$ramdisk/init"
chmod 755 "$ramdisk/init"
number=100
while read -r module; do
    cp "$module" "$ramdisk/modules/$number-${module##*/}"
    [[ $module != *.xz ]] || xz -d "$ramdisk/modules/$number-${module##*/}"
    number=$((number + 1))
done < <(
    for module in "${BOOT_MODULES[@]}"; do
        as_kmod modprobe -d "$BED/layer/usr" -S "$version" --show-depends "$module" || die 1 "kernel $version has no module $module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
)
[ "$number" -gt 105 ] || die 1 "kernel $version lacks the modules ${BOOT_MODULES[*]}"
(cd "$ramdisk" && find . | cpio -o -H newc --quiet | gzip -1) >"$BED/ramdisk"

rm -rf "$work"
bed_fingerprint >"$BED/ready"
say "the test bed is set up in $BED ($(du -sm "$BED" | cut -f1) MB)"
