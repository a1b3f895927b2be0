//! Methods about what the pipeline and the stores did.

use serde_json::{Value, json};

use crate::control::Context;
use crate::control::rpc::{Action, Arguments, Fault, Kind, Method, Param, Phase};

const CORE: Param =
    Param::optional("core", Kind::Integer { least: 0, most: 1023 }, "only this core; the number of a processor");

pub const METHODS: &[Method] = &[
    Method {
        name: "store_get_stats",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows the stores and what each core counted on its shards.",
        params: &[],
        result: "{tick_rate, stores: [{name, uuid, shards, capacity_bytes, used_bytes, blocks, segment_bytes, \
                 segments, free_segments, counters}], cores: [{core, counters}]}; among the counters: \
                 stalled_evictions (pauses because the device refused to free a segment, or to move a block that must \
                 stay; it is tried again), lost_records and lost_blocks (what the device did not take or give back), gone_blocks (on a \
                 device that is gone for good, and misses)",
        errors: &[],
        action: Action::Run(store_get_stats),
    },
    Method {
        name: "pipeline_get_stats",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows what every stage and every operation did since the last reset, for each core.",
        params: &[CORE],
        result: "{tick_rate, cores: [{core, busy, idle, turns, stages: [{name, calls, items, ticks}], operations: \
                 [{name, count, errors, bytes, p50_ns, p90_ns, p99_ns, p999_ns, max_ns}], counters}]}",
        errors: &[(-19, "there is no such core")],
        action: Action::Run(pipeline_get_stats),
    },
    Method {
        name: "pipeline_reset_stats",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Sets the figures of pipeline_get_stats back to zero.",
        params: &[],
        result: "true",
        errors: &[],
        action: Action::Run(|context, _| {
            context.control.engine()?.reset_statistics();
            Ok(Value::Bool(true))
        }),
    },
    Method {
        name: "trace_dump",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows the newest events of the flight recorder, oldest first.",
        params: &[
            CORE,
            Param::optional("limit", Kind::Integer { least: 1, most: 65_536 }, "the most events, newest kept")
                .or("1024"),
        ],
        result: "{tick_rate, events: [{core, ticks, event, session, arguments}]}",
        errors: &[(-19, "there is no such core")],
        action: Action::Run(trace_dump),
    },
];

fn store_get_stats(context: &Context, _: &Arguments) -> Result<Value, Fault> {
    let engine = context.control.engine()?;
    let reports = engine.reports();
    let cores: Vec<_> = reports.iter().map(|it| json!({ "core": it.core, "counters": it.store })).collect();
    Ok(json!({ "tick_rate": engine.shape().tick_rate, "stores": engine.stores(), "cores": cores }))
}

fn pipeline_get_stats(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let engine = context.control.engine()?;
    let mut reports = engine.reports();
    if let Some(core) = arguments.number32("core")? {
        reports.retain(|report| report.core == core);
        if reports.is_empty() {
            return Err(no_core(core));
        }
    }
    let shown = reports.iter().map(|report| {
        json!({
            "core": report.core,
            "busy": report.busy,
            "idle": report.idle,
            "turns": report.turns,
            "stages": report.stages,
            "operations": report.operations,
            "counters": report.pipeline,
        })
    });
    Ok(json!({ "tick_rate": engine.shape().tick_rate, "cores": shown.collect::<Vec<_>>() }))
}

fn trace_dump(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let engine = context.control.engine()?;
    let core = arguments.number32("core")?;
    if let Some(core) = core.filter(|core| engine.reports().iter().all(|report| report.core != *core)) {
        return Err(no_core(core));
    }
    let events = engine.trace(core);
    let limit = arguments.number("limit").unwrap_or(1024) as usize;
    let newest = &events[events.len().saturating_sub(limit)..];
    Ok(json!({ "tick_rate": engine.shape().tick_rate, "events": newest }))
}

fn no_core(core: u32) -> Fault {
    Fault::new(-libc::ENODEV, format!("No such device: core {core} is not one of the daemon's, or does not answer"))
}
