//! Methods about the devices under the stores, named and shaped as SPDK's.

use serde_json::{Map, Value, json};

use crate::control::report::{BlockDeviceReport, NvmeControllerReport};
use crate::control::rpc::{Action, Arguments, Fault, Kind, Method, Param, Phase};
use crate::control::{Context, ControlError};

const LONGEST_NAME: usize = 256;
const CONTROLLER: Param =
    Param::required("name", Kind::Text(LONGEST_NAME), "the controller, such as Nvme0; see bdev_nvme_get_controllers");
const NO_DEVICE: &[(i32, &str)] = &[(-19, "there is no such device")];
const NO_CONTROLLER: &[(i32, &str)] = &[
    (-19, "there is no such controller, or it was pulled"),
    (-5, "the controller refused or failed"),
    (-110, "the controller did not answer in time"),
];

pub const METHODS: &[Method] = &[
    Method {
        name: "bdev_get_bdevs",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows the devices under the stores.",
        params: &[
            Param::optional("name", Kind::Text(LONGEST_NAME), "only this device"),
            Param::optional(
                "timeout",
                Kind::Integer { least: 0, most: 1 << 32 },
                "taken for SPDK's clients; devices never come later",
            ),
        ],
        result: "[{name, aliases, product_name, block_size (bytes), num_blocks, uuid (of an NVMe namespace: its NGUID or \
                 EUI-64), claimed, zoned, supported_io_types: {read, write, unmap, flush, ...}, driver_specific: {nvme: \
                 [{pci_address, trid: {trtype, traddr}, ctrlr_data: {cntlid, vendor_id, model_number, serial_number, \
                 firmware_revision, subnqn}, vs: {nvme_version}, ns_data: {id}}]}}]",
        errors: NO_DEVICE,
        action: Action::Run(get_bdevs),
    },
    Method {
        name: "bdev_get_iostat",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows what was done on the devices since the start, over all cores.",
        params: &[Param::optional("name", Kind::Text(LONGEST_NAME), "only this device")],
        result: "{tick_rate, ticks, bdevs: [{name, bytes_read, num_read_ops, bytes_written, num_write_ops, bytes_unmapped, \
                 num_unmap_ops, num_flush_ops, io_error: {total}}]}; commands are counted when they are sent, and \
                 latencies are not measured here (pipeline_get_stats has those of clients' commands)",
        errors: NO_DEVICE,
        action: Action::Run(get_iostat),
    },
    Method {
        name: "bdev_nvme_get_controllers",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows the NVMe controllers that the daemon drives itself.",
        params: &[Param::optional("name", Kind::Text(LONGEST_NAME), "only this controller")],
        result: "[{name, ctrlrs: [{state, cntlid, trid: {trtype, traddr}, model_number, serial_number, firmware_revision, \
                 subnqn, resets, aborts, events, stray_completions, io_queues, memory_regions}]}]; state is enabled, \
                 resetting, failed (given up; its blocks are misses) or deleting (pulled; its blocks are misses)",
        errors: &[(-19, "there is no such controller")],
        action: Action::Run(get_controllers),
    },
    Method {
        name: "bdev_nvme_get_controller_health_info",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Reads a controller's SMART / Health Information log page.",
        params: &[CONTROLLER],
        result: "{model_number, serial_number, firmware_revision, traddr, critical_warning (bits), temperature_celsius, \
                 available_spare_percentage, available_spare_threshold_percentage, percentage_used, data_units_read and \
                 data_units_written (of 512,000 bytes), host_read_commands, host_write_commands, controller_busy_time \
                 (minutes), power_cycles, power_on_hours, unsafe_shutdowns, media_errors, num_err_log_entries, \
                 warning_temperature_time_minutes, critical_composite_temperature_time_minutes}",
        errors: NO_CONTROLLER,
        action: Action::Run(|context, arguments| {
            let health = context.control.engine()?.nvme_health(arguments.text("name")?).map_err(ControlError::from)?;
            Ok(json!(health))
        }),
    },
    Method {
        name: "bdev_nvme_get_error_log",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Reads a controller's error log, and takes the events that it sent since this was last called.",
        params: &[CONTROLLER],
        result: "{entries: [{count, sqid, cid, status, lba, nsid}] (64 at most, newest first), events: [{kind, information, \
                 log_page}] (64 at most)}; kvplane's own, SPDK has no such method",
        errors: NO_CONTROLLER,
        action: Action::Run(|context, arguments| {
            let errors = context.control.engine()?.nvme_errors(arguments.text("name")?).map_err(ControlError::from)?;
            let (entries, events) = errors;
            Ok(json!({ "entries": entries, "events": events }))
        }),
    },
    Method {
        name: "bdev_nvme_reset_controller",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Resets a controller. Commands that are under way on it are sent again; nothing acknowledged is lost. One \
                  that turns out to have lost its volatile cache is given up: restart the daemon to recover what was \
                  flushed.",
        params: &[
            CONTROLLER,
            Param::optional(
                "cntlid",
                Kind::Integer { least: 0, most: 0xFFFF },
                "the controller's identifier, which must be its own",
            ),
        ],
        result: "true, once it is back",
        errors: NO_CONTROLLER,
        action: Action::Run(reset_controller),
    },
];

fn get_bdevs(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    Ok(chosen(context, arguments)?.iter().map(bdev).collect())
}

/// The device that was asked for, or all.
fn chosen(context: &Context, arguments: &Arguments) -> Result<Vec<BlockDeviceReport>, Fault> {
    let mut devices = context.control.engine()?.block_devices();
    if let Some(name) = arguments.optional_text("name") {
        devices.retain(|device| device.name == name);
        if devices.is_empty() {
            return Err(Fault::new(-libc::ENODEV, format!("No such device: there is no {name:?}; see bdev_get_bdevs")));
        }
    }
    Ok(devices)
}

fn bdev(device: &BlockDeviceReport) -> Value {
    let mut shown = json!({
        "name": device.name,
        "aliases": [],
        "product_name": device.product_name,
        "block_size": device.block_size,
        "num_blocks": device.num_blocks,
        "claimed": true,
        "claim_type": "exclusive_write",
        "zoned": false,
        "supported_io_types": {
            "read": true,
            "write": true,
            "unmap": device.unmap,
            "flush": device.flush,
            "reset": device.nvme.is_some(),
            "nvme_admin": false,
            "nvme_io": false,
            "write_zeroes": false,
            "compare": false,
            "abort": false,
            "copy": false,
        },
        "driver_specific": {},
    });
    if let Some(id) = &device.id {
        shown["uuid"] = json!(id);
    }
    if let Some(nvme) = &device.nvme {
        shown["driver_specific"] = json!({ "nvme": [namespace(nvme, device.nsid)] });
    }
    shown
}

fn namespace(nvme: &NvmeControllerReport, nsid: Option<u32>) -> Value {
    let mut shown = json!({
        "trid": { "trtype": nvme.trtype, "traddr": nvme.traddr },
        "ctrlr_data": {
            "cntlid": nvme.cntlid,
            "vendor_id": format!("0x{:04x}", nvme.vendor),
            "model_number": nvme.model,
            "serial_number": nvme.serial,
            "firmware_revision": nvme.firmware,
            "subnqn": nvme.subnqn,
        },
        "vs": { "nvme_version": nvme.version },
        "ns_data": { "id": nsid, "can_share": false },
    });
    if nvme.trtype == "PCIe" {
        shown["pci_address"] = json!(nvme.traddr);
    }
    shown
}

fn get_iostat(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let devices = chosen(context, arguments)?;
    let engine = context.control.engine()?;
    let shown = devices.iter().map(|it| {
        let mut error = Map::new();
        if it.errors > 0 {
            error.insert("total".to_owned(), json!(it.errors));
        }
        json!({
            "name": it.name,
            "bytes_read": it.bytes_read,
            "num_read_ops": it.num_read_ops,
            "bytes_written": it.bytes_written,
            "num_write_ops": it.num_write_ops,
            "bytes_unmapped": it.bytes_unmapped,
            "num_unmap_ops": it.num_unmap_ops,
            "num_flush_ops": it.num_flush_ops,
            "io_error": error,
        })
    });
    let shown: Vec<_> = shown.collect();
    Ok(json!({ "tick_rate": engine.shape().tick_rate, "ticks": engine.now(), "bdevs": shown }))
}

fn get_controllers(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let mut controllers = context.control.engine()?.nvme_controllers();
    if let Some(name) = arguments.optional_text("name") {
        controllers.retain(|controller| controller.name == name);
        if controllers.is_empty() {
            return Err(no_controller(name));
        }
    }
    Ok(controllers.iter().map(controller).collect())
}

fn controller(it: &NvmeControllerReport) -> Value {
    json!({
        "name": it.name,
        "ctrlrs": [{
            "state": it.state,
            "cntlid": it.cntlid,
            "trid": { "trtype": it.trtype, "traddr": it.traddr },
            "model_number": it.model,
            "serial_number": it.serial,
            "firmware_revision": it.firmware,
            "subnqn": it.subnqn,
            "resets": it.resets,
            "aborts": it.aborts,
            "events": it.events,
            "stray_completions": it.stray_completions,
            "io_queues": it.queues,
            "memory_regions": it.mappings,
        }],
    })
}

fn reset_controller(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let engine = context.control.engine()?;
    let name = arguments.text("name")?;
    if let Some(cntlid) = arguments.number("cntlid") {
        let known = engine.nvme_controllers();
        if !known.iter().any(|it| it.name == name && u64::from(it.cntlid) == cntlid) {
            return Err(no_controller(name));
        }
    }
    engine.nvme_reset(name).map_err(ControlError::from)?;
    Ok(Value::Bool(true))
}

fn no_controller(name: &str) -> Fault {
    let message = format!("No such device: there is no such NVMe controller {name:?}; see bdev_nvme_get_controllers");
    Fault::new(-libc::ENODEV, message)
}
