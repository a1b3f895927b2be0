# shellcheck shell=bash
# Two RDMA devices of software in the guest. To be sourced after scripts/lib.sh.

ROCE_A=10.9.0.1 ROCE_B=10.9.0.2

# Devices roce1 (ROCE_A, on v1) and roce2 (ROCE_B, on v2), whose packets cross from v1 to v2. Both are addresses of this
# machine, so the kernel would take the shorter way over lo: rules by source and interface keep it from that. Kernel
# 6.1 cannot put soft-RoCE devices into network namespaces of their own.
soft_roce_up() {
    modprobe rdma_rxe
    modprobe rdma_ucm
    ip link add v1 type veth peer name v2
    local number device
    for number in 1 2; do
        ip link set "v$number" mtu 9000 up
        ip addr add "10.9.0.$number/24" dev "v$number"
    done
    for device in all v1 v2; do
        echo 0 >"/proc/sys/net/ipv4/conf/$device/rp_filter"
        echo 1 >"/proc/sys/net/ipv4/conf/$device/accept_local"
    done
    ip rule add pref 10 iif v1 lookup local
    ip rule add pref 11 iif v2 lookup local
    # A first ARP request, sent before the pair is up, would cost the first connection seconds.
    ip neigh replace $ROCE_B dev v1 lladdr "$(cat /sys/class/net/v2/address)" nud permanent
    ip neigh replace $ROCE_A dev v2 lladdr "$(cat /sys/class/net/v1/address)" nud permanent
    ip route replace table 101 $ROCE_B dev v1 src $ROCE_A
    ip route replace table 101 local $ROCE_A dev lo
    ip route replace table 102 $ROCE_A dev v2 src $ROCE_B
    ip route replace table 102 local $ROCE_B dev lo
    ip rule add pref 20 from $ROCE_A to $ROCE_B lookup 101
    ip rule add pref 21 from $ROCE_B to $ROCE_A lookup 102
    ip rule add pref 22 oif v1 lookup 101
    ip rule add pref 23 oif v2 lookup 102
    # Who names no source of its own goes out by the other end.
    ip rule add pref 24 iif lo to $ROCE_B lookup 101
    ip rule add pref 25 iif lo to $ROCE_A lookup 102
    ip rule add pref 100 lookup local
    ip rule del pref 0
    for number in 1 2; do rdma link add "roce$number" type rxe netdev "v$number"; done
}
