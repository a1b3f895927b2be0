#!/usr/bin/env bash
# In the guest: reads 4 KiB at random at depth 32 from one emulated drive, through the NVMe driver (kvperf nvme) and
# through the kernel's driver (fio) in turns (A B, B A, ...), and prints a line "DRIVER KERNEL" of reads per second for
# each round. To be run by tests/testbed/run.sh; scripts/bench.sh does.
#
#   tests/testbed/fio.sh KVPERF ROUNDS SECONDS
#
# fio reads as fast as the kernel lets it: io_uring with registered buffers and a registered file. Both run on the second
# processor. The drive is bound anew for each measurement, which is not measured.
# Exit codes: 0 measured; 1 something failed; 2 wrong arguments.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/../../scripts/lib.sh"
. "$HERE/disks.sh"

[ $# -eq 3 ] || { usage >&2; exit 2; }
[ "${KVPLANE_GUEST:-}" = 1 ] || die 2 "this runs in the guest only"
kvperf=$1 rounds=$2 seconds=$3
address=0000:00:10.0 core=1
scratch=$(mktemp -d)

by_driver() {
    "$ROOT/scripts/setup.sh" bind $address >/dev/null
    "$kvperf" nvme --device vfio:$address --depth 32 --bytes 4K --duration "${seconds}s" --warm-up 500ms --cpu $core \
        --quiet --json "$scratch/kvperf.json" >"$scratch/kvperf.log" 2>&1 || die 1 "$(tail -n 3 "$scratch/kvperf.log")"
    "$ROOT/scripts/setup.sh" unbind $address >/dev/null
    json "$scratch/kvperf.json" 'round(j["reads_per_s"])'
}

by_kernel() {
    await_disk $address || die 1 "the kernel does not show the drive"
    fio --name=kernel --filename="/dev/$(disk_of $address 1)" --direct=1 --rw=randread --bs=4k --iodepth=32 \
        --ioengine=io_uring --fixedbufs --registerfiles --norandommap --cpus_allowed=$core --thread \
        --ramp_time=500ms --time_based --runtime="$seconds" --output-format=json --output="$scratch/fio.json" \
        >"$scratch/fio.log" 2>&1 || die 1 "$(tail -n 3 "$scratch/fio.log")"
    json "$scratch/fio.json" 'round(j["jobs"][0]["read"]["iops"])'
}

for ((round = 0; round < rounds; round++)); do
    if ((round % 2 == 0)); then
        driver=$(by_driver)
        kernel=$(by_kernel)
    else
        kernel=$(by_kernel)
        driver=$(by_driver)
    fi
    say "$driver $kernel"
done
