//! Methods about the process and its cores.

use serde_json::{Value, json};

use crate::control::report::CoreReport;
use crate::control::rpc::dispatch::is_allowed;
use crate::control::rpc::{Action, Arguments, Fault, Kind, Method, Param, Phase, all_methods, schema};
use crate::control::{Context, Control, ControlError};

const MISSING: (i32, &str) = (-19, "there is nothing of that name");
const WITH_BATCHES: Param =
    Param::optional("with_batches", Kind::Flag, "accepted for SPDK's clients: calls are never grouped").or("false");

/// The signals that can be sent, with their numbers.
const SIGNALS: &[(&str, i32)] = &[
    ("SIGINT", libc::SIGINT),
    ("SIGTERM", libc::SIGTERM),
    ("SIGQUIT", libc::SIGQUIT),
    ("SIGHUP", libc::SIGHUP),
    ("SIGKILL", libc::SIGKILL),
    ("SIGUSR1", libc::SIGUSR1),
];

pub const METHODS: &[Method] = &[
    Method {
        name: "rpc_get_methods",
        aliases: &["get_rpc_methods"],
        phase: Phase::Any,
        summary: "Lists the methods.",
        params: &[
            Param::optional("current", Kind::Flag, "only methods that may be called now").or("false"),
            Param::optional("include_aliases", Kind::Flag, "other names of methods too").or("false"),
        ],
        result: "list of names",
        errors: &[],
        action: Action::Run(rpc_get_methods),
    },
    Method {
        name: "rpc_get_schema",
        aliases: &[],
        phase: Phase::Any,
        summary: "Describes every method: parameters with type, range and default, result, errors.",
        params: &[],
        result: "{methods: [{name, aliases, phase, summary, params, result, errors}]}",
        errors: &[],
        action: Action::Run(|_, _| Ok(schema())),
    },
    Method {
        name: "spdk_get_version",
        aliases: &["kvplane_get_version", "get_spdk_version"],
        phase: Phase::Any,
        summary: "Says the version of kvplane, in SPDK's form.",
        params: &[],
        result: "{version, fields: {major, minor, patch, suffix}}",
        errors: &[],
        action: Action::Run(|_, _| Ok(version())),
    },
    Method {
        name: "framework_start_init",
        aliases: &["start_subsystem_init"],
        phase: Phase::Startup,
        summary: "Sets up cores and devices; answers when they serve.",
        params: &[],
        result: "true",
        errors: &[(-5, "start-up failed; the message says why, and the process ends")],
        action: Action::Run(framework_start_init),
    },
    Method {
        name: "framework_wait_init",
        aliases: &["wait_subsystem_init"],
        phase: Phase::Any,
        summary: "Answers when cores and devices are set up.",
        params: &[],
        result: "true",
        errors: &[(-1, "start-up failed, or the process is stopping")],
        action: Action::WaitForInit,
    },
    Method {
        name: "framework_get_reactors",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows the cores and how busy they are, in ticks.",
        params: &[],
        result: "{tick_rate, pid, reactors: [{lcore, tid, busy, idle, in_interrupt, lw_threads: [{name, id, cpumask, \
                 elapsed}]}]}",
        errors: &[],
        action: Action::Run(framework_get_reactors),
    },
    Method {
        name: "framework_get_subsystems",
        aliases: &["get_subsystems"],
        phase: Phase::Runtime,
        summary: "Lists the parts of the configuration in the order in which they are set up.",
        params: &[],
        result: "list of {subsystem, depends_on}",
        errors: &[],
        action: Action::Run(|_, _| Ok(Control::parts())),
    },
    Method {
        name: "framework_get_config",
        aliases: &["get_subsystem_config"],
        phase: Phase::Runtime,
        summary: "Shows a part of the configuration as the calls that would make it.",
        params: &[Param::required("name", Kind::Text(64), "a part, from framework_get_subsystems"), WITH_BATCHES],
        result: "list of {method, params}",
        errors: &[MISSING],
        action: Action::Run(|context, arguments| Ok(context.control.saved_part(arguments.text("name")?)?)),
    },
    Method {
        name: "save_config",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows the whole configuration as a configuration file has it.",
        params: &[],
        result: "{subsystems: [{subsystem, config: [{method, params}]}]}",
        errors: &[],
        action: Action::Run(|context, _| Ok(context.control.saved())),
    },
    Method {
        name: "thread_get_stats",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows how busy the cores' threads are, in ticks.",
        params: &[],
        result: "{tick_rate, threads: [{name, id, cpumask, busy, idle, active_pollers_count, timed_pollers_count, \
                 paused_pollers_count}]}",
        errors: &[],
        action: Action::Run(thread_get_stats),
    },
    Method {
        name: "thread_get_pollers",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows the pollers of the cores' threads.",
        params: &[],
        result: "{tick_rate, threads: [{name, id, active_pollers: [{name, id, state, run_count, busy_count}], \
                 timed_pollers, paused_pollers}]}",
        errors: &[],
        action: Action::Run(thread_get_pollers),
    },
    Method {
        name: "spdk_kill_instance",
        aliases: &["kill_instance"],
        phase: Phase::Any,
        summary: "Sends a signal to the process; SIGTERM and SIGINT drain and end it.",
        params: &[Param::required(
            "sig_name",
            Kind::Text(16),
            "SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGKILL or SIGUSR1, \
                                   or the number of one of them",
        )],
        result: "true",
        errors: &[],
        action: Action::Run(spdk_kill_instance),
    },
];

fn rpc_get_methods(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let lifecycle = context.framework.lifecycle();
    let (current, aliases) = (arguments.flag("current"), arguments.flag("include_aliases"));
    let mut names = Vec::new();
    for method in all_methods().filter(|method| !current || is_allowed(method.phase, &lifecycle)) {
        names.push(method.name);
        names.extend(method.aliases.iter().filter(|_| aliases));
    }
    Ok(json!(names))
}

fn version() -> Value {
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    let mut fields = json!({
        "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
        "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
        "patch": number(env!("CARGO_PKG_VERSION_PATCH")),
        "suffix": env!("CARGO_PKG_VERSION_PRE"),
    });
    if let Some(commit) = option_env!("KVPLANE_COMMIT") {
        fields["commit"] = commit.into();
    }
    json!({ "version": concat!("kvplane v", env!("CARGO_PKG_VERSION")), "fields": fields })
}

fn framework_start_init(context: &Context, _: &Arguments) -> Result<Value, Fault> {
    match context.framework.start() {
        Ok(()) => Ok(Value::Bool(true)),
        Err(Some(why)) => Err(Fault::new(-libc::EIO, format!("start-up failed: {why}"))),
        Err(None) => Err(Fault::new(Fault::WRONG_STATE, "the framework is being initialized already")),
    }
}

fn framework_get_reactors(context: &Context, _: &Arguments) -> Result<Value, Fault> {
    let engine = context.control.engine()?;
    let reactor = |report: CoreReport| {
        json!({
            "lcore": report.core,
            "tid": report.tid,
            "busy": report.busy,
            "idle": report.idle,
            "in_interrupt": report.asleep,
            "lw_threads": [{
                "name": thread_name(&report),
                "id": thread_id(&report),
                "cpumask": mask_of(report.core),
                "elapsed": report.busy + report.idle,
            }],
        })
    };
    Ok(json!({
        "tick_rate": engine.shape().tick_rate,
        "pid": std::process::id(),
        "reactors": engine.reports().into_iter().map(reactor).collect::<Vec<_>>(),
    }))
}

fn thread_get_stats(context: &Context, _: &Arguments) -> Result<Value, Fault> {
    threads(context, |report| {
        json!({
            "name": thread_name(report),
            "id": thread_id(report),
            "cpumask": mask_of(report.core),
            "busy": report.busy,
            "idle": report.idle,
            "active_pollers_count": report.pollers.len(),
            "timed_pollers_count": 0,
            "paused_pollers_count": 0,
        })
    })
}

fn thread_get_pollers(context: &Context, _: &Arguments) -> Result<Value, Fault> {
    threads(context, |report| {
        let pollers = report.pollers.iter().zip(1..).map(|(poller, id)| {
            json!({
                "name": poller.name,
                "id": id,
                "state": "waiting",
                "run_count": poller.run_count,
                "busy_count": poller.busy_count,
            })
        });
        json!({
            "name": thread_name(report),
            "id": thread_id(report),
            "active_pollers": pollers.collect::<Vec<_>>(),
            "timed_pollers": [],
            "paused_pollers": [],
        })
    })
}

fn threads(context: &Context, one: impl Fn(&CoreReport) -> Value) -> Result<Value, Fault> {
    let engine = context.control.engine()?;
    let threads: Vec<_> = engine.reports().iter().map(one).collect();
    Ok(json!({ "tick_rate": engine.shape().tick_rate, "threads": threads }))
}

fn thread_name(report: &CoreReport) -> String {
    format!("core_{}", report.core)
}

fn thread_id(report: &CoreReport) -> u32 {
    report.core + 1
}

/// The mask with the bit of one core, in hexadecimal.
fn mask_of(core: u32) -> String {
    let digit = ["1", "2", "4", "8"][(core % 4) as usize];
    format!("{digit}{}", "0".repeat((core / 4) as usize))
}

fn spdk_kill_instance(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let asked = arguments.text("sig_name")?;
    let signal = SIGNALS.iter().find(|(name, number)| {
        let (full, bare) = (*name, name.trim_start_matches("SIG"));
        full.eq_ignore_ascii_case(asked) || bare.eq_ignore_ascii_case(asked) || number.to_string() == asked
    });
    let known = || SIGNALS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let (name, number) =
        signal.ok_or_else(|| ControlError::Invalid(format!("unknown signal {asked:?}; known are: {}", known())))?;
    tracing::info!(signal = name, "signal asked for by RPC");
    (context.kill)(*number);
    Ok(Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use super::mask_of;

    #[test]
    fn a_core_is_a_bit_of_the_mask() {
        assert_eq!([0, 1, 3, 4, 65].map(mask_of), ["1", "2", "8", "10", "20000000000000000"]);
    }
}
