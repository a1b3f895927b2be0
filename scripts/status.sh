# shellcheck shell=bash
# What `setup.sh status` shows. To be sourced after lib.sh and controllers.sh by a script that sets SYSCTL_FILE and LIMITS_FILE.

status() {
    say "NVMe controllers:"
    status_of_controllers
    say "hugepages:"
    hugepage_pools | while read -r node size_kb total free; do
        say "  $node, $size_kb kB: $total reserved, $free free"
    done
    [ -e "$SYS/kernel/mm/hugepages" ] || say "  none: this kernel has no hugepages; start kvplaned with --no-huge"
    say "at boot: $(if [ -e "$SYSCTL_FILE" ]; then cat "$SYSCTL_FILE"; else say "nothing by kvplane"; fi)"
    say "lockable memory of this session: $(ulimit -S -l) KiB, can be raised to $(ulimit -H -l) KiB"
    say "limit for new sessions: $(if [ -e "$LIMITS_FILE" ]; then tr '\n' ';' <"$LIMITS_FILE"; else say "not set by kvplane"; fi)"
    say "io_uring: $(io_uring_state)"
    say "cores that may be used: $(allowed_cores | tr '\n' ' ')"
}

status_of_controllers() {
    local format='  %-12s  %-9s  %-4s  %-8s  %-5s  %-20s  %s\n' address use
    local -a uses namespaces
    if [ -z "$(controllers)" ]; then say "  none"; return; fi
    survey
    # shellcheck disable=SC2059  # the format is above
    printf "$format" address device NUMA driver group "block devices" "used by"
    while read -r address; do
        mapfile -t uses < <(users_of "$address")
        mapfile -t namespaces < <(namespaces_of "$address")
        # shellcheck disable=SC2059
        printf "$format" "$address" "$(vendor_device_of "$address")" "$(or_dash "$(numa_node_of "$address")")" \
            "$(or_dash "$(driver_of "$address")")" "$(or_dash "$(iommu_group_of "$address")")" \
            "$(or_dash "${namespaces[*]}")" "$(or_dash "${uses[0]-}")"
        for use in "${uses[@]:1}"; do
            # shellcheck disable=SC2059
            printf "$format" '' '' '' '' '' '' "$use"
        done
    done < <(controllers)
    [ "$(id -u)" -eq 0 ] || say "  (what other users have open or mounted is shown to root only)"
}

or_dash() { say "${1:--}"; }

# hugepage_pools: lines "node0 2048 reserved free".
hugepage_pools() {
    local folder node size
    for folder in "$SYS"/devices/system/node/node*/hugepages/hugepages-*; do
        [ -d "$folder" ] || continue
        node=${folder#"$SYS"/devices/system/node/} size=${folder##*hugepages-}
        say "${node%%/*} ${size%kB} $(attribute "$folder/nr_hugepages") $(attribute "$folder/free_hugepages")"
    done
}

io_uring_state() {
    case $(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || say none) in
        0 | none) say "allowed for everybody" ;;
        1) say "only for root and the group in kernel.io_uring_group (sysctl kernel.io_uring_disabled=0 allows all)" ;;
        *) say "switched off; file stores need it (sysctl kernel.io_uring_disabled=0)" ;;
    esac
}

# ---------------------------------------------------------------- JSON

# status_json: {"controllers": [{"address", "vendor", "device", "model", "numa_node", "driver", "iommu_group",
# "block_devices": [], "users": []}], "hugepages": [{"node", "size_kb", "reserved", "free"}]}; what is not known is null.
status_json() {
    local address id separator=''
    survey
    printf '{"controllers":['
    for address in $(controllers); do
        id=$(vendor_device_of "$address")
        printf '%s\n{"address":%s,"vendor":%s,"device":%s,"model":%s,"numa_node":%s,"driver":%s,"iommu_group":%s,' "$separator" \
            "$(json_string "$address")" "$(json_string "${id%:*}")" "$(json_string "${id#*:}")" \
            "$(json_string "$(model_of "$address")")" "$(json_number "$(numa_node_of "$address")")" \
            "$(json_string "$(driver_of "$address")")" "$(json_number "$(iommu_group_of "$address")")"
        printf '"block_devices":[%s],"users":[%s]}' "$(namespaces_of "$address" | json_strings)" "$(users_of "$address" | json_strings)"
        separator=,
    done
    separator=''
    printf '],\n"hugepages":['
    while read -r node size_kb total free; do
        printf '%s\n{"node":%s,"size_kb":%s,"reserved":%s,"free":%s}' "$separator" "$(json_string "$node")" "$size_kb" "$total" "$free"
        separator=,
    done < <(hugepage_pools)
    printf ']}\n'
}

# json_string TEXT: quoted, or null if it is empty. Control characters, which no name here should have, become blanks.
json_string() {
    local text=${1//[[:cntrl:]]/ }
    if [ -z "$text" ]; then printf null; return; fi
    text=${text//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

json_number() { printf '%s' "${1:-null}"; }

# json_strings: the lines of stdin, quoted, with commas between them.
json_strings() {
    local line separator=''
    while read -r line; do
        printf '%s%s' "$separator" "$(json_string "$line")"
        separator=,
    done
}
