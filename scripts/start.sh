#!/usr/bin/env bash
# Starts kvplaned: in the foreground, or as a hardened systemd service.
#
#   scripts/start.sh [OPTIONS] [-- OPTIONS OF KVPLANED]
#
#   -m, --cpumask MASK       cores to poll on: a hex mask or a list such as [0,2-3] [default: the first core allowed]
#   --store STORE            file:PATH[,size=2G], ram:SIZE or null:SIZE [default: file:.../store,size=4G, see below]
#   --device DEVICE          vfio:0000:01:00.0[/NSID], a drive that kvplaned drives itself, instead of --store; may be given
#                            several times (bind it first: scripts/setup.sh bind)
#   -r, --rpc-socket PATH    RPC socket [default: /var/tmp/kvplane.sock]
#   --listen ADDRESS         vfio-user:DIR for this machine, tcp://ADDR[:PORT] or rdma://ADDR[:PORT] for a network; may be
#                            given several times [default: see below]
#   --host NQN               a host of a network that may connect; may be given several times
#   --allow-any-host         whoever reaches a listener may connect
#   --namespace NAMESPACE    NAME[,quota=..][,class=cache|durable]; may be given several times [default: tier]
#   -c, --config FILE        JSON configuration, instead of --listen, --namespace, --host and --allow-any-host
#   --no-huge                ordinary locked pages [default: if fewer than 512 MiB of hugepages are free]
#   --idle POLICY            spin, adaptive or sleep [default: kvplaned's]
#   --systemd                install and start the service kvplaned (root); options go to /etc/kvplane/kvplaned.env
#   --print                  show the command (or the service's options) and do nothing
#   -h, --help               this text
#
# Store and sockets lie in target/run/ when it runs in the foreground, in /var/lib/kvplane and /run/kvplane as a
# service. Whatever follows -- is handed to kvplaned as it is; see 'kvplaned --help'.
#
# Stop it with Ctrl-C or SIGTERM (foreground), or 'systemctl stop kvplaned'; either drains first.
# Exit codes: kvplaned's own in the foreground; 1 something failed; 2 wrong options.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mask='' store='' socket=/var/tmp/kvplane.sock config='' huge='' idle=() service=no print=no
listen=() namespaces=() hosts=() devices=() rest=()
while [ $# -gt 0 ]; do
    case $1 in
        -m | --cpumask) argument "$@"; mask=$2; shift ;;
        --store) argument "$@"; store=$2; shift ;;
        --device) argument "$@"; devices+=(--device "$2"); shift ;;
        -r | --rpc-socket) argument "$@"; socket=$2; shift ;;
        --listen) argument "$@"; listen+=("$2"); shift ;;
        --namespace) argument "$@"; namespaces+=("$2"); shift ;;
        --host) argument "$@"; hosts+=(--host "$2"); shift ;;
        --allow-any-host) hosts+=(--allow-any-host) ;;
        -c | --config) argument "$@"; config=$2; shift ;;
        --no-huge) huge=--no-huge ;;
        --idle) argument "$@"; idle=(--idle "$2"); shift ;;
        --systemd) service=yes ;;
        --print) print=yes ;;
        --) shift; rest=("$@"); break ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die 2 "unknown option $1" ;;
    esac
    shift
done

state=$ROOT/target/run sockets=$ROOT/target/run
if [ "$service" = yes ]; then state=/var/lib/kvplane sockets=/run/kvplane; fi

options=(-m "${mask:-[$(allowed_cores | head -n 1)]}" -r "$socket")
if [ "${#devices[@]}" -eq 0 ]; then
    options+=(--store "${store:-file:$state/store,size=4G}")
else
    [ -z "$store" ] || die 2 "--device takes the place of --store"
    options+=("${devices[@]}")
fi
if [ -n "$config" ]; then
    [ "${#listen[@]}${#namespaces[@]}${#hosts[@]}" = 000 ] ||
        die 2 "--config takes the place of --listen, --namespace, --host and --allow-any-host"
    [ -r "$config" ] || die 2 "--config $config: cannot be read"
    options+=(-c "$(realpath "$config")")
else
    [ "${#listen[@]}" -gt 0 ] || listen=("vfio-user:$sockets")
    [ "${#namespaces[@]}" -gt 0 ] || namespaces=(tier)
    for one in "${listen[@]}"; do options+=(--listen "$one"); done
    for one in "${namespaces[@]}"; do options+=(--namespace "$one"); done
    options+=("${hosts[@]}")
fi
if [ -z "$huge" ] && [ "$(free_hugepages_mib)" -lt 512 ]; then
    huge=--no-huge
    warn "fewer than 512 MiB of hugepages are free, so --no-huge is used (see scripts/setup.sh)"
fi
options+=(${huge:+"$huge"} "${idle[@]}" "${rest[@]}")

foreground() {
    [ "$print" = no ] || { printf '%q ' "$BIN/kvplaned" "${options[@]}"; say; return; }
    require_cargo
    (cd "$ROOT" && cargo build --release --locked -p pipelines -p kvplane-cli --bins)
    mkdir -p "$state"
    raise_memlock
    say "kvplaned ${options[*]}"
    exec "$BIN/kvplaned" "${options[@]}"
}

# on_network: whether there is a listener on a network, by the options or by the configuration.
on_network() {
    local one
    for one in "${listen[@]}"; do
        case ${one,,} in tcp:* | rdma:*) return 0 ;; esac
    done
    [ -n "$config" ] && grep -qiE '"trtype" *: *"(tcp|rdma)"' "$config"
}

as_service() {
    local one
    for one in "${options[@]}"; do
        [[ $one != *[[:space:]\"\'\\\$]* ]] || die 2 "'$one': blanks, quotes and dollars cannot be handed to a service"
    done
    [ "$print" = no ] || { say "KVPLANED_OPTIONS=${options[*]}"; return; }
    [ -d /run/systemd/system ] || die 1 "systemd does not run here; start it in the foreground instead"
    [ "$(id -u)" -eq 0 ] || die 1 "--systemd needs root: build with cargo as yourself, then 'sudo scripts/start.sh --systemd'"
    if [ ! -x "$BIN/kvplaned" ] || [ ! -x "$BIN/kvplane" ]; then
        die 1 "there is no build in $BIN: cargo build --release"
    fi
    getent passwd kvplane >/dev/null || useradd --system --home-dir /var/lib/kvplane --shell /usr/sbin/nologin kvplane
    install -m 0755 "$BIN/kvplaned" "$BIN/kvplane" /usr/local/bin/
    install -d -m 0755 /etc/kvplane
    printf 'KVPLANED_OPTIONS=%s\n' "${options[*]}" >/etc/kvplane/kvplaned.env
    install -m 0644 "$ROOT/scripts/kvplaned.service" /etc/systemd/system/kvplaned.service
    if on_network; then
        install -D -m 0644 "$ROOT/scripts/kvplaned-network.conf" /etc/systemd/system/kvplaned.service.d/network.conf
    else
        rm -f /etc/systemd/system/kvplaned.service.d/network.conf
    fi
    systemctl daemon-reload
    systemctl restart kvplaned
    systemctl --no-pager --lines 5 status kvplaned
}

if [ "$service" = yes ]; then as_service; else foreground; fi
