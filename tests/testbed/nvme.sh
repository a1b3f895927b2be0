# shellcheck shell=bash
# QEMU's options for an emulated NVMe controller. To be sourced after scripts/lib.sh.

# nvme_controller NUMBER LAYOUT FOLDER: sets the array nvme_options; images are made in FOLDER unless LAYOUT names others.
# For LAYOUT see run.sh.
nvme_controller() {
    local number=$1 layout=$2 folder=$3 setting sizes=256M blocks=512 image='' count nsid size block
    local device fail_read='' fail_write='' rate=''
    local -a size_list block_list
    printf -v device 'nvme,id=nvme%s,serial=KVPLANE%s,addr=%x' "$number" "$number" $((16 + number))
    for setting in ${layout//,/ }; do
        case $setting in
            size=*) sizes=${setting#*=} ;;
            block=*) blocks=${setting#*=} ;;
            cmb=*) device+=,cmb_size_mb=${setting#*=} ;;
            fail-read=*) fail_read=${setting#*=} ;;
            fail-write=*) fail_write=${setting#*=} ;;
            rate=*) rate=${setting#*=} ;;
            image=*) image=$(realpath -m "${setting#*=}") ;;
            *=*) device+=,$setting ;;
            *) die 2 "--nvme $layout: '$setting' is no setting (see --help)" ;;
        esac
    done
    IFS=/ read -ra size_list <<<"$sizes"
    IFS=/ read -ra block_list <<<"$blocks"
    count=$((${#size_list[@]} > ${#block_list[@]} ? ${#size_list[@]} : ${#block_list[@]}))
    nvme_options=(-device "$device")
    for ((nsid = 1; nsid <= count; nsid++)); do
        # The last of a list that is too short stands for the rest.
        size=${size_list[nsid - 1]:-${size_list[-1]}}
        block=${block_list[nsid - 1]:-${block_list[-1]}}
        [[ $block =~ ^(512|4096)$ ]] || die 2 "--nvme $layout: blocks are 512 or 4096 bytes, not '$block'"
        nvme_namespace "$number" "$nsid" "$size" "$block" "${image:-$folder/nvme$number}.$nsid"
    done
}

# nvme_namespace CONTROLLER NSID SIZE BLOCK FILE; the settings for failures are nvme_controller's.
nvme_namespace() {
    local name=nvme$1n$2 block=$4 file=$5 node below
    [ -e "$file" ] || truncate -s "$3" "$file" || die 2 "--nvme: '$3' is no size"
    below=$name${rate:+-unlimited}
    node=driver=raw,node-name=$below,cache.no-flush=on,discard=unmap,file.driver=file,file.filename=$file
    if [ "$2" = 1 ] && [ -n "$fail_read$fail_write" ]; then
        node=driver=blkdebug,node-name=$below,discard=unmap,image.driver=file,image.filename=$file
        [ -z "$fail_read" ] || node+=$(nvme_failure 0 read "$fail_read" "$block")
        [ -z "$fail_write" ] || node+=$(nvme_failure 1 write "$fail_write" "$block")
    fi
    nvme_options+=(-blockdev "$node")
    if [ -n "$rate" ]; then
        [[ $rate =~ ^[0-9]+$ ]] || die 2 "--nvme: rate takes a number of MiB per second, not '$rate'"
        nvme_options+=(-object "throttle-group,id=$name-rate,x-bps-total=$((rate << 20))"
            -blockdev "driver=throttle,node-name=$name,discard=unmap,throttle-group=$name-rate,file=$below")
    fi
    nvme_options+=(-device "nvme-ns,bus=nvme$1,nsid=$2,drive=$name,logical_block_size=$block,physical_block_size=$block")
}

# nvme_failure RULE read|write LBA BLOCK: every access that touches the block fails with EIO. blkdebug counts sectors of
# 512 bytes; its event `read_aio` never happens on a raw file, so the rule names the type instead.
nvme_failure() {
    [[ $3 =~ ^[0-9]+$ ]] || die 2 "--nvme: fail-$2 takes the number of a block, not '$3'"
    printf ',inject-error.%s.event=none,inject-error.%s.iotype=%s,inject-error.%s.sector=%s' "$1" "$1" "$2" "$1" $(($3 * $4 / 512))
    printf ',inject-error.%s.errno=5,inject-error.%s.once=off' "$1" "$1"
}
