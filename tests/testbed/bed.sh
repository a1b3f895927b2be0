# shellcheck shell=bash
# Where the VM test bed lies and whether it is set up. To be sourced after scripts/lib.sh.

BED=$(realpath -m "${KVPLANE_TESTBED:-$ROOT/target/testbed}")
# Programs and libraries that setup.sh unpacked come before the machine's own, which may be of another version.
export PATH=$BED/layer/usr/bin:$BED/layer/usr/sbin:$PATH:/usr/sbin:/sbin

# What the test bed was made from; when it changes, the test bed is made again.
bed_fingerprint() { cat "$ROOT"/tests/testbed/{setup.sh,bed.sh,guest/init} | sha256sum; }

bed_is_ready() { [ -s "$BED/ready" ] && [ "$(cat "$BED/ready")" = "$(bed_fingerprint)" ]; }

# Programs from the layer find their libraries there.
bed_libraries() { say "$BED/layer/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"; }
