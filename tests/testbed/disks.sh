# shellcheck shell=bash
# The kernel's block devices of an NVMe controller, inside the guest. To be sourced.

# disk_of ADDRESS NSID: the name of a namespace's block device.
disk_of() { basename "/sys/bus/pci/devices/$1/nvme/nvme"*/nvme*n"$2"; }

# await_disk ADDRESS: until the kernel's driver shows the first namespace.
await_disk() {
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        if compgen -G "/sys/bus/pci/devices/$1/nvme/nvme*/nvme*n1" >/dev/null; then return; fi
        sleep 0.05
    done
    return 1
}
