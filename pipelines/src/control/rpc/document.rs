//! Documentation and schema out of the declarations.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Kind, Method, Param, all_methods};

/// Every method as JSON: what `rpc_get_schema` answers and the command line's help is made of.
#[must_use]
pub fn schema() -> Value {
    json!({ "methods": all_methods().map(method_schema).collect::<Vec<_>>() })
}

fn method_schema(method: &Method) -> Value {
    json!({
        "name": method.name,
        "aliases": method.aliases,
        "phase": method.phase.name(),
        "summary": method.summary,
        "params": method.params.iter().map(param_schema).collect::<Vec<_>>(),
        "result": method.result,
        "errors": method.errors.iter().map(|(code, doc)| json!({ "code": code, "doc": doc })).collect::<Vec<_>>(),
    })
}

fn param_schema(param: &Param) -> Value {
    let mut schema = json!({
        "name": param.name,
        "type": param.kind.name(),
        "required": param.required,
        "doc": param.doc,
    });
    if let Some(default) = param.default.and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        schema["default"] = default;
    }
    match &param.kind {
        Kind::Integer { least, most } | Kind::Bytes { least, most } => {
            schema["minimum"] = (*least).into();
            schema["maximum"] = (*most).into();
        }
        Kind::Text(longest) => schema["max_bytes"] = (*longest).into(),
        Kind::Texts(most) => schema["max_items"] = (*most).into(),
        Kind::Choice(names) => schema["choices"] = json!(names),
        Kind::Group(params) => schema["fields"] = params.iter().map(param_schema).collect(),
        Kind::AlwaysFalse => schema["choices"] = json!([false]),
        Kind::Flag => (),
    }
    schema
}

/// Every method as a page of Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(
        "# JSON-RPC methods of kvplaned\n\n\
         JSON-RPC 2.0 on a unix socket, as SPDK speaks it: requests are written one after the other without framing, \
         each answer is one line. A method marked *startup* can be called before `framework_start_init`, one marked \
         *runtime* after it. Besides its own errors every method answers -32602 for parameters that are missing, \
         unknown or out of range, and -1 if it may not be called now.\n",
    );
    for method in all_methods() {
        // Writing to a String cannot fail.
        let _ = write_method(&mut page, method);
    }
    page
}

fn write_method(page: &mut String, method: &Method) -> std::fmt::Result {
    writeln!(page, "\n## {}\n\n{} *({})*", method.name, method.summary, method.phase.name())?;
    if !method.aliases.is_empty() {
        writeln!(page, "\nAlso called: {}.", method.aliases.join(", "))?;
    }
    if !method.params.is_empty() {
        writeln!(page, "\n| Parameter | Type | Default | Meaning |\n|---|---|---|---|")?;
        method.params.iter().try_for_each(|param| write_param(page, "", param))?;
    }
    writeln!(page, "\nResult: {}", method.result)?;
    if !method.errors.is_empty() {
        writeln!(page, "\nErrors:")?;
        method.errors.iter().try_for_each(|(code, doc)| writeln!(page, "- {code}: {doc}"))?;
    }
    Ok(())
}

fn write_param(page: &mut String, prefix: &str, param: &Param) -> std::fmt::Result {
    let name = format!("{prefix}{}", param.name);
    let default = if param.required { "required" } else { param.default.unwrap_or("none") };
    writeln!(page, "| `{name}` | {} | {default} | {} |", in_words(&param.kind), param.doc)?;
    if let Kind::Group(params) = param.kind {
        params.iter().try_for_each(|inner| write_param(page, &format!("{name}."), inner))?;
    }
    Ok(())
}

fn in_words(kind: &Kind) -> String {
    match kind {
        Kind::Integer { least, most } => format!("{least} to {most}"),
        Kind::Bytes { least, most } => format!("bytes, {least} to {most}, or text such as \"64M\""),
        Kind::Text(longest) => format!("text, {longest} bytes at most"),
        Kind::Texts(most) => format!("list of {most} texts at most"),
        Kind::Choice(names) => names.join(" or "),
        Kind::Flag => "true or false".to_owned(),
        Kind::AlwaysFalse => "false".to_owned(),
        Kind::Group(_) => "object".to_owned(),
    }
}
