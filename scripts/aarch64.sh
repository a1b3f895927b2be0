#!/usr/bin/env bash
# Builds the workspace for aarch64 on an x86-64 machine, and runs its unit tests and a short simulation under qemu-user.
#
#   scripts/aarch64.sh [OPTIONS]
#
#   --check          only see whether everything compiles, tests included
#   --rust WHICH     rustup: the installed toolchain with rustup's target; debian: Debian's rustc-web, unpacked into
#                    target/aarch64 [default: rustup where it can have the target, else debian]
#   -h, --help       this text
#
# Needs: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static.
#
# What it cannot show: io_uring, which qemu-user does not emulate; tests of it are skipped and counted as such. Nor the
# weak memory order of an Arm processor: an x86-64 machine keeps its own, stronger one.
#
# Exit codes: 0 done; 1 it failed; 2 wrong options; 77 this machine lacks something, with the reason.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

TARGET=aarch64-unknown-linux-gnu
FOLDER=$ROOT/target/aarch64
TEST_SKIPS=$CARGO_TARGET/test-skips.txt

check=no rust=''
while [ $# -gt 0 ]; do
    case $1 in
        --check) check=yes ;;
        --rust) argument "$@"; rust=$2; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die 2 "unknown option $1" ;;
    esac
    shift
done

# lacking WHAT: ends the script as a test that could not run.
lacking() {
    say "SKIPPED: $*"
    exit 77
}

# ---------------------------------------------------------------- compilers

have aarch64-linux-gnu-gcc || lacking "there is no cross linker (apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross)"
[ "$check" = yes ] || have qemu-aarch64-static || lacking "there is no qemu-aarch64-static (apt-get install qemu-user-static)"

rustup_target() {
    have rustup || return 1
    rustup target list --installed | grep -qx "$TARGET" || rustup target add "$TARGET"
}

# debian_rust: Debian's newest Rust with both standard libraries, unpacked. apt-get is given lists of packages of our own
# that know arm64, so no root is needed and dpkg's architectures stay as they are.
debian_rust() {
    local root=$FOLDER/rust work=$FOLDER/work
    if [ ! -e "$root/ready" ]; then
        have apt-get && have dpkg-deb || return 1
        rm -rf "$root" "$work"
        mkdir -p "$root" "$work"/lists/partial "$work"/cache/archives/partial "$work"/debs
        apt() {
            apt-get -qq -o APT::Sandbox::User=root -o Debug::NoLocking=true -o APT::Architectures=amd64,arm64 \
                -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" "$@"
        }
        apt update || return 1
        (
            cd "$work/debs"
            packages=$(apt -s --no-install-recommends install rustc-web libstd-rust-web-dev libstd-rust-web-dev:arm64 |
                awk '/^Inst (rustc-web|libstd-rust-web-[a-z0-9.]+(:arm64)?|libllvm[0-9]+) / { print $2 }')
            # shellcheck disable=SC2086  # a list of words
            [ -n "$packages" ] && apt download $packages
        ) || return 1
        for package in "$work"/debs/*.deb; do dpkg-deb -x "$package" "$root"; done
        rm -rf "$work"
        touch "$root/ready"
    fi
    export RUSTC=$root/usr/bin/rustc
    export LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

case $rust in
    rustup) rustup_target || lacking "rustup cannot have the target $TARGET" ;;
    debian) debian_rust || lacking "Debian's rustc-web and libstd-rust-web-dev:arm64 cannot be fetched" ;;
    '')
        rustup_target || debian_rust ||
            lacking "neither rustup nor Debian (rustc-web, libstd-rust-web-dev:arm64) gives a Rust for $TARGET"
        ;;
    *) die 2 "--rust takes rustup or debian, not '$rust'" ;;
esac
say "$("${RUSTC:-rustc}" --version)"

# A folder of its own, so that the default build's is not rebuilt by another compiler.
export CARGO_TARGET_DIR=$FOLDER/cargo
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L /usr/aarch64-linux-gnu"

# ---------------------------------------------------------------- build and run

# The dev profile optimizes dependencies more than these few runs repay: half of the step would be their compilation. Nor is
# anything compiled here for a debugger, or for the next edit.
options=(--locked --target "$TARGET" --config 'profile.dev.package."*".opt-level=1' --config profile.dev.debug=0)
export CARGO_INCREMENTAL=0

step "Checking the workspace"
RUSTFLAGS="${RUSTFLAGS:-} -D warnings" cargo check --workspace --all-targets "${options[@]}"
[ "$check" = no ] || exit 0

# left_out NAME WHY: sets `filters`, and has the tests counted as skipped.
filters=()
left_out() {
    filters+=(--skip "$1")
    say "SKIPPED aarch64 $1: $2"
    say "aarch64 $1: $2" >>"$TEST_SKIPS"
}
mkdir -p "$CARGO_TARGET"
left_out nvme::uring::tests "qemu-user does not emulate io_uring"
left_out eventfd::tests::by_ring "qemu-user does not emulate io_uring"
left_out fabric::tcp::target::streams::tests "qemu-user does not emulate io_uring"
left_out memory::client::tests::a_populated_region_is_all_there "qemu-user takes madvise(MADV_POPULATE_WRITE) and does nothing"
left_out memory::guard::tests::an_unrelated_sigbus_still_kills "it starts itself, which needs an aarch64 kernel or binfmt_misc"

step "Unit tests and a short simulation under qemu-user"
export KVPLANE_EMULATED=1
# In one command: cargo would build dependencies again for another choice of packages.
cargo test -p dataplane -p pipelines -p simulator --lib --tests --no-fail-fast "${options[@]}" -- "${filters[@]}"
