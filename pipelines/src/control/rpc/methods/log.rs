//! Methods about the log.

use serde_json::{Map, Value};

use crate::control::rpc::{Action, Arguments, Fault, Kind, Method, Param, Phase};
use crate::control::{Context, LogLevel};

const FLAG: Param = Param::required("flag", Kind::Text(64), "a flag, from log_get_flags, or \"all\"");
const NO_FLAG: (i32, &str) = (-19, "there is no such flag");

pub const METHODS: &[Method] = &[
    Method {
        name: "log_get_level",
        aliases: &["get_log_level", "log_get_print_level"],
        phase: Phase::Any,
        summary: "Says how much is logged.",
        params: &[],
        result: "ERROR, WARNING, NOTICE, INFO or DEBUG",
        errors: &[],
        action: Action::Run(|context, _| Ok(context.log.level().name().into())),
    },
    Method {
        name: "log_set_level",
        aliases: &["set_log_level", "log_set_print_level"],
        phase: Phase::Any,
        summary: "Sets how much is logged.",
        params: &[Param::required("level", Kind::Choice(LogLevel::NAMES), "messages of this level and more important")],
        result: "true",
        errors: &[],
        action: Action::Run(log_set_level),
    },
    Method {
        name: "log_get_flags",
        aliases: &["get_log_flags"],
        phase: Phase::Any,
        summary: "Lists the parts of the program that can be made to log everything, and whether they do.",
        params: &[],
        result: "{flag: true or false}",
        errors: &[],
        action: Action::Run(|context, _| {
            let flags = context.log.flags().into_iter();
            Ok(Value::Object(flags.map(|(name, on)| (name.to_owned(), on.into())).collect::<Map<_, _>>()))
        }),
    },
    Method {
        name: "log_set_flag",
        aliases: &["set_log_flag"],
        phase: Phase::Any,
        summary: "Makes a part of the program log everything.",
        params: &[FLAG],
        result: "true",
        errors: &[NO_FLAG],
        action: Action::Run(|context, arguments| set_flag(context, arguments, true)),
    },
    Method {
        name: "log_clear_flag",
        aliases: &["clear_log_flag"],
        phase: Phase::Any,
        summary: "Makes a part of the program log what log_set_level says again.",
        params: &[FLAG],
        result: "true",
        errors: &[NO_FLAG],
        action: Action::Run(|context, arguments| set_flag(context, arguments, false)),
    },
];

fn log_set_level(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let name = arguments.text("level")?;
    let level = LogLevel::parse(name).ok_or_else(|| Fault::invalid(format!("unknown level {name:?}")))?;
    context.log.set_level(level);
    tracing::info!(level = level.name(), "log level set");
    Ok(Value::Bool(true))
}

fn set_flag(context: &Context, arguments: &Arguments, on: bool) -> Result<Value, Fault> {
    let flag = arguments.text("flag")?;
    if context.log.set_flag(flag, on) {
        return Ok(Value::Bool(true));
    }
    let known: Vec<_> = context.log.flags().into_iter().map(|(name, _)| name).collect();
    let message = format!("No such device: there is no log flag {flag:?}; there are: all, {}", known.join(", "));
    Err(Fault::new(-libc::ENODEV, message))
}
