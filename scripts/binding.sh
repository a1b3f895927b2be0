# shellcheck shell=bash
# Moves NVMe controllers between the kernel's driver and vfio-pci. To be sourced after lib.sh and controllers.sh by a script
# that defines write FILE TEXT (as root; only words when `dry` is yes).
#
# A controller is tied to vfio-pci by its attribute driver_override, so no other device of the same model follows it, and a
# reboot undoes it.

KERNEL_DRIVER=nvme
USER_DRIVER=vfio-pci

# address_of TEXT: the address as sysfs writes it; the domain may be left out. Dies unless it is an NVMe controller.
address_of() {
    local address=${1,,}
    [[ $address =~ ^[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$ ]] && address=0000:$address
    [[ $address =~ ^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$ ]] ||
        die 2 "'$1' is no PCI address such as 0000:01:00.0 (scripts/setup.sh status lists them)"
    [ -d "$PCI/devices/$address" ] || die 1 "there is no PCI device $address (scripts/setup.sh status lists the controllers)"
    [ "$(attribute "$PCI/devices/$address/class")" = 0x010802 ] || die 1 "$address is no NVMe controller"
    say "$address"
}

# refuse_in_use ADDRESS VERB: names whoever uses it and returns 1; returns 0 if nobody does.
refuse_in_use() {
    local users
    survey
    users=$(users_of "$1")
    [ -n "$users" ] || return 0
    printf 'error: %s is in use and will not be %s:\n' "$1" "$2" >&2
    while read -r user; do printf '  %s\n' "$user" >&2; done <<<"$users"
    printf '  Unmount, stop or remove these first.\n' >&2
    return 1
}

load_driver() {
    [ ! -d "$PCI/drivers/$1" ] || return 0
    # shellcheck disable=SC2154  # set by the script that sources this
    if [ "$dry" = yes ]; then say "would load the module $1"; return; fi
    as_root modprobe "$1" || die 1 "the module $1 cannot be loaded: run this as root, on a kernel that has it"
    [ -d "$PCI/drivers/$1" ] || die 1 "the kernel has no driver $1, though its module is loaded"
}

# move ADDRESS OVERRIDE: takes it from its driver and offers it to OVERRIDE, or to all if that is empty. The kernel reports
# a refusal as a failed write; whether it worked is for the caller to see by driver_of.
move() {
    local folder=$PCI/devices/$1
    write "$folder/driver_override" "$2"
    [ ! -e "$folder/driver" ] || write "$folder/driver/unbind" "$1"
    (write "$PCI/drivers_probe" "$1") || true
}

# take_controller ADDRESS NO_IOMMU: gives the controller to vfio-pci.
take_controller() {
    local address=$1
    if [ "$(driver_of "$address")" = "$USER_DRIVER" ]; then say "$address is $USER_DRIVER's already"; return; fi
    refuse_in_use "$address" "taken from the kernel" || return 1
    allow_group "$address" "$2" || return 1
    load_driver "$USER_DRIVER"
    move "$address" "$USER_DRIVER"
    [ "$dry" = no ] || return 0
    if [ "$(driver_of "$address")" != "$USER_DRIVER" ]; then
        warn "$USER_DRIVER does not take $address (dmesg tells why); it goes back to the kernel"
        move "$address" ''
        return 1
    fi
    say "$address is $USER_DRIVER's now: /dev/vfio/$(iommu_group_of "$address")"
}

# allow_group ADDRESS NO_IOMMU: whether VFIO will let programs use it.
allow_group() {
    local group neighbour driver switch=$SYS/module/vfio/parameters/enable_unsafe_noiommu_mode
    group=$(iommu_group_of "$1")
    if [ -z "$group" ] && [ "$2" = yes ]; then
        load_driver "$USER_DRIVER"
        if [ "$dry" = no ] && [ ! -e "$switch" ]; then
            printf 'error: this kernel has no VFIO without an IOMMU (CONFIG_VFIO_NOIOMMU; Debian leaves it out)\n' >&2
            return 1
        fi
        warn "$1 gets no IOMMU: whoever may use it can read and write all of this machine's memory"
        write "$switch" Y
        return
    fi
    if [ -z "$group" ]; then
        printf 'error: %s has no IOMMU group: switch the IOMMU on in the firmware and on the command line of the kernel\n' "$1" >&2
        printf '  (intel_iommu=on; nothing for AMD and Arm), or see --no-iommu.\n' >&2
        return 1
    fi
    for neighbour in "$PCI/devices/$1/iommu_group/devices"/*; do
        neighbour=${neighbour##*/}
        driver=$(driver_of "$neighbour")
        case $neighbour:$driver in
            "$1":* | *: | *:"$USER_DRIVER" | *:pcieport | *:pci-stub) ;;
            *) warn "$neighbour ($driver) is in the same IOMMU group $group; VFIO lets nobody in until it is $USER_DRIVER's, too" ;;
        esac
    done
}

# return_controller ADDRESS: gives the controller back to the kernel.
return_controller() {
    local address=$1 override
    override=$(attribute "$PCI/devices/$address/driver_override")
    if [ "$(driver_of "$address")" = "$KERNEL_DRIVER" ] && [ "${override/"(null)"/}" = '' ]; then
        say "$address is the kernel's already"
        return
    fi
    # The kernel would wait, perhaps for ever, until the last program has closed it.
    [ "$(driver_of "$address")" = "$KERNEL_DRIVER" ] || refuse_in_use "$address" "given back to the kernel" || return 1
    load_driver "$KERNEL_DRIVER"
    if [ "$(driver_of "$address")" = "$KERNEL_DRIVER" ]; then
        write "$PCI/devices/$address/driver_override" ''
    else
        move "$address" ''
    fi
    [ "$dry" = no ] || return 0
    [ "$(driver_of "$address")" = "$KERNEL_DRIVER" ] || { warn "$KERNEL_DRIVER does not take $address (dmesg tells why)"; return 1; }
    say "$address is the kernel's now"
}
